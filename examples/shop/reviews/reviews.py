"""What people say of the products. Version v1 has texts, v2 has stars too. Settings: PORT, VERSION."""

import http.server
import json
import os

VERSION = os.environ.get("VERSION", "v1")
REVIEWS = {
    "rope": [{"author": "Ada", "text": "Holds in any weather.", "stars": 5}],
    "lamp": [{"author": "Grace", "text": "Seen from two miles away.", "stars": 4},
             {"author": "Edsger", "text": "Considered bright.", "stars": 5}],
    "chart": [{"author": "Barbara", "text": "One shoal is missing.", "stars": 3}],
}


def reviews():
    if VERSION == "v1":
        return {name: [{k: v for k, v in one.items() if k != "stars"} for one in all_of] for name, all_of in REVIEWS.items()}
    return REVIEWS


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        found = self.path == "/reviews"
        body = json.dumps({"version": VERSION, "reviews": reviews()} if found else {"error": "not found"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("", int(os.environ.get("PORT", "9080"))), Handler).serve_forever()

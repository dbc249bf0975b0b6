"""How tests call: from a pod, or as a stranger who has a certificate and the gateway's address."""
import json
import socket
import ssl
import tempfile
from pathlib import Path

from tools import STATE, run


def split(url):
    rest = url.split("://", 1)[1]
    host, _, path = rest.partition("/")
    name, _, port = host.partition(":")
    return name, int(port or 80), "/" + path


def address(pod, host):
    """What cluster DNS would answer for a name, as called from this pod."""
    name, ns = (host.split(".") + [pod.ns])[:2]
    return pod.cluster.address(name, ns)


def call(pod, url, *flags, n=1, timeout="5s"):
    """One call (or n, over one connection) through the pod's sidecar. The first answer, or all."""
    host, port, _ = split(url)
    ip = address(pod, host)
    if not ip:
        return {"error": f"no Service is named {host}"} if n == 1 else []
    told = pod.app("load", url, "-to", f"{ip}:{port}", "-n", n, "-bodies", "-timeout", timeout, "-rate", "200", *flags)
    return told[0] if n == 1 else told


def answer(called):
    """What the echo says of the request that arrived."""
    return json.loads(called["body"])


def ok(called):
    return called.get("status") == 200 and called.get("pod")


def grpc(pod, target, *flags, port=9000):
    return pod.app("grpc", f"{address(pod, target)}:{port}", "-authority", f"{target}:{port}", *flags)


def tcp(pod, target, port, *flags):
    return pod.app("tcp", f"{address(pod, target)}:{port}", *flags)


class Stranger:
    """Somebody who reaches the gateway and has a certificate (or none)."""

    def __init__(self, gateway, cert=None, key=None):
        self.gateway, self.cert, self.key = gateway, cert, key

    def connect(self, sni, alpn=("istio", "http/1.1")):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(list(alpn))
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        plain = socket.create_connection(self.gateway, timeout=5)
        return context.wrap_socket(plain, server_hostname=sni)

    def get(self, sni, host=None, path="/", headers="", connection=None):
        """The status of one HTTP/1.1 request, or why there is none. Bytes as they are: no library makes the path decent."""
        try:
            c = connection or self.connect(sni)
            c.settimeout(6)
            c.sendall(f"GET {path} HTTP/1.1\r\nHost: {host or sni}\r\n{headers}\r\n".encode())
            return read(c)
        except OSError as e:
            return f"refused: {e}"
        finally:
            if connection is None and "c" in locals():
                c.close()

    def hear(self, sni):
        """What a server that speaks first says, or why nothing is heard."""
        try:
            with self.connect(sni) as c:
                c.settimeout(3)
                return c.recv(4096).decode() or "refused: closed"
        except OSError as e:
            return f"refused: {e}"


def read(c):
    data = b""
    while b"\r\n\r\n" not in data:
        more = c.recv(65536)
        if not more:
            return f"refused: closed after {data[:80]!r}"
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
    while "content-length" in fields and len(body) < int(fields["content-length"]):
        body += c.recv(65536)
    while fields.get("transfer-encoding") == "chunked" and not body.endswith(b"0\r\n\r\n"):
        body += c.recv(65536)
    return int(head.split()[1])


def workload_certificate(cluster, uri):
    """A certificate as the cluster's istiod would issue it, for any identity: for tests of what others are refused."""
    d = Path(tempfile.mkdtemp(dir=STATE))
    (d / "ext").write_text(f"subjectAltName=critical,URI:{uri}\nextendedKeyUsage=clientAuth,serverAuth\n")
    ca = cluster.dir / "cacerts"
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/O=x", "-keyout", d / "key", "-out", d / "csr")
    run("openssl", "x509", "-req", "-days", "2", "-in", d / "csr", "-CA", ca / "ca-cert.pem", "-CAkey", ca / "ca-key.pem", "-CAcreateserial",
        "-out", d / "leaf", "-extfile", d / "ext")
    (d / "chain").write_text((d / "leaf").read_text() + (ca / "ca-cert.pem").read_text())
    return d / "chain", d / "key"

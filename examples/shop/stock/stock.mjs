// How many of each product there are. Settings: PORT.
import { createServer } from "node:http";

const stock = { rope: 17, lamp: 3, chart: 0 };

createServer((request, response) => {
  const found = request.url === "/stock";
  response.writeHead(found ? 200 : 404, { "content-type": "application/json" });
  response.end(JSON.stringify(found ? stock : { error: "not found" }));
}).listen(Number(process.env.PORT ?? 9090));

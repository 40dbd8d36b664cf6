// http_cluster.js WORKERS PORT: a hello-world in Node's cluster, for `./dev bench http`.
const cluster = require("cluster");
const http = require("http");
const [workers, port] = process.argv.slice(2).map(Number);

if (cluster.isPrimary || cluster.isMaster) {
  for (let i = 0; i < workers; i++) cluster.fork();
} else {
  const server = http.createServer((request, response) => {
    response.writeHead(200, {"Content-Type": "text/plain", "Content-Length": 12});
    response.end("Hello world\n");
  });
  server.keepAliveTimeout = 60000;
  server.listen(port, "127.0.0.1");
}

// Serves folders to a browser on this machine; paths begin with a folder's name.

import fs from "node:fs";
import http from "node:http";
import path from "node:path";

const TYPES = {
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
const ALONE = {
  "Cross-Origin-Opener-Policy": "same-origin", // or no threads
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** Serve folders by name, and one page at /; returns its address and a function that ends it. */
export async function serve(folders, page = "<!doctype html>") {
  const server = http.createServer((request, response) => {
    const [, name, ...rest] = request.url.split("?")[0].split("/");
    if (!name) {
      response.writeHead(200, { "Content-Type": "text/html", ...ALONE }).end(page);
      return;
    }
    const file = Object.hasOwn(folders, name) && path.join(folders[name], path.normalize(`/${rest.join("/")}`));
    if (!file || !fs.existsSync(file) || !fs.statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    const type = TYPES[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, {
      "Content-Type": type,
      "Content-Length": fs.statSync(file).size,
      ...ALONE,
    });
    fs.createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/`;
  return { url, close: () => server.close() };
}

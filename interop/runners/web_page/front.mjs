// A proxy between a page and its server that can damage or withhold files.

import { createServer } from "node:http";

const ISOLATION = /^cross-origin-(opener|embedder)-policy$/;
const OF_THE_CONNECTION = /^(connection|keep-alive|transfer-encoding|content-length|date)$/;

/** Forwards every request to a server; can damage or withhold files, and close connections. */
export class Front {
  #target;
  #server = null;
  #port = 0;

  damaged = null; // path of a file in which one digit is another
  missing = null; // path of a file that is not found
  isPlain = false; // without isolation headers
  delayMs = 0; // before each piece of an artifact's file

  constructor(target) {
    this.#target = target;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}/`;
  }

  /** Listen, at the same port as before if there was one. */
  async open() {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch(() => response.destroy());
    });
    await new Promise((resolve) => this.#server.listen(this.#port, "127.0.0.1", resolve));
    this.#port = this.#server.address().port;
  }

  /** Close: later connections are refused. */
  async close() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer({ url, method }, response) {
    if (url === this.missing) return void response.writeHead(404).end();
    const found = await fetch(new URL(url, this.#target), { method });
    const body = Buffer.from(await found.arrayBuffer());
    if (url === this.damaged) body[digitAfter(body, body.length >> 1)] ^= 1;
    const headers = [...found.headers].filter(
      ([name]) => !OF_THE_CONNECTION.test(name) && !(this.isPlain && ISOLATION.test(name)),
    );
    response.writeHead(found.status, {
      ...Object.fromEntries(headers),
      "content-length": body.length,
    });
    const pieces = this.delayMs && url.startsWith("/artifact/") ? 20 : 1;
    const size = Math.ceil(body.length / pieces) || 1;
    for (let start = 0; start < body.length; start += size) {
      response.write(body.subarray(start, start + size));
      if (pieces > 1) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    }
    response.end();
  }
}

/** Flip the last bit of a digit: it stays a digit, so JSON stays valid. */
function digitAfter(body, start) {
  return start + body.subarray(start).findIndex((byte) => byte >= 0x30 && byte <= 0x39);
}

// Stores the page for visits without a network.
//
// It stores the page, modules and runtime; artifact.js stores the weights. Each request goes to
// the network first, so a new version shows at once. Where the server sends no isolation headers
// they are added here, and the next visit has threads.

const STORE = "tramontane-page";
const FILES = [
  "./",
  "artifact.js",
  "chart.js",
  "driver.js",
  "memory.js",
  "page.js",
  "style.css",
  "text.js",
  "worker.js",
  "vendor/onnxruntime-web/dist/ort.wasm.min.mjs",
  "vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
  "vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
  "vendor/@huggingface/tokenizers/dist/tokenizers.min.mjs",
].map((name) => new URL(name, self.location.href).href);

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(
    caches
      .open(STORE)
      .then((store) => store.addAll(FILES.map((url) => new Request(url, { cache: "no-cache" })))),
  );
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const url = event.request.url.replace(/[?#].*$/, "").replace(/\/index\.html$/, "/");
  if (event.request.method === "GET" && FILES.includes(url)) {
    event.respondWith(respond(url).then(isolated));
  }
});

async function respond(url) {
  const store = await caches.open(STORE);
  try {
    const response = await fetch(url, { cache: "no-cache" });
    if (response.ok) await store.put(url, response.clone());
    return response;
  } catch (error) {
    const kept = await store.match(url);
    if (!kept) throw error;
    return kept;
  }
}

function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}

// The worker: loads an artifact and generates text for the page.
//
//     in:   open {artifact, threads}, generate {prompt, maxNewTokens, temperature}, stop
//     out:  progress, opening, ready, prompt, token, end, error (README.md says what each holds)

import { loadArtifact } from "./artifact.js";
import { Session } from "./driver.js";
import { watchHeaps } from "./memory.js";
import { Detokenizer, Text } from "./text.js";

const RUNTIME = "./vendor/onnxruntime-web/dist/ort.wasm.min.mjs";
const TOKENIZERS = "./vendor/@huggingface/tokenizers/dist/tokenizers.min.mjs";
const MOST_THREADS = 4;

const heapBytes = watchHeaps();
let session = null;
let text = null;
let stopping = null; // aborts the running generation

const answer = (type, facts) => postMessage({ type, ...facts });

onmessage = async ({ data: { type, ...request } }) => {
  try {
    if (type === "open") await open(request);
    if (type === "generate") await generate(request);
    if (type === "stop") stopping?.abort();
  } catch (error) {
    answer("error", {
      message: error.message ?? String(error),
      isFatal: session === null,
      tokens: session?.tokens ?? 0,
    });
  }
};

async function open({ artifact, threads }) {
  const ort = await vendor(RUNTIME);
  const { Tokenizer } = await vendor(TOKENIZERS);
  const { manifest, graph, data, tokenizer, bytes, isKept } = await loadArtifact(
    new URL(artifact),
    (state) => answer("progress", state),
  );
  // Threads need shared memory, which only a page isolated from other origins gets. Two logical
  // processors are usually one core, and two threads on one core slow each other down.
  const processors = crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const used = Math.min(threads ?? Math.min(MOST_THREADS, Math.ceil(processors / 2)), processors);
  ort.env.wasm.numThreads = used;
  text = new Text(Tokenizer, tokenizer, manifest.vocabulary);
  answer("opening", { bytes });
  try {
    session = await Session.open({ ort, manifest, graph, data });
  } catch (error) {
    const why = error.message ?? error;
    throw new Error(`onnx/model.onnx: onnxruntime-web cannot load it (${why})`, { cause: error });
  }
  const { quant, geometry, memory } = manifest;
  answer("ready", {
    ...{ quant, geometry, memory, bytes, isKept },
    threads: used,
    heapBytes: heapBytes(),
  });
}

async function generate({ prompt, maxNewTokens, temperature }) {
  stopping = new AbortController();
  const { signal } = stopping;
  session.reset(); // also when the prompt is refused: the page shows an empty cache then
  const ids = text.encode(prompt);
  const detokenizer = new Detokenizer(text, ids);
  const started = performance.now();
  let made = 0;
  let first = started;
  const figures = () => ({
    made,
    tokens: session.tokens,
    heapBytes: heapBytes(),
    promptMs: first - started,
    rate: made > 1 ? (1000 * (made - 1)) / (performance.now() - first) : null,
  });
  const onChunk = (done) => answer("prompt", { done, total: ids.length, tokens: session.tokens });
  for await (const id of session.generate(ids, { maxNewTokens, temperature, signal, onChunk })) {
    made += 1;
    if (made === 1) first = performance.now();
    answer("token", { id, text: detokenizer.push(id), ...figures() });
  }
  const reason = signal.aborted ? "stopped" : made === maxNewTokens ? "length" : "end";
  answer("end", { reason, text: detokenizer.flush(), ...figures() });
}

async function vendor(path) {
  try {
    return await import(path);
  } catch (error) {
    const url = new URL(path, import.meta.url);
    throw new Error(
      `${url}: cannot be loaded (${error.message}); the page does not contain this package: ` +
        "serve it with python -m tramontane.deploy.web_server, or copy the package (README.md)",
      { cause: error },
    );
  }
}

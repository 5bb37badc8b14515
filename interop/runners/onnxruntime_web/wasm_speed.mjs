// Measures speed and memory of artifacts in onnxruntime-web's WASM.
//
// `node wasm_speed.mjs job.json PACKAGES`; the job: artifacts (folders), threads, prefill (tokens),
// steps, warm_up and rounds (how often each is measured without and with a note of it). Artifacts
// take turns, so that other load on the machine affects all of them.

import fs from "node:fs";
import os from "node:os";

import { Graph, openRuntime } from "./wasm_graph.mjs";

const [jobFile, packages] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));

// The runtime exposes none of its memories, so each is recorded when it is created.
const heaps = [];
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(descriptor) {
    super(descriptor);
    heaps.push(this);
  }
};

/** Tokens of a sequence from one position to before another; their values do not affect speed. */
const tokens = (start, stop, V) => Array.from({ length: stop - start }, (_, at) => (start + at) % V);

/** One sequence: a chunk on an empty cache, more of them until the window is full, then steps. */
async function measure(graph) {
  const { vocab_size: V, layers, max_positions } = graph.geometry;
  const windows = (layers ?? [graph.geometry]).map(({ window }) => window ?? job.prefill);
  const window = Math.max(...windows);
  const full = Math.min(window, max_positions - job.steps);
  let cache = graph.emptyCache();
  let seen = 0;
  const append = async (count) => {
    const ids = tokens(seen, (seen += count), V);
    [, cache] = await graph.run(ids, seen, cache);
  };
  const start = performance.now();
  await append(job.prefill);
  const prefillMs = performance.now() - start;
  while (seen < full) await append(Math.min(job.prefill, full - seen));
  const filled = performance.now();
  for (let step = 0; step < job.steps; step++) await append(1);
  const decodeMs = performance.now() - filled;
  return {
    prefill_tokens_per_s: (1000 * job.prefill) / prefillMs,
    decode_tokens_per_s: (1000 * job.steps) / decodeMs,
  };
}

const { ort, version } = await openRuntime(packages, job.threads);
const graphs = [];
for (const artifact of job.artifacts) graphs.push(await Graph.open(ort, artifact));
const measured = graphs.map(({ loadMs }) => ({ load_ms: loadMs, rounds: [] }));
// WASM is first compiled quickly, then optimized in the background, so early rounds are slow.
for (let round = -job.warm_up; round < job.rounds; round++) {
  for (const [at, graph] of graphs.entries()) {
    const found = await measure(graph);
    if (round >= 0) measured[at].rounds.push(found);
  }
}
console.log(
  JSON.stringify({
    versions: { "onnxruntime-web": version, node: process.versions.node },
    processor: os.cpus()[0].model.trim(),
    artifacts: measured,
    heap_bytes: heaps.reduce((sum, { buffer }) => sum + buffer.byteLength, 0), // it never shrinks
  }),
);
process.exit(0); // otherwise its threads keep the process alive

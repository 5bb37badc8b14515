// Runs a job with onnxruntime-web's WASM: `node wasm.mjs job.json PACKAGES`

import fs from "node:fs";
import os from "node:os";

import { Graph, openRuntime } from "./wasm_graph.mjs";

const [jobFile, packages] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));
const { ort, version } = await openRuntime(packages, Math.min(2, os.cpus().length));
const graph = await Graph.open(ort, job.artifact);

async function continueGreedily(prompt, count) {
  const made = [];
  let [cache, ids] = [graph.emptyCache(), prompt];
  while (made.length < count) {
    let logits;
    [logits, cache] = await graph.run(ids, prompt.length + made.length, cache);
    const last = logits.subarray(-graph.geometry.vocab_size);
    ids = [last.reduce((best, value, at) => (value > last[best] ? at : best), 0)];
    made.push(ids[0]);
  }
  return made;
}

const found = { versions: { "onnxruntime-web": version }, tokens: [] };
for (const prompt of job.prompts) {
  found.tokens.push(await continueGreedily(prompt, job.new_tokens));
}
if (job.score && job.logits) {
  const [logits] = await graph.run(job.score, job.score.length, graph.emptyCache());
  fs.writeFileSync(job.logits, new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
}
console.log(JSON.stringify(found));
process.exit(0); // otherwise its threads keep the process alive

// What does onnxruntime-web's WASM make of a job? `node web.mjs job.json PACKAGES`

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [jobFile, packages] = process.argv.slice(2);
const home = path.join(packages, "node_modules", "onnxruntime-web");
const ort = await import(pathToFileURL(path.join(home, "dist", "ort.node.min.mjs")).href);
ort.env.wasm.numThreads = Math.min(2, os.cpus().length);
ort.env.logLevel = "error";

const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));
const folder = path.join(job.artifact, "onnx");
const { geometry } = JSON.parse(fs.readFileSync(path.join(job.artifact, "manifest.json"), "utf8"));
const data = fs.readdirSync(folder).filter((name) => name.startsWith("model.onnx_data"));
const session = await ort.InferenceSession.create(fs.readFileSync(path.join(folder, "model.onnx")), {
  executionProviders: ["wasm"],
  externalData: data.map((name) => ({ path: name, data: fs.readFileSync(path.join(folder, name)) })),
});
const pasts = session.inputNames.filter((name) => name.startsWith("past_key_values."));

function emptyCache() {
  const { num_key_value_heads: G, head_dim: D, rows } = geometry;
  const dims = [1, G, rows ?? 0, D];
  const size = dims.reduce((product, each) => product * each, 1);
  return pasts.map((name) => [name, new ort.Tensor("float32", new Float32Array(size), dims)]);
}

// Its sessions know no input that has a default: num_logits_to_keep stays at all of them.
async function run(ids, seen, cache) {
  const integers = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
  const found = await session.run({
    input_ids: integers(ids, [1, ids.length]),
    attention_mask: integers(new Array(seen).fill(1), [1, seen]),
    ...Object.fromEntries(cache),
  });
  const next = pasts.map((name) => [name, found[name.replace("past_key_values", "present")]]);
  return [found.logits.data, next];
}

async function continueGreedily(prompt, count) {
  const made = [];
  let [cache, ids] = [emptyCache(), prompt];
  while (made.length < count) {
    let logits;
    [logits, cache] = await run(ids, prompt.length + made.length, cache);
    const last = logits.subarray(-geometry.vocab_size);
    ids = [last.reduce((best, value, at) => (value > last[best] ? at : best), 0)];
    made.push(ids[0]);
  }
  return made;
}

const { version } = JSON.parse(fs.readFileSync(path.join(home, "package.json"), "utf8"));
const found = { versions: { "onnxruntime-web": version }, tokens: [] };
for (const prompt of job.prompts) {
  found.tokens.push(await continueGreedily(prompt, job.new_tokens));
}
if (job.score && job.logits) {
  const [logits] = await run(job.score, job.score.length, emptyCache());
  fs.writeFileSync(job.logits, new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
}
console.log(JSON.stringify(found));
process.exit(0); // its threads would wait for more

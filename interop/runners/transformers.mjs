// What does transformers.js make of a job? `node transformers.mjs job.json PACKAGES`

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [jobFile, packages] = process.argv.slice(2);
const from = createRequire(path.join(packages, "package.json"));
const { AutoModelForCausalLM, AutoTokenizer, Tensor, env } = await import(
  pathToFileURL(from.resolve("@huggingface/transformers")).href
);
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));
const name = path.basename(job.artifact);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(job.artifact) + path.sep;

const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForCausalLM.from_pretrained(name);
const numbers = (tensor) => Array.from(tensor.data, Number);
const read = (text) => numbers(tokenizer(text).input_ids);
const write = (ids) => (ids.length ? tokenizer.decode(ids, { skip_special_tokens: true }) : "");

async function whole(prompt) {
  const dims = [1, prompt.length];
  const made = await model.generate({
    input_ids: new Tensor("int64", BigInt64Array.from(prompt, BigInt), dims),
    attention_mask: new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), dims),
    max_new_tokens: job.new_tokens,
    do_sample: false,
  });
  return numbers(made);
}

const found = { versions: {}, tokens: [], texts: [], ids: [], decoded: [] };
for (const each of ["@huggingface/transformers", "@huggingface/tokenizers", "onnxruntime-node"]) {
  const described = path.join(packages, "node_modules", each, "package.json");
  found.versions[each] = JSON.parse(fs.readFileSync(described, "utf8")).version;
}
for (const prompt of job.prompts) {
  found.tokens.push((await whole(prompt)).slice(prompt.length));
}
for (const text of job.texts) {
  const prompt = read(text);
  found.texts.push(write(await whole(prompt)).slice(write(prompt).length));
}
for (const string of job.strings) {
  const ids = read(string);
  found.ids.push(ids);
  found.decoded.push(write(ids));
}
console.log(JSON.stringify(found));

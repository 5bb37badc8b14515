// Runs a job with transformers.js in Node: `node in_node.mjs job.json PACKAGES`

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { doJob } from "./job.mjs";

const [jobFile, packages] = process.argv.slice(2);
const from = createRequire(path.join(packages, "package.json"));
const transformers = await import(pathToFileURL(from.resolve("@huggingface/transformers")).href);
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));
transformers.env.allowRemoteModels = false;
transformers.env.localModelPath = path.dirname(job.artifact) + path.sep;

// As the card of an artifact that multiplies int8 by int8 says, for x86 processors without VNNI.
const exact = { session_options: { extra: { session: { x64quantprecision: "1" } } } };
const name = path.basename(job.artifact);
const { scored, ...found } = await doJob(transformers, name, job, job.exact_int8 ? exact : {});
const versions = {};
for (const each of ["@huggingface/transformers", "@huggingface/tokenizers", "onnxruntime-node"]) {
  const described = path.join(packages, "node_modules", each, "package.json");
  versions[each] = JSON.parse(fs.readFileSync(described, "utf8")).version;
}
if (scored) fs.writeFileSync(job.logits, new Uint8Array(Float32Array.from(scored).buffer));
console.log(JSON.stringify({ versions, ...found }));

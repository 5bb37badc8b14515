// Runs a job with onnxruntime-web on WebGPU.
//
// node webgpu.mjs job.json WEB BROWSER CHROMIUM: folders with onnxruntime-web and puppeteer-core,
// and the browser, whose adapter may be a program where there is no card.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { serve } from "../serve.mjs";

const [jobFile, web, packages, chromium] = process.argv.slice(2);
const from = createRequire(path.join(packages, "package.json"));
const { default: puppeteer } = await import(pathToFileURL(from.resolve("puppeteer-core")));
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));
const home = path.join(web, "node_modules", "onnxruntime-web");
const FLAGS = [
  "--no-sandbox",
  "--disable-dev-shm-usage",
  "--enable-unsafe-webgpu",
  "--enable-features=Vulkan,WebGPU",
  "--use-webgpu-adapter=swiftshader",
  "--use-vulkan=swiftshader",
  "--ignore-gpu-blocklist",
];
const server = await serve({ artifact: job.artifact, ort: path.join(home, "dist") });

/** In the page: open the graph on WebGPU, continue the prompts, score what is to be scored. */
async function run({ prompts, count, score, data }) {
  const ort = await import("/ort/ort.webgpu.min.mjs");
  ort.env.logLevel = "error";
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return { absent: "navigator.gpu gives no adapter" };
  const bytes = async (name) => new Uint8Array(await (await fetch(`/artifact/${name}`)).arrayBuffer());
  const { geometry } = await (await fetch("/artifact/manifest.json")).json();
  const externalData = [];
  for (const name of data) externalData.push({ path: name, data: await bytes(`onnx/${name}`) });
  const session = await ort.InferenceSession.create(await bytes("onnx/model.onnx"), {
    executionProviders: ["webgpu"],
    externalData,
  });
  const pasts = session.inputNames.filter((name) => name.startsWith("past_key_values."));
  const none = (name) => {
    const { rows } = geometry.layers?.[name.split(".")[1]] ?? geometry; // one entry where all are equal
    const dims = [1, geometry.num_key_value_heads, rows ?? 0, geometry.head_dim];
    const size = dims.reduce((product, each) => product * each, 1);
    return new ort.Tensor("float32", new Float32Array(size), dims);
  };
  const empty = () => pasts.map((name) => [name, none(name)]);
  const integers = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  const step = async (ids, seen, cache) => {
    const found = await session.run({
      input_ids: integers(ids, [1, ids.length]),
      attention_mask: integers(new Array(seen).fill(1), [1, seen]),
      ...Object.fromEntries(cache),
    });
    return [found.logits.data, pasts.map((n) => [n, found[n.replace("past_key_values", "present")]])];
  };
  const tokens = [];
  for (const prompt of prompts) {
    const made = [];
    let [cache, ids, logits] = [empty(), prompt, null];
    while (made.length < count) {
      [logits, cache] = await step(ids, prompt.length + made.length, cache);
      const last = logits.subarray(-geometry.vocab_size);
      ids = [last.reduce((best, value, at) => (value > last[best] ? at : best), 0)];
      made.push(ids[0]);
    }
    tokens.push(made);
  }
  const scored = score ? Array.from((await step(score, score.length, empty()))[0]) : null;
  return { adapter: `${adapter.info.vendor} ${adapter.info.architecture}`.trim(), tokens, scored };
}

const browser = await puppeteer.launch({
  executablePath: chromium,
  args: FLAGS,
  protocolTimeout: 600_000,
});
try {
  const page = await browser.newPage();
  await page.goto(server.url);
  const folder = fs.readdirSync(path.join(job.artifact, "onnx"));
  const { absent, adapter, tokens, scored } = await page.evaluate(run, {
    prompts: job.prompts,
    count: job.new_tokens,
    score: job.logits ? job.score : null,
    data: folder.filter((name) => name.startsWith("model.onnx_data")),
  });
  if (scored) fs.writeFileSync(job.logits, new Uint8Array(Float32Array.from(scored).buffer));
  const { version } = JSON.parse(fs.readFileSync(path.join(home, "package.json"), "utf8"));
  const versions = { "onnxruntime-web": version, chromium: await browser.version(), adapter };
  console.log(JSON.stringify(absent ? { absent } : { versions, tokens }));
} finally {
  await browser.close();
  server.close();
}

// Runs a job with transformers.js in a browser.
//
// node in_browser.mjs job.json PACKAGES TOOLS CHROMIUM: folders with transformers.js and with
// puppeteer-core, and the browser.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { serve } from "../serve.mjs";

const [jobFile, packages, tools, chromium] = process.argv.slice(2);
const from = createRequire(path.join(tools, "package.json"));
const { default: puppeteer } = await import(pathToFileURL(from.resolve("puppeteer-core")));
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));
const modules = path.join(packages, "node_modules");
const imports = {
  "onnxruntime-common": "/packages/onnxruntime-common/dist/esm/index.js",
  "onnxruntime-web/webgpu": "/packages/onnxruntime-web/dist/ort.webgpu.min.mjs",
};
const html = `<!doctype html><script type="importmap">${JSON.stringify({ imports })}</script>`;
const runner = path.dirname(fileURLToPath(import.meta.url));
const server = await serve({ artifact: job.artifact, packages: modules, runner }, html);

/** In the page: do the job. */
async function run(given) {
  const home = "/packages/@huggingface/transformers/dist/transformers.web.js";
  const transformers = await import(home);
  const { env } = transformers;
  [env.allowRemoteModels, env.allowLocalModels, env.useBrowserCache] = [false, true, false];
  env.localModelPath = "/";
  env.backends.onnx.wasm.wasmPaths = "/packages/onnxruntime-web/dist/";
  const { doJob } = await import("/runner/job.mjs");
  return doJob(transformers, "artifact", given);
}

const browser = await puppeteer.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
  protocolTimeout: 600_000,
});
try {
  const page = await browser.newPage();
  await page.goto(server.url);
  const { scored, ...found } = await page.evaluate(run, job);
  const versions = { chromium: await browser.version() };
  for (const each of ["@huggingface/transformers", "onnxruntime-web"]) {
    const described = path.join(modules, each, "package.json");
    versions[each] = JSON.parse(fs.readFileSync(described, "utf8")).version;
  }
  if (scored) fs.writeFileSync(job.logits, new Uint8Array(Float32Array.from(scored).buffer));
  console.log(JSON.stringify({ versions, ...found }));
} finally {
  await browser.close();
  server.close();
}

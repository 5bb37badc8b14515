// Checks the claims of examples/web/README.md in a headless browser.
//
// node claims.mjs job.json, where the job holds
//     url          of a running web_server
//     chromium     path of the browser
//     puppeteer    folder whose node_modules have puppeteer-core and axe-core
//     prompt, new_tokens, expected    greedy; the text that our driver gives, or null
//     screenshots  folder for pictures, or null
//     brief        true: only load, answer, and answer offline
// The last line is one JSON object; the exit status is 1 if any claim failed.

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { Front } from "./front.mjs";
import {
  PHONES,
  agrees,
  answer,
  ask,
  cacheShown,
  consoleErrors,
  ended,
  facts,
  isOnScreen,
  openPage,
  ready,
  text,
  waitFor,
} from "./reader.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(pathToFileURL(join(job.puppeteer, "package.json")));
const { default: puppeteer } = await import(pathToFileURL(require.resolve("puppeteer-core")));
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"];
const GPU_FLAGS = [
  "--enable-unsafe-webgpu",
  "--use-angle=swiftshader",
  "--enable-features=Vulkan",
];
const QUESTION = { prompt: job.prompt, tokens: job.new_tokens };
const DATA = "/artifact/onnx/model.onnx_data";
const LINE = 24; // pixels of the answer's first line

const claims = {};
const seen = {};
const violations = [];

function claim(name, holds, found) {
  claims[name] = Boolean(holds);
  process.stderr.write(`${holds ? "holds" : "FAILS"}  ${name}${holds ? "" : `: ${found}`}\n`);
}

async function rate(page) {
  return Number((await text(page, "status")).match(/([\d.]+) tokens per second/)?.[1]);
}

/** The most tokens that the form takes: with a prompt they are too many. */
function most(page) {
  return page.$eval("#max-tokens", (field) => field.max);
}

async function picture(page, name, { fullPage = false } = {}) {
  if (!job.screenshots) return;
  mkdirSync(job.screenshots, { recursive: true });
  await page.screenshot({ path: join(job.screenshots, `${name}.png`), fullPage });
}

async function checkAccess(page, where) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run());
  seen.axe_rules_passed = found.passes.length;
  for (const { id, nodes } of found.violations) {
    violations.push(`${where}: ${id} at ${nodes.map(({ target }) => target).join(" ")}`);
  }
}

async function checkVisits(browser, front) {
  const context = await browser.createBrowserContext();
  const page = await openPage(context, { forgives: /net::ERR_CONNECTION_REFUSED/ });
  front.delayMs = 15;
  await page.goto(`${front.url}?threads=2`);
  await page.waitForFunction(() => document.getElementById("progress").value > 0.3);
  await picture(page, "loading");
  await checkAccess(page, "loading");
  await ready(page);
  front.delayMs = 0;
  const values = await page.evaluate(() => window.progressValues);
  const rises = values.every((value, at) => at === 0 || value >= values[at - 1]);
  const isWhole = values.length > 5 && values.at(-1) === 1;
  claim("one progress bar rises to its end", rises && isWhole, values);
  seen.isolated = await page.evaluate(() => crossOriginIsolated);
  await waitFor(page, "facts", "works offline");
  seen.facts = await facts(page);
  const hasThreads = seen.isolated && seen.facts.includes("2 threads");
  claim("the page is isolated, and has threads", hasThreads, seen.facts);

  await ask(page, QUESTION);
  await page.waitForFunction(() => document.getElementById("told").textContent.length > 120);
  const during = await text(page, "told");
  await picture(page, "generating");
  await checkAccess(page, "generating");
  await ended(page);
  seen.text = await text(page, "told");
  seen.tokens_per_second = await rate(page);
  claim("the text comes in pieces", during.length < seen.text.length, during.length);
  if (job.expected !== null && job.expected !== undefined) {
    claim("the text is our driver's", seen.text === job.expected, seen.text);
  }
  seen.window = await page.$eval("#chart", (element) => element.ariaLabel);
  const lines = (all) => all.map((element) => element.textContent);
  seen.memory = await page.$$eval("#memory, #memory ~ *, .figure + small, small + small", lines);
  await picture(page, "light");
  await checkAccess(page, "answered");

  await front.close();
  await page.reload();
  await ready(page);
  const again = await answer(page, QUESTION);
  claim("a second visit answers without a network", again === seen.text, again);
  await front.open();
  await page.evaluate(spoilStore);
  await page.reload();
  await ready(page);
  const healed = (await page.evaluate(() => window.progressValues)).length > 3;
  claim("a file damaged on the device is fetched again", healed, "it was not");
  await context.close();
}

/** In the page: replace the content of every stored hash. */
async function spoilStore() {
  const store = await caches.open("tramontane-artifacts");
  for (const key of await store.keys()) {
    if (key.url.includes("/sha256/")) await store.put(key, new Response("not it"));
  }
}

async function checkStops(browser, front) {
  const context = await browser.createBrowserContext();
  const page = await openPage(context);
  await page.goto(front.url);
  await ready(page);
  await ask(page, { ...QUESTION, tokens: 2000 });
  await page.waitForFunction(() => document.getElementById("told").textContent.length > 60);
  await page.click("#stop");
  await ended(page);
  const stopped = await text(page, "status");
  claim("stop ends an answer", /^Stopped: \d{1,3} tokens/.test(stopped), stopped);
  await ask(page, { prompt: "x = [1, 2, 3]\n".repeat(250), tokens: 5 });
  await waitFor(page, "rate-note", "^prompt: ");
  await page.keyboard.press("Escape");
  await ended(page);
  const early = await text(page, "status");
  claim("stop ends a prefill", /^Stopped: 0 tokens/.test(early), early);
  const anew = await answer(page, QUESTION);
  claim("a stopped page answers the next prompt", anew === seen.text, anew);
  await ask(page, { ...QUESTION, tokens: await most(page) });
  await waitFor(page, "error", ".");
  const message = await text(page, "error");
  claim("too many tokens are refused in words", /ask for at most \d+/.test(message), message);
  await checkRefusedPrompt(page);
  claim("no character arrives in part", await page.evaluate(streamsWhole), "see streamsWhole");
  await context.close();
}

/** The page after a refused prompt: an empty cache in every view, no text, ready for the next. */
async function checkRefusedPrompt(page) {
  const empty = { held: 0, inWindow: 0, outside: 0, tokens: 0, evicted: 0, barShare: 0 };
  const isEmpty = (shown) => Object.entries(empty).every(([name, is]) => shown[name] === is);
  const first = await cacheShown(page);
  const told = await text(page, "told");
  claim("after a refused prompt the cache is shown empty", isEmpty(first), JSON.stringify(first));
  claim("a refused prompt has no answer", told === "", told);
  const anew = await answer(page, QUESTION);
  const full = await cacheShown(page);
  claim("a page that refused a prompt answers the next", anew === seen.text, anew);
  const isOne = agrees(full) && full.evicted > 0;
  claim("number, bar and labels show one cache", isOne, JSON.stringify(full));
  seen.cache = full;
}

/** In the page: every prefix of a text of many bytes, streamed, has no broken character. */
async function streamsWhole() {
  const { Detokenizer, Text } = await import("./text.js");
  const { Tokenizer } = await import("./vendor/@huggingface/tokenizers/dist/tokenizers.min.mjs");
  const read = (name) => fetch(`./artifact/${name}`).then((response) => response.json());
  const files = await Promise.all(["tokenizer.json", "tokenizer_config.json"].map(read));
  const tokenizer = new Text(Tokenizer, files, { add_bos_token: false });
  const written = " na\u00efve \u20ac 5, \u{1f32c}\ufe0f and \u5317\u98a8 \u{1f600}\u{1f600} end";
  const stream = new Detokenizer(tokenizer, tokenizer.encode("x"));
  const pieces = tokenizer.encode(`x${written}`).slice(1).map((id) => stream.push(id));
  return pieces.join("") === written && !pieces.some((piece) => piece.includes("\ufffd"));
}

async function checkKeyboard(browser, front) {
  const context = await browser.createBrowserContext();
  const page = await openPage(context);
  await page.goto(front.url);
  await ready(page);
  const focus = () => page.evaluate(() => document.activeElement.id);
  const order = [];
  for (let presses = 0; presses < 4; presses++) {
    await page.keyboard.press("Tab");
    order.push(await focus());
    if (order.at(-1) === "prompt") {
      await page.keyboard.down("Control");
      await page.keyboard.press("a");
      await page.keyboard.up("Control");
      await page.keyboard.type("import ");
    }
    if (order.at(-1) === "temperature") await page.keyboard.press("ArrowRight");
    if (order.at(-1) === "max-tokens") await page.keyboard.type("1500");
  }
  const expected = "prompt temperature max-tokens generate";
  claim("Tab reaches every control in order", order.join(" ") === expected, order);
  claim("arrows set the temperature", (await text(page, "temperature-text")) === "0.1", "no");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("told").textContent.length > 20);
  const during = await focus();
  await page.keyboard.press("Enter"); // Stop has the focus
  await ended(page);
  const after = await focus();
  const isKept = during === "stop" && after === "generate";
  claim("focus goes to Stop and comes back", isKept, `${during}, ${after}`);
  claim("the typed prompt is answered", (await text(page, "asked")) === "import ", "no");
  await page.focus("#prompt");
  await page.keyboard.down("Control");
  await page.keyboard.press("Enter");
  await page.keyboard.up("Control");
  await page.waitForFunction(() => document.getElementById("answer").ariaBusy === "true");
  await page.keyboard.press("Escape");
  await ended(page);
  claim("Control Enter generates, Escape stops", true);
  await context.close();
}

async function checkLooks(browser, front) {
  const dark = [{ name: "prefers-color-scheme", value: "dark" }];
  const still = [{ name: "prefers-reduced-motion", value: "reduce" }];
  const context = await browser.createBrowserContext();
  const page = await openPage(context, { features: dark });
  await page.goto(front.url);
  await ready(page);
  await answer(page, QUESTION);
  await picture(page, "dark");
  await checkAccess(page, "dark");
  for (const viewport of PHONES) {
    const phone = await openPage(context, { viewport, features: still });
    await checkPhone(phone, front, viewport);
    await phone.close();
  }
  await context.close();
}

async function checkPhone(phone, front, { width, height }) {
  const size = `${width}x${height}`;
  await phone.goto(front.url);
  await ready(phone);
  await ask(phone, QUESTION);
  await phone.waitForFunction(() => document.getElementById("told").textContent.length > 20);
  const moving = await phone.evaluate(() => document.getAnimations().length);
  claim(`at ${size} nothing moves if the reader asks for no motion`, moving === 0, moving);
  const isSeen = await isOnScreen(phone, "answer", LINE);
  claim(`at ${size} the answer is on the screen after Generate`, isSeen, "it is not");
  await picture(phone, `phone-${size}`);
  await ended(phone);
  const needed = await phone.evaluate(() => document.documentElement.scrollWidth);
  claim(`at ${size} nothing is wider than the screen`, needed <= width, needed);
  await picture(phone, `phone-${size}-whole`, { fullPage: true });
  await checkAccess(phone, `phone ${size}`);
  await ask(phone, { ...QUESTION, tokens: await most(phone) });
  await waitFor(phone, "error", ".");
  const isTold = await isOnScreen(phone, "error", LINE);
  claim(`at ${size} a refusal is on the screen`, isTold, "it is not");
}

async function checkRefusals(browser, front) {
  const refused = async (name, { query = "", pattern, shot }) => {
    const context = await browser.createBrowserContext();
    const page = await openPage(context, { forgives: /status of 404|net::ERR_|CORS/ });
    await page.goto(`${front.url}${query}`);
    await waitFor(page, "error", ".").catch(() => null);
    const message = await text(page, "error");
    claim(name, pattern.test(message), message);
    seen.messages = [...(seen.messages ?? []), message];
    if (shot) {
      await picture(page, shot);
      await checkAccess(page, shot);
    }
    await context.close();
  };
  front.damaged = DATA;
  const pattern = /^onnx\/model\.onnx_data: sha256 \w+, the manifest promises/;
  await refused("a damaged file is named", { pattern, shot: "refused" });
  front.damaged = "/artifact/manifest.json";
  await refused("a changed manifest is refused", { pattern: /manifest\.json: changed since/ });
  front.damaged = null;
  front.missing = DATA;
  await refused("a missing file is named", { pattern: /model\.onnx_data: missing/ });
  front.missing = "/vendor/onnxruntime-web/dist/ort.wasm.min.mjs";
  await refused("a missing package is named", { pattern: /cannot be loaded.*web_server/ });
  front.missing = null;
  const query = "?artifact=./vendor/";
  const noManifest = /404; expected the manifest/;
  await refused("a folder without an artifact is refused", { query, pattern: noManifest });
  const nowhere = "?artifact=http://[";
  await refused("a bad URL is refused", { query: nowhere, pattern: /not a URL/ });
  const elsewhere = `?artifact=${encodeURIComponent(`${job.url}artifact`)}`;
  const noCors = /\(CORS\)/;
  await refused("a server that forbids reading is named", { query: elsewhere, pattern: noCors });
}

async function checkUnisolated(browser, front) {
  const context = await browser.createBrowserContext();
  const page = await openPage(context);
  front.isPlain = true;
  await page.goto(front.url);
  await ready(page);
  const status = await text(page, "status");
  claim("the page says that it has a single thread", /single thread/.test(status), status);
  const alone = await answer(page, QUESTION);
  claim("one thread gives the same answer", alone === seen.text, alone);
  seen.tokens_per_second_one_thread = await rate(page);
  await waitFor(page, "facts", "works offline");
  await page.reload();
  await ready(page);
  const isolated = await page.evaluate(() => crossOriginIsolated);
  claim("the service worker isolates the second visit", isolated, await facts(page));
  front.isPlain = false;
  await context.close();
}

async function findGpu() {
  const browser = await puppeteer.launch({
    executablePath: job.chromium,
    args: [...FLAGS, ...GPU_FLAGS],
  });
  try {
    const page = await browser.newPage();
    await page.goto(job.url);
    return await page.evaluate(async () => {
      if (!navigator.gpu) return "no navigator.gpu";
      const adapter = await navigator.gpu.requestAdapter();
      return adapter ? `${adapter.info.vendor} ${adapter.info.architecture}`.trim() : "no adapter";
    });
  } finally {
    await browser.close();
  }
}

const front = new Front(job.url);
await front.open();
const browser = await puppeteer.launch({ executablePath: job.chromium, args: FLAGS });
try {
  seen.versions = { chromium: await browser.version(), node: process.version };
  await checkVisits(browser, front);
  if (!job.brief) {
    await checkStops(browser, front);
    await checkKeyboard(browser, front);
    await checkLooks(browser, front);
    await checkRefusals(browser, front);
    await checkUnisolated(browser, front);
  }
  claim("axe-core finds no violation", violations.length === 0, violations.join("; "));
  claim("the console stays empty", consoleErrors.length === 0, consoleErrors.join("; "));
} catch (error) {
  claim("the check ran to its end", false, error.stack);
} finally {
  await browser.close();
  await front.close();
}
seen.gpu = await findGpu().catch((error) => `not found out: ${error.message}`);
const failed = Object.keys(claims).filter((name) => !claims[name]);
console.log(JSON.stringify({ claims, failed, violations, consoleErrors, ...seen }));
for (const name of failed) process.stderr.write(`FAILS  ${name}\n`); // the last line is reported
process.exit(failed.length ? 1 : 0);

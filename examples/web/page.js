// The page: sends the reader's requests to the worker and shows its answers.

import { Chart } from "./chart.js";
import { widestLayout } from "./driver.js";
import { tabBytes } from "./memory.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);

const worker = new Worker("./worker.js", { type: "module" });
let isReady = false;
let isBusy = false;
let chart = null;
let shown = null; // facts that wait for the next frame
let text = "";

const artifact = folder(query.get("artifact") ?? "./artifact/");

worker.onmessage = ({ data: { type, ...facts } }) => HANDLERS[type](facts);
worker.onerror = (event) => {
  fail(`worker.js: cannot be started (${event.message ?? "not found, or refused"}); reload`);
};
if (artifact) {
  worker.postMessage({
    type: "open",
    artifact: artifact.href,
    threads: query.has("threads") ? Math.max(1, Number(query.get("threads")) || 1) : null,
  });
}

const HANDLERS = {
  progress({ loaded, total, name, isKept }) {
    $("progress").value = loaded / total;
    const source = isKept ? "stored on this device" : "from the network";
    const amount = `${megabytes(loaded)} of ${megabytes(total)} MB`;
    $("loading-text").textContent = `${amount}: ${name}, ${source}`;
  },
  opening({ bytes }) {
    $("progress").value = 1;
    $("loading-text").textContent = `${megabytes(bytes)} MB verified; starting`;
  },
  ready,
  prompt(facts) {
    show({ ...facts, note: `prompt: ${facts.done} of ${facts.total} tokens read` });
  },
  token: show,
  end,
  error({ message, isFatal, tokens }) {
    draw(); // what still waits for a frame is older
    showCache(tokens);
    fail(message, isFatal);
  },
};

function ready({ quant, geometry, memory, threads, bytes, isKept, heapBytes }) {
  isReady = true;
  const { rows, window } = widestLayout(geometry);
  chart = new Chart($("chart"), { ...geometry, rows, window });
  showCache(0);
  const { layers, num_layers, max_positions } = geometry;
  const where = layers ? ", in the layer with most" : ""; // layers that differ are listed
  $("rows").textContent = (rows ? `of ${rows} rows in use` : "rows in use, the cache grows") + where;
  $("max-tokens").max = max_positions;
  showMemory(heapBytes);
  const weights = megabytes(memory.weights_bytes);
  const cache = megabytes(memory.cache_bytes_at_most);
  $("memory-plan").textContent = `estimated: weights ${weights}, cache ${cache}`;
  setFacts([
    quant,
    `${num_layers} layers`,
    layers ? "windows differ by layer" : window ? `window ${window}` : "no window",
    threads > 1 ? `${threads} threads` : "1 thread",
    `${megabytes(bytes)} MB, verified`,
  ]);
  $("loading").hidden = true;
  if (!crossOriginIsolated) {
    say(
      "Ready, with a single thread: the server sent no COOP and COEP headers, so the browser " +
        "allows no shared memory. Reload the page: the service worker then adds the headers.",
    );
  } else {
    say("Ready.");
  }
  setBusy(false);
  showTab();
  keepPage(isKept);
}

/** Keep the page itself for visits without a network. */
async function keepPage(isKept) {
  try {
    const { installing } = await navigator.serviceWorker.register("./service-worker.js");
    installing?.addEventListener("statechange", () => {
      if (installing.state === "redundant") addFact("needs the network (page not stored)");
    });
    await navigator.serviceWorker.ready;
    addFact(isKept ? "works offline" : "too large to store: needs the network");
  } catch (error) {
    addFact(`needs the network (${error.message})`);
  }
}

function generate(event) {
  event?.preventDefault();
  if (!isReady || isBusy || !$("form").reportValidity()) return;
  const prompt = $("prompt").value;
  $("error").textContent = "";
  $("asked").textContent = prompt;
  $("told").textContent = text = "";
  $("rate").textContent = "–";
  $("rate-note").textContent = "nothing generated yet";
  showCache(0); // each prompt begins a new sequence
  setBusy(true);
  say("Generating.");
  $("answering").scrollIntoView({ block: "nearest" }); // a small screen may end above it
  worker.postMessage({
    type: "generate",
    prompt,
    maxNewTokens: $("max-tokens").valueAsNumber,
    temperature: $("temperature").valueAsNumber,
  });
}

function stop() {
  if (isBusy) worker.postMessage({ type: "stop" });
}

function show(facts) {
  text += facts.text ?? "";
  if (!shown) requestAnimationFrame(draw);
  shown = facts;
}

function draw() {
  if (!shown) return;
  const { rate, made, note, heapBytes, tokens, promptMs } = shown;
  shown = null;
  $("told").append(text);
  text = "";
  if (rate) $("rate").textContent = rate.toFixed(rate < 100 ? 1 : 0);
  const first = Math.round(promptMs);
  $("rate-note").textContent = note ?? `${made} new tokens, the first after ${first} ms`;
  if (heapBytes) showMemory(heapBytes);
  showCache(tokens);
}

/** The number and the bars always show the same count of tokens. */
function showCache(tokens) {
  if (chart) $("held").textContent = chart.draw(tokens);
}

function end(facts) {
  show(facts);
  draw(); // frames do not come while the tab is hidden
  const why = { stopped: "Stopped", length: "Finished", end: "Finished by the model" };
  const rate = facts.rate ? `, ${facts.rate.toFixed(1)} tokens per second` : "";
  setBusy(false);
  say(`${why[facts.reason]}: ${facts.made} tokens${rate}.`);
  showTab();
}

/** The URL of a folder; null, with a message on the page, where the text is not a URL. */
function folder(given) {
  try {
    const url = new URL(given, document.baseURI);
    if (!url.pathname.endsWith("/")) url.pathname += "/";
    return url;
  } catch {
    fail(`?artifact=${given}: not a URL; expected the URL of an artifact's folder`, true);
    return null;
  }
}

function fail(message, isFatal = !isReady) {
  $("error").textContent = message;
  if (isFatal) $("loading").hidden = true;
  else setBusy(false);
  say("");
  $("error").scrollIntoView({ block: "nearest" });
}

function setBusy(value) {
  const had = document.activeElement;
  isBusy = value;
  $("generate").disabled = value;
  $("stop").disabled = !value;
  $("answer").ariaBusy = value;
  // A disabled button loses the focus: it goes to the one that takes its place.
  if (value && had === $("generate")) $("stop").focus();
  if (!value && had === $("stop")) $("generate").focus();
}

function showMemory(heapBytes) {
  $("memory").textContent = megabytes(heapBytes);
  $("memory-note").textContent = "measured WASM heap";
}

async function showTab() {
  const bytes = await tabBytes();
  if (bytes) $("memory-tab").textContent = `measured whole tab: ${megabytes(bytes)} MB`;
}

function setFacts(facts) {
  $("facts").replaceChildren();
  facts.forEach(addFact);
  $("facts").hidden = false;
}

function addFact(fact) {
  const item = document.createElement("li");
  item.textContent = fact;
  $("facts").append(item);
}

function say(status) {
  $("status").textContent = status;
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 2 : bytes < 1e8 ? 1 : 0);
}

$("form").addEventListener("submit", generate);
$("stop").addEventListener("click", stop);
$("temperature").addEventListener("input", ({ target: { value } }) => {
  const is = Number(value);
  $("temperature-text").textContent = is === 0 ? "0, greedy" : is.toFixed(1);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate(event);
});

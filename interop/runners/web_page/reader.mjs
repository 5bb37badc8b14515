// Acts as a reader of the page: opens it, fills in the form, reads what is on the screen.

const PATIENCE_MS = 120_000;

export const DESKTOP = { width: 1280, height: 800 };
const TOUCH = { isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
export const PHONES = [
  { width: 390, height: 844, ...TOUCH },
  { width: 360, height: 740, ...TOUCH },
  { width: 320, height: 568, ...TOUCH },
];

export const consoleErrors = [];

/** Text of an element of the page. */
export const text = (page, id) => page.$eval(`#${id}`, (element) => element.textContent);
export const facts = (page) =>
  page.$$eval("#facts li", (items) => items.map((item) => item.textContent));

/** A tab that records progress and errors, except those to ignore. */
export async function openPage(context, { viewport = DESKTOP, features = [], forgives } = {}) {
  const page = await context.newPage();
  await page.setViewport(viewport);
  await page.emulateMediaFeatures(features);
  page.on("pageerror", (error) => consoleErrors.push(String(error)));
  page.on("console", (message) => {
    if (!["error", "warn"].includes(message.type()) || forgives?.test(message.text())) return;
    consoleErrors.push(`${message.text()} (${message.location().url ?? ""})`);
  });
  await page.evaluateOnNewDocument(() => {
    window.progressValues = [];
    new MutationObserver(() => {
      const value = document.getElementById("progress")?.value;
      if (value !== undefined && value !== window.progressValues.at(-1)) {
        window.progressValues.push(value);
      }
    }).observe(document, { subtree: true, childList: true, attributes: true });
  });
  return page;
}

/** Wait until an element's text fits a pattern. */
export function waitFor(page, id, pattern) {
  return page.waitForFunction(
    (id, source) => new RegExp(source).test(document.getElementById(id)?.textContent),
    { timeout: PATIENCE_MS },
    id,
    pattern,
  );
}

export const ready = (page) => waitFor(page, "status", "^Ready");
export const ended = (page) => waitFor(page, "status", "^(Finished|Stopped)");

/** Whether an element's first `height` pixels are on the screen, as it is scrolled now. */
export function isOnScreen(page, id, height) {
  return page.$eval(
    `#${id}`,
    (element, height) => {
      const { top } = element.getBoundingClientRect();
      return top >= 0 && top + height <= window.innerHeight;
    },
    height,
  );
}

/**
 * What the page shows of the KV cache: the number, the bar's labels, the bar itself, the counts
 * of tokens. NaN where a label is missing or reads differently.
 */
export async function cacheShown(page) {
  const [held, chart, widths] = await Promise.all([
    text(page, "held"),
    text(page, "chart"),
    page.$$eval("#chart .bar span", (parts) => parts.map((part) => parseFloat(part.style.width))),
  ]);
  const labels = /(\d+) in window(\d+) outside(\d+) free(\d+) tokens, (\d+) evicted/;
  const [inWindow, outside, free, tokens, evicted] = (chart.match(labels) ?? [])
    .slice(1)
    .map(Number);
  const barShare = widths.reduce((sum, width) => sum + width, 0) / 100;
  return { held: Number(held), inWindow, outside, free, tokens, evicted, barShare };
}

/** Whether every view of the cache shows the same state. */
export function agrees({ held, inWindow, outside, free, tokens, evicted, barShare }) {
  const isBarRight = Math.abs(barShare - held / (held + free)) < 1e-3;
  return held === inWindow + outside && held === tokens - evicted && isBarRight;
}

/** Fill in the form and press the button. */
export async function ask(page, { prompt, tokens }) {
  await page.$eval("#prompt", (element, value) => (element.value = value), prompt);
  await page.$eval("#max-tokens", (element, value) => (element.value = value), tokens);
  await page.click("#generate");
}

/** Ask, and wait for the whole answer. */
export async function answer(page, options) {
  await ask(page, options);
  await ended(page);
  return text(page, "told");
}

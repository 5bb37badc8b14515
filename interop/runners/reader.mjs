// How does a check act as a reader of the page?

const PATIENCE_MS = 120_000;

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = {
  width: 360,
  height: 740,
  isMobile: true,
  hasTouch: true,
  deviceScaleFactor: 2,
};

export const consoleErrors = [];

/** What an element of the page says. */
export const text = (page, id) => page.$eval(`#${id}`, (element) => element.textContent);
export const facts = (page) =>
  page.$$eval("#facts li", (items) => items.map((item) => item.textContent));

/** A tab that notes progress and complaints, but for those that it forgives. */
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

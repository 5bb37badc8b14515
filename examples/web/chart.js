// Draws the KV cache: rows in use and tokens evicted.
//
// Two views of one rule (heldRows): the cache's rows now, and the rows held since the first token.

import { heldRows } from "./driver.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 64;

/** Both views, drawn into an element. */
export class Chart {
  #geometry;
  #host;
  #bar = element("div", "bar", element("span", "left"), element("span", "seen"));
  #counts = { seen: element("span"), left: element("span"), free: element("span") };
  #legend = element("span");
  #rule = svg("path", { class: "rule" });
  #line = svg("path", { class: "line" });
  #area = svg("path", { class: "area" });
  #now = svg("path", { class: "now" });

  /** @param {object} geometry the manifest's */
  constructor(host, geometry) {
    this.#geometry = geometry;
    this.#host = host;
    const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    const below = element("small", "", this.#legend);
    plot.append(this.#area);
    if (geometry.window) {
      plot.append(this.#rule);
      const label = `window ${geometry.window}`;
      below.append(element("span", "", element("i", "window-line"), label));
    }
    plot.append(this.#line, this.#now);
    const keys = Object.entries(this.#counts).map(([name, count]) =>
      element("span", "", element("i", name), count),
    );
    if (!geometry.window) keys.splice(1, 1); // every row is in view: none lies outside
    host.replaceChildren(this.#bar, element("small", "", ...keys), plot, below);
    host.role = "img";
    this.draw(0);
  }

  /** Show the state after so many tokens; return the number of rows in use. */
  draw(tokens) {
    const { window, rows, max_positions } = this.#geometry;
    const capacity = rows ?? max_positions;
    const held = heldRows(this.#geometry, tokens);
    const seen = window ? Math.min(held, window) : held;
    const [left, visible] = this.#bar.children;
    left.style.width = `${(100 * (held - seen)) / capacity}%`;
    visible.style.width = `${(100 * seen) / capacity}%`;
    this.#counts.seen.textContent = `${seen} in ${window ? "window" : "use"}`;
    this.#counts.left.textContent = `${held - seen} outside`;
    this.#counts.free.textContent = `${capacity - held} free`;

    const top = rows ?? this.#span(tokens);
    if (window) this.#rule.setAttribute("d", `M0 ${HEIGHT * (1 - window / top)}H${WIDTH}`);
    const points = this.#history(tokens).map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
    this.#line.setAttribute("d", `M${points.join("L")}`);
    this.#area.setAttribute("d", `M${points.join("L")}V${HEIGHT}H0Z`);
    this.#now.setAttribute("d", tokens ? `M${points.at(-1)}h0` : "");
    const gone = tokens - held;
    this.#legend.textContent = `${tokens} tokens, ${gone} evicted`;
    const cache = rows
      ? `${held} of ${rows} cache rows are in use`
      : `The cache grows to at most ${capacity} rows; ${held} are in use`;
    const inWindow = window ? `${seen} in the window, ${held - seen} outside it, ` : "";
    this.#host.ariaLabel = `${cache} after ${tokens} tokens: ${inWindow}${gone} evicted.`;
    return held;
  }

  /** Tokens from the plot's left edge to its right. */
  #span(tokens) {
    const { rows, max_positions } = this.#geometry;
    return Math.max(tokens, 2 * (rows ?? max_positions / 16));
  }

  /** Corners of the line of rows held, in the plot's units. */
  #history(tokens) {
    const { window, rows } = this.#geometry;
    const span = this.#span(tokens);
    const height = rows ?? span;
    const at = (T) => [(WIDTH * T) / span, HEIGHT * (1 - heldRows(this.#geometry, T) / height)];
    const corners = [0];
    for (let full = rows; full && full < tokens; full += rows - window + 1) {
      corners.push(full, full + 1);
    }
    return [...corners, tokens].map(at);
  }
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function element(name, className = "", ...children) {
  const made = Object.assign(document.createElement(name), { className });
  made.append(...children);
  return made;
}

// How does the sliding window fill, and what does it let go?
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
    if (geometry.rows) {
      const y = HEIGHT * (1 - geometry.window / geometry.rows);
      plot.append(svg("path", { class: "rule", d: `M0 ${y}H${WIDTH}` }));
      const label = `window ${geometry.window}`;
      below.append(element("span", "", element("i", "window-line"), label));
    }
    plot.append(this.#line, this.#now);
    const keys = Object.entries(this.#counts).map(([name, count]) =>
      element("span", "", element("i", name), count),
    );
    host.replaceChildren(this.#bar, element("small", "", ...keys), plot, below);
    host.role = "img";
    this.draw(0);
  }

  /** Show the state after so many tokens; return the rows held. */
  draw(tokens) {
    const { window, rows, max_positions } = this.#geometry;
    const capacity = rows ?? max_positions;
    const held = heldRows(this.#geometry, tokens);
    const seen = window ? Math.min(held, window) : held;
    const [left, visible] = this.#bar.children;
    left.style.width = `${(100 * (held - seen)) / capacity}%`;
    visible.style.width = `${(100 * seen) / capacity}%`;
    this.#counts.seen.textContent = `${seen} in sight`;
    this.#counts.left.textContent = `${held - seen} past it`;
    this.#counts.free.textContent = `${capacity - held} free`;

    const points = this.#history(tokens).map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
    this.#line.setAttribute("d", `M${points.join("L")}`);
    this.#area.setAttribute("d", `M${points.join("L")}V${HEIGHT}H0Z`);
    this.#now.setAttribute("d", tokens ? `M${points.at(-1)}h0` : "");
    const gone = tokens - held;
    this.#legend.textContent = `${tokens} tokens, ${gone ? `${gone} let go` : "all held"}`;
    this.#host.ariaLabel =
      `${held} of ${capacity} rows of the cache are held after ${tokens} tokens; the latest ` +
      `token saw ${window ? `the last ${seen}` : "them all"}; ${gone} have been let go.`;
    return held;
  }

  /** Corners of the line of rows held, in the plot's units. */
  #history(tokens) {
    const { window, rows, max_positions } = this.#geometry;
    const span = Math.max(tokens, 2 * (rows ?? max_positions / 16));
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

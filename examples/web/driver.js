// Runs an artifact on onnxruntime-web: prefill in chunks, then one step per token.
//
// An app can use this file as it is: it imports nothing and does not touch the page. It needs the
// module onnxruntime-web, the parsed manifest of the artifact and the bytes of its files:
//
//     import * as ort from "onnxruntime-web/wasm";
//     const session = await Session.open({ ort, manifest, graph, data });
//     for await (const token of session.generate(ids, { maxNewTokens: 64, signal })) { ... }
//
// A session is one sequence: `generate` continues it, `reset` begins a new one. The event loop
// runs between chunks and between tokens, so a message can abort `signal`. Each step's present
// cache is the next step's past; with a window the cache has C rows.

const CHUNK = 64; // tokens per run of a prefill: bounds logits and the wait after a stop

/** A request that the driver refuses; the message says what to change. */
export class DriverError extends Error {}

/**
 * Number of rows in use after `tokens` tokens, from row 0; an eviction drops E = C - window + 1.
 *
 * @param {{window: ?number, rows: ?number}} layout of one layer
 */
export function heldRows({ window, rows }, tokens) {
  if (!rows || tokens <= rows) return tokens;
  const evicted = rows - window + 1;
  return tokens - evicted * Math.ceil((tokens - rows) / evicted);
}

/**
 * Window and rows of one layer's cache; the manifest says them once where all layers are equal.
 *
 * @param {object} geometry the manifest's
 */
export function layoutOf(geometry, layer) {
  return geometry.layers?.[layer] ?? geometry;
}

/** Window and rows of the layer whose cache has the most rows; one that grows counts as most. */
export function widestLayout(geometry) {
  const size = ({ rows }) => rows ?? Infinity;
  const layers = geometry.layers ?? [geometry];
  return layers.reduce((widest, layer) => (size(layer) > size(widest) ? layer : widest));
}

/** One sequence of tokens and its KV cache. */
export class Session {
  #ort;
  #graph;
  #geometry;
  #endTokens;
  #past = {};
  #ones = new BigInt64Array(0);
  #tokens = 0;

  /** Use `open`. */
  constructor({ ort, graph, manifest }) {
    this.#ort = ort;
    this.#graph = graph;
    this.#geometry = manifest.geometry;
    this.#endTokens = new Set(manifest.vocabulary.eos_token_ids);
    this.reset();
  }

  /**
   * Load a graph.
   *
   * @param {object} options
   * @param {object} options.ort the onnxruntime module, its env (threads) already set
   * @param {object} options.manifest the artifact's manifest.json
   * @param {Uint8Array} options.graph onnx/model.onnx
   * @param {{path: string, data: Uint8Array}[]} options.data weight files, by file name
   */
  static async open({ ort, manifest, graph, data }) {
    const loaded = await ort.InferenceSession.create(graph, {
      externalData: data,
      executionProviders: ["wasm"],
      logSeverityLevel: 3, // hides a warning about num_logits_to_keep
    });
    return new Session({ ort, graph: loaded, manifest });
  }

  /** Tokens of the sequence so far. */
  get tokens() {
    return this.#tokens;
  }

  /** Begin an empty sequence; rows of the previous one are never read again. */
  reset() {
    const { num_layers, num_key_value_heads: G, head_dim: D, cache_dtype } = this.#geometry;
    const Numbers = cache_dtype === "int8" ? Int8Array : Float32Array;
    this.#tokens = 0;
    for (let layer = 0; layer < num_layers; layer++) {
      const { rows } = layoutOf(this.#geometry, layer);
      const shape = [1, G, rows ?? 0, D];
      for (const kind of ["key", "value"]) {
        const zeros = new Numbers(G * (rows ?? 0) * D);
        this.#past[`${layer}.${kind}`] = new this.#ort.Tensor(cache_dtype, zeros, shape);
      }
    }
  }

  /**
   * Append tokens, one chunk at a time.
   *
   * @param {number[]} ids at least one
   * @param {{chunk?: number, signal?: AbortSignal, onChunk?: (done: number) => void}} options
   * @returns {Promise<?Float32Array>} (V,) logits of the next token; null if `signal` was aborted
   * @throws {DriverError} no tokens, one outside the vocabulary, or more than the sequence holds
   */
  async prefill(ids, { chunk = CHUNK, signal, onChunk } = {}) {
    this.#refuse(ids, 0);
    let logits = null;
    for (let start = 0; start < ids.length; start += chunk) {
      await turn();
      if (signal?.aborted) return null;
      const stop = Math.min(start + chunk, ids.length);
      logits = await this.#run(ids.slice(start, stop), stop === ids.length);
      onChunk?.(stop);
    }
    return logits;
  }

  /** Append one token; return the logits (V,) of the next. */
  async step(id) {
    this.#refuse([id], 0);
    return this.#run([id], true);
  }

  /**
   * Append a prompt, then generate until an end token, which is neither returned nor appended.
   *
   * @param {number[]} ids the prompt's
   * @param {object} options
   * @param {number} options.maxNewTokens
   * @param {number} [options.temperature] 0: greedy
   * @param {AbortSignal} [options.signal] ends the answer between two tokens or two chunks
   * @param {(done: number) => void} [options.onChunk] tokens of the prompt read so far
   * @param {() => number} [options.random] as Math.random
   * @throws {DriverError} as `prefill`; also if prompt and new tokens exceed the positions
   */
  async *generate(ids, { maxNewTokens, temperature = 0, signal, onChunk, random = Math.random }) {
    if (!(Number.isInteger(maxNewTokens) && maxNewTokens >= 0)) {
      throw new DriverError(`maxNewTokens is ${maxNewTokens}; expected a whole number, 0 or more`);
    }
    if (!(Number.isFinite(temperature) && temperature >= 0)) {
      throw new DriverError(`temperature is ${temperature}; expected 0 or more`);
    }
    this.#refuse(ids, maxNewTokens);
    let logits = await this.prefill(ids, { signal, onChunk });
    for (let made = 0; made < maxNewTokens; made++) {
      await turn();
      if (signal?.aborted) return;
      const token = choose(logits, temperature, random);
      if (this.#endTokens.has(token)) return;
      yield token;
      logits = await this.step(token);
    }
  }

  #refuse(ids, more) {
    const { vocab_size: V, max_positions: most } = this.#geometry;
    if (!ids.length) throw new DriverError("the prompt has no tokens; expected at least one");
    const strange = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < V));
    if (strange !== undefined) {
      throw new DriverError(`token ${strange} is not in the vocabulary of ${V}`);
    }
    const room = most - this.#tokens - ids.length;
    if (room < more) {
      throw new DriverError(
        `${this.#tokens + ids.length} tokens and ${more} new tokens exceed the model's ` +
          `${most} positions; ` +
          (room > 0 ? `ask for at most ${room} new tokens` : "give a shorter prompt"),
      );
    }
  }

  async #run(ids, wantsLogits) {
    const { vocab_size: V } = this.#geometry;
    const total = this.#tokens + ids.length;
    const feeds = {
      input_ids: this.#integers(BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: this.#integers(this.#mask(total), [1, total]),
    };
    // onnxruntime-web does not list or accept an input that has a default; other builds do.
    if (this.#graph.inputNames.includes("num_logits_to_keep")) {
      feeds.num_logits_to_keep = this.#integers(BigInt64Array.of(1n), []);
    }
    for (const [name, tensor] of Object.entries(this.#past)) {
      feeds[`past_key_values.${name}`] = tensor;
    }
    const wanted = this.#graph.outputNames.filter((name) => wantsLogits || name !== "logits");
    const results = await this.#graph.run(feeds, wanted);
    for (const name of Object.keys(this.#past)) this.#past[name] = results[`present.${name}`];
    this.#tokens = total;
    return wantsLogits ? results.logits.data.subarray(-V) : null;
  }

  #integers(values, shape) {
    return new this.#ort.Tensor("int64", values, shape);
  }

  /** Ones for all tokens so far; the buffer doubles, so most steps allocate nothing. */
  #mask(total) {
    if (total > this.#ones.length) this.#ones = new BigInt64Array(2 * total).fill(1n);
    return this.#ones.subarray(0, total);
  }
}

function choose(logits, temperature, random) {
  let best = 0;
  for (let token = 0; token < logits.length; token++) {
    if (Number.isNaN(logits[token])) {
      throw new DriverError(`logits[${token}] is not a number; export the artifact again`);
    }
    if (logits[token] > logits[best]) best = token; // the first of equal logits
  }
  if (temperature === 0) return best;
  const weights = Float64Array.from(logits, (x) => Math.exp((x - logits[best]) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let token = 0; token < weights.length; token++) {
    left -= weights[token];
    if (left < 0) return token;
  }
  return best; // reached only through rounding
}

/** Let the event loop handle a message; a timer would take 4 ms each time. */
function turn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

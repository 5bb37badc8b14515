// Opens and runs an artifact in onnxruntime-web's WASM, under Node.

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

/** The module in a folder of packages, with a number of threads, and its version. */
export async function openRuntime(packages, threads) {
  const home = path.join(packages, "node_modules", "onnxruntime-web");
  const ort = await import(pathToFileURL(path.join(home, "dist", "ort.node.min.mjs")).href);
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const { version } = JSON.parse(fs.readFileSync(path.join(home, "package.json"), "utf8"));
  return { ort, version };
}

/** An artifact's graph; the caller keeps the cache. */
export class Graph {
  /** Load an artifact; `loadMs` is the time from its bytes to a session. */
  static async open(ort, artifact) {
    const folder = path.join(artifact, "onnx");
    const names = fs.readdirSync(folder).filter((name) => name.startsWith("model.onnx_data"));
    const read = (name) => fs.readFileSync(path.join(folder, name));
    const graph = read("model.onnx");
    const externalData = names.map((name) => ({ path: name, data: read(name) }));
    const start = performance.now();
    const executionProviders = ["wasm"];
    const session = await ort.InferenceSession.create(graph, { executionProviders, externalData });
    const manifest = fs.readFileSync(path.join(artifact, "manifest.json"), "utf8");
    return Object.assign(new Graph(), {
      ort,
      session,
      geometry: JSON.parse(manifest).geometry,
      pasts: session.inputNames.filter((name) => name.startsWith("past_key_values.")),
      loadMs: performance.now() - start,
    });
  }

  emptyCache() {
    const { num_key_value_heads: G, head_dim: D, layers } = this.geometry;
    return this.pasts.map((name) => {
      const { rows } = layers?.[name.split(".")[1]] ?? this.geometry; // one entry where all are equal
      const dims = [1, G, rows ?? 0, D];
      const zeros = new Float32Array(dims.reduce((product, each) => product * each, 1));
      return [name, new this.ort.Tensor("float32", zeros, dims)];
    });
  }

  /**
   * Append tokens to a cache; `seen` counts all so far, these included.
   *
   * Sessions here do not accept an input that has a default: num_logits_to_keep keeps all.
   *
   * @returns {Promise<[Float32Array, Array]>} logits (T, V) and the next cache
   */
  async run(ids, seen, cache) {
    const integers = (values) => new this.ort.Tensor("int64", values, [1, values.length]);
    const found = await this.session.run({
      input_ids: integers(BigInt64Array.from(ids, BigInt)),
      attention_mask: integers(new BigInt64Array(seen).fill(1n)),
      ...Object.fromEntries(cache),
    });
    const present = (name) => found[name.replace("past_key_values", "present")];
    return [found.logits.data, this.pasts.map((name) => [name, present(name)])];
  }
}

// Fetches an artifact, verifies it against its manifest and stores it on the device.
//
// A file is stored in Cache Storage under its hash. Its size and hash are compared with the
// manifest whether it comes from there or from the network: a damaged file is never used.

const STORE = "tramontane-artifacts";
const SCHEMA_VERSION = 4; // as in runtime/manifest.py
const GRAPH = "onnx/model.onnx";
const TOKENIZER = ["tokenizer.json", "tokenizer_config.json"];
const SIZES = ["num_layers", "num_key_value_heads", "head_dim", "vocab_size", "max_positions"];

/** Something that cannot be used; the message says which file, and what to do. */
export class ArtifactError extends Error {}

/**
 * Fetch and verify all that decoding needs.
 *
 * @param {URL} base the artifact's folder, with a slash at its end
 * @param {(state: {loaded: number, total: number, name: string, isKept: boolean}) => void} report
 * @returns {Promise<{manifest: object, graph: Uint8Array, tokenizer: object[], bytes: number,
 *   data: {path: string, data: Uint8Array}[], isKept: boolean}>} isKept: all are stored
 * @throws {ArtifactError} no artifact, a file that is missing, or one that differs
 */
export async function loadArtifact(base, report) {
  if (!globalThis.crypto?.subtle) {
    throw new ArtifactError(
      `${base.origin}: no crypto.subtle here, so no file can be verified; ` +
        "serve the page from localhost or over https",
    );
  }
  const store = await openStore();
  const { manifest, text } = await readManifest(new URL("manifest.json", base), store);
  const names = neededFiles(manifest, base);
  const total = names.reduce((sum, name) => sum + manifest.files[name].bytes, 0);
  const contents = new Map();
  let before = 0;
  let isKept = true;
  for (const name of names) {
    const promised = manifest.files[name];
    const start = before;
    const tell = (bytes, isKept) => report({ loaded: start + bytes, total, name, isKept });
    const file = await obtain(name, { base, promised, store, tell });
    contents.set(name, file.bytes);
    isKept &&= file.isKept;
    before += promised.bytes;
  }
  isKept &&= await keep(store, new URL("manifest.json", base), text);
  if (isKept) await forgetOthers(store);
  const shards = names.filter((name) => name.startsWith(`${GRAPH}_data`));
  return {
    manifest,
    graph: contents.get(GRAPH),
    data: shards.map((name) => ({ path: name.split("/").pop(), data: contents.get(name) })),
    tokenizer: TOKENIZER.map((name) => parse(contents.get(name), name)),
    bytes: total,
    isKept,
  };
}

async function readManifest(url, store) {
  const response = await fetch(url, { cache: "no-cache" }).catch(() => store?.match(url));
  if (!response) {
    throw new ArtifactError(
      `${url}: no response, and no stored copy here; check the connection, the URL, and that ` +
        "its server allows this page to read it (CORS)",
    );
  }
  if (!response.ok) {
    throw new ArtifactError(
      `${url}: the server answered ${response.status}; expected the manifest of a ` +
        "tramontane artifact; check the URL, or copy the whole artifact there",
    );
  }
  const text = await response.text();
  const manifest = parse(new TextEncoder().encode(text), url);
  refuseForeign(manifest, url);
  // manifest_sha256 is the hash of the text without the line that holds it.
  const rest = text.replace(/^ {2}"manifest_sha256": "[0-9a-f]{64}",\n/m, "");
  if ((await sha256(new TextEncoder().encode(rest))) !== manifest.manifest_sha256) {
    throw new ArtifactError(`${url}: changed since it was written; export the artifact again`);
  }
  return { manifest, text };
}

function refuseForeign(manifest, url) {
  const { schema_version: version, geometry, files, memory, vocabulary } = manifest ?? {};
  const isOurs = version && geometry && files && memory && vocabulary?.eos_token_ids;
  if (!isOurs || !SIZES.every((size) => Number.isInteger(geometry[size]))) {
    throw new ArtifactError(
      `${url}: not a tramontane artifact's manifest (schema_version, geometry, vocabulary, ` +
        "memory and files were expected)",
    );
  }
  if (version !== SCHEMA_VERSION) {
    throw new ArtifactError(
      `${url}: schema version ${version}, this page reads ${SCHEMA_VERSION}; use the page that ` +
        "came with the tramontane that wrote it, or export again",
    );
  }
}

function neededFiles(manifest, base) {
  for (const name of [GRAPH, ...TOKENIZER]) {
    if (!manifest.files[name]) {
      const why = name === GRAPH ? "" : ` (${manifest.tokenizer_json})`;
      throw new ArtifactError(
        `${base}: the manifest lists no ${name}${why}, which the page needs; export again`,
      );
    }
  }
  const shards = Object.keys(manifest.files).filter((name) => name.startsWith(`${GRAPH}_data`));
  return [...TOKENIZER, GRAPH, ...shards.sort()]; // small files first: an error in one shows early
}

async function obtain(name, { base, promised, store, tell }) {
  const key = new URL(`/sha256/${promised.sha256}`, self.location.href);
  const stored = await store?.match(key);
  if (stored) {
    const bytes = new Uint8Array(await stored.arrayBuffer());
    if (bytes.length === promised.bytes && (await sha256(bytes)) === promised.sha256) {
      tell(bytes.length, true);
      return { bytes, isKept: true };
    }
    await store.delete(key); // damaged on this device: fetch it again
  }
  const bytes = await download(name, { url: new URL(name, base), promised, tell });
  const found = await sha256(bytes);
  if (found !== promised.sha256) {
    throw new ArtifactError(
      `${name}: sha256 ${found}, the manifest promises ${promised.sha256}; the file was ` +
        "changed after the export: copy it again",
    );
  }
  return { bytes, isKept: await keep(store, key, bytes) };
}

async function download(name, { url, promised, tell }) {
  const response = await fetch(url, { cache: "no-store" }).catch((error) => {
    throw new ArtifactError(`${name}: no response from ${url} (${error.message}); try again`);
  });
  if (!response.ok) {
    throw new ArtifactError(
      `${name}: missing, the server answered ${response.status} for ${url}; the manifest ` +
        "promises it: copy the artifact again",
    );
  }
  const bytes = new Uint8Array(promised.bytes);
  const reader = response.body.getReader();
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw new ArtifactError(`${name}: broke off after ${size} bytes (${error.message}); reload`);
    });
    if (done) break;
    if (size + value.length > promised.bytes) {
      await reader.cancel();
      throw new ArtifactError(
        `${name}: longer than the ${promised.bytes} bytes the manifest promises; copy it again`,
      );
    }
    bytes.set(value, size);
    size += value.length;
    tell(size, false);
  }
  if (size !== promised.bytes) {
    throw new ArtifactError(
      `${name}: ${size} bytes, the manifest promises ${promised.bytes}; copy it again`,
    );
  }
  return bytes;
}

/** Cache Storage, or null where the browser has none (some have none in private windows). */
function openStore() {
  return globalThis.caches?.open(STORE).catch(() => null) ?? null;
}

/** Store a file; false where there is no room. */
async function keep(store, key, body) {
  if (!store) return false;
  return store.put(key, new Response(body)).then(
    () => true,
    () => false,
  );
}

/** Remove files that no stored manifest lists. */
async function forgetOthers(store) {
  const keys = await store.keys();
  const wanted = new Set();
  for (const key of keys.filter(({ url }) => url.endsWith("/manifest.json"))) {
    const { files } = await (await store.match(key)).json().catch(() => ({ files: {} }));
    for (const { sha256 } of Object.values(files)) wanted.add(sha256);
  }
  for (const key of keys) {
    const [, hash] = key.url.match(/\/sha256\/([0-9a-f]{64})$/) ?? [];
    if (hash && !wanted.has(hash)) await store.delete(key);
  }
}

function parse(bytes, name) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new ArtifactError(`${name}: not JSON (${error.message}); not a tramontane artifact?`);
  }
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

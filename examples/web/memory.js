// Measures memory: WebAssembly's heaps and the whole tab.

/**
 * Record the memories that WebAssembly allocates from now on; onnxruntime-web exposes none.
 *
 * @returns {() => number} their size in bytes at the time of the call
 */
export function watchHeaps() {
  const heaps = [];
  WebAssembly.Memory = class extends WebAssembly.Memory {
    constructor(descriptor) {
      super(descriptor);
      heaps.push(this);
    }
  };
  return () => heaps.reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
}

/** Bytes of the whole tab, its workers included; null where the browser does not say. */
export async function tabBytes() {
  if (!crossOriginIsolated || !performance.measureUserAgentSpecificMemory) return null;
  try {
    const { bytes, breakdown } = await performance.measureUserAgentSpecificMemory();
    const scopes = breakdown.flatMap(({ attribution }) => attribution.map(({ scope }) => scope));
    // A busy worker is missing from the result, and the worker holds nearly all memory.
    return scopes.includes("DedicatedWorkerGlobalScope") ? bytes : null;
  } catch {
    return null; // a browser may have the function and still fail
  }
}

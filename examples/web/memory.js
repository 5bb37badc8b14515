// How much memory is in use, measured?

/**
 * Note the memories that WebAssembly allocates from now on, which no runtime hands out.
 *
 * @returns {() => number} bytes of all of them as they are then
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
    // Workers that were busy when asked are left out, and they hold nearly all.
    return scopes.includes("DedicatedWorkerGlobalScope") ? bytes : null;
  } catch {
    return null; // a browser may offer it and yet refuse
  }
}

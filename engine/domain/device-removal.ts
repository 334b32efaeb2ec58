/** Waiting for a backend to let go of a device, as libxl does before it removes the nodes. */
import { XenbusState } from "../device/xenbus/state.ts";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";

/** How long a backend may take before the toolstack goes on without it. */
export const DETACH_WAIT_MS = 10_000;

/**
 * Fulfilled with true when the backend has closed the device or is gone, with false when it takes too long.
 * @param backend the device's backend directory
 */
export function backendClosed(store: ToolstackStore, backend: string, timeoutMs = DETACH_WAIT_MS): Promise<boolean> {
  const path = `${backend}/state`;
  return new Promise((resolve) => {
    let stop: (() => void) | undefined;
    const finish = (result: boolean) => {
      clearTimeout(timer);
      stop?.();
      resolve(result);
    };
    const timer = setTimeout(() => finish(false), timeoutMs);
    stop = store.watch(path, () => {
      const state = store.read(path);
      if (state === undefined || Number(state) === XenbusState.Closed) queueMicrotask(() => finish(true));
    });
  });
}

/**
 * Asks the backend to let go, unless its domain has ended: then there is nobody to ask, and its nodes are not made anew.
 * @param nodes what asks it to
 */
export function askToClose(
  store: ToolstackStore,
  backend: string,
  nodes: readonly { readonly path: string; readonly value: string }[],
): void {
  if (store.read(`${backend}/state`) === undefined) return;
  for (const { path, value } of nodes) store.write(path, value);
}

/** Removes both directories of a device at once. */
export function removeDevice(
  store: ToolstackStore,
  { frontend, backend }: { readonly frontend: string; readonly backend: string },
): void {
  store.transaction((control) => {
    control.remove(frontend);
    control.remove(backend);
  });
}

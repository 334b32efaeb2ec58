/** Figures that nobody sends are asked for again and again while they are shown. */

/**
 * Calls `look` at once and then every so often, each time behind the end of the one before; not in a hidden window. An error
 * ends nothing: the connection may come back.
 * @returns how to stop
 */
export function poll(everyMs: number, look: () => Promise<void>): () => void {
  let stopped = false;
  let timer: number | undefined;
  const step = async () => {
    try {
      if (!document.hidden) await look();
    } catch {
      // What is shown stays as it was; whoever has lost the connection is told by the banner.
    }
    if (!stopped) timer = window.setTimeout(step, everyMs);
  };
  void step();
  return () => {
    stopped = true;
    window.clearTimeout(timer);
  };
}

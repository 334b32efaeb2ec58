/** Types a text key by key, for guests that know no paste: boot loaders, installers, login prompts. */

/** Between two keys; a serial line of 9600 baud takes about a thousand characters a second. */
const KEY_MS = 8;
/** After Enter: the guest acts on the line. */
const LINE_MS = 60;
/** Signs that no key types, but tab and Enter. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the signs that are left out
const NO_KEYS = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

export class SlowTyping {
  /** Keys still to be typed. */
  left = $state(0);
  private timer: number | undefined;

  /** @param press takes the bytes of one key */
  start(text: string, press: (bytes: Uint8Array) => void): void {
    this.stop();
    const keys = [...text.replace(/\r\n?|\n/g, "\r").replace(NO_KEYS, "")];
    const encoder = new TextEncoder();
    let at = 0;
    const step = () => {
      const key = keys[at++];
      this.left = Math.max(0, keys.length - at);
      if (key === undefined) return;
      press(encoder.encode(key));
      this.timer = window.setTimeout(step, key === "\r" ? LINE_MS : KEY_MS);
    };
    step();
  }

  stop(): void {
    window.clearTimeout(this.timer);
    this.left = 0;
  }
}

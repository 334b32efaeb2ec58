/** What the lines say that tell how far an image is on its way. */

/** A line of progress taken apart: "fetching: 3 of 12 MiB", "making: 20 %, unpacking" tell how far it is. */
export function progressOf(text: string): { readonly step: string; readonly done: number; readonly total: number } {
  const percent = /^(.*?):? (\d{1,3}) %,? ?(.*)$/.exec(text);
  if (percent !== null) {
    const [, what = "", done = "0", rest = ""] = percent;
    return { step: rest === "" ? what : `${what}: ${rest}`, done: Number(done), total: 100 };
  }
  const part = /^(.*): (\d+(?:\.\d+)?) of (\d+(?:\.\d+)?) MiB$/.exec(text);
  if (part !== null) {
    const [, step = "", done = "0", total = "0"] = part;
    return { step, done: Number(done), total: Number(total) };
  }
  return { step: text, done: 0, total: 0 };
}

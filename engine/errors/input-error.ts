/** Errors of the user's making: one line, "cause; remedy", ready to be printed as it is. */

const LONGEST_MESSAGE = 600;

/** Makes text of unknown origin (file names, output of other programs) safe for one line of a terminal. */
export function oneLine(text: string, longest = LONGEST_MESSAGE): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim();
  return clean.length > longest ? `${clean.slice(0, longest)}…` : clean;
}

/** Base of them all: a cause and a remedy, joined into the one-line message. */
export class InputError<Code extends string = string> extends Error {
  readonly code: Code;
  /** What the user can do about it. */
  readonly remedy: string;

  constructor(code: Code, what: string, remedy: string, cause?: unknown) {
    // However long a name in the cause is: the remedy stays.
    const room = Math.max(LONGEST_MESSAGE / 2, LONGEST_MESSAGE - remedy.length - 2);
    super(`${oneLine(what, room)}; ${oneLine(remedy)}`, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.code = code;
    this.remedy = remedy;
  }
}

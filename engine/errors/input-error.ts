/** Errors of the user's making: one line, "cause; remedy", ready to be printed as it is. */

const LONGEST_MESSAGE = 600;

/** Makes text of unknown origin (file names, output of other programs) safe for one line of a terminal. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim();
  return clean.length > LONGEST_MESSAGE ? `${clean.slice(0, LONGEST_MESSAGE)}…` : clean;
}

/** Base of them all: a cause and a remedy, joined into the one-line message. */
export class InputError<Code extends string = string> extends Error {
  readonly code: Code;
  /** What the user can do about it. */
  readonly remedy: string;

  constructor(code: Code, what: string, remedy: string, cause?: unknown) {
    super(oneLine(`${what}; ${remedy}`), cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.code = code;
    this.remedy = remedy;
  }
}

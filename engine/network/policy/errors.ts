/**
 * Errors in what a user writes for policies: rules, classes, rates, impairments. Each says cause and remedy in one line
 * and where in the text the trouble is.
 */
import { InputError } from "../../errors/input-error.ts";

/** A text that is no rule, class, rate or impairment. `message` is one line: what, place, text, remedy. */
export class PolicyError extends InputError<"bad-policy"> {
  /** What is wrong, without place and remedy. */
  readonly what: string;
  /** The whole line as it was given. */
  readonly line: string;
  /** Where the trouble begins: 0-based offset in `line`, and its length (at least 1). */
  readonly offset: number;
  readonly span: number;

  constructor(what: string, remedy: string, line: string, offset: number, span: number) {
    super("bad-policy", `${what} (column ${offset + 1} of "${line}")`, remedy);
    this.what = what;
    this.line = line;
    this.offset = offset;
    this.span = Math.max(1, span);
  }

  /** Two lines: the text, and carets below the trouble. */
  pointer(): string {
    // Anything that would move the cursor is one blank, so that the carets stay below what they mean.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
    const flat = this.line.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, " ");
    return `${flat}\n${" ".repeat(this.offset)}${"^".repeat(this.span)}`;
  }
}

/** What parsing gives: the value, or the error to show. */
export type Parsed<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: PolicyError };

/** The error inside parsers, which are deep; `attempt` turns it into a result at the module's edge. */
export function attempt<T>(parse: () => T): Parsed<T> {
  try {
    return { ok: true, value: parse() };
  } catch (error) {
    if (error instanceof PolicyError) return { ok: false, error };
    throw error;
  }
}

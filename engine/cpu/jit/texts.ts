/** Facts about operation texts. */
import { LAZY_A, LAZY_B, LAZY_KIND } from "../assembly/layout.ts";
import { isRegister } from "./fold.ts";
import type { Statement } from "./ir.ts";

/** Calls that give all flags. */
export const SETTING: ReadonlySet<string> = new Set(["setCarried", "shldFlags", "shrdFlags"]);
/** Calls that change some of the flags in memory. */
export const CHANGING: ReadonlySet<string> = new Set([
  "setScanFlags",
  "rolFlags",
  "rorFlags",
  "rclFlags",
  "rcrFlags",
  "setCarryOverflow",
]);
/** Calls whose effect can wait in locals. */
export const PENDING: ReadonlySet<string> = new Set(["setCounted", "setResult", "setCarry"]);
/** Whether flags may change. */
export function touchesFlags(statements: readonly Statement[]): boolean {
  return statements.some((statement) => {
    switch (statement[0]) {
      case "store":
        return statement[2][0] === "i32" && [LAZY_A, LAZY_B, LAZY_KIND].includes(statement[2][1] + statement[3]);
      case "if":
        return touchesFlags(statement[2]) || touchesFlags(statement[3]);
      case "do":
        return touchesFlags(statement[1]);
      case "call":
        return PENDING.has(statement[1]) || SETTING.has(statement[1]) || CHANGING.has(statement[1]);
      default:
        return false;
    }
  });
}

/** Names of the variables that change, added to `into`. */
export function assigned(statements: readonly Statement[], into: Set<string>): Set<string> {
  for (const statement of statements) {
    if (statement[0] === "set") into.add(statement[1]);
    else if (statement[0] === "do") assigned(statement[1], into);
    else if (statement[0] === "if") assigned(statement[3], assigned(statement[2], into));
  }
  return into;
}

/** Whether a register may be written: an address that is a register's, or the one that a field of the record names. */
export function writesRegisters(statements: readonly Statement[]): boolean {
  return statements.some((statement) => {
    switch (statement[0]) {
      case "store":
        return statement[2][0] === "field" || (statement[2][0] === "i32" && isRegister(statement[2][1] + statement[3]));
      case "if":
        return writesRegisters(statement[2]) || writesRegisters(statement[3]);
      case "do":
        return writesRegisters(statement[1]);
      default:
        return false;
    }
  });
}

import { describe, expect, it } from "vitest";
import { translate } from "../../../engine/cpu/generate/ir.ts";

describe("translation of the operations' text", () => {
  it("keeps AssemblyScript's types: signedness, widths and conversions", () => {
    expect(translate("const x: u64 = <u64><i32>load<i8>(ip, 8); const y: bool = <i64>x >> 3 < 2;")).toEqual([
      ["let", "x", "i64", ["op", "i64.extend_i32_s", ["field", "i8", 8]]],
      ["let", "y", "i32", ["op", "i64.lt_s", ["op", "i64.shr_s", ["get", "x"], ["i64", "3"]], ["i64", "2"]]],
    ]);
  });

  it("wraps what is cast to 8 and 16 bits", () => {
    expect(translate("const x: u32 = <u32><u8>load<u32>(ip, 8);")).toEqual([
      ["let", "x", "i32", ["op", "i32.and", ["field", "u32", 8], ["i32", 0xff]]],
    ]);
  });

  it.each([
    ["an unknown name", "const x: u64 = <u64>nothing;", "nothing"],
    ["an unknown function", "const x: u64 = divide(1, 2);", "divide(1, 2)"],
    ["a generic function it does not know", "const x: u32 = abs<u32>(1);", "abs<u32>(1)"],
    ["an unknown type", "const x: f64 = 1;", "f64"],
    ["a load of an unknown type", "const x: u64 = <u64>load<v128>(ip, 8);", "v128"],
    ["an operator", "const x: u32 = load<u32>(ip, 8) % 3;", "% 3"],
    ["an unary operator", "const x: u32 = -load<u32>(ip, 8);", "-load"],
    ["a loop", "while (load<u32>(ip, 8)) {}", "while"],
    ["a function", "function f(): void {}", "function f"],
    ["an offset that is not constant", "const x: u64 = load<u64>(ip, load<u32>(ip, 8));", "load<u32>(ip, 8)"],
    ["an address of 64 bits", "const x: u64 = load<u64>(load<u64>(ip, 8));", "load<u64>(ip, 8)"],
    ["operands of different widths", "const x: u64 = load<u64>(ip, 8) + load<u32>(ip, 8);", "u64 with u32"],
    ["a variable of another width", "const x: u32 = load<u64>(ip, 8);", "x: u32"],
    ["a variable without a value", "let x: u32;", "let x: u32"],
    ["a store of another width", "store<u64>(GPR, load<u32>(ip, 8));", "store<u64>"],
    ["a store without a value", "store<u64>(GPR);", "store<u64>(GPR)"],
    ["a value nobody uses", "getCarry();", "getCarry()"],
    ["an expression without effect", "ip;", "ip"],
    ["a call without a value as one", "const x: u32 = setCarry(1);", "setCarry(1)"],
    ["too few arguments", "setCarry();", "setCarry()"],
    ["an argument of another width", "setCarry(load<u64>(ip, 8));", "load<u64>(ip, 8)"],
    ["an assignment to an unknown variable", "x = 1;", "x = 1"],
    ["an unknown way to go on", "ip = load<u32>(ip, 8);", "ip = load<u32>(ip, 8)"],
  ])("refuses %s and names it", (_, text, named) => {
    expect(() => translate(text)).toThrow(named);
  });

  it("refuses accesses to guest memory that are not in the form it knows", () => {
    expect(() => translate("store<u32>(GPR, tlb);")).toThrow("access");
    expect(() => translate("if (getCarry()) missWrite(0, 0, load<u32>(ip, 8), 0);")).not.toThrow();
    expect(() => translate("if (getCarry()) {} else missWrite(0, 0, load<u32>(ip, 8), 0);")).toThrow("unknown size");
  });

  it("says which operation's text it was", () => {
    expect(() => translate("const known: u32 = 1; const x: u32 = unknown;")).toThrow("const known: u32 = 1;");
  });
});

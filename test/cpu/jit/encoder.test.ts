import { describe, expect, it } from "vitest";
import { Encoder } from "../../../engine/cpu/jit/encoder.ts";

function encoded(write: (encoder: Encoder) => void, capacity?: number): number[] {
  const encoder = new Encoder(capacity);
  write(encoder);
  return [...encoder.bytes()];
}

const I32_CONST = 0x41;
const I64_CONST = 0x42;

/** Value of a signed LEB128 that ends where the bytes end. */
function signedValue(bytes: readonly number[]): bigint {
  const value = bytes.reduce((sum, byte, n) => sum | (BigInt(byte & 0x7f) << BigInt(7 * n)), 0n);
  bytes.forEach((byte, n) => {
    expect(byte >= 0x80).toBe(n < bytes.length - 1);
  });
  return BigInt.asIntN(7 * bytes.length, value);
}

describe("WebAssembly encoder", () => {
  it.each([
    [0, [0]],
    [0x7f, [0x7f]],
    [0x80, [0x80, 1]],
    [0x3fff, [0xff, 0x7f]],
    [0x4000, [0x80, 0x80, 1]],
    [0x7fffffff, [0xff, 0xff, 0xff, 0xff, 7]],
    [0x80000000, [0x80, 0x80, 0x80, 0x80, 8]],
    [0xffffffff, [0xff, 0xff, 0xff, 0xff, 15]],
  ])("writes %d as unsigned LEB128", (value, bytes) => {
    expect(encoded((each) => each.unsigned(value))).toEqual(bytes);
  });

  it.each([
    [0, [0]],
    [63, [0x3f]],
    [64, [0xc0, 0]],
    [-1, [0x7f]],
    [-64, [0x40]],
    [-65, [0xbf, 0x7f]],
    [8191, [0xff, 0x3f]],
    [8192, [0x80, 0xc0, 0]],
    [-8192, [0x80, 0x40]],
    [0x7fffffff, [0xff, 0xff, 0xff, 0xff, 7]],
    [-0x80000000, [0x80, 0x80, 0x80, 0x80, 0x78]],
    [0x80000000, [0x80, 0x80, 0x80, 0x80, 0x78]],
    [0xffffffff, [0x7f]],
  ])("writes %d as an i32 constant", (value, bytes) => {
    expect(encoded((each) => each.i32(value))).toEqual([I32_CONST, ...bytes]);
  });

  it("writes i64 constants in their shortest form, also where 32 bits end", () => {
    const borders = [0n, 1n, 1n << 6n, 1n << 31n, 1n << 32n, 1n << 55n, 1n << 62n, 1n << 63n];
    for (const value of borders.flatMap((border) => [border - 1n, border, -border, -border - 1n])) {
      if (value !== BigInt.asIntN(64, value)) continue;
      const [opcode, ...bytes] = encoded((each) => each.i64(value));
      expect(opcode).toBe(I64_CONST);
      expect(signedValue(bytes)).toBe(value);
      // One byte less would not hold the sign.
      const bits = 7 * (bytes.length - 1);
      expect(bits === 0 || BigInt.asIntN(bits, value) !== value).toBe(true);
    }
  });

  it("takes i64 constants as unsigned numbers too", () => {
    expect(encoded((each) => each.i64(0xffff_ffff_ffff_ffffn))).toEqual([I64_CONST, 0x7f]);
    const low = encoded((each) => each.i64(0x8000_0000_0000_0000n)).slice(1);
    expect(signedValue(low)).toBe(-(1n << 63n));
  });

  it("grows, and puts sections, texts and memory accesses together", () => {
    const content = new Encoder(1);
    content.text("ä".repeat(100));
    expect(content.length).toBe(202);
    expect(encoded((each) => each.section(9, content), 1)).toEqual([9, 0xca, 1, ...content.bytes()]);
    expect(encoded((each) => each.load("u32", 300))).toEqual([0x28, 0, 0xac, 2]);
    expect(encoded((each) => each.storeWide(8, 0))).toEqual([0x37, 0, 0]);
    expect(encoded((each) => each.atomic("cmpxchg.u64"))).toEqual([0xfe, 0x49, 3, 0]);
  });

  it("refuses an instruction it does not know", () => {
    expect(() => new Encoder().op("i32.div_s")).toThrow("i32.div_s");
  });
});

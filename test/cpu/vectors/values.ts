import type { Prng } from "./prng.ts";

/** What operands of a form look like. */
export const KIND_INTEGER = 0;
export const KIND_FLOAT32 = 1;
export const KIND_FLOAT64 = 2;
export const KIND_FLOAT80 = 3;
export const KIND_BCD = 4;
/** An x87 environment or FXSAVE image. */
export const KIND_IMAGE = 5;
/** A near or far code pointer. */
export const KIND_POINTER = 6;

const EDGES: readonly (readonly [low: number, high: number])[] = [
  [0, 0],
  [1, 0],
  [2, 0],
  [0x7f, 0],
  [0x80, 0],
  [0xff, 0],
  [0x7fff, 0],
  [0x8000, 0],
  [0xffff, 0],
  [0x7fffffff, 0],
  [0x80000000, 0],
  [0xffffffff, 0],
  [0, 1],
  [0xffffffff, 0x7fffffff],
  [0, 0x80000000],
  [0xffffffff, 0xffffffff],
  [0xfffffffe, 0xffffffff],
  [0xffffff80, 0xffffffff],
  [0xffff8000, 0xffffffff],
  [0x80000000, 0xffffffff],
  [0xff00ff00, 0x00ff00ff],
  [0x7f807f80, 0x80ff7f01],
  [0x55555555, 0x55555555],
];

/** Fills two 32-bit halves with an integer of a random class: random, small, an edge value, or near one. */
export function fillInteger(random: Prng, view: DataView, at: number): void {
  const choice = random.below(100);
  let low = random.next();
  let high = random.next();
  if (choice >= 45) {
    if (choice < 58) [low, high] = [low & 0xff, 0];
    else if (choice < 68) high = (low | 0) >> 31;
    else if (choice < 75) high = 0;
    else [low, high] = random.pick(EDGES);
    if (choice >= 94) low = (low + random.below(5) - 2) >>> 0;
  }
  view.setUint32(at, low, true);
  view.setUint32(at + 4, high, true);
}

const FLOAT32_EDGES = [
  0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x7f800001, 0xffa00000, 1,
  0x80000001, 0x007fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x3f000000, 0x3fc00000, 0x40200000,
  0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001, 0x5effffff, 0x5f000000, 0xdf000000, 0x4b000001, 0x3f7fffff,
  0x3f800001, 0x40490fdb,
];

/** A single-precision value: an edge case, a moderate number, or any bits. */
export function fillFloat32(random: Prng, view: DataView, at: number): void {
  const choice = random.below(100);
  const bits = random.next();
  if (choice < 30) view.setUint32(at, random.pick(FLOAT32_EDGES), true);
  else if (choice < 55) view.setUint32(at, ((bits & 0x807fffff) | ((120 + random.below(16)) << 23)) >>> 0, true);
  else if (choice < 70) view.setFloat32(at, (bits | 0) >> random.below(31), true);
  else if (choice < 80) view.setUint32(at, ((bits & 0x807fffff) | (random.below(24) << 23)) >>> 0, true);
  else view.setUint32(at, bits, true);
}

const FLOAT64_EDGES: readonly (readonly [low: number, high: number])[] = [
  [0, 0],
  [0, 0x80000000],
  [0, 0x3ff00000],
  [0, 0xbff00000],
  [0, 0x7ff00000],
  [0, 0xfff00000],
  [0, 0x7ff80000],
  [0x12345678, 0xfff81234],
  [1, 0x7ff00000],
  [0, 0xfff40000],
  [1, 0],
  [1, 0x80000000],
  [0xffffffff, 0x000fffff],
  [0, 0x00100000],
  [0xffffffff, 0x7fefffff],
  [0xffffffff, 0xffefffff],
  [0, 0x3fe00000],
  [0, 0x3ff80000],
  [0, 0x40040000],
  [0xffc00000, 0x41dfffff],
  [0xffe00000, 0x41dfffff],
  [0, 0x41e00000],
  [0, 0xc1e00000],
  [0x00200000, 0xc1e00000],
  [0xffffffff, 0x43dfffff],
  [0, 0x43e00000],
  [0, 0xc3e00000],
  [0x54442d18, 0x400921fb],
  [0xe0000000, 0x47efffff],
  [0xf0000000, 0x47efffff],
  [0, 0x38100000],
  [0, 0x36a00000],
  [0, 0x36900000],
];

/** A double-precision value: an edge case, a moderate number, one near the single-precision limits, or any bits. */
export function fillFloat64(random: Prng, view: DataView, at: number): void {
  const choice = random.below(100);
  let low = random.next();
  let high = random.next();
  if (choice < 30) [low, high] = random.pick(FLOAT64_EDGES);
  else if (choice < 55) high = ((high & 0x800fffff) | ((1016 + random.below(16)) << 20)) >>> 0;
  else if (choice < 70) {
    view.setFloat64(at, (low | 0) / 2 ** random.below(34), true);
    return;
  } else if (choice < 78) high = ((high & 0x800fffff) | (random.below(56) << 20)) >>> 0;
  else if (choice < 86) high = ((high & 0x800fffff) | ((1023 - 160 + random.below(300)) << 20)) >>> 0;
  view.setUint32(at, low, true);
  view.setUint32(at + 4, high, true);
}

const FLOAT80_EDGES: readonly (readonly [low: number, high: number, signExponent: number])[] = [
  [0, 0, 0],
  [0, 0, 0x8000],
  [0, 0x80000000, 0x3fff],
  [0, 0x80000000, 0xbfff],
  [0, 0x80000000, 0x7fff],
  [0, 0x80000000, 0xffff],
  [0, 0xc0000000, 0x7fff],
  [0, 0xc0000000, 0xffff],
  [1, 0x80000000, 0x7fff],
  [0x12345678, 0xd2345678, 0xffff],
  [5, 0xa0000000, 0xffff],
  [1, 0, 0],
  [0xffffffff, 0x7fffffff, 0],
  [0xffffffff, 0x7fffffff, 0x8000],
  [0, 0x80000000, 0],
  [0, 0x80000000, 1],
  [0xffffffff, 0xffffffff, 0x7ffe],
  [0xffffffff, 0xffffffff, 0xfffe],
  [0, 0x40000000, 0x3fff],
  [0, 0, 0x7fff],
  [7, 0x12345678, 0x4000],
  [0x2168c235, 0xc90fdaa2, 0x4000],
  [0x2168c235, 0xc90fdaa2, 0x3fff],
  [0x2168c235, 0xc90fdaa2, 0x3ffe],
  [0, 0x80000000, 0x3ffe],
  [0, 0xc0000000, 0x3fff],
  [0, 0xa0000000, 0x4000],
  [0, 0xfffe0000, 0x400d],
  [0, 0xffff0000, 0x400d],
  [0, 0x80000000, 0xc00e],
  [0, 0xfffffffe, 0x401d],
  [0, 0x80000000, 0x401e],
  [0xfffffffe, 0xffffffff, 0x403d],
  [0, 0x80000000, 0xc03e],
  [0, 0x80000000, 0x403e],
  [0, 0x80000000, 0x43ff],
  [0, 0x80000000, 0x3c00],
  [0xffffffff, 0xffffffff, 0x43fe],
  [0x00000400, 0x80000000, 0x3c01],
];

/** An extended-precision value (10 bytes): an edge case, moderate, integral, denormal, unsupported or any bits. */
export function fillFloat80(random: Prng, view: DataView, at: number): void {
  const choice = random.below(100);
  let low = random.next();
  let high = (random.next() | 0x80000000) >>> 0;
  const bits = random.next();
  let signExponent = bits & 0xffff;
  if (choice < 25) [low, high, signExponent] = random.pick(FLOAT80_EDGES);
  else if (choice < 60) {
    signExponent = (bits & 0x8000) | (0x3ff7 + random.below(16));
    if (choice < 35) low = 0;
  } else if (choice < 75) {
    low = 0;
    high = (0x80000000 | (random.next() & (-1 << random.below(31)))) >>> 0;
    signExponent = (bits & 0x8000) | (0x3fff + random.below(66));
  } else if (choice < 82) signExponent = (bits & 0x8000) | (0x3fff - 1100 + random.below(2200));
  else if (choice < 86) [high, signExponent] = [high & 0x7fffffff, bits & 0x8000];
  else if (choice < 89) high = high & 0x7fffffff;
  else if (choice < 93) signExponent = (bits & 0x8000) | random.pick([1, 2, 30, 0x7ffe, 0x7ffd, 0x7fe0]);
  view.setUint32(at, low, true);
  view.setUint32(at + 4, high, true);
  view.setUint16(at + 8, signExponent, true);
}

/** A packed decimal of 18 digits and a sign byte; now and then digits beyond 9. */
export function fillBcd(random: Prng, view: DataView, at: number): void {
  const digits = random.below(19);
  for (let byte = 0; byte < 9; byte++) {
    const low = byte * 2 < digits ? random.below(10) : 0;
    const high = byte * 2 + 1 < digits ? random.below(10) : 0;
    view.setUint8(at + byte, low | (high << 4));
  }
  view.setUint8(at + 9, random.chance(50) ? 0x80 : 0);
}

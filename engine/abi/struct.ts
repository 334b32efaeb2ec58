/**
 * C struct layouts as tables, with readers and writers derived from them.
 *
 * Fields are laid out by the rules of the System V AMD64 ABI: each at its natural alignment, the size rounded up to
 * the widest alignment. A field is a scalar, or `[scalar, count]` for an array. "ulong" stands for unsigned long,
 * xen_pfn_t and guest handles (pointers), "long" for a signed one.
 *
 * Every struct has a second layout, `compat`, for 32-bit callers: System V i386, where longs and pointers have 4 bytes
 * and no field is aligned to more than 4.
 */

export type Scalar = "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "u64" | "i64" | "ulong" | "long";
/** A scalar whose size is settled. */
type FixedScalar = Exclude<Scalar, "ulong" | "long">;
export type FieldType = Scalar | readonly [Scalar, number];
export type Fields = Readonly<Record<string, FieldType>>;

type ScalarValue<T extends Scalar> = T extends "u64" | "i64" | "ulong" | "long" ? bigint : number;
type FieldValue<T extends FieldType> = T extends Scalar
  ? ScalarValue<T>
  : T extends readonly [infer S extends Scalar, number]
    ? ScalarValue<S>[]
    : never;

/** What a struct reads as: numbers, bigints for 64-bit fields, arrays for array fields. */
export type StructValue<F extends Fields> = { -readonly [K in keyof F]: FieldValue<F[K]> };

/** One layout of a struct. */
export interface Layout<F extends Fields> {
  /** Bytes, tail padding included. */
  readonly size: number;
  readonly alignment: number;
  /** Byte offset of each field. */
  readonly offsets: { readonly [K in keyof F]: number };
  /** Reads every field once. */
  read(view: DataView, offset?: number): StructValue<F>;
  /** Writes the fields that are given; the others and the padding keep their bytes. */
  write(view: DataView, offset: number, value: Partial<StructValue<F>>): void;
  /** A zeroed copy of `size` bytes with the given fields. */
  encode(value: Partial<StructValue<F>>): Uint8Array;
}

/** A struct in the layout of 64-bit callers, and in that of 32-bit ones. */
export interface Struct<F extends Fields> extends Layout<F> {
  readonly compat: Layout<F>;
}

const SIZES: Readonly<Record<FixedScalar, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  u64: 8,
  i64: 8,
};

/** The rules of an ABI: what a long is, and the greatest alignment of a field. */
interface Abi {
  readonly ulong: FixedScalar;
  readonly long: FixedScalar;
  readonly maximumAlignment: number;
}
const AMD64: Abi = { ulong: "u64", long: "i64", maximumAlignment: 8 };
const I386: Abi = { ulong: "u32", long: "i32", maximumAlignment: 4 };

function readScalar(view: DataView, offset: number, type: FixedScalar): number | bigint {
  switch (type) {
    case "u8":
      return view.getUint8(offset);
    case "i8":
      return view.getInt8(offset);
    case "u16":
      return view.getUint16(offset, true);
    case "i16":
      return view.getInt16(offset, true);
    case "u32":
      return view.getUint32(offset, true);
    case "i32":
      return view.getInt32(offset, true);
    case "u64":
      return view.getBigUint64(offset, true);
    case "i64":
      return view.getBigInt64(offset, true);
  }
}

function writeScalar(view: DataView, offset: number, type: FixedScalar, value: number | bigint): void {
  switch (SIZES[type]) {
    case 1:
      view.setUint8(offset, Number(value));
      return;
    case 2:
      view.setUint16(offset, Number(value), true);
      return;
    case 4:
      view.setUint32(offset, Number(BigInt.asUintN(32, BigInt(value))), true);
      return;
    default:
      view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  }
}

interface Placed {
  readonly name: string;
  readonly scalar: FixedScalar;
  /** Reads as a bigint whatever its size. */
  readonly wide: boolean;
  readonly count: number | undefined;
  readonly offset: number;
}

function place(fields: Fields, abi: Abi): { placed: Placed[]; size: number; alignment: number } {
  const placed: Placed[] = [];
  let offset = 0;
  let alignment = 1;
  for (const [name, type] of Object.entries(fields)) {
    const named = typeof type === "string" ? type : type[0];
    const scalar = named === "ulong" || named === "long" ? abi[named] : named;
    const count = typeof type === "string" ? undefined : type[1];
    const size = SIZES[scalar];
    const aligned = Math.min(size, abi.maximumAlignment);
    alignment = Math.max(alignment, aligned);
    offset = Math.ceil(offset / aligned) * aligned;
    placed.push({ name, scalar, wide: named === "ulong" || named === "long", count, offset });
    offset += size * (count ?? 1);
  }
  return { placed, size: Math.ceil(offset / alignment) * alignment, alignment };
}

function layOut<F extends Fields>(fields: F, abi: Abi): Layout<F> {
  const { placed, size, alignment } = place(fields, abi);
  const offsets = Object.fromEntries(placed.map((field) => [field.name, field.offset]));

  function read(view: DataView, offset = 0): StructValue<F> {
    const value: Record<string, unknown> = {};
    for (const { name, scalar, wide, count, offset: at } of placed) {
      const item = (index: number): number | bigint => {
        const raw = readScalar(view, offset + at + index * SIZES[scalar], scalar);
        return wide ? BigInt(raw) : raw;
      };
      value[name] = count === undefined ? item(0) : Array.from({ length: count }, (_, index) => item(index));
    }
    return value as StructValue<F>;
  }

  function write(view: DataView, offset: number, value: Partial<StructValue<F>>): void {
    const given = value as Readonly<Record<string, number | bigint | (number | bigint)[] | undefined>>;
    for (const { name, scalar, offset: at } of placed) {
      const item = given[name];
      if (item === undefined) continue;
      const items = Array.isArray(item) ? item : [item];
      for (const [i, element] of items.entries()) {
        writeScalar(view, offset + at + i * SIZES[scalar], scalar, element);
      }
    }
  }

  function encode(value: Partial<StructValue<F>>): Uint8Array {
    const bytes = new Uint8Array(size);
    write(new DataView(bytes.buffer), 0, value);
    return bytes;
  }

  return { size, alignment, offsets: offsets as { readonly [K in keyof F]: number }, read, write, encode };
}

/** Derives a struct's layouts, readers and writers from its field table. */
export function defineStruct<const F extends Fields>(fields: F): Struct<F> {
  return { ...layOut(fields, AMD64), compat: layOut(fields, I386) };
}

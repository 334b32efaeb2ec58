import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { extractKernel } from "../../engine/builder/bzimage.ts";
import { decompressAt } from "../../engine/builder/decompress.ts";
import { parseKernelElf } from "../../engine/builder/elf.ts";
import { BuildError } from "../../engine/builder/errors.ts";
import { compressedSamples, sampleCode } from "./compressed-samples.ts";
import { makeBzImage, makeElf, makeElf32, storeLz4 } from "./samples.ts";

const LIMIT = 1 << 20;

async function codeOf(action: () => unknown): Promise<string> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    expect(error.message).not.toMatch(/[\n\r]/);
    expect(error.message).toContain("; ");
    return error.code;
  }
  return "fine";
}

describe("decompression", () => {
  const samples: readonly (readonly [string, Uint8Array])[] = [
    ...Object.entries(compressedSamples).map(([name, text]) => [name, Buffer.from(text, "base64")] as const),
    ["gzip", gzipSync(sampleCode())],
  ];

  it.each(samples)("reads %s and finds its end", async (_name, packed) => {
    const { data, end } = await decompressAt(Buffer.concat([packed, Buffer.alloc(8)]), 0, LIMIT, "kernel");
    expect(Buffer.compare(data, sampleCode())).toBe(0);
    expect(end).toBe(packed.length);
  });

  it.each(samples)("refuses more output than allowed from %s", async (_name, packed) => {
    expect(await codeOf(() => decompressAt(packed, 0, 1000, "kernel"))).toBe("file-too-large");
  });

  it.each(samples)("survives damage to %s", async (_name, packed) => {
    const damage = fc.record({ at: fc.nat(packed.length - 1), value: fc.integer({ min: 1, max: 255 }) });
    await fc.assert(
      fc.asyncProperty(damage, async ({ at, value }) => {
        const bytes = Buffer.from(packed);
        bytes[at] = (bytes[at] as number) ^ value;
        await codeOf(() => decompressAt(bytes, 0, LIMIT, "kernel"));
      }),
      { numRuns: 60 },
    );
  });

  it.each(samples)("survives truncation of %s", async (name, packed) => {
    for (let length = 0; length < packed.length; length += 1 + (length >> 4)) {
      const result = await codeOf(() => decompressAt(packed.subarray(0, length), 0, LIMIT, "kernel"));
      // A legacy frame of lz4 has no end mark: cut behind the magic it is an empty one.
      if (name !== "lz4") expect(result).not.toBe("fine");
    }
  });

  it("reads zstd blocks of every kind up to the last byte, zeros and ones included", async () => {
    const block = (type: number, size: number, last: boolean): number[] => {
      const header = (size << 3) | (type << 1) | (last ? 1 : 0);
      return [header & 0xff, (header >>> 8) & 0xff, header >>> 16];
    };
    // Frame header: no checksum, no content size, a window of 1 MiB.
    const head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    const raw = [...block(0, 3, false), 1, 0, 1];
    for (const tail of [
      [...block(0, 2, true), 1, 0],
      [...block(1, 1000, true), 1],
      [...block(1, 1000, true), 0],
      block(0, 0, true),
    ]) {
      const { data, end } = await decompressAt(Buffer.from([...head, ...raw, ...tail]), 0, LIMIT, "kernel");
      const ending = tail.length === 5 ? [1, 0] : new Array(tail.length === 4 ? 1000 : 0).fill(tail.at(-1));
      expect([...data]).toEqual([1, 0, 1, ...ending]);
      expect(end).toBe(head.length + raw.length + tail.length);
    }
  });

  it("names compressions it cannot read", async () => {
    await expect(decompressAt(Buffer.from("BZh91AY"), 0, LIMIT, "initrd")).rejects.toThrow(/initrd.*bzip2/);
  });
});

describe("kernel files", () => {
  const elf = makeElf();
  const packed = storeLz4(elf);

  it("accepts a 32-bit ELF, bare and packed, and refuses it cut anywhere", async () => {
    const small = makeElf32();
    for (const file of [small, makeBzImage(storeLz4(small), small.length)]) {
      const { segments, pvhEntry } = parseKernelElf(await extractKernel(file));
      expect(segments).toMatchObject([{ address: 0x10_0000, fileSize: 64, memorySize: 0x2000 }]);
      expect(pvhEntry).toBe(0x10_0010);
    }
    for (let length = 4; length < small.length; length++) {
      expect(await codeOf(async () => parseKernelElf(small.subarray(0, length)))).toMatch(
        /truncated-image|no-pvh-note/,
      );
    }
  });

  it("accepts a bare ELF, a compressed ELF and a bzImage", async () => {
    for (const file of [elf, gzipSync(elf), packed, makeBzImage(packed, elf.length), makeBzImage(elf, elf.length)]) {
      const { segments, pvhEntry } = parseKernelElf(await extractKernel(file));
      expect(segments).toMatchObject([{ address: 0x10_0000, fileSize: 64, memorySize: 0x2000 }]);
      expect(pvhEntry).toBe(0x10_0010);
    }
    const gzipped = makeBzImage(gzipSync(elf), elf.length, false);
    expect(Buffer.compare(await extractKernel(gzipped), elf)).toBe(0);
  });

  it.each<[string, Uint8Array, string]>([
    ["an empty file", Buffer.alloc(0), "not-a-kernel"],
    ["text", Buffer.from("#!/bin/sh\necho no kernel\n".repeat(100)), "not-a-kernel"],
    ["compressed text", gzipSync("no kernel"), "not-a-kernel"],
    ["a boot sector without a header", Buffer.alloc(4096), "not-a-kernel"],
    ["a bzImage cut short", makeBzImage(packed, elf.length).subarray(0, 1100), "truncated-image"],
    ["a bzImage with bzip2", makeBzImage(Buffer.from("BZh91AY&SY1234567890"), 100), "unknown-compression"],
    ["a bzImage with a wrong size", makeBzImage(packed, elf.length + 1), "corrupt-image"],
    ["an ARM64 kernel", makeElf({ machine: 183 }), "wrong-machine"],
    ["32-bit code in a 64-bit file", makeElf({ machine: 3 }), "wrong-machine"],
    ["an unknown class", makeElf({ elfClass: 3 }), "corrupt-image"],
    ["a 32-bit file whose headers are those of a 64-bit one", makeElf({ machine: 3, elfClass: 1 }), "corrupt-image"],
    ["a boot program without a payload, like Memtest86+", makeBzImage(Buffer.alloc(0), 0, false), "no-pvh-note"],
    ["a kernel without the note", makeElf({ noteType: 17 }), "no-pvh-note"],
    ["an entry point outside", makeElf({ entry: 0x50_0000 }), "corrupt-image"],
    [
      "overlapping segments",
      makeElf({
        loads: [
          { address: 0x10_0000, data: Buffer.alloc(64), memorySize: 0x2000 },
          { address: 0x10_1000, data: Buffer.alloc(64) },
        ],
      }),
      "corrupt-image",
    ],
  ])("refuses %s", async (_name, file, code) => {
    expect(await codeOf(async () => parseKernelElf(await extractKernel(file)))).toBe(code);
  });

  it("answers every truncation and every damaged byte with a BuildError or a kernel", async () => {
    const image = makeBzImage(packed, elf.length);
    const change = fc.record({
      length: fc.oneof(fc.constant(image.length), fc.nat(image.length)),
      at: fc.nat(image.length - 1),
      value: fc.nat(255),
    });
    await fc.assert(
      fc.asyncProperty(change, async ({ length, at, value }) => {
        for (const whole of [image, elf]) {
          const bytes = Buffer.from(whole.subarray(0, length));
          if (at < bytes.length) bytes[at] = value;
          await codeOf(async () => parseKernelElf(await extractKernel(bytes)));
        }
      }),
      { numRuns: 500 },
    );
  });
});

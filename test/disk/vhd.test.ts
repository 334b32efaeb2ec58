/** VHD images as they come from other programs: made by QEMU, converted by us, and refused when they are damaged. */
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { chainSpec } from "../../engine/disk/chain.ts";
import { convertImage } from "../../engine/disk/image-tools/convert.ts";
import { temporaryFolder } from "./helpers.ts";
import { contentOf, hasQemu, patch, pattern, peek, qemuCheck, qemuImg, refusal } from "./image-helpers.ts";

const KiB = 1024;
const MiB = 1024 * KiB;
const SIZE = 24 * MiB;
/** Where the parts of a dynamic image say things; of its footer's copy and of the header behind that. */
const KIND = 60;
const DATA_OFFSET = 16;
const BLOCK_SIZE = 512 + 32;
const TABLE = 512 + 1024;

/** A disk with data at both ends, across blocks, and nothing in between. */
function content(): Buffer {
  const bytes = Buffer.alloc(SIZE);
  pattern(64 * KiB, 1).copy(bytes, 0);
  pattern(5 * MiB, 2).copy(bytes, 3 * MiB - 512);
  pattern(4 * KiB, 3).copy(bytes, SIZE - 4 * KiB);
  return bytes;
}

function made(kind: "fixed" | "dynamic", name = `${kind}.vhd`): { image: string; folder: string; expected: Buffer } {
  const folder = temporaryFolder();
  const [raw, image] = [join(folder, "raw"), join(folder, name)];
  const expected = content();
  writeFileSync(raw, expected);
  qemuImg("convert", "-f", "raw", "-O", "vpc", "-o", `subformat=${kind},force_size=on`, raw, image);
  return { image, folder, expected };
}

/** Sets the checksum of the structure of `length` bytes at `offset` right, so that something else in it is what is wrong. */
function resum(image: string, offset: number, length: number, at: number): void {
  const bytes = peek(image, offset, length);
  bytes.fill(0, at, at + 4);
  const sum = bytes.reduce((all, byte) => all + byte, 0);
  const right = Buffer.alloc(4);
  right.writeUInt32BE(~sum >>> 0);
  patch(image, offset + at, right);
}

const word = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};

describe.runIf(hasQemu)("a VHD image", () => {
  it.each(["fixed", "dynamic"] as const)("of the kind %s is converted", async (kind) => {
    const { image, folder, expected } = made(kind);
    await convertImage(image, join(folder, "out.qcow2"), "qcow2");
    expect(qemuCheck(join(folder, "out.qcow2"))).toBe("clean");
    expect(contentOf(join(folder, "out.qcow2")).equals(expected)).toBe(true);
    await convertImage(image, join(folder, "out.raw"), "raw");
    expect(readFileSync(join(folder, "out.raw")).equals(expected)).toBe(true);
    expect(statSync(join(folder, "out.raw")).blocks * 512).toBeLessThan(SIZE / 2);
  });

  it("that is fixed is known by its name, or when it is said", async () => {
    const { image, folder, expected } = made("fixed", "disk");
    await convertImage(image, join(folder, "bytes"), "raw");
    // A guest may have written the footer: without a word these are bytes.
    expect(statSync(join(folder, "bytes")).size).toBe(SIZE + 512);
    await convertImage(image, join(folder, "said"), "raw", { sourceFormat: "vhd" });
    expect(readFileSync(join(folder, "said")).equals(expected)).toBe(true);
    copyFileSync(image, join(folder, "disk.VHD"));
    await convertImage(join(folder, "disk.VHD"), join(folder, "named"), "raw");
    expect(readFileSync(join(folder, "named")).equals(expected)).toBe(true);
  });

  it("shows as zero what its bitmaps do not name", async () => {
    const { image, folder, expected } = made("dynamic");
    const block = peek(image, TABLE, 4).readUInt32BE() * 512;
    expect(peek(image, block, 1)[0]).toBe(0xff);
    // The first sector of the disk was never written; what lies in its place is nobody's.
    patch(image, block, Uint8Array.of(0x7f));
    await convertImage(image, join(folder, "out"), "raw");
    expected.fill(0, 0, 512);
    expect(readFileSync(join(folder, "out")).equals(expected)).toBe(true);
  });

  it("is not served, and the remedy converts it", () => {
    const { image } = made("dynamic");
    expect(() => chainSpec(image, { readOnly: true })).toThrow(/is a vhd image; convert it with domlab image convert/);
  });

  const footerAt = (image: string) => statSync(image).size - 512;
  const damages: Record<string, (image: string) => void> = {
    "a footer with another sum, at both places": (image) => {
      patch(image, footerAt(image) + KIND, word(2));
      patch(image, KIND, word(2));
    },
    "a differencing disk": (image) => {
      patch(image, footerAt(image) + KIND, word(4));
      resum(image, footerAt(image), 512, 64);
    },
    "an unknown kind": (image) => {
      patch(image, footerAt(image) + KIND, word(9));
      resum(image, footerAt(image), 512, 64);
    },
    "a disk of no size": (image) => {
      patch(image, footerAt(image) + 48, Buffer.alloc(8));
      resum(image, footerAt(image), 512, 64);
    },
    "a disk larger than its table": (image) => {
      patch(image, footerAt(image) + 48, word(2 ** 8));
      resum(image, footerAt(image), 512, 64);
    },
    "a header behind its end": (image) => {
      patch(image, footerAt(image) + DATA_OFFSET, word(1));
      resum(image, footerAt(image), 512, 64);
    },
    "a header with another sum": (image) => patch(image, BLOCK_SIZE, word(4096)),
    "blocks of no power of two": (image) => {
      patch(image, BLOCK_SIZE, word(3 * MiB));
      resum(image, 512, 1024, 36);
    },
    "a table behind its end": (image) => {
      patch(image, 512 + 16, word(7));
      resum(image, 512, 1024, 36);
    },
    "a block behind its end": (image) => patch(image, TABLE, word(0xffff_fff0)),
  };

  it.each(Object.keys(damages))("with %s is refused, and nothing is left", async (what) => {
    const { image, folder } = made("dynamic");
    damages[what]?.(image);
    const out = join(folder, "out");
    expect(await refusal(() => convertImage(image, out, "qcow2", { sourceFormat: "vhd" }))).toMatch(
      /^(unusable-image|unsupported-format)$/,
    );
    expect(statSync(out, { throwIfNoEntry: false })).toBeUndefined();
  });

  it("that was cut off is refused", async () => {
    const { image, folder } = made("fixed");
    const footer = peek(image, SIZE, 512);
    truncateSync(image, SIZE / 2);
    expect(await refusal(() => convertImage(image, join(folder, "a"), "raw", { sourceFormat: "vhd" }))).toBe(
      "unsupported-format",
    );
    patch(image, SIZE / 2, footer);
    expect(await refusal(() => convertImage(image, join(folder, "b"), "raw", { sourceFormat: "vhd" }))).toBe(
      "unusable-image",
    );
  });
});

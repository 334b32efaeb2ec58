/** Disk image formats, told apart by their first bytes. Raw and qcow2 are served; the others are recognised and refused. */

/** Bytes that recogniseFormat() wants to see. */
export const PROBE_LENGTH = 512;

interface Format {
  readonly name: string;
  readonly offset: number;
  readonly magic: readonly number[];
}

const ascii = (text: string): number[] => [...text].map((letter) => letter.charCodeAt(0));

/** In the order of probing. Raw has no magic: it is what remains. */
const formats: readonly Format[] = [
  // "QFI\xfb", then a big-endian version: 1 is the old qcow.
  { name: "qcow", offset: 0, magic: [...ascii("QFI"), 0xfb, 0, 0, 0, 1] },
  { name: "qcow2", offset: 0, magic: [...ascii("QFI"), 0xfb] },
  { name: "qed", offset: 0, magic: [...ascii("QED"), 0] },
  { name: "vmdk", offset: 0, magic: ascii("KDMV") },
  { name: "vmdk", offset: 0, magic: ascii("COWD") },
  { name: "vmdk", offset: 0, magic: ascii("# Disk DescriptorFile") },
  { name: "vhdx", offset: 0, magic: ascii("vhdxfile") },
  { name: "vhd", offset: 0, magic: ascii("conectix") },
  { name: "vdi", offset: 64, magic: [0x7f, 0x10, 0xda, 0xbe] },
];

/** Names the format of an image that begins with `head` (up to PROBE_LENGTH bytes); "raw" when it is none we know. */
export function recogniseFormat(head: Uint8Array): string {
  const found = formats.find(({ offset, magic }) => magic.every((byte, i) => head[offset + i] === byte));
  return found?.name ?? "raw";
}

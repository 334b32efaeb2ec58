/**
 * The x86 branch filter of XZ ("BCJ x86", filter 4), in the direction of decompression.
 *
 * Before compression, the 32-bit displacement behind an E8 (CALL) or E9 (JMP) byte was replaced by the absolute
 * target, so that calls of one function look alike. Only displacements whose top byte is 00 or FF ("extreme", a
 * target nearby) were touched, and data that merely looks like code is passed over by a rule about opcode bytes
 * close before: with two of them within three bytes nothing is converted, with one at distance d the displacement's
 * byte 3-d must not be extreme, since it would be the top byte of that earlier opcode's displacement.
 */

const INSTRUCTION_SIZE = 5;

const isOpcode = (byte: number | undefined): boolean => byte === 0xe8 || byte === 0xe9;
const isExtreme = (byte: number | undefined): boolean => byte === 0 || byte === 0xff;

/** Distance to the only opcode byte within the three bytes before `at`: 0 if there is none, -1 if there are several. */
function lonelyOpcodeBefore(bytes: Uint8Array, at: number, floor: number): number {
  let found = 0;
  for (let distance = 1; distance <= 3 && at - distance >= floor; distance++) {
    if (!isOpcode(bytes[at - distance])) continue;
    if (found !== 0) return -1;
    found = distance;
  }
  return found;
}

/** From the absolute target to the displacement; the encoder repeated its step while the result looked ambiguous. */
function displacement(target: number, nextInstruction: number, distance: number): number {
  let result = (target - nextInstruction) | 0;
  if (distance === 0) return result;
  const watched = 24 - 8 * distance;
  while (isExtreme((result >>> watched) & 255)) {
    result = ((result ^ (2 ** (watched + 8) - 1)) - nextInstruction) | 0;
  }
  return result;
}

/**
 * Undoes the filter in place over one whole block.
 *
 * @param startOffset the position that the block's first byte had for the encoder
 */
export function undoX86Filter(bytes: Uint8Array, startOffset: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** End of the last converted instruction: its bytes do not count as opcodes. */
  let floor = 0;
  for (let at = 0; at + INSTRUCTION_SIZE <= bytes.length; at++) {
    const byte = bytes[at];
    if ((byte !== 0xe8 && byte !== 0xe9) || !isExtreme(bytes[at + 4])) continue;
    const distance = lonelyOpcodeBefore(bytes, at, floor);
    if (distance < 0 || (distance > 0 && isExtreme(bytes[at + 4 - distance]))) continue;
    const next = startOffset + at + INSTRUCTION_SIZE;
    const value = displacement(view.getInt32(at + 1, true), next, distance);
    // 25 significant bits; the top byte becomes 00 or FF again.
    view.setInt32(at + 1, (value << 7) >> 7, true);
    floor = at + INSTRUCTION_SIZE;
    at = floor - 1;
  }
}

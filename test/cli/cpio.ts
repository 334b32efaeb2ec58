/** A cpio archive ("newc") with one file of `size` zero bytes and its trailer. */
export function cpioFile(name: string, size: number): Buffer {
  const member = (memberName: string, mode: number, length: number): Buffer => {
    const fields = [1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, memberName.length + 1, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${memberName}\0`;
    const padded = Math.ceil(header.length / 4) * 4;
    return Buffer.concat([Buffer.from(header.padEnd(padded, "\0"), "latin1"), Buffer.alloc(Math.ceil(length / 4) * 4)]);
  };
  return Buffer.concat([member(name, 0o100644, size), member("TRAILER!!!", 0, 0)]);
}

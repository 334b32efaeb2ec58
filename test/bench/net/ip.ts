/** The Internet checksum (RFC 1071) of a header whose checksum field is 0. */
export function headerChecksum(header: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at + 1 < header.length; at += 2) sum += ((header[at] ?? 0) << 8) | (header[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

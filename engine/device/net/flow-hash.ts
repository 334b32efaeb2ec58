/** Which queue a frame goes to: frames of one flow go to the same, so that they stay in order. */

/** Mixes a word into a hash; the constants are those of MurmurHash3's body. */
function mix(hash: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
  const h = hash ^ k;
  return (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
}

function word(head: Uint8Array, at: number): number {
  return (head[at]! << 24) | (head[at + 1]! << 16) | (head[at + 2]! << 8) | head[at + 3]!;
}

/**
 * A number for the flow that a frame belongs to: from addresses and ports of TCP and UDP, addresses alone for other IP and
 * fragments, and the Ethernet addresses for the rest. What the head does not have counts as 0.
 */
export function flowHash(head: Uint8Array, length: number): number {
  let l3 = 14;
  let type = (head[12]! << 8) | head[13]!;
  if (type === 0x8100 || type === 0x88a8) {
    type = (head[16]! << 8) | head[17]!;
    l3 = 18;
  }
  let hash = type;
  let protocol = 0;
  let l4 = 0;
  if (type === 0x0800 && length >= l3 + 20) {
    hash = mix(mix(hash, word(head, l3 + 12)), word(head, l3 + 16));
    const fragment = ((head[l3 + 6]! << 8) | head[l3 + 7]!) & 0x3fff;
    protocol = fragment === 0 ? head[l3 + 9]! : 0;
    l4 = l3 + (head[l3]! & 15) * 4;
  } else if (type === 0x86dd && length >= l3 + 40) {
    for (let at = l3 + 8; at < l3 + 40; at += 4) hash = mix(hash, word(head, at));
    protocol = head[l3 + 6]!;
    l4 = l3 + 40;
  } else {
    hash = mix(mix(mix(hash, word(head, 0)), word(head, 4)), word(head, 8));
  }
  if ((protocol === 6 || protocol === 17) && length >= l4 + 4) hash = mix(hash, word(head, l4));
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/**
 * VLANs of a switch: which port belongs to which, and tags put into frames and taken out of them (IEEE 802.1Q, 8 and 9).
 */
import { FRAME_SEGMENTS, Frame } from "../device/net/frame.ts";
import { EtherType, type Headers } from "./headers.ts";
import { NetworkError } from "./types.ts";

/** VLAN ids that can be used: 0 says "priority only", 4095 is reserved. */
export const VLAN_MOST = 4094;

/**
 * A port's VLANs. An access port has `untagged` alone; a trunk has `tagged` ones, and perhaps one that goes without tags.
 */
export interface VlanMembership {
  /** VLAN of frames without a tag, which goes out without tags too (PVID). */
  readonly untagged?: number;
  readonly tagged?: readonly number[];
}

/** How frames of a VLAN leave through a port. */
export const NOT_A_MEMBER = 0;
export const UNTAGGED = 1;
export const TAGGED = 2;

function checkId(id: number): number {
  if (Number.isInteger(id) && id >= 1 && id <= VLAN_MOST) return id;
  throw new NetworkError("bad-vlan", `${id} is no VLAN`, `use a number from 1 to ${VLAN_MOST}`);
}

/** A port's VLANs in the form in which frames ask for them. */
export class VlanTable {
  readonly membership: VlanMembership;
  /** VLAN of untagged frames, -1 where they are refused. */
  readonly #untagged: number;
  readonly #isAccess: boolean;
  readonly #form = new Uint8Array(VLAN_MOST + 2);

  /** @throws NetworkError "bad-vlan" */
  constructor(membership: VlanMembership) {
    const { untagged, tagged = [] } = membership;
    for (const id of tagged) this.#form[checkId(id)] = TAGGED;
    if (untagged !== undefined) {
      if (this.#form[checkId(untagged)] === TAGGED) {
        throw new NetworkError("bad-vlan", `VLAN ${untagged} is both tagged and untagged`, "name it once");
      }
      this.#form[untagged] = UNTAGGED;
    } else if (tagged.length === 0) throw new NetworkError("bad-vlan", "no VLAN is named", "name one at least");
    this.membership = membership;
    this.#untagged = untagged ?? -1;
    this.#isAccess = tagged.length === 0;
  }

  /** The VLAN that a frame from this port is in, -1 where it may not come in. */
  classify(headers: Headers): number {
    // An access port's frames leave elsewhere without their tag: a second one below it would then name another VLAN.
    if (this.#isAccess && headers.vlanTags > 1) return -1;
    if (headers.vlanType !== EtherType.vlan || headers.vlan === 0) return this.#untagged;
    return this.#form[headers.vlan] === TAGGED ? headers.vlan : -1;
  }

  /** NOT_A_MEMBER, UNTAGGED or TAGGED. */
  formOf(vlan: number): number {
    return this.#form[vlan]!;
  }
}

/** The outer tag as a switch understands it: only 802.1Q's own type counts, a service tag is payload. */
export function hasTag(headers: Headers): boolean {
  return headers.vlanType === EtherType.vlan;
}

/** Appends what lies behind the copied head. @returns whether there was room */
function shareRest(frame: Frame, into: Frame, copied: number): boolean {
  const left = frame.headLength - copied;
  if (frame.segments + (left > 0 ? 1 : 0) > FRAME_SEGMENTS) return false;
  if (left > 0) into.add(frame.head, copied, left);
  for (let n = 0; n < frame.segments; n++) into.add(frame.memory[n]!, frame.address[n]!, frame.size[n]!);
  return true;
}

/**
 * The frame without its tag, or with another one: head copied into `scratch`, the rest shared, so it is lent as long as the
 * frame is.
 * @param tagged whether the frame has a tag now, which goes
 * @param tag the new one (priority, DEI, id), or -1
 * @returns `scratch`, or a private copy where its segments do not suffice
 */
export function retag(frame: Frame, scratch: Frame, tagged: boolean, tag: number): Frame {
  const skip = tagged ? 4 : 0;
  const add = tag < 0 ? 0 : 4;
  const length = frame.length - skip + add;
  const room = scratch.head.length - add + skip;
  const copied = Math.min(frame.headLength, room);
  let into = scratch;
  into.reset(length);
  if (!shareRest(frame, into, copied)) {
    into = new Frame(length);
    into.reset(length);
    into.headLength = length;
    frame.copyTo(into.head, 12 + add, 12 + skip);
  } else {
    into.headLength = copied - skip + add;
    for (let n = 12 + skip; n < copied; n++) into.head[n - skip + add] = frame.head[n]!;
  }
  for (let n = 0; n < 12; n++) into.head[n] = frame.head[n]!;
  if (add !== 0) {
    into.head[12] = EtherType.vlan >> 8;
    into.head[13] = EtherType.vlan & 255;
    into.head[14] = tag >> 8;
    into.head[15] = tag & 255;
  }
  into.checksum = frame.checksum;
  into.segmentation = frame.segmentation;
  into.segmentSize = frame.segmentSize;
  return into;
}

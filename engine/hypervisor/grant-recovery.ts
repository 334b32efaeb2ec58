/**
 * After the process of a domain was killed: giving back what it had mapped, or settling what it was in the middle of.
 * For the control plane, which holds every domain's memory.
 *
 * A killed process leaves entries of its maptrack that say "being changed": counters may or may not have been touched, and
 * a reference may be locked. Nothing of this is guessed: the reference and the frame that such an entry names are counted
 * again from the maptracks of all domains.
 */
import { PAGE_SIZE } from "../abi/xen.ts";
import { GRANT_REFS, MAPTRACK_ENTRIES } from "../memory/frame-plan.ts";
import { type Grantor, grantWritten } from "./grant-map.ts";
import * as pins from "./grant-pins.ts";
import { Maptrack } from "./maptrack.ts";

/** Waits for mappers that are changing an entry just now. */
const ATTEMPTS = 200;
const PAUSE_MS = 0.5;
/** Rounds of 20 ms that a vCPU gets to forget code which the dead domain may have written over. */
const SHOOTDOWN_ROUNDS = 50;

/** A domain as the control plane knows it. */
export type MapDomain = Grantor;

const pauseWord = new Int32Array(new SharedArrayBuffer(4));

interface Count {
  readonly all: number;
  readonly writable: number;
  /** True when some domain was in the middle of changing an entry that may matter. */
  readonly unsettled: boolean;
}

/** Counts mappings of a grantor's pages, in all domains' maptracks, that `matches` a reference and a frame. */
function count(
  grantor: MapDomain,
  domains: readonly MapDomain[],
  matches: (ref: number, frame: number) => boolean,
): Count {
  let all = 0;
  let writable = 0;
  let unsettled = false;
  for (const domain of domains) {
    const track = new Maptrack(domain.mapping);
    // A domain's entries about itself bear generation 0.
    const generation = domain.id === grantor.id ? 0 : grantor.generation;
    for (let handle = 0; handle < MAPTRACK_ENTRIES; handle++) {
      const live = track.isLive(handle);
      if (!live && !track.isChanging(handle)) continue;
      if (track.domid(handle) !== grantor.id || !track.isOf(handle, generation)) continue;
      if (!matches(track.ref(handle), track.frame(handle))) continue;
      if (!live) unsettled = true;
      all++;
      if (!track.readOnly(handle)) writable++;
    }
  }
  return { all, writable, unsettled };
}

function recountRef(grantor: MapDomain, ref: number, domains: readonly MapDomain[]): void {
  for (let attempt = 0; ; attempt++) {
    const before = pins.seizeGrant(grantor.mapping, ref);
    const found = count(grantor, domains, (other) => other === ref);
    if (found.unsettled && attempt < ATTEMPTS) {
      pins.unlockGrant(grantor.mapping, ref, before);
      Atomics.wait(pauseWord, 0, 0, PAUSE_MS);
      continue;
    }
    const counts = (found.writable << 16) | found.all;
    pins.clearUnused(grantor.mapping, ref, counts);
    pins.unlockGrant(grantor.mapping, ref, counts);
    return;
  }
}

function recountFrame(grantor: MapDomain, frame: number, domains: readonly MapDomain[]): void {
  if (frame * PAGE_SIZE >= grantor.mapping.plan.ramBytes) return;
  for (let attempt = 0; attempt < 2 * ATTEMPTS; attempt++) {
    const before = pins.framePins(grantor.mapping, frame);
    const found = count(grantor, domains, (_ref, other) => other === frame);
    const settled = !found.unsettled || attempt >= ATTEMPTS;
    if (settled && pins.correctFramePins(grantor.mapping, frame, before, found.all)) return;
    Atomics.wait(pauseWord, 0, 0, PAUSE_MS);
  }
}

/**
 * Counts the mappings of references and frames (page numbers of the file) of a living domain again. `domains` are all that
 * may have mapped them, the domain itself among them if it may have mapped its own.
 */
export function recountPins(
  grantor: MapDomain,
  refs: Iterable<number>,
  frames: Iterable<number>,
  domains: readonly MapDomain[],
): void {
  for (const ref of new Set(refs)) if (ref >= 0 && ref < GRANT_REFS) recountRef(grantor, ref, domains);
  for (const frame of new Set(frames)) if (frame >= 0) recountFrame(grantor, frame, domains);
}

function grantorOf(track: Maptrack, handle: number, mapper: MapDomain, domains: readonly MapDomain[]) {
  const id = track.domid(handle);
  if (id === mapper.id) return track.isOf(handle, 0) ? mapper : undefined;
  const grantor = domains.find((domain) => domain.id === id);
  return grantor !== undefined && track.isOf(handle, grantor.generation) ? grantor : undefined;
}

/**
 * A domain whose process was killed and will be started again, before it starts: what it was in the middle of mapping or
 * unmapping is not mapped afterwards; what it had mapped stays. `domains` are all that live, with or without this one.
 * @returns the number of entries settled
 */
export function settleMapsOf(mapper: MapDomain, domains: readonly MapDomain[]): number {
  const everybody = [mapper, ...domains.filter((domain) => domain.id !== mapper.id)];
  const track = new Maptrack(mapper.mapping);
  const suspects = new Map<MapDomain, { refs: number[]; frames: number[] }>();
  let settled = 0;
  for (let handle = 0; handle < MAPTRACK_ENTRIES; handle++) {
    if (!track.isChanging(handle)) continue;
    const grantor = grantorOf(track, handle, mapper, everybody);
    if (grantor !== undefined) {
      const found = suspects.get(grantor) ?? { refs: [], frames: [] };
      found.refs.push(track.ref(handle));
      found.frames.push(track.frame(handle));
      suspects.set(grantor, found);
    }
    track.free(handle);
    settled++;
  }
  for (const [grantor, { refs, frames }] of suspects) recountPins(grantor, refs, frames, everybody);
  return settled;
}

/**
 * A domain that has ended: every page it had mapped is given back. Its processes must be gone, its memory still mapped;
 * `domains` are those that live.
 * @returns the number of mappings there were
 */
export function releaseMapsOf(mapper: MapDomain, domains: readonly MapDomain[]): number {
  let released = settleMapsOf(mapper, domains);
  const everybody = [mapper, ...domains.filter((domain) => domain.id !== mapper.id)];
  const track = new Maptrack(mapper.mapping);
  for (let handle = 0; handle < MAPTRACK_ENTRIES; handle++) {
    if (!track.isLive(handle)) continue;
    const grantor = grantorOf(track, handle, mapper, everybody);
    if (grantor !== undefined) {
      const frame = track.frame(handle);
      const readOnly = track.readOnly(handle);
      if (!readOnly && grantor !== mapper) {
        let rounds = 0;
        grantWritten(grantor.mapping, frame * PAGE_SIZE, PAGE_SIZE, () => rounds++ < SHOOTDOWN_ROUNDS);
      }
      new pins.PinTables(grantor.mapping).release(track.ref(handle), frame, readOnly);
    }
    track.free(handle);
    released++;
  }
  return released;
}

/**
 * A guest's domain taken apart into data and put together again, for snapshots. Its memory travels apart; here is what the
 * hypervisor keeps: time, parameters, event channels, the physmap. The vCPU's thread calls this while the guest stands still.
 *
 * What led to another domain is not kept: a channel to a backend becomes one on offer to it, grants are no longer in use. The
 * backend connects to a restored guest as to any other.
 */

import { NR_EVENT_CHANNELS_2L } from "../abi/event-channel.ts";
import { GTF_PERMIT_ACCESS, GTF_READING, GTF_TYPE_MASK, GTF_WRITING } from "../abi/grant-table.ts";
import { NR_VIRQS, PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import { Arrivals, windowOf } from "../memory/arrival.ts";
import {
  type FramePlan,
  GRANT_REFS,
  MAPTRACK_ENTRIES,
  MAX_VCPUS,
  PHYSMAP_ENTRIES,
  WINDOW_BYTES,
} from "../memory/frame-plan.ts";
import type { Physmap } from "../memory/physmap.ts";
import { DOM0, fileOffset, gfn } from "../memory/types.ts";
import type { Domain, SavedDomain, SavedFrames, SavedPort } from "./domain.ts";
import { entryWord } from "./grant-pins.ts";
import { Maptrack } from "./maptrack.ts";
import { decodePort, encodePort, PortKind, PortTable } from "./port-table.ts";

const VCPU_INFO_BYTES = 64;

/** A guest that cannot be saved: the reason, to follow "because". */
export interface Unsaveable {
  readonly problem: string;
}

/**
 * Everything about a domain whose vCPU stands still.
 * @param drivers domains that serve devices and find their way back to a restored guest by themselves
 */
export function saveDomain(domain: Domain, drivers: readonly number[]): SavedDomain | Unsaveable {
  const ports = savePorts(domain);
  const foreign = ports.find(
    ({ kind, domain: peer }) => kind === PortKind.interdomain && peer !== DOM0 && !drivers.includes(peer),
  );
  if (foreign !== undefined) return { problem: `its event channel ${foreign.port} leads to domain ${foreign.domain}` };
  if (mapsOthers(domain)) return { problem: "it has pages of another domain mapped" };
  const table = new PortTable(domain.mapping);
  const keys = Array.from({ length: MAX_VCPUS * NR_VIRQS }, (_, key) => key);
  return {
    clock: domain.clock(),
    wallclockNs: domain.wallclockNs,
    wallclockVersion: domain.wallclockVersion,
    narrow: domain.delivery.narrow,
    params: domain.params.save(),
    watchdogs: domain.watchdogs.save(),
    grantFrames: domain.grantFrames,
    specialFrames: [...domain.specialFrames],
    ports,
    virqs: keys.map((key) => [key, table.virqPort(key)] as const).filter(([, port]) => port !== 0),
    physmap: savePhysmap(domain),
    vcpus: domain.vcpus.map((vcpu) => vcpu.save()),
  };
}

function savePorts(domain: Domain): SavedPort[] {
  const table = new PortTable(domain.mapping);
  const ports: SavedPort[] = [];
  for (let port = 1; port < NR_EVENT_CHANNELS_2L; port++) {
    const entry = decodePort(table.load(port));
    if (entry.kind === PortKind.free || entry.kind === PortKind.reserved) continue;
    ports.push({ port, vcpu: domain.delivery.boundVcpu(port), ...entry });
  }
  return ports;
}

function mapsOthers(domain: Domain): boolean {
  const maptrack = new Maptrack(domain.mapping);
  for (let handle = 0; handle < MAPTRACK_ENTRIES; handle++) {
    if (maptrack.isLive(handle) || maptrack.isChanging(handle)) return true;
  }
  return false;
}

/** The physmap as runs of frames that lie one behind the other in the file. */
function savePhysmap(domain: Domain): SavedFrames[] {
  const runs: SavedFrames[] = [];
  let run: { frame: number; count: number; offset: number; readOnly: boolean } | undefined;
  for (let frame = 0; frame < PHYSMAP_ENTRIES; frame++) {
    if (domain.physmap.isEmpty(frame)) continue;
    const entry = domain.physmap.get(frame);
    if (entry === undefined) continue;
    const { offset, readOnly } = entry;
    const next = run !== undefined && run.frame + run.count === frame && run.offset + run.count * PAGE_SIZE === offset;
    if (run !== undefined && next && run.readOnly === readOnly) {
      run.count++;
    } else {
      run = { frame, count: 1, offset, readOnly };
      runs.push(run);
    }
  }
  return runs;
}

/** Whether a page of the file may show in a guest's physmap: RAM, and the frames that the hypervisor shares with it. */
function isGuestPage(plan: FramePlan, offset: number): boolean {
  return offset >= 0 && offset < plan.control && offset % PAGE_SIZE === 0;
}

/** What is wrong with a saved domain that is meant for this memory; undefined: nothing. It may come from anywhere. */
export function checkSavedDomain(saved: SavedDomain, plan: FramePlan): string | undefined {
  return checkPhysmap(saved.physmap, plan) ?? checkPorts(saved) ?? checkPlaces(saved, plan);
}

function checkPhysmap(runs: readonly SavedFrames[], plan: FramePlan): string | undefined {
  const shown = new Uint8Array(plan.control >>> PAGE_SHIFT);
  let next = 0;
  for (const { frame, count, offset } of runs) {
    if (frame < next || count < 1 || frame + count > PHYSMAP_ENTRIES) return `guest frame ${frame} is out of order`;
    next = frame + count;
    const last = offset + (count - 1) * PAGE_SIZE;
    if (!isGuestPage(plan, offset) || !isGuestPage(plan, last)) return `guest frame ${frame} lies outside the memory`;
    for (let page = offset >>> PAGE_SHIFT; page <= last >>> PAGE_SHIFT; page++) {
      if (shown[page] === 1) return `page ${page} shows at two guest frames`;
      shown[page] = 1;
    }
  }
  return undefined;
}

function checkPorts({ ports, virqs, vcpus }: SavedDomain): string | undefined {
  const seen = new Map<number, SavedPort>();
  for (const entry of ports) {
    const { port, kind, domain, number, toolstack, vcpu } = entry;
    if (port < 1 || port >= NR_EVENT_CHANNELS_2L || seen.has(port)) return `event channel ${port} is out of order`;
    if (vcpu >= vcpus.length) return `event channel ${port} notifies vCPU ${vcpu}`;
    if (kind === PortKind.free || kind === PortKind.reserved || kind === PortKind.pirq) {
      return `event channel ${port} is of a kind that no guest has`;
    }
    if (toolstack && (kind !== PortKind.interdomain || domain !== DOM0 || number !== port)) {
      return `event channel ${port} is no channel of the toolstack`;
    }
    seen.set(port, entry);
  }
  for (const [key, port] of virqs) {
    const entry = seen.get(port);
    const fits = entry?.kind === PortKind.virq && entry.number === key % NR_VIRQS && key < vcpus.length * NR_VIRQS;
    if (!fits) return `virtual interrupt ${key} has no event channel`;
  }
  return undefined;
}

function checkPlaces({ vcpus, specialFrames, grantFrames }: SavedDomain, plan: FramePlan): string | undefined {
  if (vcpus.length !== 1) return `${vcpus.length} vCPUs`;
  for (const { infoOffset } of vcpus) {
    const inRam = infoOffset + VCPU_INFO_BYTES <= plan.ramBytes;
    const inSharedInfo = infoOffset >= plan.sharedInfo && infoOffset + VCPU_INFO_BYTES <= plan.sharedInfo + PAGE_SIZE;
    const withinPage = infoOffset % PAGE_SIZE <= PAGE_SIZE - VCPU_INFO_BYTES;
    if (infoOffset < 0 || infoOffset % 4 !== 0 || !withinPage || !(inRam || inSharedInfo))
      return "a vcpu_info elsewhere";
  }
  const places = specialFrames.every(
    ([offset, frame]) => offset >= plan.ramBytes && isGuestPage(plan, offset) && frame < PHYSMAP_ENTRIES,
  );
  if (!places) return "a special frame elsewhere";
  return grantFrames * PAGE_SIZE > plan.console - plan.grantTable ? "a grant table that is too large" : undefined;
}

/** Makes a new domain, whose vCPUs have been added and whose memory has been read, the one that was saved and checked. */
export function restoreDomain(domain: Domain, saved: SavedDomain): void {
  domain.delivery.narrow = saved.narrow;
  domain.params.restore(saved.params);
  domain.watchdogs.restore(saved.watchdogs);
  domain.grantFrames = saved.grantFrames;
  domain.wallclockVersion = saved.wallclockVersion;
  for (const [offset, frame] of saved.specialFrames) domain.specialFrames.set(fileOffset(offset), frame);
  restorePhysmap(domain, saved.physmap);
  restorePorts(domain, saved);
  releaseGrants(domain);
  for (const [id, vcpu] of domain.vcpus.entries()) {
    const state = saved.vcpus[id];
    if (state !== undefined) vcpu.restore(state);
  }
  domain.setWallclock(saved.wallclockNs);
}

function restorePhysmap(domain: Domain, runs: readonly SavedFrames[]): void {
  const { physmap, ram, plan, mapping } = domain;
  const arrivals = new Arrivals(mapping);
  physmap.clearInitial(plan);
  const shown = new Uint8Array(plan.control >>> PAGE_SHIFT);
  for (const { frame, count, offset, readOnly } of runs) {
    restoreRun(physmap, arrivals, { frame, count, offset, readOnly });
    shown.fill(1, offset >>> PAGE_SHIFT, (offset >>> PAGE_SHIFT) + count);
  }
  // RAM that shows nowhere is what the balloon driver had given back.
  for (let frame = shown.indexOf(0); frame >= 0 && frame < ram.frames; frame = shown.indexOf(0, frame + 1)) {
    // At once: whoever takes it must not have it overwritten by what arrives later.
    physmap.fetch?.(fileOffset(frame * PAGE_SIZE));
    ram.add(frame);
  }
}

/** A run of the physmap, window by window: some are there already. */
function restoreRun(physmap: Physmap, arrivals: Arrivals, { frame, count, offset, readOnly }: SavedFrames): void {
  for (let done = 0; done < count; ) {
    const at = offset + done * PAGE_SIZE;
    const window = windowOf(at);
    const part = Math.min(count - done, ((window + 1) * WINDOW_BYTES - at) / PAGE_SIZE);
    physmap.mapRun(gfn(frame + done), fileOffset(at), part, { readOnly, later: !arrivals.isPresent(window) });
    done += part;
  }
}

function restorePorts(domain: Domain, { ports, virqs }: SavedDomain): void {
  const table = new PortTable(domain.mapping);
  for (let port = 1; port < NR_EVENT_CHANNELS_2L; port++) table.store(port, 0);
  for (const { port, kind, domain: peer, number, toolstack, vcpu } of ports) {
    const open = kind === PortKind.interdomain && !toolstack;
    table.store(port, open ? encodePort(PortKind.unbound, peer) : encodePort(kind, peer, number, toolstack));
    domain.delivery.bindPort(port, vcpu);
  }
  for (const [key, port] of virqs) table.bindVirq(key, port);
}

/** Nobody has mapped anything of the new domain yet. */
function releaseGrants({ mapping }: Domain): void {
  for (let ref = 0; ref < GRANT_REFS; ref++) {
    const at = entryWord(mapping, ref);
    const flags = Atomics.load(mapping.words, at);
    // Bits of the same place mean something else in entries that offer a page for transfer.
    if ((flags & GTF_TYPE_MASK) === GTF_PERMIT_ACCESS) Atomics.and(mapping.words, at, ~(GTF_READING | GTF_WRITING));
  }
}

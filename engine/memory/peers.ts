/** The domains whose memory this thread has mapped: its own, and those it has a channel with. */
import { closeSync, openSync } from "node:fs";
import type { DirectoryEntry } from "./domain-directory.ts";
import type { Mapping } from "./guest-memory.ts";
import { openMappedMemory } from "./mapped.ts";
import { DOM0 } from "./types.ts";

export interface Peer {
  readonly id: number;
  readonly generation: number;
  readonly mapping: Mapping;
  /** Open file of its memory, for mapForeign. */
  readonly descriptor: number;
}

/** What it needs of a domain directory. */
export interface Directory {
  get(id: number): DirectoryEntry | undefined;
  lives(id: number, generation: number): boolean;
}

/** On hosts where domains cannot see each other: there is nobody. */
export const EMPTY_DIRECTORY: Directory = { get: () => undefined, lives: () => false };

/** @throws the system's error when the file is gone or cannot be mapped */
function open(id: number, entry: DirectoryEntry, directory: Directory): Peer | undefined {
  const descriptor = openSync(entry.path, "r+");
  try {
    // The path names a descriptor of its owner, who may have closed it and given its number to another domain's memory: but
    // only after taking this one out of the directory.
    if (directory.lives(id, entry.generation)) {
      const token = { kind: "mapped", descriptor, path: entry.path, plan: entry.plan } as const;
      return { id, generation: entry.generation, mapping: openMappedMemory(token).attach(), descriptor };
    }
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
  closeSync(descriptor);
  return undefined;
}

export class Peers {
  private readonly directory: Directory;
  private readonly self: number;
  private readonly own: Mapping;
  private readonly mapped = new Map<number, Peer>();
  /** The one of `mapped` that was asked for last: a backend asks for the same one for every page. */
  private latest: Peer | undefined;

  constructor(directory: Directory, self: number, own: Mapping) {
    this.directory = directory;
    this.self = self;
    this.own = own;
  }

  /** Whether there is a domain of that number: the control domain always, though it has no memory here. */
  exists(id: number): boolean {
    return id === DOM0 || id === this.self || this.directory.get(id) !== undefined;
  }

  /** Memory of a living domain, one's own included; undefined if there is none of that number. */
  mapping(id: number): Mapping | undefined {
    return id === this.self ? this.own : this.get(id)?.mapping;
  }

  /** A living domain other than oneself. */
  get(id: number): Peer | undefined {
    const known = this.known(id);
    if (known !== undefined) {
      if (this.directory.lives(id, known.generation)) return known;
      this.forget(id);
    }
    const entry = id === this.self ? undefined : this.directory.get(id);
    if (entry === undefined) return undefined;
    try {
      const peer = open(id, entry, this.directory);
      if (peer !== undefined) this.adopt(peer);
      return peer;
    } catch {
      return undefined; // it ended at this moment
    }
  }

  /** Enters a domain whose memory the caller has mapped already. */
  adopt(peer: Peer): void {
    this.mapped.set(peer.id, peer);
    this.latest = peer;
  }

  /** A domain that was mapped, whether it lives or not. */
  known(id: number): Peer | undefined {
    if (this.latest?.id === id) return this.latest;
    const peer = this.mapped.get(id);
    if (peer !== undefined) this.latest = peer;
    return peer;
  }

  lives(peer: Peer): boolean {
    return this.directory.lives(peer.id, peer.generation);
  }

  /** Gives a domain's memory back. Whoever still holds its Mapping reads zeros. */
  forget(id: number): void {
    const peer = this.mapped.get(id);
    if (peer === undefined) return;
    this.mapped.delete(id);
    if (this.latest === peer) this.latest = undefined;
    peer.mapping.release();
    closeSync(peer.descriptor);
  }
}

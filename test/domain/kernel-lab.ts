/** Runs unikernels for tests: a host, domains whose kernels are in kernels/, commands to them, and images for their disks. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { type RegisteredRing, RingRegistry } from "../../engine/domain/driver/ring-registry.ts";
import { compiledPath } from "../../engine/domain/entry.ts";
import { Host, type HostOptions, type TypescriptConfig } from "../../engine/domain/host.ts";
import type { TypescriptHandle } from "../../engine/domain/typescript/handle.ts";
import { type GrantMap, GrantMaps } from "../../engine/hypervisor/grant-map.ts";
import { Peers } from "../../engine/memory/peers.ts";
import { ANSWER, type Answer, COMMANDS, type Command } from "./kernels/agent.ts";

/** Domains share memory between processes where the host can do that. */
export const RUNS = process.platform === "linux";

/** How long a command may take before the test fails: far more than any does. */
const PATIENCE_MS = 25_000;

/** Fulfilled when `test` is true; it is asked every few milliseconds. @throws Error with `what` after a long while */
export async function eventually(what: string, test: () => boolean, patience = PATIENCE_MS): Promise<void> {
  for (const end = Date.now() + patience; !test(); ) {
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 3));
  }
}

export class Unikernel {
  readonly handle: TypescriptHandle;
  private readonly lab: KernelLab;
  private next = 1;

  constructor(lab: KernelLab, handle: TypescriptHandle) {
    this.lab = lab;
    this.handle = handle;
  }

  get id(): number {
    return this.handle.id;
  }

  /** Has the kernel perform a command. @returns its value; rejected with its error, or when the domain ends first */
  async call<T>(name: string, argument: unknown = null): Promise<T> {
    const number = this.next++;
    const node = `/local/domain/${this.id}/${COMMANDS}/${number}`;
    const prefix = `${ANSWER} ${this.id} ${number} `;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer to ${name}`)), PATIENCE_MS);
    });
    const ended = this.handle.exited.then((end) => {
      throw new Error(`the domain has ended: ${JSON.stringify(end)}`);
    });
    const line = this.lab.line((text) => text.startsWith(prefix));
    const { toolstack } = this.lab.host.xenstore;
    toolstack.write(node, JSON.stringify({ name, argument } satisfies Command));
    try {
      const text = await Promise.race([line, ended, late]);
      const answer = JSON.parse(text.slice(prefix.length)) as Answer;
      if ("error" in answer) throw new Error(answer.error);
      return answer.value as T;
    } finally {
      clearTimeout(timer);
      if (toolstack.read(node) !== undefined) toolstack.remove(node);
    }
  }
}

interface Listener {
  readonly test: (line: string) => boolean;
  readonly resolve: (line: string) => void;
}

/** What a driver domain holds of others. */
export interface Holdings {
  readonly rings: readonly RegisteredRing[];
  readonly maps: readonly GrantMap[];
}

export class KernelLab {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), "domlab-kernels-"));
  /** All lines of the host's log that answer no command. */
  readonly lines: string[] = [];
  readonly host: Host;
  private readonly listeners = new Set<Listener>();

  constructor(options: HostOptions = {}) {
    this.host = new Host({ ...options, log: (line) => this.hear(line) });
  }

  private hear(line: string): void {
    if (!line.startsWith(`${ANSWER} `)) this.lines.push(line);
    for (const listener of this.listeners) {
      if (!listener.test(line)) continue;
      this.listeners.delete(listener);
      listener.resolve(line);
    }
  }

  /** The next line that passes. */
  line(test: (line: string) => boolean): Promise<string> {
    return new Promise((resolve) => this.listeners.add({ test, resolve }));
  }

  /** Starts a domain whose kernel is kernels/<kernel>.ts. */
  async start(kernel: string, options: Partial<TypescriptConfig> = {}): Promise<Unikernel> {
    const module = pathToFileURL(compiledPath(import.meta.url, `kernels/${kernel}.js`)).href;
    const handle = await this.host.startTypescript({ name: kernel, memoryMiB: 16, module, ...options });
    return new Unikernel(this, handle);
  }

  /** Makes an image: a sparse one of so many bytes, or one with this content. */
  image(name: string, content: number | Uint8Array): string {
    const file = path.join(this.folder, name);
    writeFileSync(file, typeof content === "number" ? "" : content, { flag: "wx" });
    if (typeof content === "number") truncateSync(file, content);
    return file;
  }

  /** What a domain has registered as rings and mapped: of one other domain, or of all. */
  holdings(holder: number, of?: number): Holdings {
    const mapping = this.host.table.attach(holder);
    const { directory } = this.host.table;
    if (mapping === undefined || directory === undefined) throw new Error(`there is no domain ${holder}`);
    const maps = new GrantMaps(mapping, holder, new Peers(directory, holder, mapping)).listMaps(of);
    const rings = new RingRegistry(mapping).list().filter((ring) => of === undefined || ring.frontend === of);
    mapping.release();
    return { rings, maps };
  }

  async end(): Promise<void> {
    await this.host.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** What a process takes of the host: anonymous memory in MiB, descriptors, threads. */
export function usage(pid: number): { readonly MiB: number; readonly threads: number } {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1]);
  return { MiB: field("RssAnon") / 1024, threads: field("Threads") };
}

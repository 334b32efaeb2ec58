/** Stock Linux guests that a test talks to: a shell on the console that runs one command after the other. */
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type CpioEntry, writeCpio } from "../../engine/builder/cpio.ts";
import { BlockCounter, type BlockCounterName, BlockCounters } from "../../engine/device/block/counters.ts";
import { RingRegistry } from "../../engine/domain/driver/ring-registry.ts";
import type { DomainHandle } from "../../engine/domain/guest.ts";
import { type GuestConfig, Host } from "../../engine/domain/host.ts";
import { type GuestImage, openImage } from "../../main/images/catalogue.ts";
import { writeSessionArchive, writeShellInitramfs } from "../../main/images/debian-shell.ts";
import { hostOutput } from "./host-tools.ts";

/** What a command in the guest has said, on both of its streams, and its status. */
export interface Answer {
  readonly status: number;
  readonly output: string;
}

/** How long a boot may take: several guests may share the processors, with other programs besides. */
const BOOT_MS = 180_000;

/** Reads a script up to END, runs it, says its status; and so on. Standard error goes where the output goes. */
const loop = (mark: string) => `exec 2>&1 </dev/hvc0
echo ${mark} 0
while read -r line; do
  case "$line" in
    END) sh /tmp/script </dev/null; echo "${mark} $?"; : >/tmp/script;;
    *) printf '%s\\n' "$line" >>/tmp/script;;
  esac
done`;

/**
 * The image that tests boot. DOMLAB_TEST_KERNEL names the folder of another kernel instead: an unpacked package, with
 * boot/vmlinuz-… and lib/modules, as Debian's linux-image packages have them.
 */
async function guestImage(): Promise<Pick<GuestImage, "kernel" | "initramfs" | "commandLine">> {
  const image = await openImage("debian-shell");
  const root = process.env.DOMLAB_TEST_KERNEL;
  if (root === undefined) return image;
  const boot = path.join(root, "boot");
  const kernel = path.join(boot, readdirSync(boot).find((name) => name.startsWith("vmlinuz-")) ?? "vmlinuz");
  const kernelRelease = path.basename(kernel).replace("vmlinuz-", "");
  const places = ["usr/lib", "lib"].flatMap((lib) =>
    ["ko", "ko.xz"].map((suffix) =>
      path.join(root, lib, "modules", kernelRelease, `kernel/drivers/block/xen-blkfront.${suffix}`),
    ),
  );
  const file = places.find((place) => existsSync(place));
  if (file === undefined) throw new Error(`${root} has no xen-blkfront`);
  const data = file.endsWith(".xz") ? hostOutput("xz", ["-dc", file]) : readFileSync(file);
  const modules = [{ name: "xen_blkfront", data }];
  return { ...image, kernel, initramfs: writeShellInitramfs({ kernelRelease, busybox: image.busybox, modules }) };
}

/** The kernel's files for tracing, of which no test knows: making them takes a fifth of its start. */
const WITHOUT_TRACING = "initcall_blacklist=tracer_init_tracefs,init_blk_tracer";

export interface ShellGuestOptions extends Partial<GuestConfig> {
  /** Added to the initramfs. */
  readonly files?: readonly CpioEntry[];
  /** Added to the kernel's command line. */
  readonly parameters?: string;
}

export class ShellGuest {
  readonly handle: DomainHandle;
  /** All that the console has shown. */
  text = "";
  private readonly mark: string;
  private seen = 0;
  private ended = false;
  private look: () => void = () => {};
  private turn: Promise<unknown> = Promise.resolve();

  private constructor(handle: DomainHandle, mark: string) {
    this.handle = handle;
    this.mark = mark;
    handle.console.onOutput((bytes) => {
      this.text += Buffer.from(bytes).toString("latin1");
      this.look();
    });
    void handle.exited.then(() => {
      this.ended = true;
      this.look();
    });
  }

  static async start(host: Host, options: ShellGuestOptions) {
    const { files = [], parameters = "", ...config } = options;
    const image = await guestImage();
    const mark = randomBytes(8).toString("hex");
    const session = writeSessionArchive({ exec: { command: loop(mark), token: mark } });
    const initrd = [image.initramfs, writeCpio(files), session ?? []];
    const handle = await host.startGuest({
      name: "guest",
      memoryMiB: 256,
      image: {
        kernel: { path: image.kernel },
        initrd: initrd.map((bytes) => ({ bytes: new Uint8Array(bytes) })),
        commandLine: `${image.commandLine} ${WITHOUT_TRACING} ${parameters}`,
      },
      ...config,
    });
    return new ShellGuest(handle, mark);
  }

  /** The guest as it is in a snapshot file of this one, when that waited for a command. */
  async restore(host: Host, file: string, options: Partial<GuestConfig> = {}): Promise<ShellGuest> {
    const config = { name: "guest", memoryMiB: 256, image: { kernel: { path: "" }, initrd: [], commandLine: "" } };
    return new ShellGuest(await host.restoreGuest({ ...config, ...options }, file), this.mark);
  }

  /** Fulfilled when the shell takes commands. */
  async ready(): Promise<this> {
    await this.answer(BOOT_MS);
    return this;
  }

  /** Runs a script, after those that were asked for before. @throws Error when the guest ends, or takes `limit` ms */
  run(script: string, limit = 150_000): Promise<Answer> {
    const answer = this.turn.then(async () => {
      await this.handle.console.write(Buffer.from(`${script}\nEND\n`));
      return await this.answer(limit);
    });
    this.turn = answer.catch(() => {});
    return answer;
  }

  /** Output of a script that must succeed. */
  async output(script: string, limit?: number): Promise<string> {
    const { status, output } = await this.run(`set -e\n${script}`, limit);
    if (status !== 0) throw new Error(`status ${status} of\n${script}\n${output}`);
    return output;
  }

  private answer(limit: number): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const finish = () => {
        clearTimeout(timer);
        this.look = () => {};
      };
      const timer = setTimeout(() => {
        finish();
        reject(new Error(`the guest has not answered for ${limit} ms:\n${this.text.slice(-2000)}`));
      }, limit);
      this.look = () => {
        const fresh = this.text.slice(this.seen);
        const match = new RegExp(`${this.mark} (\\d+)\\r?\\n`).exec(fresh);
        if (match) {
          finish();
          this.seen += match.index + match[0].length;
          resolve({ status: Number(match[1]), output: fresh.slice(0, match.index).replaceAll("\r", "") });
        } else if (this.ended) {
          finish();
          reject(new Error(`the guest has ended:\n${this.text.slice(-2000)}`));
        }
      };
      this.look();
    });
  }

  /** Syncs and powers off. */
  async powerOff(): Promise<void> {
    await this.turn;
    await this.handle.console.write(Buffer.from("sync; poweroff -f\nEND\n"));
    await this.handle.exited;
  }
}

/** A host, and a folder for its images; both are gone after end(). */
export class DiskLab {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), "domlab-block-"));
  readonly lines: string[] = [];
  host = new Host({ log: (line) => void this.lines.push(line) });

  path(name: string): string {
    return path.join(this.folder, name);
  }

  /** Makes an image: a sparse one of so many bytes, or one with this content. */
  image(name: string, content: number | Uint8Array): string {
    const file = this.path(name);
    writeFileSync(file, typeof content === "number" ? "" : content, { flag: "wx" });
    if (typeof content === "number") truncateSync(file, content);
    return file;
  }

  start(options: ShellGuestOptions = {}): Promise<ShellGuest> {
    return ShellGuest.start(this.host, options);
  }

  /**
   * Finds the counters of a disk that the storage domain serves. The function it returns waits, without letting anything else
   * run, until one of them goes up: a request is counted before it is executed.
   */
  async requestTaken(vdev: number, counter: BlockCounterName): Promise<() => void> {
    const { id } = await this.host.storageDomain();
    const mapping = this.host.table.attach(id);
    if (mapping === undefined) throw new Error("the storage domain has no memory");
    const registry = new RingRegistry(mapping);
    const ring = registry.list().find((each) => each.vdev === vdev);
    if (ring === undefined) throw new Error(`nothing serves ${vdev}`);
    const { values } = new BlockCounters(mapping.bytes.buffer, registry.counters(ring.slot));
    // As bits, since only atomic loads are made anew each time.
    const bits = new BigInt64Array(values.buffer, values.byteOffset + 8 * BlockCounter[counter], 1);
    return () => {
      const before = Atomics.load(bits, 0);
      const end = Date.now() + 500;
      while (Atomics.load(bits, 0) === before && Date.now() < end);
    };
  }

  async end(): Promise<void> {
    await this.host.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/**
 * The image `debian` from its kernel to a login and back down. `npm test` begins to make it with its first steps; here it is
 * waited for, or made. Skipped where a tool is missing that makes it.
 */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkQcow2 } from "../../engine/disk/image-tools/check.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import type { DomainHandle } from "../../engine/domain/guest.ts";
import { Host } from "../../engine/domain/host.ts";
import { CONSOLE_SIZE_NODE } from "../../main/images/console-size.ts";
import { cachedDebian, type DebianImage, prepareDebian } from "../../main/images/debian.ts";
import { checkTools } from "../../main/images/debian-build.ts";
import { ImageError } from "../../main/images/errors.ts";
import { xvd } from "../disk-config.ts";

const GIB = 1024 ** 3;
const DISK_SIZE = 10 * GIB;
/** How long the image may take that is not there yet, in milliseconds: it is made beside other tests. */
const MAKING_MS = 400_000;

/** Why there can be no image on this host; undefined where there is one or it can be made. */
async function lacking(): Promise<string | undefined> {
  if ((await cachedDebian()) !== undefined) return undefined;
  return checkTools({}).then(
    () => undefined,
    (error: unknown) => {
      if (error instanceof ImageError && error.code === "no-tool") return error.message;
      throw error;
    },
  );
}

const reason = await lacking();

/** A console that a test reads and types into as somebody at a terminal does. */
class Dialogue {
  text = "";
  private readonly guest: DomainHandle;
  private seen = 0;
  private look: () => void = () => {};

  constructor(guest: DomainHandle) {
    this.guest = guest;
    guest.console.onOutput((bytes) => {
      this.text += Buffer.from(bytes).toString("latin1");
      this.look();
    });
  }

  /** Waits for text behind what was waited for before; returns everything up to its end. */
  until(pattern: RegExp, limit: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.look = () => {};
        reject(new Error(`no ${pattern} for ${limit} ms:\n${this.text.slice(-2000)}`));
      }, limit);
      this.look = () => {
        const fresh = this.text.slice(this.seen);
        const match = pattern.exec(fresh);
        if (match === null) return;
        clearTimeout(timer);
        this.look = () => {};
        this.seen += match.index + match[0].length;
        resolve(fresh.slice(0, match.index + match[0].length));
      };
      this.look();
    });
  }

  async type(text: string): Promise<void> {
    await this.guest.console.write(Buffer.from(text));
  }

  /** Output of a command typed at root's prompt. */
  async output(command: string, limit = 150_000): Promise<string> {
    // The quotes keep the echo of what is typed from looking like the mark.
    await this.type(`${command}; echo e''nd-$?-\n`);
    await this.until(/e''nd-\$\?-\r\n/, limit);
    const answer = await this.until(/end-(\d+)-\r\n/, limit);
    return answer.replaceAll("\r", "").replace(/end-\d+-\n$/, "");
  }
}

describe.skipIf(reason !== undefined)(`the image debian${reason === undefined ? "" : ` (skipped: ${reason})`}`, () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-debian-"));
  const overlay = path.join(folder, "root.qcow2");
  const host = new Host({ log: () => {} });
  let image: DebianImage;
  let guest: DomainHandle;
  let console: Dialogue;
  let rootModified: number;

  beforeAll(async () => {
    image = await prepareDebian({ signal: AbortSignal.timeout(MAKING_MS) });
    const { root, kernel, initramfs, commandLine } = image;
    rootModified = statSync(root.path).mtimeMs;
    await createQcow2(overlay, { backing: root, size: DISK_SIZE });
    await host.network.createSwitch({ name: "lab0", uplink: { kind: "user" } });
    guest = await host.startGuest({
      name: "alpha",
      memoryMiB: 256,
      image: {
        kernel: { path: kernel },
        initrd: [{ bytes: new Uint8Array(initramfs) }],
        commandLine: `${commandLine} systemd.hostname=alpha`,
      },
      disks: [
        {
          vdev: xvd(0),
          store: { kind: "qcow2", path: overlay, readOnly: false, backing: [{ path: root.path, format: root.format }] },
          readOnly: false,
          deviceType: "disk",
          target: overlay,
          placement: "driver-domain",
          persistent: false,
        },
      ],
      vifs: [{ bridge: "lab0", ips: ["10.0.2.50"] }],
    });
    console = new Dialogue(guest);
    await console.until(/root@alpha:~# /, 170_000);
  });
  afterAll(async () => {
    await host.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it("has a shell of root's on the console", async () => {
    expect(await console.output("id -un; cat /proc/1/comm")).toMatch(/root\nsystemd\n$/);
  });

  it("asks for a password as soon as root has one", async () => {
    await console.type("echo root:secret | chpasswd; exit\n");
    await console.until(/alpha login: $/, 60_000);
    await console.type("root\n");
    await console.until(/Password: $/, 60_000);
    await console.type("secret\n");
    await console.until(/root@alpha:~# /, 60_000);
    await console.type("passwd -d root; exit\n");
    await console.until(/automatic login.*root@alpha:~# /s, 60_000);
  });

  it("is up with no unit failed", async () => {
    // "degraded" would name a failed unit; the list is for the message.
    const state = await console.output("systemctl is-system-running --wait; systemctl --no-pager --failed");
    expect(state).toContain("running\n");
    expect(state).toContain("0 loaded units listed");
    expect(await console.output("find /lib/modules/$(uname -r) -name modules.dep")).toContain("modules.dep");
  });

  it("fills a disk larger than the image", async () => {
    const blocks = Number(/(\d+)\n/.exec(await console.output("df -B1M --output=size / | tail -1"))?.[1]);
    expect(blocks).toBeGreaterThan(9.3 * 1024);
    expect(await console.output("findmnt -n -o SOURCE,FSTYPE,OPTIONS /")).toMatch(/\/dev\/xvda +ext4 +rw,/);
  });

  it("gets address, route and name server by DHCP", async () => {
    const script = "for i in $(seq 100); do ip -4 addr show scope global | grep -q inet && break; sleep 0.2; done";
    expect(await console.output(`${script}; ip -4 -o addr; ip route; cat /etc/resolv.conf`)).toMatch(
      /inet 10\.0\.2\.50\/24.*default via 10\.0\.2\.2 .*nameserver 10\.0\.2\.3/s,
    );
    expect(await console.output("ping -c 1 10.0.2.2")).toContain(" 0% packet loss");
  });

  it("gives its console the size that is told while it runs", async () => {
    host.xenstore.toolstack.write(`/local/domain/${guest.id}/${CONSOLE_SIZE_NODE}`, "97x33");
    const wait = 'for i in $(seq 100); do [ "$(stty size)" = "33 97" ] && break; sleep 0.1; done';
    expect(await console.output(`${wait}; stty size`)).toContain("33 97\n");
  });

  it("powers off and leaves a clean overlay over an untouched root", async () => {
    await console.type("poweroff\n");
    expect((await guest.exited).reason).toBe("poweroff");
    await host.close();
    expect(await checkQcow2(overlay)).toMatchObject({ state: "clean" });
    expect(statSync(image.root.path).mtimeMs).toBe(rootModified);
  });
});

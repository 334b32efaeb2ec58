import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeCpio } from "../../engine/builder/cpio.ts";
import { domlab, type Result } from "../cli/domlab.ts";

let state = "";
let environment: NodeJS.ProcessEnv = {};
beforeAll(() => {
  state = mkdtempSync(path.join(os.tmpdir(), "domlab-guest-"));
  environment = { XDG_STATE_HOME: state };
});
afterAll(() => rmSync(state, { recursive: true, force: true }));

const exec = (command: string, ...more: string[]): Promise<Result> =>
  domlab(["run", "--exec", command, "--timeout", "120", ...more], { environment });

describe("a command in a guest", () => {
  it("of 100 000 characters says what guest it is, with streams kept apart, bytes exact, and its status", async () => {
    const odd = Buffer.from([0x61, 0, 0xff, 0x0d, 0x0a, 0x1e, 0x62]);
    // A megabyte whose sum the guest computes as the host does.
    const result = await exec(`# ${"long ".repeat(20_000)}
      uname -a; dmesg | grep -i xen; sha256sum /bin/busybox; awk "BEGIN{print 22/7}"; echo END
      printf 'a\\000\\377\\r\\n\\036b'; echo wrong >&2; cat
      dd if=/dev/urandom of=/tmp/r bs=64k count=16 2>/dev/null; sha256sum /tmp/r >&2; cat /tmp/r; exit 255`);
    const end = result.stdout.indexOf("END\n") + 4;
    const text = result.stdout.subarray(0, end).toString();
    const bytes = result.stdout.subarray(end);
    const noise = bytes.subarray(odd.length);
    expect(result.stderr).toBe(`wrong\n${createHash("sha256").update(noise).digest("hex")}  /tmp/r\n`);
    expect(result.status).toBe(255);
    expect(text).toMatch(/^Linux \S+ \d+\.\d+\S* .*x86_64 .*Linux\n/);
    expect(text).toMatch(/Hypervisor detected: Xen HVM/);
    expect(text).toMatch(/^[0-9a-f]{64} {2}\/bin\/busybox$/m);
    expect(text).toMatch(/\n3\.14286\nEND\n$/);
    expect(text).not.toContain("\r");
    expect(bytes.subarray(0, odd.length)).toEqual(odd);
    expect(noise.length).toBe(1024 * 1024);
    expect(readFileSync(path.join(state, "domlab/domains/debian-shell/console.log"), "latin1")).toContain(
      "Linux version",
    );
  });

  it("reports as JSON, with the kernel log on stderr when asked, under a command line of the user's alone", async () => {
    const own = ["--cmdline", "console=hvc0 testing=1"];
    const result = await exec(
      "cat /proc/cmdline; echo err >&2; exit 3",
      "--json",
      "--verbose",
      "--memory",
      "256",
      ...own,
    );
    const report = JSON.parse(result.stdout.toString());
    // Nothing is appended.
    expect(report).toMatchObject({ status: "exited", exit: 3, stdout: "console=hvc0 testing=1\n", stderr: "err\n" });
    expect(report.seconds).toBeGreaterThan(0);
    expect(report.instructions).toBeGreaterThan(1_000_000);
    expect(existsSync(report.log)).toBe(true);
    expect(result.stderr).toContain("Linux version");
    expect(result.status).toBe(3);
  });
});

describe("an initrd of the user's", () => {
  it("runs a command in it, with its own programs or without any", async () => {
    const initrd = path.join(state, "own.gz");
    writeFileSync(initrd, gzipSync(writeCpio([{ kind: "file", path: "own", data: "the user's own\n" }])));
    const result = await exec("cat /own /proc/cmdline; exit 5", "--initrd", initrd, "--cmdline", "console=hvc0 quiet");
    expect(result.stderr).toBe("");
    expect(result.stdout.toString()).toBe("the user's own\nconsole=hvc0 quiet rdinit=/domlab/init\n");
    expect(result.status).toBe(5);
  });
});

describe("a guest that does not end by itself", () => {
  it("is stopped by --timeout with 124", async () => {
    const begin = Date.now();
    const result = await domlab(["run", "--exec", "sleep 1000", "--timeout", "3"], { environment });
    expect(result.status).toBe(124);
    expect(result.stderr).toMatch(/^domlab: [^\n]*3 s[^\n]*\n$/);
    expect(Date.now() - begin).toBeLessThan(200_000);
  });

  it("is stopped by SIGTERM", async () => {
    const result = await domlab(["run", "--exec", "echo runs; sleep 1000"], {
      environment,
      started: (child) => child.stdout?.once("data", () => child.kill("SIGTERM")),
    });
    expect(result.stdout.toString()).toBe("runs\n");
    expect(result.status).toBe(143);
  });
});

describe("a piped session", () => {
  it("types the input at the prompt and ends with the shell", async () => {
    const result = await domlab(["run", "--timeout", "120"], { environment, input: "echo $((6*7)) answer\nexit\n" });
    expect(result.stdout.toString()).toMatch(/\n42 answer\r?\n/);
    expect(result.status).toBe(0);
  });

  it("ends at the end of its input", async () => {
    const result = await domlab(["run", "--timeout", "120"], { environment, input: "sleep 1; echo la''st\n" });
    expect(result.stdout.toString()).toMatch(/\nlast\r?\n/);
    expect(result.status).toBe(0);
  });
});

import { once } from "node:events";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compiledPath } from "../../engine/domain/entry.ts";
import { CONTROL_VCPUS, MAX_RAM_BYTES, VCPU_INFO_OFFSET, vcpuControl } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory, defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { MemoryCapture } from "../../engine/snapshot/capture.ts";
import { openSnapshot } from "../../engine/snapshot/file-reader.ts";
import {
  ASKED,
  type BusyInput,
  DONE,
  guestBytes,
  memoryDomain,
  PAGE,
  STOP,
  STOPPED,
  WRITES,
  withFolder,
} from "./memory-domain.ts";

const MIB = 1 << 20;

type Step =
  | { readonly kind: "write"; readonly frame: number }
  | { readonly kind: "round" }
  | { readonly kind: "round with writes between its steps"; readonly frame: number };

const frame = fc.nat(63);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("write" as const), frame }) },
  { weight: 1, arbitrary: fc.constant({ kind: "round" as const }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("round with writes between its steps" as const), frame }) },
);

describe.skipIf(defaultMemoryKind() !== "mapped")("memory capture", () => {
  it("holds what the memory held at the stop, whatever was written when", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const { guest, mapping, writer } = memoryDomain(64 * PAGE);
        const capture = new MemoryCapture(guest, mapping);
        let value = 1;
        for (const each of steps) {
          if (each.kind === "write") {
            writer.write(each.frame, value++);
            continue;
          }
          capture.prepare();
          if (each.kind !== "round") writer.write(each.frame, value++);
          writer.flush();
          const copied = capture.precopy();
          if (each.kind !== "round") writer.write(each.frame, value++);
          await copied;
        }
        mapping.bytes[mapping.base + mapping.plan.console] = value;
        capture.finish();
        expect(capture.verify()).toEqual([]);
        capture.close();
        guest.close();
      }),
      { numRuns: 60 },
    );
  });

  it("notices what was written without a mark", async () => {
    const { guest, mapping, writer } = memoryDomain(MIB);
    writer.write(3, 1);
    const capture = new MemoryCapture(guest, mapping);
    capture.prepare();
    // No flush: the writer keeps its tag of frame 3.
    await capture.precopy();
    writer.write(3, 2);
    capture.finish();
    expect(capture.verify()).toEqual([3 * PAGE]);
    capture.close();
    guest.close();
  });

  it("takes what is touched first, then what was written, then that and the special frames", async () => {
    const { guest, mapping, writer } = memoryDomain(MIB);
    for (const n of [5, 6, 7]) writer.write(n, n);
    const capture = new MemoryCapture(guest, mapping);
    expect(capture.prepare()).toBe(0);
    writer.flush();
    expect((await capture.precopy()).bytes).toBe(3 * PAGE);
    writer.write(6, 99);
    writer.write(200, 100);
    expect(capture.prepare()).toBe(2 * PAGE);
    writer.flush();
    expect((await capture.precopy()).bytes).toBe(2 * PAGE);
    writer.write(7, 101);
    const special = mapping.plan.control - mapping.plan.ramBytes;
    expect(capture.finish().bytes).toBe(PAGE + special);
    expect(capture.verify()).toEqual([]);
    capture.close();
    guest.close();
  });

  it("always takes the page of a registered vcpu_info, which nobody marks", async () => {
    const { guest, mapping, writer } = memoryDomain(MIB);
    const { words, base, plan } = mapping;
    words[(base + plan.control + CONTROL_VCPUS) / 4] = 1;
    words[(base + vcpuControl(plan, 0) + VCPU_INFO_OFFSET) / 4] = 9 * PAGE + 64;
    writer.write(9, 1);
    const capture = new MemoryCapture(guest, mapping);
    capture.prepare();
    writer.flush();
    await capture.precopy();
    mapping.bytes[base + 9 * PAGE + 64] = 1;
    capture.finish();
    expect(capture.verify()).toEqual([]);
    capture.close();
    guest.close();
  });

  it("of a guest that stands still from the start needs no round", () => {
    const { guest, mapping } = memoryDomain(MIB);
    mapping.bytes[mapping.base + 77 * PAGE] = 1;
    mapping.bytes[mapping.base + mapping.plan.grantTable + 8] = 2;
    const capture = new MemoryCapture(guest, mapping);
    capture.finish();
    expect(capture.verify()).toEqual([]);
    capture.close();
    guest.close();
  });

  it("captures a vCPU that never stops writing, and goes through a file into a new domain's memory", async () => {
    const domain = memoryDomain(32 * MIB);
    const control = new SharedArrayBuffer(64);
    const words = new Int32Array(control);
    const workerData: BusyInput = { memory: domain.guest.token, frames: (32 * MIB) / PAGE, control };
    const worker = new Worker(compiledPath(import.meta.url, "busy-writer.js"), { workerData });
    const failed = once(worker, "error").then(([error]) => Promise.reject(error));
    const ended = once(worker, "exit");
    const until = async (index: number, value: number): Promise<void> => {
      while (Atomics.load(words, index) < value) await Promise.race([new Promise((go) => setTimeout(go, 1)), failed]);
    };
    const capture = new MemoryCapture(domain.guest, domain.guest.attach());
    await until(WRITES, 20_000);
    for (let round = 1; round <= 3; round++) {
      capture.prepare();
      Atomics.store(words, ASKED, round);
      await until(DONE, round);
      await capture.precopy();
      await until(WRITES, Atomics.load(words, WRITES) + 5_000);
    }
    Atomics.store(words, STOP, 1);
    await until(STOPPED, 1);
    expect(capture.finish().bytes).toBeGreaterThan(PAGE);
    expect(capture.verify()).toEqual([]);
    await ended;
    const memory = guestBytes(domain);
    await withFolder(async (folder) => {
      const path = join(folder, "live.dsnap");
      const written = await capture.write(path, { written: true });
      const file = await openSnapshot(path);
      expect(file.header).toEqual({ written: true });
      expect(file.touchedBytes).toBe(written.touchedBytes);
      const other = memoryDomain(32 * MIB);
      await file.loadInto(other.descriptor, 32 * MIB);
      await file.close();
      expect(Buffer.compare(guestBytes(other), memory)).toBe(0);
      other.guest.close();
    });
    domain.guest.close();
  });

  it("captures and loads the last page of the largest guest", async () => {
    const domain = memoryDomain(MAX_RAM_BYTES);
    const last = MAX_RAM_BYTES / PAGE - 1;
    domain.writer.write(last, 7);
    const capture = new MemoryCapture(domain.guest, domain.mapping);
    capture.prepare();
    domain.writer.flush();
    await capture.precopy();
    domain.writer.write(last, 8);
    domain.writer.write(last - 1, 9);
    capture.finish();
    expect(capture.verify()).toEqual([]);
    await withFolder(async (folder) => {
      const path = join(folder, "large.dsnap");
      await capture.write(path, {});
      const file = await openSnapshot(path);
      const other = memoryDomain(MAX_RAM_BYTES);
      await file.loadInto(other.descriptor, MAX_RAM_BYTES);
      await file.close();
      const word = (other.mapping.base + last * PAGE) / 4;
      expect([7, 8].map((n) => other.mapping.words[word + n])).toEqual([7, 8]);
      expect(other.mapping.words[word - 1024 + 9]).toBe(9);
      other.guest.close();
    });
    domain.guest.close();
  });

  it("can be cancelled and closed in the middle", async () => {
    const { guest, mapping } = memoryDomain(64 * MIB);
    mapping.bytes.fill(1, mapping.base, mapping.base + 48 * MIB);
    const capture = new MemoryCapture(guest, mapping);
    capture.prepare();
    const abort = new AbortController();
    const cancelled = capture.precopy({ signal: abort.signal, onProgress: () => abort.abort() });
    await expect(cancelled).rejects.toMatchObject({ code: "cancelled" });
    expect(() => capture.finish()).toThrow();
    capture.close();
    const second = new MemoryCapture(guest, mapping);
    second.prepare();
    const underWay = second.precopy();
    second.close();
    await expect(underWay).rejects.toThrow("closed");
    guest.close();
  });

  it("is refused where memory cannot be mapped", () => {
    const guest = createGuestMemory(memoryDomain(MIB).mapping.plan, 0, "threads");
    expect(() => new MemoryCapture(guest, guest.attach())).toThrow(
      expect.objectContaining({ code: "unsupported-host" }),
    );
  });
});

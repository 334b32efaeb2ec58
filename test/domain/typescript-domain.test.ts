/** TypeScript domains in processes of their own: channels between them, their vCPUs and interrupts, their ends and restarts. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { GrantStatus } from "../../engine/abi/grant-table.ts";
import { eventually, KernelLab, RUNS, type Unikernel } from "./kernel-lab.ts";

/** Signal 0: does the process exist? */
function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe.runIf(RUNS)("two unikernels", () => {
  const lab = new KernelLab();
  let first: Unikernel;
  let second: Unikernel;

  beforeAll(async () => {
    [first, second] = await Promise.all([lab.start("workbench", { name: "first" }), lab.start("workbench")]);
  });
  afterAll(() => lab.end());

  it("play ping-pong over a granted page and an event channel that XenStore introduced", async () => {
    await Promise.all([first, second].map((each) => expect(each.call("state")).resolves.toHaveProperty("id", each.id)));
    // Whoever maps waits for the other's nodes.
    const game = second.call("play", { peer: first.id, rounds: 2000 });
    await first.call("serve", { peer: second.id });
    expect(await game).toEqual({ score: 4000, unmapped: GrantStatus.okay, again: GrantStatus.bad_handle });
    const left = await first.call("pins");
    expect(left).toMatchObject({ grant: 0, frame: 0, inUse: 0, ended: true });
    expect(lab.holdings(second.id).maps).toEqual([]);
  });

  it("keep what is mapped, and what is not theirs stays closed to a third", async () => {
    const third = await lab.start("workbench", { name: "third" });
    const ref = await third.call<number>("serve", { peer: second.id });
    await second.call("play", { peer: third.id, rounds: 3, keep: true });
    const pins = await third.call<{ port: number }>("pins");
    expect(pins).toMatchObject({ grant: (1 << 16) | 1, frame: 1, inUse: 0x18, ended: false });
    const trespass = await first.call("trespass", { peer: third.id, ref, port: pins.port });
    expect(trespass).toEqual({ map: GrantStatus.general_error, bind: expect.toSatisfy((errno: number) => errno < 0) });
    expect(lab.holdings(second.id, third.id).maps.length).toBe(1);
    // The holder outlives the owner, and is rid of the page when it ends itself.
    await third.handle.kill();
    await second.call("state");
  });

  it("give back what they have mapped when they are killed", async () => {
    const third = await lab.start("workbench", { name: "mapper" });
    await first.call("serve", { peer: third.id });
    await third.call("play", { peer: first.id, rounds: 3, keep: true });
    process.kill(third.handle.pid, "SIGKILL");
    expect(await third.handle.exited).toMatchObject({ reason: "killed", cause: expect.stringContaining("SIGKILL") });
    await eventually("the domain's nodes vanish", () => {
      return lab.host.xenstore.toolstack.read(`/local/domain/${third.id}/name`) === undefined;
    });
    expect(await first.call("pins")).toMatchObject({ grant: 0, frame: 0, inUse: 0, ended: true });
  });

  it("sleep in block() until an event comes, and no longer than they say", async () => {
    const port = await first.call("await", { peer: second.id });
    const blocked = first.call("block", { port, limit: 20_000 });
    // Again, because the first may come before anybody sleeps.
    const ring = () => second.call("ring", { peer: first.id, ports: [port], times: 1 });
    const again = setInterval(() => void ring(), 500);
    void blocked.finally(() => clearInterval(again));
    await ring();
    expect(await blocked).toEqual({ handled: 1, loops: 0 });
    await first.call("nap", { ns: 1e6 });
  });

  it("take the events of each vCPU on that vCPU's thread", async () => {
    const ports = await first.call("counters", { peer: second.id, count: 3 });
    await second.call("ring", { peer: first.id, ports, times: 50 });
    const seen = await first.call<{ vcpu: number; threads: number[]; events: number }[]>("counted");
    expect(seen.map(({ vcpu }) => vcpu)).toEqual([1, 2, 3]);
    for (const { threads, events } of seen) {
      expect(threads.length).toBe(1);
      expect(events).toBeGreaterThan(0);
      expect(events).toBeLessThanOrEqual(50);
    }
    expect(new Set(seen.flatMap(({ threads }) => threads)).size).toBe(3);
    await expect(first.call("refuse")).rejects.toThrow("not today");
  });

  it("have host descriptors as physical interrupts, again after each eoi", async () => {
    await first.call("plug");
    expect(await first.call("fired")).toBe(0);
    const expectFired = async (count: number) => {
      for (let tries = 0; tries < 500 && (await first.call("fired")) !== count; tries++);
      expect(await first.call("fired")).toBe(count);
    };
    await first.call("poke");
    await expectFired(1);
    // Still readable, but it comes no more before it is dealt with.
    await first.call("poke");
    await expectFired(1);
    await first.call("eoi");
    await expectFired(2);
    await first.call("drain");
    await first.call("eoi");
    await first.call("poke");
    await expectFired(3);
    await first.call("unplug");
    await first.call("poke");
    await expectFired(3);
  });
});

describe.runIf(RUNS)("the end of a TypeScript domain", () => {
  const lab = new KernelLab();
  afterAll(() => lab.end());

  it("is a power-off when its kernel returns", async () => {
    const domain = await lab.start("workbench");
    await domain.call("finish", {});
    expect(await domain.handle.exited).toEqual({ reason: "poweroff" });
  });

  it.each([
    ["finish", "it does not work"],
    ["throwLater", "nobody catches this"],
  ])("is a crash with the error when its kernel fails (%s)", async (command, error) => {
    const domain = await lab.start("workbench");
    await domain.call(command, { error });
    expect(await domain.handle.exited).toMatchObject({
      reason: "crash",
      cause: expect.stringContaining(error),
    });
  });

  it("is a crash when one of its vCPUs dies", async () => {
    const domain = await lab.start("workbench");
    await domain.call("counters", { peer: 0x7fe0, count: 1 });
    await domain.call("breakVcpu");
    expect(await domain.handle.exited).toMatchObject({
      reason: "crash",
      cause: expect.stringContaining("vCPU 1 ended"),
    });
  });

  it("refuses a kernel that is none", async () => {
    const module = "file:///no/such/kernel.js";
    await expect(lab.start("workbench", { module })).rejects.toThrow(/no\/such\/kernel/);
    await expect(lab.start("workbench", { module, restart: true })).rejects.toThrow(/no\/such\/kernel/);
  });

  it("is not started again when it dies before its kernel is there", async () => {
    const module = `data:text/javascript,process.kill(process.pid, "SIGKILL")`;
    const stillborn = lab.start("workbench", { name: "stillborn", module, restart: true });
    await expect(stillborn).rejects.toThrow(/died while it started/);
    // Nobody holds it: a restart would be of no use to anyone.
    expect(lab.lines.filter((line) => line.includes("stillborn"))).toEqual([]);
  });

  it("comes when the host wants it, whether the kernel listens or not", async () => {
    const polite = await lab.start("workbench");
    const { pid } = polite.handle;
    await polite.handle.stop();
    expect(await polite.handle.exited).toEqual({ reason: "poweroff" });
    expect(runs(pid)).toBe(false);
    const deaf = await lab.start("workbench", { restart: true });
    process.kill(deaf.handle.pid, "SIGSTOP");
    await deaf.handle.stop();
    expect(await deaf.handle.exited).toMatchObject({ reason: "killed" });
    expect(runs(deaf.handle.pid)).toBe(false);
  });

  it("leaves nothing in XenStore, and its number can be used again", async () => {
    const before = lab.host.xenstore.toolstack.directory("/local/domain");
    const domain = await lab.start("workbench");
    expect(lab.host.xenstore.toolstack.directory("/local/domain")).toContain(String(domain.id));
    await domain.handle.kill();
    await eventually("its nodes vanish", () => {
      return lab.host.xenstore.toolstack.read(`/local/domain/${domain.id}/name`) === undefined;
    });
    expect(lab.host.xenstore.toolstack.directory("/local/domain")).toEqual(before);
  });
});

describe.runIf(RUNS)("a restarted TypeScript domain", () => {
  const lab = new KernelLab();
  afterAll(() => lab.end());

  it("finds its memory as it was", async () => {
    const domain = await lab.start("workbench", { restart: true, parameters: { some: ["parameter"] } });
    const { id } = domain;
    const facts = { id, name: "workbench", parameters: { some: ["parameter"] } };
    expect(await domain.call("state")).toEqual({ ...facts, restarted: false });
    const pages = await domain.call<number[]>("remember", { pages: 20, seed: 100 });
    for (let round = 0; round < 3; round++) {
      const { pid } = domain.handle;
      process.kill(pid, "SIGKILL");
      await eventually("another process", () => domain.handle.pid !== pid);
      expect(await domain.call("state")).toEqual({ ...facts, restarted: true });
      expect(await domain.call("recall", { pages })).toEqual(pages.map((_, i) => 100 + i));
      // The allocator has not forgotten what it gave away.
      expect(pages).not.toContain(await domain.call("allocate"));
      expect(runs(pid)).toBe(false);
    }
    await domain.handle.stop();
    expect(await domain.handle.exited).toEqual({ reason: "poweroff" });
    expect(lab.lines.filter((line) => line.includes("is started again")).length).toBe(3);
  });

  it("stays down when it dies again and again", async () => {
    const domain = await lab.start("workbench", { name: "doomed", restart: true, parameters: { fail: "no way" } });
    expect(await domain.handle.exited).toMatchObject({ reason: "crash", cause: expect.stringContaining("no way") });
    const said = lab.lines.filter((line) => line.includes("doomed"));
    expect(said.at(-1)).toContain("stays down");
    expect(said.filter((line) => line.includes("is started again")).length).toBe(10);
    expect(runs(domain.handle.pid)).toBe(false);
  });
});

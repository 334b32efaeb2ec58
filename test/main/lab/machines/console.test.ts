import { connect } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CONSOLE_WINDOW, type LabEvent } from "../../../../main/lab/machine-api.ts";
import { MachineConsole, Scrollback } from "../../../../main/lab/machines/machine-console.ts";
import { LabFixture } from "./lab-fixture.ts";

describe("a scrollback", () => {
  it("keeps the last bytes and numbers them from the first", () => {
    const kept = new Scrollback(100, 10);
    for (const text of ["abc", "", "defgh", "ijklmnop"]) kept.push(Buffer.from(text));
    expect([kept.start, kept.end]).toEqual([106, 116]);
    expect(kept.read(0, 4)).toEqual({ offset: 106, bytes: Buffer.from("ghij") });
    expect(kept.read(114, 99)).toEqual({ offset: 114, bytes: Buffer.from("op") });
    kept.push(Buffer.alloc(25, "x"));
    expect([kept.start, kept.read(0, 99).bytes.toString()]).toEqual([131, "x".repeat(10)]);
  });
});

describe("a watcher", () => {
  it("that does not acknowledge is sent a window, and goes on with a gap", async () => {
    const console = new MachineConsole();
    const got: [number, number][] = [];
    const attachment = console.attach(0, 1000, { output: (offset, bytes) => void got.push([offset, bytes.length]) });
    console.push(Buffer.alloc(600, "a"));
    console.push(Buffer.alloc(2 << 20, "b"));
    await Promise.resolve();
    expect(got.reduce((sum, [, length]) => sum + length, 0)).toBe(1000);
    // More than was sent cannot be acknowledged.
    attachment.acknowledge(1e9);
    const [offset, length] = got.at(-1) ?? [0, 0];
    // 600 bytes were sent before the gap and 400 behind it.
    expect([offset, length]).toEqual([console.scrollback.start + 400, 1000]);
    attachment.detach();
    attachment.acknowledge(offset + length);
    expect(got.at(-1)).toEqual([offset, length]);
  });

  it("hears of text that comes in pieces", async () => {
    const console = new MachineConsole();
    const stop = new AbortController();
    const found = console.waitForText("login: ", stop.signal);
    for (const piece of ["debian lo", "gi", "n: "]) console.push(Buffer.from(piece));
    expect(await found).toBe(true);
    const never = console.waitForText("never", stop.signal);
    stop.abort();
    expect(await never).toBe(false);
  });
});

describe("consoles over the socket", () => {
  let lab: LabFixture;
  beforeEach(async () => {
    lab = await new LabFixture().open();
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
  });
  afterEach(() => lab.dispose());

  it("are watched and typed into by several, from where each wants", async () => {
    const guest = lab.host.get("web");
    guest.print("before ");
    const other = await lab.connect();
    const texts = ["", ""];
    const whole = [0, 1].map(
      (index) =>
        new Promise<void>((resolve) => {
          (index === 0 ? lab.client : other).onEvent((event: LabEvent) => {
            if (event.kind !== "console") return;
            texts[index] += Buffer.from(event.data, "base64").toString();
            if (texts[index]?.endsWith("after")) resolve();
          });
        }),
    );
    expect(await lab.call("consoleAttach", { machine: "web" })).toMatchObject({ offset: 0, end: 7 });
    expect(await other.call("consoleAttach", { machine: "web", offset: -1 })).toMatchObject({ offset: 7 });
    guest.print("after");
    await Promise.all(whole);
    expect(texts).toEqual(["before after", "after"]);
    await other.call("consoleWrite", { machine: "web", data: Buffer.from("ls\n").toString("base64") });
    expect(guest.typed).toEqual(["ls\n"]);
    const { data } = await lab.call("consoleLog", { machine: "web", offset: 3, bytes: 6 });
    expect(Buffer.from(data, "base64").toString()).toBe("ore af");
    await lab.call("machineDestroy", { machine: "web" });
    const late = other.call("consoleWrite", { machine: "web", data: "" });
    await expect(late).rejects.toThrow(/web is stopped: nobody reads/);
  });

  it("of another connection cannot be acknowledged or detached", async () => {
    const { attachment } = await lab.call("consoleAttach", { machine: "web" });
    const other = await lab.connect();
    await expect(other.call("consoleDetach", { attachment })).rejects.toThrow(/watches no console/);
    await expect(other.call("consoleAcknowledge", { attachment, offset: 9 })).rejects.toThrow(/watches no console/);
    await lab.call("consoleDetach", { attachment });
  });

  it("cost a client that reads nothing its connection or its window, and nobody else anything", async () => {
    const silent = connect(lab.server.served.sockets.control);
    silent.pause();
    const call = (id: number, method: string, parameters: object) =>
      silent.write(`${JSON.stringify({ t: "q", m: "call", a: [method, parameters], i: String(id) })}\n`);
    call(1, "consoleAttach", { machine: "web" });
    const guest = lab.host.get("web");
    for (let n = 0; n < 64; n++) guest.print("x".repeat(1 << 16));
    // The lab still answers others at once.
    const { end } = await lab.call("consoleLog", { machine: "web", bytes: 1 });
    expect(end).toBe(64 << 16);
    let received = 0;
    silent.on("data", (bytes) => {
      received += bytes.length;
    });
    silent.resume();
    await lab.call("machineList", {});
    await lab.call("machineList", {});
    expect(received).toBeLessThan(CONSOLE_WINDOW * 2);
    silent.destroy();
  });

  it("and a client that asks without end for answers it does not read is cut off", async () => {
    const greedy = connect(lab.server.served.sockets.control);
    greedy.pause();
    greedy.on("error", () => {});
    const closed = new Promise<void>((resolve) => greedy.once("close", () => resolve()));
    lab.host.get("web").print("y".repeat(1 << 20));
    const question = { t: "q", m: "call", a: ["consoleLog", { machine: "web" }] };
    for (let n = 0; n < 40; n++) greedy.write(`${JSON.stringify({ ...question, i: String(n) })}\n`);
    await lab.server.machines.find("web").queue.run(() => undefined);
    // Reading on afterwards finds the end of the connection.
    await lab.call("labInfo", {});
    greedy.resume();
    await closed;
    expect((await lab.call("machineList", {})).length).toBe(1);
  });

  it("tells the guest its terminal's size, from its start on and while it runs", async () => {
    const { toolstack } = lab.host.xenstore;
    const size = async () => {
      const { domid = 0 } = await lab.call("machineShow", { machine: "web" });
      return toolstack.read(`/local/domain/${domid}/console/size`);
    };
    expect(await size()).toBeUndefined();
    await lab.call("consoleResize", { machine: "web", columns: 80, rows: 24 });
    expect(await size()).toBe("80x24");
    await lab.call("consoleResize", { machine: "web", columns: 132, rows: 50 });
    expect(await size()).toBe("132x50");
    const { domid = 0 } = await lab.call("machineShow", { machine: "web" });
    await lab.call("machineDestroy", { machine: "web" });
    await lab.call("consoleResize", { machine: "web", columns: 90, rows: 30 });
    expect(toolstack.read(`/local/domain/${domid}`)).toBeUndefined();
    await lab.call("machineStart", { machine: "web" });
    expect(await size()).toBe("90x30");
  });

  it("events tell of machines, operations and the log to who asked", async () => {
    const events: LabEvent[] = [];
    const ended = new Promise<void>((resolve) => {
      lab.client.onEvent((event) => {
        events.push(event);
        if (event.kind === "machine" && event.machine?.state === "stopped") resolve();
      });
    });
    await lab.call("subscribe", { topics: ["machines", "operations"] });
    await lab.call("snapshotTake", { machine: "web", operation: "mine" });
    await lab.call("machineDestroy", { machine: "web" });
    await ended;
    const operations = events.filter((event) => event.kind === "operation");
    expect(operations.at(-1)).toMatchObject({
      operation: { id: "mine", machine: expect.any(String) },
      ended: { ok: true },
    });
    expect(events.some((event) => event.kind === "log")).toBe(false);
  });
});

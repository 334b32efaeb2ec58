/** The interface as its user has it: served, in a real Chromium, with guests behind it. */
import { readFileSync } from "node:fs";
import type { Browser, CDPSession, Page } from "playwright-core";
import { App } from "../e2e/support/app.ts";
import { GuestConsole } from "../e2e/support/guest-console.ts";
import { median, rounded } from "./statistics.ts";

const LIMITS = { serverSeconds: 1, interactiveSeconds: 1, inputP95Ms: 50, rendererMB: 250 } as const;
const IMAGE = "debian-shell";
const FLOOD_MS = 10_000;
/** Between two keys, like a hasty typist. */
const KEY_PAUSE_MS = 100;
/** Between two openings of the palette. */
const LETTERS = 4;
const CONSOLES = 10;
/** Fills what a console keeps. */
const LINES = 6000;
const BOOT_MS = 300_000;

/** Part `share` of the samples lies below the answer. */
function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

async function machine(app: App, name: string): Promise<string> {
  const config = { name, image: IMAGE, memoryMiB: 128 };
  return (await app.call("machineCreate", { config })).id;
}

/** Seconds until the link is printed, and from the navigation until the list of machines can be searched. */
async function startUp(rounds: number): Promise<{ server: number[]; interactive: number[] }> {
  const [server, interactive]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const app = await App.make();
    try {
      const begin = performance.now();
      const link = await app.serve();
      server.push(rounded((performance.now() - begin) / 1000));
      const page = await app.newPage();
      await page.goto(link);
      await page.getByRole("button", { name: "Choose settings…" }).waitFor();
      await machine(app, "bench");
      await page.getByRole("searchbox", { name: "Search machines" }).waitFor();
      // A page that is opened anew, in a browser that has its files or not: these come from this host.
      await page.reload({ waitUntil: "commit" });
      await page.getByRole("searchbox", { name: "Search machines" }).fill("b");
      await page.getByRole("link", { name: "bench", exact: true }).waitFor();
      interactive.push(rounded(Number(await page.evaluate("performance.now()")) / 1000));
      process.stderr.write(`server ${server.at(-1)} s, interactive ${interactive.at(-1)} s\n`);
    } finally {
      await app.end();
    }
  }
  return { server, interactive };
}

/** In the page: from each key's arrival at the browser until the frame that shows its effect is made; and long tasks. */
const WATCH_KEYS = `(() => {
  const bench = { typing: [], palette: [], tasks: [] };
  window.domlabBench = bench;
  addEventListener("keydown", (event) => {
    const samples = event.key === "a" ? bench.typing : event.key === "P" ? bench.palette : undefined;
    if (samples === undefined) return;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => samples.push(performance.now() - event.timeStamp);
      channel.port2.postMessage(0);
    });
  }, { capture: true });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) bench.tasks.push(entry.duration);
  }).observe({ type: "longtask" });
})()`;

interface Watched {
  readonly typing: number[];
  readonly palette: number[];
  readonly tasks: number[];
}

const latencies = (samples: readonly number[]) => ({
  keys: samples.length,
  p50Ms: rounded(percentile(samples, 0.5)),
  p95Ms: rounded(percentile(samples, 0.95)),
  mostMs: rounded(Math.max(...samples)),
});

/** Processor time of the page's main thread so far. */
async function busySeconds(session: CDPSession): Promise<number> {
  const { metrics } = await session.send("Performance.getMetrics");
  return metrics.find(({ name }) => name === "TaskDuration")?.value ?? Number.NaN;
}

/** Presses keys while a guest floods its console: letters for the guest, and the one that opens the palette. */
async function floodedInput(page: Page, guest: GuestConsole) {
  const { keyboard } = page;
  await guest.choose("Screen reader support: on");
  await guest.type("yes\n");
  await page.evaluate(WATCH_KEYS);
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const before = await busySeconds(session);
  for (const end = Date.now() + FLOOD_MS; Date.now() < end; ) {
    for (let letter = 0; letter < LETTERS; letter++) {
      await keyboard.press("a");
      await page.waitForTimeout(KEY_PAUSE_MS);
    }
    await keyboard.press("Control+Shift+P");
    await page.waitForTimeout(KEY_PAUSE_MS);
    await keyboard.press("Escape");
    await page.waitForTimeout(KEY_PAUSE_MS);
  }
  const busy = (await busySeconds(session)) - before;
  await session.detach();
  const { typing, palette, tasks } = (await page.evaluate("domlabBench")) as Watched;
  await guest.input.focus();
  const begin = performance.now();
  await keyboard.press("Control+C");
  await guest.choose("Screen reader support: off");
  await guest.prompt();
  return {
    typing: latencies(typing),
    palette: latencies(palette),
    longTasks: tasks.length,
    busyPercent: rounded((100 * busy) / (FLOOD_MS / 1000)),
    longestTaskMs: rounded(Math.max(0, ...tasks)),
    interruptedAfterMs: rounded(performance.now() - begin),
  };
}

/** Memory of the page's process in MB: its proportional share, and all that it has in reach. */
function processMemory(pid: number): { pss: number; rss: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? 0) / 1000;
  return { pss: rounded(field("Pss")), rss: rounded(field("Rss")) };
}

/** The process of the page: the largest of those that draw pages. */
async function rendererMemory(browser: Browser, session: CDPSession) {
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  const root = await browser.newBrowserCDPSession();
  const { processInfo } = await root.send("SystemInfo.getProcessInfo");
  const all = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => processMemory(id));
  const largest = all.sort((a, b) => b.pss - a.pss)[0];
  if (largest === undefined) throw new Error("no process draws the page");
  return { heapMB: rounded(usedSize / 1e6), pssMB: largest.pss, rssMB: largest.rss };
}

/** Opens the consoles of clones of a running machine, each full of lines. */
async function tenConsoles(app: App, page: Page, id: string) {
  const { id: snapshot } = await app.call("snapshotTake", { machine: id });
  for (let number = 2; number <= CONSOLES; number++) {
    const name = `bench-${number}`;
    const clone = await app.call("snapshotClone", { machine: id, snapshot, name, linked: true });
    await app.call("machineStart", { machine: clone.id });
    await page.goto(app.address(`consoles/${clone.id}`));
    const guest = await new GuestConsole(page, name).open();
    await guest.run(`seq ${LINES}`, BOOT_MS);
    await guest.choose("Screen reader support: on");
    await app.call("machinePause", { machine: clone.id });
    process.stderr.write(`console ${number} of ${CONSOLES}\n`);
  }
  const browser = page.context().browser();
  if (browser === null) throw new Error("a page has a browser");
  return await rendererMemory(browser, await page.context().newCDPSession(page));
}

/** Start of server and page, input while a console is flooded, and memory with ten consoles. */
export async function benchApp(rounds: number): Promise<object> {
  const { server, interactive } = await startUp(rounds);
  const app = await App.make();
  try {
    const page = await app.open();
    await page.getByRole("button", { name: "Choose settings…" }).waitFor();
    const id = await machine(app, "bench");
    await app.call("machineStart", { machine: id });
    await page.goto(app.address(`consoles/${id}`));
    const guest = await new GuestConsole(page, "bench").open();
    await guest.prompt(BOOT_MS);
    const floods: Awaited<ReturnType<typeof floodedInput>>[] = [];
    for (let round = 0; round < rounds; round++) floods.push(await floodedInput(page, guest));
    const memory = await tenConsoles(app, page, id);
    const inputP95Ms = median(floods.map(({ typing }) => typing.p95Ms));
    return {
      bench: "app",
      limits: LIMITS,
      server: { seconds: server, median: rounded(median(server)) },
      interactive: { seconds: interactive, median: rounded(median(interactive)) },
      flooded: floods,
      tenConsoles: memory,
      kept: {
        server: median(server) <= LIMITS.serverSeconds,
        interactive: median(interactive) <= LIMITS.interactiveSeconds,
        input: inputP95Ms <= LIMITS.inputP95Ms,
        renderer: memory.rssMB <= LIMITS.rendererMB,
      },
    };
  } finally {
    await app.end();
  }
}

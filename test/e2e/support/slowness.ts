/** Pages as slow as on a busy host: what a test took for granted because it always came at once, shows. */
import { setTimeout as delay } from "node:timers/promises";
import type { BrowserContext, Page } from "playwright-core";

/** Longest time in ms that a message between page and app is under way. */
const longestMs = Number(process.env.E2E_LATENCY_MS ?? 0);
/** How many times slower a page computes. */
const slowdown = Number(process.env.E2E_CPU_SLOWDOWN ?? 1);

/** Slows all pages of a context down as the variables E2E_LATENCY_MS and E2E_CPU_SLOWDOWN say; none when they are not set. */
export async function slowDown(context: BrowserContext): Promise<void> {
  if (slowdown > 1) context.on("page", (page) => void slowProcessor(page));
  if (longestMs === 0) return;
  await context.routeWebSocket(/\/rpc/, (page) => {
    const app = page.connectToServer();
    page.onMessage(inTurn((message) => app.send(message)));
    app.onMessage(inTurn((message) => page.send(message)));
  });
}

async function slowProcessor(page: Page): Promise<void> {
  const session = await page.context().newCDPSession(page);
  await session.send("Emulation.setCPUThrottlingRate", { rate: slowdown });
}

/** Keeps messages in order; each leaves a random time after it came, or when the one before it has left. */
function inTurn<Message>(deliver: (message: Message) => void): (message: Message) => void {
  let last = Promise.resolve();
  return (message) => {
    const earliest = delay(Math.random() * longestMs);
    last = last.then(async () => {
      await earliest;
      deliver(message);
    });
  };
}

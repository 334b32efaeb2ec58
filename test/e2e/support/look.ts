/** What is looked at in every view: accessibility, and that nothing sticks out of the window. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Violation {
  readonly id: string;
  readonly impact: string | null;
  readonly nodes: readonly { readonly html: string; readonly failureSummary?: string }[];
}

/** The views, with the heading of each. */
export const views = {
  machines: "Machines",
  consoles: "Consoles",
  images: "Images",
  snapshots: "Snapshots",
  networks: "Networks",
  xenstore: "XenStore",
  logs: "Logs",
  settings: "Settings",
} as const;
export type ViewName = keyof typeof views;

/** Goes to a view as a user does, and waits until it is there. */
export async function goTo(page: Page, view: ViewName): Promise<void> {
  await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: views[view] }).click();
  await page.getByRole("heading", { name: views[view], level: 1 }).waitFor();
}

/** Looks at a page that changes meanwhile: what is seen at the first one only was on its way. */
const LOOKS = 4;
const LOOK_MS = 700;

/**
 * What axe finds, and still finds when the page has come to rest, that keeps people out: rule, and where it is broken first.
 * @param rules that are looked at; all of them when left out
 */
export async function seriousViolations(page: Page, rules?: readonly string[]): Promise<string[]> {
  for (let look = 1; ; look++) {
    const found = await violations(page, rules);
    if (found.length === 0 || look === LOOKS) return found;
    await page.waitForTimeout(LOOK_MS);
  }
}

async function violations(page: Page, rules?: readonly string[]): Promise<string[]> {
  // As an expression of the debugger's, which the page's content security policy does not concern.
  await page.evaluate(`${axe}; undefined`);
  const options = JSON.stringify({ resultTypes: ["violations"], ...(rules && { runOnly: rules }) });
  const found = (await page.evaluate(`axe.run(document, ${options})`)) as {
    readonly violations: readonly Violation[];
  };
  return found.violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(
      ({ id, nodes }) => `${id} (${nodes.length}): ${nodes[0]?.html.slice(0, 200)} ${nodes[0]?.failureSummary ?? ""}`,
    );
}

/** By how many pixels the page is wider than its window: 0 when nothing has to be scrolled sideways. */
export async function tooWide(page: Page): Promise<number> {
  const wide =
    "Math.max(...[document.documentElement, document.querySelector('main')].map((e) => e.scrollWidth - e.clientWidth))";
  return Number(await page.evaluate(wide));
}

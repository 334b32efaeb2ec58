/** Pictures of every view, light and dark, with a guest that runs: `node dist/test/e2e/screenshots.js <folder>`. */
import { mkdirSync } from "node:fs";
import path from "node:path";
import type { Page } from "playwright-core";
import { App } from "./support/app.ts";
import { BOOT_MS, GuestConsole } from "./support/guest-console.ts";
import { goTo, type ViewName, views } from "./support/look.ts";

const NAME = "web";
const OTHERS = ["db", "mail", "router"];
/** Live figures come once a second; lines of some length are nicer. */
const FIGURES_MS = 5000;

/** A lab with something in each of its views. @returns id of the machine that runs */
async function furnish(app: App): Promise<string> {
  const image = "debian-shell";
  const config = { name: NAME, image, memoryMiB: 256, group: "shop", vifs: [{ bridge: "lab0" }] };
  const { id } = await app.call("machineCreate", { config });
  for (const name of OTHERS) {
    await app.call("machineCreate", {
      config: { name, image, memoryMiB: 256, vifs: [{ bridge: "lab0" }] },
      newDisks: [{ vdev: "xvdb", size: 2 ** 30, format: "qcow2" }],
    });
  }
  await app.call("imageCreate", { name: "data", size: 8 * 2 ** 30, format: "qcow2" });
  await app.call("machineStart", { machine: id });
  return id;
}

async function pictures(page: Page, folder: string, id: string): Promise<void> {
  const shot = async (name: string) => {
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: path.join(folder, `${name}-${colorScheme}.png`) });
    }
  };
  const { origin, pathname } = new URL(page.url());
  const at = (place: string) => page.goto(`${origin}${pathname}#/${place}`);
  for (const view of Object.keys(views) as ViewName[]) {
    await goTo(page, view);
    await page.waitForTimeout(FIGURES_MS);
    await shot(view);
  }
  for (const tab of await tabsOf(page, () => at(`machines/${id}`))) {
    await page.getByRole("tab", { name: tab, exact: true }).click();
    await page.waitForTimeout(FIGURES_MS / 5);
    await shot(`machine-${tab.toLowerCase()}`);
  }
  await at("images/library");
  await page.getByRole("table", { name: "Images of the library" }).waitFor();
  await shot("images-library");
  await at(`snapshots/${id}`);
  await page.getByRole("treegrid").waitFor();
  await shot("snapshots-machine");
  await at("networks/lab0/firewall");
  await page.getByRole("textbox", { name: "Command or rule" }).waitFor();
  await shot("networks-firewall");
  await goTo(page, "machines");
  await page.keyboard.press("Control+K");
  await page.getByRole("combobox", { name: "Commands" }).waitFor();
  await shot("palette");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "New machine" }).click();
  await page.getByRole("dialog", { name: "New machine" }).waitFor();
  await shot("new-machine");
}

async function tabsOf(page: Page, open: () => Promise<unknown>): Promise<string[]> {
  await open();
  await page.getByRole("tab").first().waitFor();
  return await page.getByRole("tab").allInnerTexts();
}

async function main(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const app = await App.make();
  try {
    const page = await app.open();
    await page.getByRole("button", { name: "Choose settings…" }).waitFor();
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: path.join(folder, `first-run-${colorScheme}.png`) });
    }
    const id = await furnish(app);
    await page.goto(app.address(`consoles/${id}`));
    const guest = await new GuestConsole(page, NAME).open();
    await guest.prompt(2 * BOOT_MS);
    await guest.run("ip addr; uname -a; ping -c 3 10.0.2.2");
    await guest.choose("Screen reader support: on");
    await app.call("snapshotTake", { machine: id, name: "installed", note: "Before anything was changed." });
    await app.call("snapshotTake", { machine: id, name: "configured" });
    await app.call("labSnapshotTake", { name: "Monday", machines: [NAME, ...OTHERS] });
    await pictures(page, folder, id);
  } finally {
    await app.end();
  }
}

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  process.stderr.write("usage: screenshots <folder>\n");
  process.exitCode = 2;
} else await main(folder);

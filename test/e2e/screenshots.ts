/** Pictures of every view, light and dark, in three sizes of the window, with a guest that runs: `node dist/test/e2e/screenshots.js <folder>`. */
import { mkdirSync } from "node:fs";
import path from "node:path";
import type { Page } from "playwright-core";
import { App } from "./support/app.ts";
import { BOOT_MS, GuestConsole } from "./support/guest-console.ts";
import { goTo, type ViewName, views } from "./support/look.ts";

const NAME = "web";
const OTHERS = ["db", "mail", "router"];
/** Of the window, by what is added to a picture's name; 4K in its own pixels. */
const SIZES = { "": [1280, 800], "-small": [1024, 700], "-4k": [3840, 2160] } as const;
/** Live figures come once a second; lines of some length are nicer. */
const FIGURES_MS = 5000;
const SETTLE_MS = 250;

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

/** Pictures of what is shown, in all sizes and both themes. */
async function picture(page: Page, folder: string, name: string): Promise<void> {
  for (const [suffix, [width, height]] of Object.entries(SIZES)) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ["light", "dark"] as const) {
      // What it shows is the room, which has no colours.
      if (suffix === "-4k" && colorScheme === "dark") continue;
      await page.emulateMedia({ colorScheme });
      // Charts and consoles follow the window's size.
      await page.waitForTimeout(SETTLE_MS);
      await page.screenshot({ path: path.join(folder, `${name}${suffix}-${colorScheme}.png`) });
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
}

async function pictures(page: Page, folder: string, id: string): Promise<void> {
  const shot = (name: string) => picture(page, folder, name);
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
  for (const panel of ["firewall", "log", "accounting", "forwards", "capture"]) {
    await at(`networks/lab0/${panel}`);
    await page.getByRole("tabpanel").waitFor();
    await page.waitForTimeout(FIGURES_MS / 5);
    await shot(`networks-${panel}`);
  }
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
    await picture(page, folder, "first-run");
    const id = await furnish(app);
    await page.goto(app.address(`consoles/${id}`));
    const guest = await new GuestConsole(page, NAME).open();
    await guest.prompt(2 * BOOT_MS);
    await guest.run("ip addr; uname -a; ping -c 3 10.0.2.2");
    await guest.choose("Screen reader support: on");
    await app.call("snapshotTake", { machine: id, name: "installed", note: "Before anything was changed." });
    await app.call("snapshotTake", { machine: id, name: "configured" });
    await app.call("firewall", { target: "lab0", command: "-A FORWARD -p tcp --dport 25 -j DROP" });
    await app.call("account", { name: "lab0", add: "class web: -p tcp --dport 80" });
    await app.call("forward", { name: "lab0", forward: "tcp:127.0.0.1:18080:80", remove: false });
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

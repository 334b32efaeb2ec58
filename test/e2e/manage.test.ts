/** Several machines at once, their settings, and the views around them: XenStore, logs, settings. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openImage } from "../../main/images/catalogue.ts";
import { idle, tinyKernel } from "../cli/tiny-kernel.ts";
import { App } from "./support/app.ts";
import { because, missingBrowser } from "./support/browser.ts";
import { BOOT_MS, GuestConsole } from "./support/guest-console.ts";
import { hasFocus, press, runCommand, tabTo, takeBack } from "./support/keyboard.ts";
import { goTo } from "./support/look.ts";

/** The first one has a system; the others have a kernel that waits for ever, and takes no requests. The first two are started. */
const NAMES = ["alpha", "beta", "gamma", "delta"];

describe.skipIf(missingBrowser)(`a lab of some machines${because}`, () => {
  let app: App;
  let page: Page;
  const table = () => page.getByRole("table", { name: "Machines" });
  const row = (name: string) => table().getByRole("row").filter({ hasText: name });
  const state = (name: string, is: string) => row(name).getByText(is, { exact: true });
  const bulk = (action: string) =>
    page.getByRole("toolbar", { name: "For the chosen machines" }).getByRole("button", { name: action, exact: true });
  const choice = (name: string) => page.getByRole("checkbox", { name: `Choose ${name}`, exact: true });
  /** Messages with that text. */
  const told = (text: string) =>
    page.getByRole("region", { name: "Messages" }).getByRole("status").filter({ hasText: text });
  const names = () => table().getByRole("link").allInnerTexts();

  beforeAll(async () => {
    await openImage("debian-shell");
    app = await App.make();
    page = await app.open();
    await page.getByRole("button", { name: "Choose settings…" }).waitFor();
    const kernel = path.join(app.folder, "kernel");
    writeFileSync(kernel, tinyKernel(idle));
    for (const name of NAMES) {
      const system =
        name === "alpha" ? { image: "debian-shell", memoryMiB: 128 } : { image: null, kernel, memoryMiB: 64 };
      await app.call("machineCreate", { config: { name, ...system } });
    }
    await row("delta").waitFor();
  });
  afterEach((context) => app.keepPictures(context));
  afterAll(async () => {
    await app.end();
  });

  const both = async (is: string) => {
    for (const name of ["alpha", "beta"]) await state(name, is).waitFor();
  };

  /** Chooses machines with the space bar, and presses a button of the toolbar above. */
  async function byKeys(machines: readonly string[], action: string): Promise<void> {
    for (const name of machines) {
      await tabTo(page, choice(name));
      await page.keyboard.press("Space");
    }
    await press(page, bulk(action), "Shift+Tab");
  }

  it("starts, pauses and suspends several at once by mouse, and does so by keys", async () => {
    expect(await names()).toEqual(["alpha", "beta", "delta", "gamma"]);
    await choice("alpha").check();
    await choice("beta").check();
    await page.getByText("2 chosen", { exact: true }).waitFor();
    // A double click asks once: the second start would be refused.
    await bulk("Start").dblclick();
    await both("running");
    expect(await page.getByRole("alert").allInnerTexts()).toEqual([]);
    await state("gamma", "stopped").waitFor();
    await bulk("Pause").click();
    await both("paused");
    await bulk("Go on").click();
    await both("running");
    await bulk("Suspend to disk").click();
    await both("suspended");
    expect((await app.call("machineList", {})).filter(({ domid }) => domid !== undefined)).toEqual([]);
    await page.getByRole("button", { name: "Choose none" }).click();
    await page.getByText("2 chosen", { exact: true }).waitFor({ state: "detached" });

    await byKeys(["alpha", "beta"], "Start");
    await both("running");
    await press(page, bulk("Pause"));
    await both("paused");
    await press(page, bulk("Go on"));
    await both("running");
    await press(page, page.getByRole("button", { name: "Choose none" }), "Shift+Tab");
  });

  it("orders machines by a column, and puts them into groups, by mouse and by keys", async () => {
    const head = (name: string) => table().getByRole("columnheader", { name, exact: true });
    await head("Name").getByRole("button").click();
    expect(await head("Name").getAttribute("aria-sort")).toBe("descending");
    await expect.poll(names).toEqual(["gamma", "delta", "beta", "alpha"]);
    await press(page, head("State").getByRole("button"));
    expect(await head("Name").getAttribute("aria-sort")).toBe("none");
    await expect.poll(names).toEqual(["alpha", "beta", "delta", "gamma"]);
    await page.keyboard.press("Enter");
    await expect.poll(names).toEqual(["delta", "gamma", "alpha", "beta"]);
    await head("Name").getByRole("button").click();

    const dialog = page.getByRole("dialog", { name: "Group of 2 machines" });
    await choice("alpha").check();
    await choice("gamma").check();
    await bulk("Group…").click();
    await dialog.getByRole("combobox", { name: "Group" }).fill("shop");
    await dialog.getByRole("button", { name: "Set group" }).click();
    await page.getByText("2 machines are in the group shop now.").waitFor();
    await page.getByRole("button", { name: "Choose none" }).click();
    await page.getByRole("checkbox", { name: "By group" }).check();
    const group = (name: string) => table().getByRole("button", { name });
    await expect.poll(names).toEqual(["alpha", "gamma", "beta", "delta"]);
    await group("shop").click();
    await expect.poll(names).toEqual(["beta", "delta"]);
    expect(await group("shop").getAttribute("aria-expanded")).toBe("false");

    await byKeys(["beta", "delta"], "Group…");
    await expect.poll(() => hasFocus(dialog.getByRole("combobox", { name: "Group" }))).toBe(true);
    await page.keyboard.type("office");
    await page.keyboard.press("Enter");
    // The row of the group is there as soon as the first of them is in it.
    await told("2 machines are in the group office now.").waitFor();
    await group("office").waitFor();
    const groups = (await app.call("machineList", {})).map((machine) => `${machine.name} ${machine.group}`);
    expect(groups.sort()).toEqual(["alpha shop", "beta office", "delta office", "gamma shop"]);
    await takeBack(page, "2 machines are in the group office now.");
    await group("office").waitFor({ state: "detached" });
    await press(page, group("shop"));
    await expect.poll(names).toEqual(["alpha", "gamma", "beta", "delta"]);
    await tabTo(page, page.getByRole("checkbox", { name: "By group" }), "Shift+Tab");
    await page.keyboard.press("Space");
    await expect.poll(names).toEqual(["alpha", "beta", "delta", "gamma"]);
    await press(page, page.getByRole("button", { name: "Choose none" }));
  });

  it("deletes several, and takes them back at once, by mouse and by keys", async () => {
    for (const name of ["gamma", "delta"]) await choice(name).check();
    await bulk("Delete").click();
    await expect.poll(names).toEqual(["alpha", "beta"]);
    await told("2 machines were deleted").waitFor();
    expect(await told("deleted").count()).toBe(1);
    await told("2 machines were deleted").getByRole("button", { name: "Undo" }).click();
    await expect.poll(names).toEqual(["alpha", "beta", "delta", "gamma"]);

    await page.getByRole("heading", { name: "Machines", level: 1 }).click();
    for (const name of ["gamma", "delta"]) await choice(name).uncheck();
    await byKeys(["delta", "gamma"], "Delete");
    await expect.poll(names).toEqual(["alpha", "beta"]);
    const deleted = (await app.call("machineList", { deleted: true })).map(({ name }) => name);
    expect(deleted.sort()).toEqual(["delta", "gamma"]);
    await takeBack(page, "2 machines were deleted");
    await expect.poll(names).toEqual(["alpha", "beta", "delta", "gamma"]);
    expect(await app.call("machineList", { deleted: true })).toEqual([]);
  });

  it("marks a setting that needs a restart, and the guest has it after one", { timeout: 300_000 }, async () => {
    const guest = new GuestConsole(page, "alpha");
    const memory = async () => {
      await runCommand(page, "Open console alpha");
      await guest.open();
      await guest.prompt();
      return Number((await guest.run("grep MemTotal /proc/meminfo")).output.replace(/\D/g, "")) / 1024;
    };
    const before = await memory();
    expect(before).toBeLessThan(128);

    await goTo(page, "machines");
    await page.getByRole("link", { name: "alpha", exact: true }).click();
    await page.getByRole("tab", { name: "Settings" }).click();
    await tabTo(page, page.getByRole("spinbutton", { name: /^Memory, MiB\s+at next start$/ }));
    await page.keyboard.press("Control+A");
    await page.keyboard.type("64");
    await page.getByText("1 changed.").waitFor();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("256");
    await page.keyboard.press("Enter");
    await page
      .getByText(/memoryMiB.*start|next start/)
      .last()
      .waitFor();
    await page.getByText("Nothing changed.").waitFor();
    expect(await memory()).toBe(before);

    const domid = async () => (await app.call("machineList", {})).find(({ name }) => name === "alpha")?.domid;
    const first = await domid();
    await goTo(page, "machines");
    await choice("alpha").check();
    await choice("beta").check();
    await bulk("Reboot").click();
    // One that refuses keeps none of the others.
    const refusal = page.getByRole("alert").filter({ hasText: "the guest of beta takes no reboot requests" });
    await refusal.getByRole("button", { name: "Close message" }).click();
    await expect.poll(domid, { timeout: BOOT_MS }).not.toBe(first);
    await both("running");
    expect(await memory()).toBeGreaterThan(before + 100);
  });

  it("shows XenStore as it changes, and changes it", async () => {
    const path = "/tool/e2e/live";
    const write = (value: string) => app.call("xenstoreWrite", { path, value, encoding: "text" });
    const value = async () => (await app.call("xenstoreRead", { path })).value;
    await write("one");
    await goTo(page, "xenstore");
    const tree = page.getByRole("tree", { name: "XenStore" });
    const item = (name: string | RegExp) => tree.getByRole("treeitem", { name });
    await page.getByRole("searchbox", { name: "Search paths and values" }).fill("e2e/live");
    await item(/^live one$/).click();
    await page.getByRole("searchbox", { name: "Search paths and values" }).fill("");
    const node = page.getByRole("region", { name: `Node ${path}` });
    const field = node.getByRole("textbox", { name: "Value" });
    await expect.poll(() => field.inputValue()).toBe("one");

    await write("two");
    await item(/^live two$/).waitFor();
    await expect.poll(() => field.inputValue()).toBe("two");
    await field.fill("three");
    await write("meanwhile");
    await node.getByText("It has changed meanwhile: meanwhile").waitFor();
    expect(await field.inputValue()).toBe("three");
    await node.getByRole("button", { name: "Write" }).click();
    await expect.poll(value).toBe("three");
    await item(/^live three$/).waitFor();
    await told(`${path} was written`).getByRole("button", { name: "Undo" }).click();
    await item(/^live meanwhile$/).waitFor();

    // The same by keys; a value that is too long is refused in one line, and stays where it was typed.
    await page.keyboard.press("g");
    await page.keyboard.press("m");
    await page.getByRole("heading", { name: "Machines", level: 1 }).waitFor();
    await page.keyboard.press("g");
    await page.keyboard.press("x");
    await tabTo(page, tree);
    await page.keyboard.press("Home");
    for (const step of ["tool", "e2e", "live"]) {
      await page.keyboard.press("ArrowRight");
      await item(new RegExp(`^${step}`)).waitFor();
      for (let presses = 0; presses < 20; presses++) {
        if ((await item(new RegExp(`^${step}`)).getAttribute("aria-selected")) === "true") break;
        await page.keyboard.press("ArrowDown");
      }
    }
    await tabTo(page, field);
    await page.keyboard.press("Control+A");
    await page.keyboard.insertText("x".repeat(5000));
    await press(page, node.getByRole("button", { name: "Write" }));
    const refusal = `XenStore answers E2BIG for ${path}; write at most 4096 bytes with the path`;
    await node.getByText(refusal, { exact: true }).waitFor();
    expect(await value()).toBe("meanwhile");
    await tabTo(page, field, "Shift+Tab");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("by keys");
    await press(page, node.getByRole("button", { name: "Write" }));
    await expect.poll(value).toBe("by keys");

    await press(page, page.getByRole("button", { name: "Add a node" }), "Shift+Tab");
    const add = page.getByRole("dialog", { name: "Add a node" });
    await expect.poll(() => hasFocus(add.getByRole("textbox", { name: "Name" }))).toBe(true);
    await page.keyboard.type("no name");
    await add.getByText("Names hold letters, digits and -_@; a slash begins the next one.").waitFor();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("below/it");
    await page.keyboard.press("Enter");
    await page.getByRole("region", { name: `Node ${path}/below/it` }).waitFor();
    await app.call("xenstoreRemove", { path: "/tool/e2e" });
    await page.getByRole("region", { name: "Node /tool", exact: true }).waitFor();
  });

  it("shows logs by what is in them, and follows what comes", async () => {
    await goTo(page, "logs");
    await page.getByRole("combobox", { name: "Log of" }).selectOption("alpha");
    await page.getByRole("combobox", { name: "Which log" }).selectOption("console");
    const log = page.getByRole("log", { name: "Log" });
    const lines = async () => (await log.innerText()).split("\n").filter((line) => line.trim() !== "");
    const print = (from: number, to: number) =>
      app.call("consoleWrite", { machine: "alpha", data: Buffer.from(`seq ${from} ${to}\n`).toString("base64") });
    const above = () => log.evaluate((box) => box.scrollTop);
    const below = () => log.evaluate((box) => box.scrollHeight - box.clientHeight - box.scrollTop);
    const filter = page.getByRole("searchbox", { name: "Show lines with" });
    await filter.fill("linux VERSION");
    await expect.poll(async () => (await lines()).length).toBeGreaterThan(0);
    for (const line of await lines()) expect(line).toContain("Linux version");
    await tabTo(page, filter);
    await page.keyboard.press("Control+A");
    await page.keyboard.press("Delete");
    await expect.poll(async () => (await lines()).length).toBeGreaterThan(100);

    await print(1000, 1400);
    await log.getByText("1400", { exact: true }).waitFor();
    await expect.poll(below).toBeLessThan(2);
    await tabTo(page, page.getByRole("checkbox", { name: "Follow" }));
    await page.keyboard.press("Space");
    await tabTo(page, log);
    await page.keyboard.press("Home");
    await expect.poll(above).toBe(0);
    await print(2000, 2001);
    await log.getByText("2001", { exact: true }).waitFor();
    expect(await above()).toBe(0);
  });

  it("shuts several down, and forces off those that take no request", async () => {
    await goTo(page, "machines");
    for (const name of ["alpha", "beta"]) await choice(name).check();
    await bulk("Shut down").click();
    await state("alpha", "stopped").waitFor({ timeout: BOOT_MS });
    const refusal = page.getByRole("alert").filter({ hasText: "the guest of beta takes no poweroff requests" });
    await refusal.getByRole("button", { name: "Force off" }).click();
    await state("beta", "stopped").waitFor();
    await bulk("Start").waitFor();
    await page.getByRole("button", { name: "Choose none" }).click();
  });

  it("keeps settings over a reload and another server, and shows a theme at once", async () => {
    const colour = () => page.evaluate("getComputedStyle(document.body).backgroundColor");
    const theme = page.getByRole("combobox", { name: "Theme" });
    const days = page.getByRole("spinbutton", { name: /^Days until deleted machines/ });
    await goTo(page, "settings");
    await theme.selectOption("light");
    const light = await colour();
    await tabTo(page, theme);
    await page.keyboard.type("dark");
    await expect.poll(() => theme.inputValue()).toBe("dark");
    const dark = await colour();
    expect(dark).not.toBe(light);
    await tabTo(page, days);
    await page.keyboard.press("Control+A");
    await page.keyboard.type("3");
    await page.keyboard.press("Enter");
    await expect.poll(async () => (await app.call("labSettings", {})).purgeDays).toBe(3);
    await page.getByRole("combobox", { name: /^Disks of new machines/ }).selectOption("hypervisor");
    await expect.poll(async () => (await app.call("labSettings", {})).defaultPlacement).toBe("hypervisor");

    for (const again of ["reload", "server"] as const) {
      if (again === "reload") await page.reload();
      else {
        await app.killServer();
        await page.getByText("The connection to the app was lost.").waitFor();
        await app.serve();
        await page.getByText("The connection to the app was lost.").waitFor({ state: "hidden" });
        await page.reload();
      }
      await expect.poll(() => days.inputValue()).toBe("3");
      expect(await page.getByRole("combobox", { name: /^Disks of new machines/ }).inputValue()).toBe("hypervisor");
      expect(await theme.inputValue()).toBe("dark");
      expect(await colour()).toBe(dark);
    }
    expect(app.problems).toEqual([]);
  });
});

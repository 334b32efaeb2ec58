/** Every view with fifty machines: found, reached, read and changed. */
import { once } from "node:events";
import { readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { App } from "./support/app.ts";
import { because, missingBrowser } from "./support/browser.ts";
import { chooseItem, hasFocus, press, runCommand, tabTo, takeBack } from "./support/keyboard.ts";
import { goTo, seriousViolations, tooWide, type ViewName, views } from "./support/look.ts";

const MACHINES = 50;
const MIB = 1024 * 1024;
const every = Object.keys(views) as ViewName[];

describe.skipIf(missingBrowser)(`the views${because}`, () => {
  let app: App;
  let page: Page;
  const rows = () => page.getByRole("table", { name: "Machines" }).getByRole("row");
  const message = (text: string | RegExp) => page.getByRole("region", { name: "Messages" }).getByText(text);
  const toast = (name: string) => page.getByRole("region", { name: "Messages" }).getByRole("button", { name });

  beforeAll(async () => {
    app = await App.make();
    page = await app.open();
    await page.getByRole("button", { name: "Choose settings…" }).waitFor();
    for (let number = 1; number <= MACHINES; number++) {
      const name = `m-${number}`;
      const group = number % 2 === 1 ? "odd" : "even";
      await app.call("machineCreate", {
        config: { name, image: "debian-shell", memoryMiB: 128, group, vifs: [{ bridge: "lab0" }] },
      });
    }
  });
  afterEach((context) => app.keepPictures(context));
  afterAll(async () => {
    await app.end();
  });

  it("shows fifty machines, finds one of them, and scrolls to the last", async () => {
    await expect.poll(() => rows().count()).toBe(MACHINES + 1);
    const last = page.getByRole("link", { name: `m-${MACHINES}`, exact: true });
    await last.scrollIntoViewIfNeeded();
    const box = await last.boundingBox();
    expect(box?.y).toBeGreaterThan(0);
    expect(box?.y).toBeLessThan(800);
    // The view's controls stay where they are.
    await page.getByRole("searchbox", { name: "Search machines" }).fill("m-17");
    await expect.poll(() => rows().count()).toBe(2);
    await page.getByRole("combobox", { name: "State" }).selectOption("running");
    await page.getByText("No machine matches").waitFor();
    await page.getByRole("button", { name: "Show all" }).click();
    await expect.poll(() => rows().count()).toBe(MACHINES + 1);
    await page.getByRole("checkbox", { name: "By group" }).check();
    // Two headings more.
    await expect.poll(() => rows().count()).toBe(MACHINES + 3);
    await page.getByRole("checkbox", { name: "By group" }).uncheck();
  });

  it("renames, clones and deletes a machine, and takes that back", async () => {
    const more = async (machine: string, item: string) => {
      await page.getByRole("button", { name: `More for ${machine}`, exact: true }).click();
      await page.getByRole("menuitem", { name: item }).click();
    };
    await more("m-1", "Rename…");
    const rename = page.getByRole("dialog", { name: "Rename m-1" });
    await rename.getByRole("textbox", { name: "Name" }).fill("m-2");
    await page.keyboard.press("Enter");
    await rename.getByText(/m-2/).last().waitFor();
    await rename.getByRole("textbox", { name: "Name" }).fill("first");
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "first", exact: true }).waitFor();

    await more("first", "Clone…");
    await page.getByRole("dialog", { name: "Clone first" }).getByRole("button", { name: "Clone" }).click();
    await page.getByRole("link", { name: "first-clone", exact: true }).waitFor();

    await more("first-clone", "Delete");
    await page.getByRole("link", { name: "first-clone", exact: true }).waitFor({ state: "detached" });
    await toast("Undo").click();
    await page.getByRole("link", { name: "first-clone", exact: true }).waitFor();
  });

  it("creates, imports, resizes, converts and deletes images, and takes that back", async () => {
    await goTo(page, "images");
    await page.getByRole("button", { name: "Empty image" }).click();
    const create = page.getByRole("dialog", { name: "New empty image" });
    await create.getByRole("textbox", { name: "Name" }).fill("empty");
    await create.getByRole("textbox", { name: "Size" }).fill("8M");
    await create.getByRole("button", { name: "Create" }).click();
    const library = page.getByRole("table", { name: "Images of the library" });
    const row = (name: string) => library.getByRole("row").filter({ hasText: name });
    const more = async (image: string | RegExp, item: string) => {
      await page.getByRole("button", { name: image }).click();
      await page.getByRole("menuitem", { name: item }).click();
    };
    await row("empty").getByText("8 MiB", { exact: true }).first().waitFor();

    await page.getByRole("button", { name: "Import", exact: true }).click();
    const chooser = page.waitForEvent("filechooser");
    await page.getByRole("menuitem", { name: "Choose files…" }).click();
    await (await chooser).setFiles({ name: "chosen.img", mimeType: "", buffer: Buffer.alloc(MIB, 1) });
    await row("chosen").waitFor();

    const dropped = await page.evaluateHandle(
      `(() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(${MIB})], "dropped.img"));
        return transfer;
      })()`,
    );
    await page.getByRole("main").dispatchEvent("drop", { dataTransfer: dropped });
    await row("dropped").waitFor();

    await more(/^More for empty/, "Resize…");
    const resize = page.getByRole("dialog", { name: /^Resize empty/ });
    await resize.getByRole("textbox", { name: "New size" }).fill("+8M");
    await resize.getByRole("button", { name: "Resize" }).click();
    await row("empty").getByText("16 MiB", { exact: true }).first().waitFor();

    await more(/^More for chosen/, "Convert…");
    const convert = page.getByRole("dialog", { name: /^Convert chosen/ });
    await convert.getByRole("textbox", { name: "Name of the copy" }).fill("converted");
    await convert.getByRole("button", { name: "Copy" }).click();
    await row("converted").waitFor();

    await more(/^More for dropped/, "Delete");
    await row("dropped").waitFor({ state: "detached" });
    await toast("Undo").click();
    await row("dropped").waitFor();
    await message(/is back in the library/).waitFor();
    const images = await app.call("imageList", {});
    const sizes = Object.fromEntries(
      images.flatMap(({ name, virtualSize }) => (name === undefined ? [] : [[name.replace(/\..*/, ""), virtualSize]])),
    );
    expect(sizes).toEqual({ empty: 16 * MIB, chosen: MIB, converted: MIB, dropped: MIB });
  });

  it("shows how far an upload is, and cancels it and what waits behind it", async () => {
    await goTo(page, "images");
    const before = (await app.call("imageList", {})).length;
    const sent = () => readdirSync(path.join(app.home, "tmp")).filter((name) => name.startsWith("upload-"));
    const network = await page.context().newCDPSession(page);
    await network.send("Network.enable");
    const slowly = (bytesPerSecond: number) =>
      network.send("Network.emulateNetworkConditions", {
        offline: false,
        latency: 0,
        downloadThroughput: -1,
        uploadThroughput: bytesPerSecond,
      });
    await slowly(MIB / 4);
    const chooser = page.waitForEvent("filechooser");
    await page.getByRole("button", { name: "Import", exact: true }).click();
    await page.getByRole("menuitem", { name: "Choose files…" }).click();
    const files = ["slow", "second", "third"].map((name) => path.join(app.folder, name));
    for (const file of files) writeFileSync(file, Buffer.alloc(12 * MIB, 1));
    await (await chooser).setFiles(files);
    const imports = page.getByRole("list", { name: "Imports" });
    const bar = imports.getByRole("progressbar", { name: "Import of slow" });
    await imports.getByText("waiting for its turn").waitFor();
    await expect.poll(async () => Number(await bar.getAttribute("aria-valuenow"))).toBeGreaterThan(0);
    expect(Number(await bar.getAttribute("aria-valuenow"))).toBeLessThan(100);
    await imports
      .getByText(/^sending, .* of 12 MiB \(\d+ %\)$/)
      .first()
      .waitFor();
    expect(sent()).toHaveLength(2);
    for (const name of ["third", "slow", "second"]) {
      await imports.getByRole("button", { name: `Cancel ${name}` }).click();
      await imports.getByText(name, { exact: true }).waitFor({ state: "detached" });
    }
    await slowly(-1);
    await network.detach();
    await expect.poll(sent).toEqual([]);
    expect(await app.call("imageList", {})).toHaveLength(before);
  });

  it("comes back to the machine and the switch that were looked at, also after a reload", async () => {
    const scope = page.getByRole("navigation", { name: "Snapshots of" });
    const about = page.getByRole("region", { name: "Switch place", exact: true });
    const tab = () => about.getByRole("tab", { selected: true }).innerText();
    await app.call("switchCreate", { name: "place", uplink: "none", cwd: "/", isolated: false, vlans: false });
    await goTo(page, "snapshots");
    await scope.getByRole("link", { name: /^m-3 / }).click();
    await page.getByText("of m-3", { exact: true }).waitFor();
    await goTo(page, "networks");
    await page.getByRole("link", { name: "place", exact: true }).first().click();
    await about.getByRole("tab", { name: /^Firewall/ }).click();
    await goTo(page, "snapshots");
    await page.getByText("of m-3", { exact: true }).waitFor();
    await page.reload();
    await page.getByText("of m-3", { exact: true }).waitFor();
    await goTo(page, "machines");
    await goTo(page, "networks");
    await expect.poll(tab).toBe("Firewall");
    await page.reload();
    await expect.poll(tab).toBe("Firewall");
    await app.call("switchDelete", { name: "place" });
    await about.waitFor({ state: "detached" });
    // What is gone is not insisted on.
    await goTo(page, "snapshots");
    const { id } = await app.call("machineShow", { machine: "m-3" });
    await app.call("machineDelete", { machine: "m-3" });
    await page.getByText("There is no such machine").waitFor();
    await goTo(page, "machines");
    await goTo(page, "snapshots");
    await page.getByText("of the whole lab", { exact: true }).waitFor();
    await page.goto(app.address(`machines/${id}`));
    await page.getByRole("heading", { name: "m-3 was deleted" }).waitFor();
    await page.getByRole("button", { name: "Take back" }).click();
    await page.getByRole("heading", { name: "m-3", exact: true }).waitFor();
  });

  it("closes a dialog on the way back, and takes an address that means nothing", async () => {
    await goTo(page, "machines");
    await goTo(page, "settings");
    await page.keyboard.press("n");
    const dialog = page.getByRole("dialog", { name: "New machine" });
    await dialog.waitFor();
    await page.goBack();
    await dialog.waitFor({ state: "detached" });
    await page.getByRole("heading", { name: "Machines", level: 1 }).waitFor();
    await page.goto(app.address("machines/%E0%A4%A"));
    await page.reload();
    await page.getByText("There is no such machine").waitFor();
  });

  it("finds one of fifty machines in the palette, and goes there", async () => {
    await goTo(page, "settings");
    const field = page.getByRole("combobox", { name: "Commands" });
    const rows = page.getByRole("listbox", { name: "Commands" }).getByRole("option");
    const chosen = page.getByRole("listbox", { name: "Commands" }).getByRole("option", { selected: true });
    await page.keyboard.press("Control+K");
    await expect.poll(() => hasFocus(field)).toBe(true);
    await chosen.waitFor();
    await page.getByText(/^\d+ more; type to find them\.$/).waitFor();
    await page.keyboard.type("m-37");
    await page.getByRole("option", { name: "Show m-37", exact: true, selected: true }).waitFor();
    for (const title of await rows.allInnerTexts()) expect(title).toContain("m-37");
    await page.keyboard.press("ArrowUp");
    await chosen.filter({ hasText: "m-37" }).filter({ hasNotText: "Show" }).waitFor();
    await page.keyboard.press("ArrowDown");
    await page.getByRole("option", { name: "Show m-37", exact: true, selected: true }).waitFor();
    expect(await field.getAttribute("aria-activedescendant")).toBe(await chosen.getAttribute("id"));
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "m-37", level: 1 }).waitFor();

    await page.getByRole("button", { name: "Search" }).click();
    await expect.poll(() => field.inputValue()).toBe("");
    await field.fill("show m-50");
    await page.getByRole("option", { name: "Show m-50", exact: true }).click();
    await page.getByRole("heading", { name: "m-50", level: 1 }).waitFor();
    await page.keyboard.press("Control+K");
    await page.keyboard.type("nothing of that kind");
    await page.getByText("Nothing of that name.").waitFor();
    await page.keyboard.press("Escape");
    await field.waitFor({ state: "detached" });
  });

  it("takes a key that comes before what was closed is gone", async () => {
    await goTo(page, "machines");
    const field = page.getByRole("combobox", { name: "Commands" });
    const dialog = page.getByRole("dialog", { name: "New machine" });
    const host = await page.context().newCDPSession(page);
    await host.send("Emulation.setCPUThrottlingRate", { rate: 10 });
    await page.keyboard.press("Control+K");
    await field.waitFor();
    // Sent together, as fast fingers and slow hosts do.
    await Promise.all([page.keyboard.press("Escape"), page.keyboard.press("n")]);
    await dialog.waitFor();
    await host.send("Emulation.setCPUThrottlingRate", { rate: 1 });
    await expect.poll(() => hasFocus(dialog.getByRole("textbox", { name: "Name" }))).toBe(true);
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    await host.detach();
  });

  it("creates, resizes and deletes an image by keys alone, and takes that back", async () => {
    const { keyboard } = page;
    await keyboard.press("g");
    await keyboard.press("i");
    await page.getByRole("heading", { name: "Images", level: 1 }).waitFor();
    await keyboard.press("e");
    const create = page.getByRole("dialog", { name: "New empty image" });
    await expect.poll(() => hasFocus(create.getByRole("textbox", { name: "Name" }))).toBe(true);
    await keyboard.type("keyed");
    await tabTo(page, create.getByRole("textbox", { name: "Size" }));
    await keyboard.press("Control+A");
    await keyboard.type("4M");
    await keyboard.press("Enter");
    const row = page
      .getByRole("table", { name: "Images of the library" })
      .getByRole("row")
      .filter({ hasText: "keyed" });
    await row.getByText("4 MiB", { exact: true }).first().waitFor();

    const menu = async (item: string) => {
      await press(page, page.getByRole("button", { name: /^More for keyed/ }));
      await chooseItem(page, item);
    };
    await menu("Resize…");
    const resize = page.getByRole("dialog", { name: /^Resize keyed/ });
    await expect.poll(() => hasFocus(resize.getByRole("textbox", { name: "New size" }))).toBe(true);
    await keyboard.type("+1M");
    await keyboard.press("Enter");
    await row.getByText("5 MiB", { exact: true }).first().waitFor();
    await menu("Delete");
    await row.waitFor({ state: "detached" });
    await takeBack(page, "keyed was deleted.");
    await row.getByText("5 MiB", { exact: true }).first().waitFor();
  });

  it("makes a switch, gives it a rule and deletes both, by mouse and by keys alone", async () => {
    const { keyboard } = page;
    const dialog = page.getByRole("dialog", { name: "New switch" });
    const about = (name: string) => page.getByRole("region", { name: `Switch ${name}`, exact: true });
    const rulesOf = async (name: string) =>
      (await app.call("topology", {})).switches.find((each) => each.name === name)?.rules;
    await goTo(page, "networks");
    await page.getByRole("button", { name: "New switch" }).click();
    await dialog.getByRole("textbox", { name: "Name" }).fill("bymouse");
    await dialog.getByRole("button", { name: "Create" }).click();
    await about("bymouse").getByRole("button", { name: "Delete switch" }).click();
    await page
      .getByRole("dialog", { name: /bymouse/ })
      .getByRole("button", { name: /^Delete/ })
      .click();
    await about("bymouse").waitFor({ state: "detached" });

    await runCommand(page, "New switch…");
    await expect.poll(() => hasFocus(dialog.getByRole("textbox", { name: "Name" }))).toBe(true);
    await keyboard.type("bykeys");
    await keyboard.press("Enter");
    const here = about("bykeys");
    await tabTo(page, here.getByRole("tab", { name: /^Ports/ }));
    await keyboard.press("ArrowRight");
    await keyboard.press("Enter");
    await tabTo(page, here.getByRole("textbox", { name: "Command or rule" }));
    await keyboard.type("-p tcp --dport 22 -j NOWHERE");
    await keyboard.press("Enter");
    await here
      .getByText(/NOWHERE/)
      .first()
      .waitFor();
    expect(await rulesOf("bykeys")).toBe(0);
    await keyboard.press("Control+A");
    await keyboard.type("-p tcp --dport 22 -j DROP");
    await keyboard.press("Enter");
    const rule = here.getByRole("row").filter({ hasText: "--dport 22 -j DROP" });
    await rule.waitFor();
    expect(await rulesOf("bykeys")).toBe(1);
    await press(page, rule.getByRole("button", { name: /^Delete rule/ }));
    await rule.waitFor({ state: "detached" });
    await takeBack(page, "is gone.");
    await rule.waitFor();
    await runCommand(page, "Delete bykeys…");
    const doomed = page.getByRole("dialog", { name: /bykeys/ });
    await expect.poll(() => hasFocus(doomed.getByRole("button", { name: "Cancel" }))).toBe(true);
    await press(page, doomed.getByRole("button", { name: /^Delete/ }));
    await here.waitFor({ state: "detached" });
    expect(await rulesOf("bykeys")).toBeUndefined();
  });

  it("has nothing that keeps people out, and fits into a small window, light and dark", {
    timeout: 400_000,
  }, async () => {
    // Rows of the same kind, forty times, tell nothing more.
    for (let number = 11; number <= MACHINES; number++) {
      await app.call("machineDelete", { machine: `m-${number}` });
      await app.call("machinePurge", { machine: `m-${number}` });
    }
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      for (const view of every) {
        await page.setViewportSize({ width: 1280, height: 800 });
        await goTo(page, view);
        // What is off while the host is looked at is paler, and no violation as long as it stays off.
        if (view === "settings") await page.getByRole("button", { name: "Look again", disabled: false }).waitFor();
        const rules = colorScheme === "light" ? undefined : ["color-contrast"];
        expect(await seriousViolations(page, rules), `${view}, ${colorScheme}`).toEqual([]);
        await page.setViewportSize({ width: 1024, height: 700 });
        expect(await tooWide(page), `${view} at 1024×700`).toBeLessThanOrEqual(0);
      }
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    await goTo(page, "machines");
    await page.keyboard.press("Control+K");
    await page.getByRole("combobox", { name: "Commands" }).waitFor();
    expect(await seriousViolations(page), "palette").toEqual([]);
    await page.keyboard.press("Escape");
    await page.keyboard.press("n");
    await page.getByRole("dialog", { name: "New machine" }).waitFor();
    expect(await seriousViolations(page), "new machine").toEqual([]);
    await page.keyboard.press("Escape");
    await page.getByRole("link", { name: "first", exact: true }).click();
    for (const tab of ["Overview", "Console", "Settings"]) {
      await page.getByRole("tab", { name: tab }).click();
      expect(await seriousViolations(page), tab).toEqual([]);
    }
  });

  it("looks at the host once when the settings are shown", async () => {
    await goTo(page, "machines");
    let looks = 0;
    const socket = await page.context().newCDPSession(page);
    await socket.send("Network.enable");
    socket.on("Network.webSocketFrameSent", ({ response }) => {
      if (response.payloadData.includes("hostChecks")) looks++;
    });
    await goTo(page, "settings");
    const again = page.getByRole("button", { name: "Look again", disabled: false });
    await again.waitFor();
    await again.click();
    await expect.poll(() => looks).toBe(2);
    await again.waitFor();
    await page.waitForTimeout(1500);
    expect(looks).toBe(2);
    await socket.detach();
  });

  it("is not to be had by pages from elsewhere, and keeps to its content security policy", async () => {
    const server = createServer((_, response) =>
      response.setHeader("Content-Type", "text/html").end("<p>elsewhere</p>"),
    );
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    // The same browser, and even the same site: its session's cookie goes along.
    const foreign = await page.context().newPage();
    const open = (place: string) => `new Promise((resolve) => {
      const socket = new WebSocket("ws://127.0.0.1:${app.port}${place}");
      socket.onopen = () => resolve("open");
      socket.onerror = () => resolve("refused");
    })`;
    try {
      await foreign.goto(`http://127.0.0.1:${port}/`);
      expect(await foreign.evaluate(open("/rpc"))).toBe("refused");
      // The same attempt from the interface itself.
      await foreign.goto(app.address());
      await foreign.getByRole("navigation", { name: "Main" }).waitFor();
      expect(await foreign.evaluate(open("/rpc"))).toBe("open");
    } finally {
      await foreign.close();
      server.close();
    }
    expect(app.problems).toEqual([]);
  });
});

/** Consoles side by side and in windows of their own, and what is done with their text: by mouse and by keyboard. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openImage } from "../../main/images/catalogue.ts";
import { App } from "./support/app.ts";
import { because, missingBrowser } from "./support/browser.ts";
import { GuestConsole } from "./support/guest-console.ts";
import { hasFocus, runCommand } from "./support/keyboard.ts";

describe.skipIf(missingBrowser)(`consoles${because}`, () => {
  let app: App;
  let page: Page;
  let left: GuestConsole;
  let right: GuestConsole;
  const clipboard = {
    text: async () => String(await page.evaluate("navigator.clipboard.readText()")),
    put: (text: string) => page.evaluate(`navigator.clipboard.writeText(${JSON.stringify(text)})`),
  };

  beforeAll(async () => {
    await openImage("debian-shell");
    app = await App.make();
    page = await app.open();
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"], { origin: app.address() });
    await page.getByRole("button", { name: "Choose settings…" }).waitFor();
    await app.call("machineCreate", { config: { name: "left", image: "debian-shell", memoryMiB: 128 } });
    await app.call("machineStart", { machine: "left" });
    left = new GuestConsole(page, "left");
    right = new GuestConsole(page, "right");
  });
  afterEach((context) => app.keepPictures(context));
  afterAll(async () => {
    await app.end();
  });

  it("stand side by side, and what is typed goes to the one that was clicked, or walked to", async () => {
    await page
      .getByRole("row")
      .filter({ hasText: "left" })
      .getByRole("button", { name: "Open console of left" })
      .click();
    await left.open();
    await left.prompt();
    // The same machine once more, which need not boot.
    await app.call("snapshotTake", { machine: "left", name: "booted" });
    await app.call("snapshotClone", { machine: "left", snapshot: "booted", name: "right" });
    await app.call("machineStart", { machine: "right" });
    await left.region.getByRole("button", { name: "Show another one beside" }).click();
    await page.getByRole("menuitem", { name: "right" }).click();
    await right.open();
    await right.type("\n");
    await right.prompt();
    const { keyboard } = page;

    await left.click();
    await keyboard.type("echo by ''mouse\n");
    await left.shows(/^by mouse$/m);
    await right.click();
    await keyboard.type("echo also ''here\n");
    await right.shows(/^also here$/m);
    expect(await left.text()).not.toContain("also");

    // The same again without a mouse, and from nothing.
    await runCommand(page, "End the split view");
    await right.region.waitFor({ state: "hidden" });
    await expect.poll(() => hasFocus(left.input)).toBe(true);
    await runCommand(page, "Show right beside");
    await expect.poll(() => hasFocus(right.input)).toBe(true);
    await keyboard.type("echo by ''keys\n");
    await right.shows(/^by keys$/m);
    await keyboard.press("Alt+Shift+O");
    await expect.poll(() => hasFocus(left.input)).toBe(true);
    await keyboard.type("echo back ''again\n");
    await left.shows(/^back again$/m);
    expect(await right.text()).not.toContain("back");
    await keyboard.press("Alt+Shift+O");
    await expect.poll(() => hasFocus(right.input)).toBe(true);
    await runCommand(page, "End the split view");
    await right.region.waitFor({ state: "hidden" });
    await expect.poll(() => hasFocus(left.input)).toBe(true);
  });

  it("are searched by keys, forth and back", async () => {
    await left.run("for n in 1 2 3; do echo needle$n; done");
    await page.keyboard.press("Control+Shift+F");
    const search = left.region.getByRole("search");
    const field = search.getByRole("textbox", { name: "Search in the console" });
    await expect.poll(() => hasFocus(field)).toBe(true);
    await page.keyboard.type("needle2");
    await search.getByText("1 of 1", { exact: true }).waitFor();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("needle");
    const told = async () => Number(/^(\d+) of 3$/.exec(await search.getByRole("status").innerText())?.[1]);
    await expect.poll(told).toBeGreaterThan(0);
    const first = await told();
    await page.keyboard.press("Enter");
    await expect.poll(told).toBe((first % 3) + 1);
    await page.keyboard.press("Shift+Enter");
    await expect.poll(told).toBe(first);
    await page.keyboard.press("Control+A");
    await page.keyboard.type("haystack");
    await search.getByText("no match").waitFor();
    await page.keyboard.press("Escape");
    await search.waitFor({ state: "detached" });
    await expect.poll(() => hasFocus(left.input)).toBe(true);
  });

  it("copy what is selected, and paste it in brackets where the program asked for them", async () => {
    await left.run("echo copied-word");
    await left.doubleClick("copied-word");
    await page.keyboard.press("Control+Shift+C");
    await expect.poll(clipboard.text).toBe("copied-word");
    await runCommand(page, "Select all of the console");
    await page.keyboard.press("Control+Shift+C");
    await expect.poll(clipboard.text).toMatch(/^copied-word\s+end\d+ 0$/m);

    // The terminal's driver shows the signs that no key types: ^[ is what brackets begin with.
    await readInBrackets();
    await clipboard.put("one\ntwo\n");
    await left.choose("Paste");
    await left.shows(/^\^\[\[200~one$\n+^two$\n+^\^\[\[201~$/m);
    await page.keyboard.press("Control+D");
    await page.keyboard.press("Control+D");
    await left.run("printf '\\033[?2004l'");
    await clipboard.put("echo pasted ''plain\n");
    await page.keyboard.press("Control+Shift+V");
    await left.shows(/^pasted plain$/m);
    expect(await left.text()).not.toContain("200~");
  });

  it("type the clipboard key by key, without brackets", async () => {
    await readInBrackets();
    await clipboard.put("a login\nand its word\n");
    await left.choose("Type the clipboard");
    await left.shows(/^reading\na login\nand its word$/m);
    await expect.poll(() => hasFocus(left.input)).toBe(true);
    expect(await left.text()).not.toContain("200~");
    await page.keyboard.press("Control+D");
    await left.run("printf '\\033[?2004l'");
  });

  it("have text of the size that is wished, and the guest hears of its columns", async () => {
    const columns = async () => Number((await left.run("stty size")).output.split(" ")[1]);
    const height = async () => (await left.region.getByRole("listitem").first().boundingBox())?.height ?? 0;
    const usual = { columns: await columns(), height: await height() };
    for (let presses = 0; presses < 6; presses++) await page.keyboard.press("Control+=");
    await expect.poll(height).toBeGreaterThan(usual.height * 1.2);
    await expect.poll(columns).toBeLessThan(usual.columns);
    await page.keyboard.press("Control+0");
    await expect.poll(height).toBe(usual.height);
    await expect.poll(columns).toBe(usual.columns);
    await left.choose("Smaller text");
    await expect.poll(height).toBeLessThan(usual.height);
    await left.choose("Larger text");
    await expect.poll(height).toBe(usual.height);
  });

  it("show underscores, which lie lowest", async () => {
    const line = "_".repeat(20);
    await left.run(`echo ${line}; echo`);
    const row = left.region.getByRole("listitem").filter({ hasText: line }).first();
    const box = await row.boundingBox();
    if (box === null) throw new Error("the row is not shown");
    const picture = async (y: number) => await page.screenshot({ clip: { ...box, y } });
    // The row below it is empty.
    expect((await picture(box.y)).equals(await picture(box.y + box.height))).toBe(false);
  });

  it("give their log as a file", async () => {
    await left.run("echo logged ''line; seq 2000; clear");
    const coming = page.waitForEvent("download");
    await left.choose("Download the log");
    const file = await coming;
    expect(file.suggestedFilename()).toBe("left-console.log");
    const text = await readFile(await file.path(), "utf8");
    expect(text).toContain("Linux version");
    expect(text).toMatch(/logged line\r\n1\r\n/);
    expect(text).toMatch(/^1999\r\n2000\r$/m);
  });

  it("move into windows of their own and back, with what was above their screens", async () => {
    await left.run("echo kept ''above; seq 300");
    for (const way of ["mouse", "keys"] as const) {
      const coming = page.context().waitForEvent("page");
      if (way === "keys") await runCommand(page, "Console in a window of its own");
      else await left.region.getByRole("button", { name: "In a window of its own" }).click();
      const popup = await coming;
      const alone = await new GuestConsole(popup, "left").open();
      expect(await popup.title()).toBe("left · Domlab");
      expect(await popup.getByRole("navigation").count()).toBe(0);
      await alone.prompt();
      await expectAbove(alone, popup);
      expect(await alone.run(`echo in a window by ${way}`)).toEqual({ output: `in a window by ${way}`, status: 0 });
      // It has moved: the main window has no tab of it.
      await left.region.waitFor({ state: "detached" });
      await alone.run("seq 100");
      await popup.close();

      if (way === "keys") await runCommand(page, "Open console left");
      else {
        await page.getByRole("button", { name: "Open another console" }).click();
        await page.getByRole("menuitem", { name: "left" }).click();
      }
      await left.open();
      await left.prompt();
      await expectAbove(left, page);
      expect(await left.run(`echo back by ${way}`)).toEqual({ output: `back by ${way}`, status: 0 });
    }
    expect(app.problems).toEqual([]);
  });

  it("of the host stand in windows of their own too, each with its own shell, which ends with them", async () => {
    await page.getByRole("button", { name: "Open another console" }).click();
    await page.getByRole("menuitem", { name: "Host shell" }).click();
    const here = await new GuestConsole(page, "Host shell", "Host shell").open();
    await here.run("mark=here");
    const coming = page.context().waitForEvent("page");
    await here.region.getByRole("button", { name: "Another one in a window of its own" }).click();
    const popup = await coming;
    const there = await new GuestConsole(popup, "Host shell", "Host shell").open();
    expect(await popup.title()).toBe("Host shell · Domlab");
    expect((await there.run("echo mark:$mark")).output).toBe("mark:");
    await there.type("exit 3\n");
    await there.shows(/the shell ended with status 3/);
    await there.region.getByRole("button", { name: "Open a new one" }).click();
    await there.prompt();
    const pid = (await there.run("echo $$")).output;
    expect(existsSync(`/proc/${pid}`)).toBe(true);
    await popup.close();
    await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false);
    expect((await here.run("echo mark:$mark")).output).toBe("mark:here");
    expect(app.problems).toEqual([]);
  });

  it("of the host take what is typed before the shell is there", async () => {
    const coming = page.context().waitForEvent("page");
    const { region } = new GuestConsole(page, "Host shell", "Host shell");
    await region.getByRole("button", { name: "Another one in a window of its own" }).click();
    const popup = await coming;
    // The shell is asked for late, as by a page or a host that is busy: only when the test says so.
    await popup.addInitScript(`{
      const { send } = WebSocket.prototype;
      const asked = new Promise((resolve) => { window.askForShell = resolve; });
      WebSocket.prototype.send = function (data) {
        if (typeof data === "string" && data.includes('"shellOpen"')) asked.then(() => send.call(this, data));
        else send.call(this, data);
      };
    }`);
    await popup.reload();
    const there = await new GuestConsole(popup, "Host shell", "Host shell").open();
    expect(await there.text()).toBe("");
    await there.type("echo typed ''ahead\n");
    await popup.evaluate("askForShell()");
    await there.shows(/^typed ahead$/m);
    await popup.close();
    expect(app.problems).toEqual([]);
  });

  /** Has a program read that asks for brackets around what is pasted; it has asked when this returns. */
  async function readInBrackets(): Promise<void> {
    await left.type("clear; printf '\\033[?2004h'; echo rea''ding; cat >/dev/null\n");
    await left.shows(/^reading$/m);
  }

  async function expectAbove({ region, input }: GuestConsole, where: Page): Promise<void> {
    await input.focus();
    await where.keyboard.press("Control+Shift+F");
    await where.keyboard.type("kept above");
    await region.getByRole("search").getByText("1 of 1", { exact: true }).waitFor();
    await where.keyboard.press("Escape");
  }
});

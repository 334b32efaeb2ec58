/** A machine's life by keyboard and by mouse, and what may happen to page, server and lab meanwhile. */
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openImage } from "../../main/images/catalogue.ts";
import { App } from "./support/app.ts";
import { because, missingBrowser } from "./support/browser.ts";
import { BOOT_MS, GuestConsole } from "./support/guest-console.ts";
import { hasFocus, press, runCommand, tabTo } from "./support/keyboard.ts";
import { goTo } from "./support/look.ts";

const NAME = "shell";

describe.skipIf(missingBrowser)(`a machine${because}`, () => {
  let app: App;
  let page: Page;
  let guest: GuestConsole;

  beforeAll(async () => {
    await openImage("debian-shell");
    app = await App.make();
    page = await app.open();
    guest = new GuestConsole(page, NAME);
  });
  afterEach((context) => app.keepPictures(context));
  afterAll(async () => {
    await app.end();
  });

  it("is made, started, used and left by keys alone", async () => {
    const { keyboard } = page;
    await page.getByRole("button", { name: "Choose settings…" }).waitFor();
    await keyboard.press("n");
    const dialog = page.getByRole("dialog", { name: "New machine" });
    await dialog.getByRole("option", { name: "Debian shell" }).waitFor({ state: "attached" });
    await tabTo(page, dialog.getByRole("textbox", { name: "Name", exact: true }));
    await keyboard.press("Control+A");
    await keyboard.type(NAME);
    const image = dialog.getByRole("combobox", { name: "Image" });
    await tabTo(page, image);
    await keyboard.type("Debian shell");
    expect(await image.inputValue()).toBe("debian-shell");
    await tabTo(page, dialog.getByRole("spinbutton", { name: "Memory, MiB" }));
    await keyboard.press("Control+A");
    await keyboard.type("256");
    await keyboard.press("Enter");

    // The console has the focus; its menu is reached by leaving it.
    await guest.region.waitFor();
    await expect.poll(() => hasFocus(guest.input)).toBe(true);
    await keyboard.press("Control+Shift+E");
    await tabTo(page, guest.region.getByRole("button", { name: `More for Console of ${NAME}` }));
    await keyboard.press("Enter");
    await page.getByRole("menuitem", { name: "Copy" }).waitFor();
    await keyboard.type("screen");
    await keyboard.press("Enter");
    await tabTo(page, guest.input);
    await guest.prompt();
    await keyboard.type("echo by keys\n");
    await guest.shows(/^by keys$/m);

    await keyboard.press("Control+Shift+E");
    await keyboard.type("gm");
    await page.getByRole("heading", { name: "Machines", level: 1 }).waitFor();
    await keyboard.press("Control+K");
    await page.getByRole("combobox", { name: "Commands" }).waitFor();
    await keyboard.type(`open console ${NAME}`);
    await keyboard.press("Enter");
    await expect.poll(() => hasFocus(guest.input)).toBe(true);
  });

  it("goes back to a snapshot of its disks and memory, with its console", async () => {
    expect(await guest.run("echo old >/kept; cat /kept")).toEqual({ output: "old", status: 0 });
    const toSnapshots = async () => {
      await goTo(page, "snapshots");
      await page.getByRole("navigation", { name: "Snapshots of" }).getByRole("link", { name: NAME }).click();
    };
    await toSnapshots();
    await page.getByRole("button", { name: "Take snapshot", exact: true }).click();
    const take = page.getByRole("dialog", { name: `Snapshot of ${NAME}` });
    await take.getByRole("textbox", { name: "Name" }).fill("before");
    await take.getByRole("button", { name: "Take snapshot" }).click();
    await take.waitFor({ state: "detached" });

    await goTo(page, "consoles");
    await guest.open();
    expect((await guest.run("rm /kept; cat /kept")).status).toBe(1);

    await toSnapshots();
    await page.getByRole("button", { name: "Go back to before", exact: true }).click();
    const back = page.getByRole("dialog", { name: "Go back to “before”" });
    await back.getByRole("checkbox", { name: "Take a snapshot of the present first" }).uncheck();
    await back.getByText("This cannot be taken back.").waitFor();
    await back.getByRole("button", { name: "Throw the present away and go back" }).click();
    await back.waitFor({ state: "detached" });

    await goTo(page, "consoles");
    await guest.open();
    await guest.region.getByText("running", { exact: true }).waitFor();
    expect(await guest.run("cat /kept")).toEqual({ output: "old", status: 0 });
  });

  it("does so again by keys alone", async () => {
    const { keyboard } = page;
    const take = page.getByRole("dialog", { name: `Snapshot of ${NAME}` });
    const back = page.getByRole("dialog", { name: "Go back to “by keys”" });
    await runCommand(page, `Snapshot ${NAME}`);
    await expect.poll(() => hasFocus(take.getByRole("textbox", { name: "Name" }))).toBe(true);
    await keyboard.type("by keys");
    await keyboard.press("Enter");
    await take.waitFor({ state: "detached" });
    await expect.poll(() => hasFocus(guest.input)).toBe(true);
    expect((await guest.run("rm /kept; cat /kept")).status).toBe(1);

    await keyboard.press("Control+Shift+E");
    await keyboard.type("gs");
    await press(page, page.getByRole("navigation", { name: "Snapshots of" }).getByRole("link", { name: NAME }));
    const row = page.getByRole("treegrid").getByRole("row").filter({ hasText: "by keys" });
    await tabTo(page, page.getByRole("treegrid").getByRole("row").nth(1));
    for (let presses = 0; presses < 5 && !(await hasFocus(row)); presses++) await keyboard.press("ArrowDown");
    await keyboard.press("Enter");
    const keep = back.getByRole("checkbox", { name: "Take a snapshot of the present first" });
    await expect.poll(() => hasFocus(keep)).toBe(true);
    await keyboard.press("Space");
    await press(page, back.getByRole("button", { name: "Throw the present away and go back" }));
    await back.waitFor({ state: "detached" });
    await expect.poll(() => hasFocus(row)).toBe(true);

    await runCommand(page, `Open console ${NAME}`);
    await guest.open();
    await expect.poll(() => hasFocus(guest.input)).toBe(true);
    expect(await guest.run("cat /kept")).toEqual({ output: "old", status: 0 });
  });

  it("is in the picture of the networks, whose rules and links it feels", async () => {
    /** @param patience seconds that an answer is waited for */
    const ping = async (patience: number) =>
      (await guest.run(`ping -c 1 -W ${patience} 10.0.2.2 | grep -o '[0-9]* packets received'`)).output;
    const toNetworks = async () => {
      await goTo(page, "networks");
      await page.getByRole("link", { name: `Machine ${NAME}`, exact: true }).waitFor();
    };
    const toConsole = async () => {
      await goTo(page, "consoles");
      await guest.open();
    };
    expect(await ping(10)).toBe("1 packets received");

    await toNetworks();
    const about = page.getByRole("region", { name: "Switch lab0" });
    await about.getByRole("tab", { name: /^Firewall/ }).click();
    await about.getByRole("textbox", { name: "Command or rule" }).fill("-p icmp -j DROP");
    await about.getByRole("button", { name: "Apply" }).click();
    const rule = about.getByRole("row").filter({ hasText: "-p icmp -j DROP" });
    await rule.waitFor();
    await toConsole();
    expect(await ping(1)).toBe("0 packets received");
    await toNetworks();
    await about.getByRole("tab", { name: /^Firewall/ }).click();
    await rule.getByRole("button", { name: /^Delete rule/ }).click();
    await rule.waitFor({ state: "detached" });

    await about.getByRole("tab", { name: /^Ports/ }).click();
    const link = about.getByRole("switch", { name: /^Link of vif/ });
    await link.uncheck();
    await expect
      .poll(async () => (await app.call("topology", {})).switches[0]?.ports.map(({ up }) => up))
      .toContain(false);
    await toConsole();
    expect(await ping(1)).toBe("0 packets received");
    await toNetworks();
    await about.getByRole("switch", { name: /^Link of vif/ }).check();
    await toConsole();
    await expect.poll(() => ping(10), { timeout: 30_000 }).toBe("1 packets received");
  });

  it("shows the console as it was after a reload, with what was above the screen", async () => {
    await guest.run("echo remembered; seq 500; false");
    await page.reload();
    await guest.open();
    await guest.shows(/^end\d+ 1$/m);
    expect(await guest.text()).not.toContain("remembered");
    await guest.region.getByRole("button", { name: "Search in the console" }).click();
    const search = guest.region.getByRole("search");
    await search.getByRole("textbox", { name: "Search in the console" }).fill("remembered");
    await search.getByText("1 of 1", { exact: true }).waitFor();
    await search.getByRole("button", { name: "Close search" }).click();
    expect(await guest.run("true")).toEqual({ output: "", status: 0 });
  });

  it("shows the same in a second page", async () => {
    const second = await page.context().newPage();
    await second.goto(page.url());
    const same = await new GuestConsole(second, NAME).open();
    await same.prompt();
    await guest.type("echo typed in the first\n");
    await same.shows(/^typed in the first$/m);
    await same.type("echo typed in the second\n");
    await guest.shows(/^typed in the second$/m);
    await second.close();
  });

  it("goes on by itself when the server was killed and is there again", async () => {
    await app.killServer();
    const banner = page.getByText("The connection to the app was lost.");
    await banner.waitFor();
    await app.serve();
    await banner.waitFor({ state: "hidden" });
    expect(await guest.run("echo still here")).toEqual({ output: "still here", status: 0 });
  });

  it("lets nobody in with a link that was used, or is none", async () => {
    const link = await app.link();
    const one = await app.newPage();
    await one.goto(link);
    await one.getByRole("link", { name: NAME, exact: true }).waitFor();
    for (const address of [link, link.replace(/=.*/, "=wrong"), app.address()]) {
      const other = await app.newPage();
      await other.goto(address);
      await other.getByText("This browser is not connected to the lab").waitFor();
      await other.getByText("domlab serve --link").first().waitFor();
      expect(await other.getByRole("navigation").count()).toBe(0);
    }
  });

  it("says what was lost when the lab was killed, and starts again", async () => {
    process.kill(app.labPid ?? 0, "SIGKILL");
    await page.getByText("The lab has ended unexpectedly").waitFor();
    await page.getByText("The lab has ended unexpectedly").waitFor({ state: "hidden" });
    await guest.region.getByText("stopped", { exact: true }).waitFor();
    await guest.region.getByRole("button", { name: "Start" }).click();
    await guest.region.getByText("running", { exact: true }).waitFor();
    // The kernel's rows: the last command had cleared the screen.
    await guest.shows(/^\[ +\d+\.\d+\] /m, BOOT_MS);
    expect(app.problems).toEqual([]);
  });
});

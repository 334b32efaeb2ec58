/** Every view with fifty machines: found, reached, read and changed. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { App } from "./support/app.ts";
import { because, missingBrowser } from "./support/browser.ts";
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

  it("has nothing that keeps people out, and fits into a small window, light and dark", {
    timeout: 240_000,
  }, async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      for (const view of every) {
        await page.setViewportSize({ width: 1280, height: 800 });
        await goTo(page, view);
        expect(await seriousViolations(page), `${view}, ${colorScheme}`).toEqual([]);
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

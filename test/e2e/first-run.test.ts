/** From nothing to a shell by one click; and back, when it takes too long. */
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openImage } from "../../main/images/catalogue.ts";
import { App } from "./support/app.ts";
import { because, missingBrowser } from "./support/browser.ts";
import { GuestConsole } from "./support/guest-console.ts";
import { slowArchive } from "./support/slow-archive.ts";

const CREATE = "Create and start Debian";
/** A whole Debian starts in a quarter of a minute on cores of its own. */
const FIRST_BOOT_MS = 400_000;

describe.skipIf(missingBrowser)(`a first run whose packages come slowly${because}`, () => {
  let folder: string;
  let app: App;

  beforeAll(async () => {
    folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-archive-")));
    app = await App.make(slowArchive(folder));
  });
  afterEach((context) => app.keepPictures(context));
  afterAll(async () => {
    await app.end();
    rmSync(folder, { recursive: true, force: true });
  });

  it("tells what it does and how far it is, also after a reload, and can be cancelled there and here", async () => {
    const page = await app.open();
    const create = page.getByRole("button", { name: CREATE });
    const progress = page.getByRole("main").getByRole("progressbar", { name: "making debian" });
    await create.click();
    await expect.poll(() => progress.getAttribute("aria-valuenow")).toBe("50");
    await page
      .getByRole("main")
      .getByText(/fetching the guest image/)
      .waitFor();
    await page.getByRole("main").getByRole("button", { name: "Cancel" }).click();
    await create.waitFor();
    expect(await app.call("machineList", {})).toEqual([]);

    await create.click();
    await progress.waitFor();
    await page.reload();
    const status = page.getByRole("contentinfo", { name: "Status" });
    await expect.poll(() => status.getByRole("progressbar").getAttribute("aria-valuenow")).toBe("50");
    await status.getByRole("button", { name: /^Cancel / }).click();
    await status.getByText("0 of 0 running").waitFor();
    await create.waitFor();
    expect(await app.call("operationList", {})).toEqual([]);
    expect(await app.call("machineList", {})).toEqual([]);
    expect(app.problems).toEqual([]);
  });
});

describe.skipIf(missingBrowser)(`a first run${because}`, () => {
  let app: App;

  beforeAll(async () => {
    await openImage("debian");
    app = await App.make();
  });
  afterEach((context) => app.keepPictures(context));
  afterAll(async () => {
    await app.end();
  });

  it("leads from one click to a shell", { timeout: FIRST_BOOT_MS + 60_000 }, async () => {
    const page = await app.open();
    await page.getByRole("button", { name: CREATE }).click();
    const guest = await new GuestConsole(page, "debian").open();
    await guest.shows(/^root@debian:~#$/m, FIRST_BOOT_MS);
    expect(await guest.run("uname -sm")).toEqual({ output: "Linux x86_64", status: 0 });
    await guest.region.getByText("running", { exact: true }).waitFor();
  });
});

/** The host's browser, which a program that writes down its arguments stands for. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { hasDisplay, showLink } from "../../../main/serve/browser.ts";

const LINK = `http://127.0.0.1:7411/#token=se"cret&more`;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-browser-"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe.runIf(process.platform === "linux")("the browser", () => {
  it("is given a page that only the user can read, and no secret", async () => {
    const said = path.join(folder, "said");
    const program = path.join(folder, "xdg-open");
    writeFileSync(program, `#!/bin/sh\nprintf '%s\\n' "$@" > '${said}.new'; mv '${said}.new' '${said}'\n`);
    chmodSync(program, 0o755);
    vi.stubEnv("PATH", `${folder}${path.delimiter}${process.env.PATH}`);
    expect(await showLink(LINK, folder)).toBe(true);
    await vi.waitFor(() => expect(existsSync(said)).toBe(true), 10_000);
    const args = readFileSync(said, "utf8").trimEnd().split("\n");
    expect(args).toEqual([expect.stringMatching(/^file:\/\//)]);
    expect(args[0]).not.toContain("cret");
    const page = fileURLToPath(args[0] ?? "");
    expect(statSync(page).mode & 0o777).toBe(0o600);
    expect(readFileSync(page, "utf8")).toContain(`content="0;url=http://127.0.0.1:7411/#token=se&#34;cret&#38;more"`);
  });

  it("is missing where there is no program for it", async () => {
    vi.stubEnv("PATH", folder);
    expect(await showLink(LINK, folder)).toBe(false);
  });

  it("is not tried without a screen", () => {
    expect(hasDisplay({})).toBe(false);
    expect(hasDisplay({ DISPLAY: "" })).toBe(false);
    expect(hasDisplay({ WAYLAND_DISPLAY: "wayland-0" })).toBe(true);
  });
});

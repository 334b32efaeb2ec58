/** Electron's security list, item by item (docs/tutorial/security.md). */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { isOwnUrl, isPopout } from "../../../main/electron/origin.ts";
import { answerRequest, fileOf, registerScheme } from "../../../main/electron/scheme.ts";
import { isOwnFrame, secureContents, secureSession, webPreferences } from "../../../main/electron/security.ts";
import { CONTENT_SECURITY_POLICY } from "../../../main/page-policy.ts";
import { called, Preventable, reset, Session, WebContents } from "./stand-in.ts";

vi.mock("electron", () => import("./stand-in.ts"));

beforeEach(reset);

/** Addresses that look like the app's own and are not. */
const FOREIGN = [
  "https://example.org/",
  "http://domlab/",
  "file:///etc/passwd",
  "app://other/",
  "app://domlab:1/",
  "app://domlab.example.org/",
  "app://user@domlab/",
  "javascript:alert(1)",
  "data:text/html,x",
  "about:blank",
  "",
];

describe("pages", () => {
  it("are isolated, sandboxed and without Node", () => {
    const on = ["contextIsolation", "sandbox", "webSecurity"];
    const off = [
      "devTools",
      "nodeIntegration",
      "nodeIntegrationInWorker",
      "nodeIntegrationInSubFrames",
      "allowRunningInsecureContent",
      "experimentalFeatures",
      "webviewTag",
      "navigateOnDragDrop",
      "spellcheck",
    ];
    expect(webPreferences("/preload.cjs", false)).toEqual({
      preload: "/preload.cjs",
      ...Object.fromEntries(on.map((name) => [name, true])),
      ...Object.fromEntries(off.map((name) => [name, false])),
    });
  });

  it("are told apart from others by scheme and host", () => {
    for (const url of ["app://domlab/", "app://domlab/index.html", "app://domlab"]) expect(isOwnUrl(url)).toBe(true);
    for (const url of FOREIGN) expect([url, isOwnUrl(url)]).toEqual([url, false]);
  });

  it("speak to the app from their own main frame only", () => {
    const url = "app://domlab/";
    expect(isOwnFrame({ url, parent: null })).toBe(true);
    expect(isOwnFrame({ url, parent: {} as never })).toBe(false);
    expect(isOwnFrame(null)).toBe(false);
    for (const foreign of FOREIGN)
      expect([foreign, isOwnFrame({ url: foreign, parent: null })]).toEqual([foreign, false]);
  });
});

describe("a session", () => {
  const session = new Session();
  const handler = <T>(name: string) => session.handlers.get(name) as unknown as T;
  beforeAll(() => secureSession(session as never));

  const request = (permission: string, requestingUrl: string): boolean => {
    let allowed: boolean | undefined;
    const ask = handler<(...given: unknown[]) => void>("permission-request");
    ask({}, permission, (answer: boolean) => (allowed = answer), { requestingUrl });
    if (allowed === undefined) throw new Error("no answer");
    return allowed;
  };
  const check = (permission: string, origin: string) =>
    handler<(...given: unknown[]) => boolean>("permission-check")(null, permission, origin, {});

  it("grants the clipboard to the app's pages, and nothing else to anybody", () => {
    const others = [
      "media",
      "geolocation",
      "notifications",
      "midi",
      "openExternal",
      "fullscreen",
      "pointerLock",
      "usb",
    ];
    for (const permission of ["clipboard-read", "clipboard-sanitized-write"]) {
      expect(request(permission, "app://domlab/")).toBe(true);
      expect(check(permission, "app://domlab/")).toBe(true);
      for (const foreign of FOREIGN)
        expect([request(permission, foreign), check(permission, foreign)]).toEqual([false, false]);
    }
    for (const permission of others) {
      expect([permission, request(permission, "app://domlab/"), check(permission, "app://domlab/")]).toEqual([
        permission,
        false,
        false,
      ]);
    }
    expect(handler<() => boolean>("device")()).toBe(false);
  });

  it("loads nothing from anywhere else", () => {
    const isCancelled = (url: string): boolean => {
      const answer = vi.fn();
      handler<(...given: unknown[]) => void>("request")({ url }, answer);
      const [[given]] = answer.mock.calls as [[{ cancel: boolean }]];
      return given.cancel;
    };
    const own = [
      "app://domlab/assets/a.js",
      "blob:app://domlab/x",
      "data:image/png;base64,",
      "devtools://devtools/x.js",
    ];
    for (const url of own) expect([url, isCancelled(url)]).toEqual([url, false]);
    for (const url of [
      "https://example.org/x.js",
      "ws://127.0.0.1/",
      "file:///etc/passwd",
      "app://other/",
      "nonsense",
    ]) {
      expect([url, isCancelled(url)]).toEqual([url, true]);
    }
  });

  it("saves only files that the page made", () => {
    const isPrevented = (url: string): boolean => {
      const event = new Preventable();
      session.emit("will-download", event, { getURL: () => url });
      return event.defaultPrevented;
    };
    expect(isPrevented("blob:app://domlab/7c0e")).toBe(false);
    for (const url of ["blob:https://example.org/7c0e", "https://example.org/x", "data:text/html,x"]) {
      expect([url, isPrevented(url)]).toEqual([url, true]);
    }
  });
});

describe("a page's way elsewhere", () => {
  const options = { webPreferences: webPreferences("/preload.cjs", false) };
  const contents = new WebContents();
  beforeAll(() => {
    secureContents(contents as never, () => options);
    contents.url = "app://domlab/#/machines";
  });

  const isPrevented = (name: string, event: object): boolean => {
    const given = Object.assign(new Preventable(), event);
    contents.emit(name, given);
    return given.defaultPrevented;
  };

  it("is closed: navigation, redirects, frames, embedded pages", () => {
    for (const url of [...FOREIGN, "app://domlab/other.html"]) {
      expect([url, isPrevented("will-navigate", { url })]).toEqual([url, true]);
    }
    expect(isPrevented("will-redirect", { url: "app://domlab/" })).toBe(true);
    expect(isPrevented("will-attach-webview", {})).toBe(true);
    expect(isPrevented("will-frame-navigate", { isMainFrame: false, url: "app://domlab/" })).toBe(true);
  });

  it("leads back to the page itself, when that is loaded anew", () => {
    expect(isPrevented("will-navigate", { url: "app://domlab/" })).toBe(false);
    expect(isPrevented("will-frame-navigate", { isMainFrame: true, url: "app://domlab/" })).toBe(false);
  });

  it("leads into windows for consoles, as safe as the first, and no others", () => {
    const open = (url: string) => contents.openHandler?.({ url });
    expect(open("app://domlab/#/popout/console/7")).toEqual({ action: "allow", overrideBrowserWindowOptions: options });
    for (const url of [...FOREIGN, "app://domlab/", "app://domlab/#/machines", "app://domlab/x#/popout/1"]) {
      expect([url, open(url)]).toEqual([url, { action: "deny" }]);
      expect(isPopout(url)).toBe(false);
    }
  });
});

describe("the app's scheme", () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-scheme-"));
  const renderer = path.join(folder, "renderer");
  beforeAll(() => {
    mkdirSync(path.join(renderer, "assets"), { recursive: true });
    writeFileSync(path.join(renderer, "index.html"), "<title>home</title>");
    writeFileSync(path.join(renderer, "assets", "a b.js"), "1;");
    writeFileSync(path.join(renderer, "notes.txt"), "not served");
    writeFileSync(path.join(folder, "secret.js"), "secret");
    mkdirSync(`${renderer}-twin`);
    writeFileSync(path.join(`${renderer}-twin`, "x.js"), "twin");
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const get = (url: string, method = "GET") => answerRequest({ url, method }, renderer);

  it("is registered as a full one", () => {
    registerScheme();
    const privileges = { standard: true, secure: true, supportFetchAPI: true, codeCache: true };
    expect(called("registerSchemesAsPrivileged")).toEqual([[[{ scheme: "app", privileges }]]]);
  });

  it("serves the renderer with its types", async () => {
    for (const url of ["app://domlab/", "app://domlab/index.html", "app://domlab/?x#y"]) {
      const answer = await get(url);
      expect([answer.status, await answer.text()]).toEqual([200, "<title>home</title>"]);
      expect(answer.headers.get("content-type")).toBe("text/html; charset=utf-8");
    }
    const script = await get("app://domlab/assets/a%20b.js");
    expect([script.status, script.headers.get("content-type")]).toEqual([200, "text/javascript; charset=utf-8"]);
    const head = await get("app://domlab/", "HEAD");
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });

  it("serves nothing else", async () => {
    const wrong = [
      "app://domlab/../secret.js",
      "app://domlab/%2e%2e/secret.js",
      "app://domlab/%2e%2e%2fsecret.js",
      "app://domlab/..%5csecret.js",
      "app://domlab/assets/..%2f..%2fsecret.js",
      "app://domlab/..%2frenderer-twin%2fx.js",
      "app://domlab/assets",
      "app://domlab/notes.txt",
      "app://domlab/missing.js",
      "app://domlab/index.html%00.js",
      "app://domlab/%",
      "app://other/index.html",
    ];
    for (const url of wrong) {
      const answer = await get(url);
      expect([url, answer.status]).toEqual([url, 404]);
      expect(await answer.text()).not.toContain("secret");
    }
    expect((await get("app://domlab/", "POST")).status).toBe(405);
    expect(fileOf("app://domlab/..%2frenderer-twin%2fx.js", renderer)).toBeUndefined();
  });

  it("says with each answer what a page may do", async () => {
    for (const url of ["app://domlab/", "app://domlab/quitting", "app://domlab/missing.js"]) {
      const { headers } = await get(url);
      expect(headers.get("content-security-policy")).toBe(CONTENT_SECURITY_POLICY);
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      expect(headers.get("referrer-policy")).toBe("no-referrer");
      expect(headers.get("cross-origin-opener-policy")).toBe("same-origin");
      expect(headers.get("cross-origin-resource-policy")).toBe("same-origin");
    }
    const policy = CONTENT_SECURITY_POLICY.split("; ");
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("script-src 'self'");
    expect(policy).toContain("frame-ancestors 'none'");
  });

  it("has a page without scripts for the end", async () => {
    const page = await (await get("app://domlab/quitting")).text();
    expect(page).toContain("Suspending machines…");
    expect(page).not.toMatch(/<script|\son\w+=/i);
  });
});

describe("the entry", () => {
  const source = (name: string) => readFileSync(path.join(import.meta.dirname, "../../..", name), "utf8");

  it("has no way past the list: no remote pages, no eval, no switch that weakens", () => {
    for (const name of ["shell", "main-window", "security", "scheme", "sessions"]) {
      expect(source(`main/electron/${name}.ts`)).not.toMatch(
        /disable-web-security|no-sandbox|appendSwitch|executeJavaScript|bypassCSP|loadFile|remote-debugging|https?:\/\/[a-z]/,
      );
    }
  });

  it("does not wait for the app to be ready while it is being loaded, as that would be for ever", () => {
    expect(source("main/electron.ts")).not.toMatch(/^await /m);
  });
});

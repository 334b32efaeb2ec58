/** Who gets in: links, sessions, and requests from elsewhere. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Served } from "./served.ts";

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

let served: Served;

beforeEach(async () => {
  served = new Served();
  await served.start();
});
afterEach(() => served.close());

describe("a one-time link", () => {
  it("leads to a session that the page's scripts and other sites cannot touch", async () => {
    expect(served.server.link()).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{43}$/);
    const answer = await served.signIn(served.token());
    expect(answer.status).toBe(200);
    const [cookie = ""] = answer.headers["set-cookie"] ?? [];
    expect(cookie).toMatch(
      /^domlab-[0-9a-f]{8}=\d+\.[\w-]+\.[\w-]{43}; Path=\/; Max-Age=2592000; HttpOnly; SameSite=Strict$/,
    );
    const session = await served.request("/session", { headers: { cookie: `other=1; ${cookie.split(";")[0]}` } });
    expect(session).toMatchObject({ status: 200, body: '{"ok":true}' });
  });

  it("is good once", async () => {
    const token = served.token();
    expect((await served.signIn(token)).status).toBe(200);
    const again = await served.signIn(token);
    expect(again.status).toBe(401);
    expect(JSON.parse(again.body).line).toBe(
      "this link was used or is not valid; get a new one with: domlab serve --link",
    );
    expect(again.headers["set-cookie"]).toBeUndefined();
  });

  it("is good for ten minutes", async () => {
    const [early, late] = [served.token(), served.token()];
    served.now += 10 * MINUTE - 1;
    expect((await served.signIn(early)).status).toBe(200);
    served.now += 1;
    expect((await served.signIn(late)).status).toBe(401);
  });

  it("must be the one that was given out", async () => {
    const token = served.token();
    const wrong = (token.startsWith("A") ? "B" : "A") + token.slice(1);
    expect((await served.signIn(wrong)).status).toBe(401);
    expect((await served.signIn("")).status).toBe(401);
    const send = (body: string) =>
      served.request("/session", { method: "POST", headers: { origin: served.origin }, body });
    for (const body of ["", "null", "{", '{"token":7}', '{"token":["x"]}', `{"token":"${"x".repeat(5000)}"}`]) {
      expect((await send(body)).status, body.slice(0, 20)).toBe(401);
    }
    // All of that has not spent the right one.
    expect((await served.signIn(token)).status).toBe(200);
  });

  it("gives way when very many others are made", async () => {
    const first = served.token();
    for (let index = 0; index < 63; index++) served.token();
    expect((await served.signIn(first)).status).toBe(200);
    const second = served.token();
    for (let index = 0; index < 64; index++) served.token();
    expect((await served.signIn(second)).status).toBe(401);
  });
});

describe("a session", () => {
  it("survives a restart of the server", async () => {
    const cookie = await served.cookie();
    const { port } = served.server;
    await served.server.close();
    await served.start({}, port);
    expect((await served.request("/session", { headers: { cookie } })).status).toBe(200);
    const socket = await served.connect({ origin: served.origin, cookie });
    expect(socket.readyState).toBe(socket.OPEN);
  });

  it("ends after thirty days without a visit, and is renewed by one", async () => {
    const cookie = await served.cookie();
    const visit = () => served.request("/session", { headers: { cookie } });
    expect((await visit()).headers["set-cookie"]).toBeUndefined();
    served.now += 2 * DAY;
    const [renewed = ""] = (await visit()).headers["set-cookie"] ?? [];
    served.now += 28 * DAY;
    expect((await visit()).status).toBe(401);
    expect((await served.request("/session", { headers: { cookie: renewed.split(";")[0] } })).status).toBe(200);
  });

  it("cannot be made up, stretched, or taken from another lab", async () => {
    const cookie = await served.cookie();
    const [name = "", expiry = "", nonce = "", signature = ""] = cookie.split(/[=.]/);
    const refused = [
      undefined,
      "",
      `${name}=`,
      `${name}=${Number(expiry) + 1}.${nonce}.${signature}`,
      `${name}=${expiry}.${nonce}x.${signature}`,
      `${name}=${expiry}.${nonce}.${"A".repeat(43)}`,
      `${name}=${expiry}.${nonce}.${signature.slice(1)}`,
      `other=${expiry}.${nonce}.${signature}`,
    ];
    for (const forged of refused) {
      const headers = forged === undefined ? {} : { cookie: forged };
      expect((await served.request("/session", { headers })).status, forged).toBe(401);
    }
    const other = new Served();
    await other.start();
    try {
      // Same key, other folder.
      const theirs = `${(await other.cookie()).split("=")[0]}=${expiry}.${nonce}.${signature}`;
      expect((await other.request("/session", { headers: { cookie: theirs } })).status).toBe(401);
    } finally {
      await other.close();
    }
    await served.server.close();
    await served.start({ key: Buffer.alloc(32, 8) });
    expect((await served.request("/session", { headers: { cookie } })).status).toBe(401);
  });
});

describe("a request", () => {
  it("must name this server: another name may be one that was rebound to us", async () => {
    const { port } = served.server;
    for (const host of [`127.0.0.1:${port}`, `localhost:${port}`, `LOCALHOST:${port}`, `[::1]:${port}`]) {
      expect((await served.request("/", { headers: { host } })).status, host).toBe(200);
    }
    const others = [`evil.example:${port}`, "127.0.0.1", `127.0.0.1:${port + 1}`, `localhost.evil.example:${port}`];
    for (const host of [...others, `127.0.0.1:${port}@evil.example`, `10.0.0.1:${port}`]) {
      for (const target of ["/", "/session", "/assets/app-1234.js"]) {
        const answer = await served.request(target, { headers: { host } });
        expect(answer.status, `${host} ${target}`).toBe(421);
        expect(answer.body).not.toContain("interface</title>");
      }
    }
  });

  it("that does something must come from our own page", async () => {
    const token = served.token();
    const cookie = await served.cookie();
    const { port } = served.server;
    for (const origin of ["http://evil.example", `http://localhost:${port}`, `https://127.0.0.1:${port}`, "null", ""]) {
      expect((await served.signIn(token, { origin })).status, origin).toBe(403);
      const upload = { method: "PUT", headers: { origin, cookie }, body: "x" };
      expect((await served.request("/upload?name=x", upload)).status, origin).toBe(403);
    }
    expect((await served.request("/session", { method: "POST", body: `{"token":"${token}"}` })).status).toBe(403);
    expect((await served.signIn(token)).status).toBe(200);
  });

  it("gets answers that a page of another site cannot use", async () => {
    for (const target of ["/", "/session", "/nothing", "/assets/app-1234.js"]) {
      const { headers } = await served.request(target);
      expect(headers["content-security-policy"]).toBe(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
          "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
      );
      expect(headers).toMatchObject({
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
      });
      expect(headers["access-control-allow-origin"]).toBeUndefined();
    }
  });

  it("gets files of the interface and no others", async () => {
    expect((await served.request("/")).body).toContain("<title>interface</title>");
    const asset = await served.request("/assets/app-1234.js");
    expect(asset.headers["cache-control"]).toContain("immutable");
    expect(asset.headers["content-type"]).toBe("text/javascript");
    expect((await served.request("/")).headers["cache-control"]).toBe("no-cache");
    const elsewhere = ["/../app.key", "/..%2fapp.key", "/%2e%2e/app.key", "/assets/../../control", "//etc/passwd"];
    for (const target of [...elsewhere, "/.secret", "/assets/", "/assets", "/%00", "/%ff", "/index.html/x"]) {
      const answer = await served.request(target);
      expect(answer.status, target).toBe(404);
      expect(answer.body, target).toBe("nothing is here\n");
    }
  });

  it("with a method that is not offered is refused", async () => {
    const headers = { origin: served.origin };
    for (const method of ["DELETE", "POST", "PATCH", "OPTIONS"]) {
      expect((await served.request("/", { method, headers })).status, method).toBe(405);
    }
    expect((await served.request("/", { method: "HEAD" })).body).toBe("");
  });
});

describe("a WebSocket", () => {
  it("is opened by our own page with a session", async () => {
    const page = await served.page();
    expect(await page.call("appInfo")).toMatchObject({ ok: true, result: { shell: "served", canPickFiles: false } });
  });

  it("is refused without a session, from another site, under another name, and elsewhere", async () => {
    const cookie = await served.cookie();
    const { origin } = served;
    const { port } = served.server;
    await expect(served.connect({ origin })).rejects.toThrow("401");
    await expect(served.connect({ origin, cookie: `${cookie}x` })).rejects.toThrow("401");
    await expect(served.connect({ cookie })).rejects.toThrow("403");
    await expect(served.connect({ origin: "http://evil.example", cookie })).rejects.toThrow("403");
    const rebound = { host: `evil.example:${port}`, origin: `http://evil.example:${port}`, cookie };
    await expect(served.connect(rebound)).rejects.toThrow("421");
    await expect(served.connect({ origin, cookie }, "/other")).rejects.toThrow("404");
    expect(served.lab.clients).toBeLessThanOrEqual(1);
  });
});

it("says how to build an interface that is not there", async () => {
  await served.server.close();
  await served.start({ renderer: "/nonexistent" });
  const answer = await served.request("/");
  expect(answer).toMatchObject({ status: 503, body: expect.stringContaining("npm run build") });
  expect((await served.request("/app.js")).status).toBe(404);
});

describe("a server for others", () => {
  it("is called by addresses and by the host's name, not by names that could be rebound", async () => {
    await served.server.close();
    await served.start({ address: "0.0.0.0" });
    const { port } = served.server;
    expect((await served.request("/", { headers: { host: `192.0.2.7:${port}` } })).status).toBe(200);
    expect((await served.request("/", { headers: { host: `evil.example:${port}` } })).status).toBe(421);
    expect(served.server.link()).toContain(`http://127.0.0.1:${port}/`);
  });
});

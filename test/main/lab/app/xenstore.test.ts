import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ControlClient } from "../../../../main/lab/control-client.ts";
import { commonPath } from "../../../../main/lab/server/xenstore-control.ts";
import { LabFixture } from "../machines/lab-fixture.ts";

let lab: LabFixture;
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(() => lab.dispose());

/** The paths of a watch's events, and how to wait for the next. */
function heardBy(client: ControlClient) {
  const paths: string[] = [];
  let next: (() => void) | undefined;
  client.onEvent((event) => {
    if (event.kind !== "xenstore") return;
    paths.push(event.path);
    next?.();
  });
  const until = async (count: number) => {
    while (paths.length < count) {
      await new Promise<void>((resolve) => {
        next = resolve;
      });
    }
    return paths;
  };
  return { paths, until };
}

describe("XenStore over the control socket", () => {
  it("is read and changed", async () => {
    await lab.call("xenstoreWrite", { path: "/tool/app/b", value: "two", encoding: "text" });
    await lab.call("xenstoreWrite", {
      path: "/tool/app/a",
      value: Buffer.from([0, 255]).toString("base64"),
      encoding: "base64",
    });
    await lab.call("xenstoreWrite", { path: "/tool/app/b/below", value: "x", encoding: "text" });
    expect((await lab.call("xenstoreList", { path: "/tool/app" })).children).toEqual([
      { name: "a", value: "AP8=", encoding: "base64", permissions: ["n0"], hasChildren: false },
      { name: "b", value: "two", encoding: "text", permissions: ["n0"], hasChildren: true },
    ]);
    await lab.call("xenstoreSetPermissions", { path: "/tool/app/b", permissions: ["n0", "r7"] });
    expect(await lab.call("xenstoreRead", { path: "/tool/app/b" })).toEqual({
      value: "two",
      encoding: "text",
      permissions: ["n0", "r7"],
      children: 1,
    });
    await lab.call("xenstoreRemove", { path: "/tool/app/b" });
    expect((await lab.call("xenstoreList", { path: "/tool/app" })).children.map(({ name }) => name)).toEqual(["a"]);
    expect(lab.host.xenstore.toolstack.read("/tool/app/b")).toBeUndefined();
  });

  it("refuses with XenStore's own word and a remedy", async () => {
    await expect(lab.call("xenstoreRead", { path: "/no/such" })).rejects.toThrow(/ENOENT for \/no\/such; /);
    await expect(lab.call("xenstoreList", { path: "/no/such" })).rejects.toThrow(/ENOENT/);
    await expect(lab.call("xenstoreRemove", { path: "/no/such" })).rejects.toThrow(/ENOENT/);
    const write = { path: "/a//b", value: "", encoding: "text" as const };
    await expect(lab.call("xenstoreWrite", write)).rejects.toThrow(/EINVAL for \/a\/\/b; paths hold/);
    const big = { path: "/tool/big", value: "x".repeat(8000), encoding: "text" as const };
    await expect(lab.call("xenstoreWrite", big)).rejects.toThrow(/E2BIG/);
    const permissions = { path: "/tool", permissions: ["z9"] };
    await expect(lab.call("xenstoreSetPermissions", permissions)).rejects.toThrow(/EINVAL/);
  });

  it("tells of changes below a watched path, together when there are many", async () => {
    const { toolstack } = lab.host.xenstore;
    toolstack.mkdir("/tool/watched");
    const { paths, until } = heardBy(lab.client);
    const { watch } = await lab.call("xenstoreWatch", { path: "/tool/watched" });
    expect(await until(1)).toEqual(["/tool/watched"]);
    for (let n = 0; n < 500; n++) toolstack.write(`/tool/watched/deep/${n}`, "1");
    expect((await until(2)).at(-1)).toBe("/tool/watched/deep");
    expect(paths.length).toBeLessThan(5);
    await lab.call("xenstoreUnwatch", { watch });
    const before = paths.length;
    toolstack.write("/tool/watched/late", "1");
    await lab.call("xenstoreRead", { path: "/tool" });
    expect(paths).toHaveLength(before);
    await expect(lab.call("xenstoreUnwatch", { watch })).rejects.toThrow(/no watch/);
  });

  it("drops the watches of a connection that ends", async () => {
    const other = await lab.connect();
    const heard = heardBy(other);
    const before = lab.host.xenstore.usage(0)?.watches ?? -1;
    await other.call("xenstoreWatch", { path: "/tool" });
    await heard.until(1);
    expect(lab.host.xenstore.usage(0)?.watches).toBe(before + 1);
    other.close();
    await other.ended;
    // The lab sees the end a moment later than its client.
    await expect.poll(() => lab.host.xenstore.usage(0)?.watches).toBe(before);
    await expect(lab.call("xenstoreUnwatch", { watch: 1 })).rejects.toThrow(/no watch/);
  });

  it("knows what paths have in common", () => {
    expect(commonPath("/a", ["/a/b/c", "/a/b/d"])).toBe("/a/b");
    expect(commonPath("/a", ["/a/b", "/a"])).toBe("/a");
    expect(commonPath("/", ["/a/b", "/c"])).toBe("/");
    expect(commonPath("@releaseDomain", ["@releaseDomain"])).toBe("@releaseDomain");
  });
});

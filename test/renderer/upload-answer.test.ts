import { describe, expect, it } from "vitest";
import { refusalOf, uploadedPath } from "../../renderer/views/images/upload-answer.ts";

describe("the answer to an upload", () => {
  it("has the path, or the server's line, or says that there was none", () => {
    expect(uploadedPath(200, '{"path":"/lab/tmp/upload-1-a.img","bytes":3}')).toBe("/lab/tmp/upload-1-a.img");
    expect(() => uploadedPath(507, '{"line":"no room; free some space"}')).toThrow("no room; free some space");
    expect(() => uploadedPath(502, "<html>")).toThrow("status 502");
    expect(() => uploadedPath(200, '{"path":7}')).toThrow("status 200");
    expect(() => uploadedPath(401, "null")).toThrow("status 401");
  });

  it("becomes a refusal in the user's words", () => {
    const refusal = new Error("/lab/tmp/upload-1-a.img is no image; /lab/tmp/upload-1-a.img is gone");
    expect(refusalOf(refusal, "/lab/tmp/upload-1-a.img", "a $& b.img").message).toBe(
      "a $& b.img is no image; a $& b.img is gone",
    );
    expect(refusalOf("no", "/x", "y").message).toBe("no");
  });
});

/** The interface's files, as the build left them. */
import { existsSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import sirv from "sirv";

/** Files below it have the hash of their content in their names. */
const ASSETS = "/assets/";

const MISSING =
  "<!doctype html><html lang=en><meta charset=utf-8><title>Domlab</title><h1>The interface is not built</h1>" +
  "<p>Build it with <code>npm run build</code> and start this server again.</p></html>";

export type Pages = (request: IncomingMessage, response: ServerResponse) => void;

function answerText(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, {
    "Content-Type": `${type}; charset=utf-8`,
    "Content-Length": Buffer.byteLength(text),
    "Cache-Control": "no-store",
  });
  response.end(text);
}

/**
 * Serves a folder. What may be asked for is listed once, at the start: a path that is not in the list is nowhere, whatever
 * it looks like. Folders are not listed.
 */
export function pages(folder: string): Pages {
  const notFound = (response: ServerResponse) => answerText(response, 404, "text/plain", "nothing is here\n");
  if (!existsSync(join(folder, "index.html"))) {
    return (request, response) => {
      if (request.url === "/") answerText(response, 503, "text/html", MISSING);
      else notFound(response);
    };
  }
  const files = sirv(folder, {
    etag: true,
    extensions: ["html"],
    setHeaders: (response, path) => {
      const forever = path.startsWith(ASSETS);
      response.setHeader("Cache-Control", forever ? "public, max-age=31536000, immutable" : "no-cache");
    },
  });
  return (request, response) => files(request, response, () => notFound(response));
}

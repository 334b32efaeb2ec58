/** What the windows load: the files of the built renderer, over a scheme of the app's own. */
import { readFile } from "node:fs/promises";
import { extname, join, resolve, sep } from "node:path";
import { protocol, type Session } from "electron";
import { errnoOf } from "../../engine/builder/errors.ts";
import { SECURITY_HEADERS } from "../page-policy.ts";
import { isOwnUrl, QUITTING_URL, SCHEME } from "./origin.ts";
import { quittingPage } from "./quitting-page.ts";

/** What a build of the renderer consists of; anything else is not served. */
const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".wasm": "application/wasm",
};

/** Makes the scheme a full one, with an origin; to be called before the app is ready. */
export function registerScheme(): void {
  protocol.registerSchemesAsPrivileged([
    { scheme: SCHEME, privileges: { standard: true, secure: true, supportFetchAPI: true, codeCache: true } },
  ]);
}

/**
 * The file that an address of ours means; undefined for one that is malformed or leads out of the folder.
 * @param folder absolute
 */
export function fileOf(address: string, folder: string): string | undefined {
  if (!isOwnUrl(address)) return undefined;
  let name: string;
  try {
    name = decodeURIComponent(new URL(address).pathname);
  } catch {
    return undefined;
  }
  if (name.includes("\0") || name.includes("\\")) return undefined;
  const file = resolve(folder, `.${name === "/" ? "/index.html" : name}`);
  return file.startsWith(folder + sep) ? file : undefined;
}

function answer(status: number, body: string | Uint8Array<ArrayBuffer> | null, type = "text/plain"): Response {
  return new Response(body, { status, headers: { ...SECURITY_HEADERS, "Content-Type": type } });
}

/**
 * Answers a request of a page.
 * @param folder where the built renderer is, absolute
 */
export async function answerRequest(request: Pick<Request, "method" | "url">, folder: string): Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") return answer(405, "only GET is answered");
  if (request.url === QUITTING_URL) return answer(200, quittingPage(), TYPES[".html"]);
  const file = fileOf(request.url, folder);
  const type = file === undefined ? undefined : TYPES[extname(file)];
  if (file === undefined || type === undefined) return answer(404, "there is no such page");
  try {
    const content = new Uint8Array(await readFile(file));
    return answer(200, request.method === "HEAD" ? null : content, type);
  } catch (error) {
    const isMissing = ["ENOENT", "EISDIR", "ENOTDIR"].includes(errnoOf(error) ?? "");
    return answer(isMissing ? 404 : 500, isMissing ? "there is no such page" : "the page cannot be read");
  }
}

/** Serves the renderer to the pages of a session. @param root folder of the app */
export function serveScheme(session: Pick<Session, "protocol">, root: string): void {
  const folder = join(root, "dist", "renderer");
  session.protocol.handle(SCHEME, (request) => answerRequest(request, folder));
}

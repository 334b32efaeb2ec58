/** The one origin that windows show: a scheme of the app's own, so that pages have an origin, which file: has not. */

export const SCHEME = "app";
export const HOST = "domlab";
export const HOME_URL = `${SCHEME}://${HOST}/`;
/** A page without scripts that stands in the window while machines are being suspended. */
export const QUITTING_URL = `${HOME_URL}quitting`;
/** Where console windows of their own begin (renderer's routes). */
const POPOUT = "#/popout/";

function parse(text: string): URL | undefined {
  return URL.canParse(text) ? new URL(text) : undefined;
}

/** Whether an address, or the origin of one, is the app's own. */
export function isOwnUrl(text: string): boolean {
  const url = parse(text);
  return url?.protocol === `${SCHEME}:` && url.host === HOST && url.username === "" && url.password === "";
}

/** Whether a page of the app may open this address as a window of its own: consoles that were popped out. */
export function isPopout(text: string): boolean {
  const url = parse(text);
  if (url === undefined || !isOwnUrl(text)) return false;
  return (url.pathname === "/" || url.pathname === "/index.html") && url.hash.startsWith(POPOUT);
}

/**
 * Electron's security list (docs/tutorial/security.md) in one place: what a page may be given, where it may go and what it
 * may ask for. Pages show what guests print, so each is treated as if it had been taken over.
 */
import type { Session, WebContents, WebFrameMain, WebPreferences } from "electron";
import { isOwnUrl, isPopout } from "./origin.ts";

/** For every window, those that pages open included. @param preload path of the compiled preload script */
export function webPreferences(preload: string, devTools: boolean): WebPreferences {
  return {
    preload,
    devTools,
    contextIsolation: true,
    sandbox: true,
    nodeIntegration: false,
    nodeIntegrationInWorker: false,
    nodeIntegrationInSubFrames: false,
    webSecurity: true,
    allowRunningInsecureContent: false,
    experimentalFeatures: false,
    webviewTag: false,
    navigateOnDragDrop: false,
    spellcheck: false,
  };
}

/** Consoles are pasted into and copied from; nothing else of the host is a page's business. */
const PERMISSIONS: ReadonlySet<string> = new Set(["clipboard-read", "clipboard-sanitized-write"]);

/** What pages load: the app's own files and what they made themselves. Developer tools are loaded the same way. */
const LOADED = new Set(["blob:", "data:", "devtools:"]);

function mayLoad(address: string): boolean {
  return isOwnUrl(address) || (URL.canParse(address) && LOADED.has(new URL(address).protocol));
}

/** Denies permissions, devices, foreign addresses and downloads of what the page did not make itself. */
export function secureSession(session: Session): void {
  session.setPermissionRequestHandler((_contents, permission, callback, details) => {
    callback(PERMISSIONS.has(permission) && isOwnUrl(details.requestingUrl));
  });
  session.setPermissionCheckHandler((_contents, permission, origin) => {
    return PERMISSIONS.has(permission) && isOwnUrl(origin);
  });
  session.setDevicePermissionHandler(() => false);
  session.webRequest.onBeforeRequest((details, callback) => callback({ cancel: !mayLoad(details.url) }));
  session.on("will-download", (event, item) => {
    const address = item.getURL();
    if (!(address.startsWith("blob:") && isOwnUrl(address.slice("blob:".length)))) event.preventDefault();
  });
}

const withoutHash = (address: string): string => address.replace(/#.*$/s, "");

/** Whether an address is the page that is shown: loading it anew leads nowhere else. */
function isReload(to: string, from: string): boolean {
  return isOwnUrl(to) && withoutHash(to) === withoutHash(from);
}

/**
 * Keeps a page where it is: no navigation, no redirect, no embedded page, no window but a console's.
 * @param popoutOptions for windows that the page may open
 */
export function secureContents(
  contents: WebContents,
  popoutOptions: () => Electron.BrowserWindowConstructorOptions,
): void {
  contents.on("will-navigate", (event) => {
    if (!isReload(event.url, contents.getURL())) event.preventDefault();
  });
  contents.on("will-frame-navigate", (event) => {
    if (!event.isMainFrame) event.preventDefault();
  });
  contents.on("will-redirect", (event) => event.preventDefault());
  contents.on("will-attach-webview", (event) => event.preventDefault());
  contents.setWindowOpenHandler(({ url }) =>
    isPopout(url) ? { action: "allow", overrideBrowserWindowOptions: popoutOptions() } : { action: "deny" },
  );
}

/** Whether a message came from a window's own page: not from a frame in it, nor from one that is gone. */
export function isOwnFrame(frame: Pick<WebFrameMain, "parent" | "url"> | null): boolean {
  return frame !== null && frame.parent === null && isOwnUrl(frame.url);
}

/**
 * The bridge between the page and the app: text messages over a port, and a dropped file's path. Runs sandboxed, hence
 * CommonJS; nothing of Electron gets into the page.
 */
const { contextBridge, ipcRenderer, webUtils } = require("electron") as typeof import("electron");

/** What is used of the web's MessageChannel. */
interface Port {
  onmessage: ((event: { readonly data: unknown }) => void) | null;
  postMessage(message: string): void;
  close(): void;
}
interface Channel {
  readonly port1: Port;
  readonly port2: Port;
}
type ForeignPort = Parameters<typeof ipcRenderer.postMessage>[2] extends (infer Each)[] | undefined ? Each : never;

/** main/electron/sessions.ts listens to it. */
const CONNECT = "domlab:connect";

/** Opens a session of the page's own. @param listener gets each message of the app */
function connect(listener: (text: string) => void) {
  const { port1, port2 } = new MessageChannel() as unknown as Channel;
  port1.onmessage = ({ data }) => listener(String(data));
  ipcRenderer.postMessage(CONNECT, null, [port2 as unknown as ForeignPort]);
  return {
    send: (text: string) => port1.postMessage(String(text)),
    close: () => port1.close(),
  };
}

contextBridge.exposeInMainWorld("domlab", {
  version: 1,
  connect,
  pathOf: (file: Parameters<typeof webUtils.getPathForFile>[0]) => webUtils.getPathForFile(file),
  platform: process.platform,
});

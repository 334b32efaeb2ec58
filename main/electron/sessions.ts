/** Renderer sessions over message ports: a window's page asks for one through the preload bridge (preload/preload.cts). */
import { type IpcMainEvent, ipcMain, type MessagePortMain } from "electron";
import type { AppEvent } from "../app/app-api.ts";
import { type AppHost, type RendererSession, serveRenderer } from "../app/renderer-session.ts";
import { type PortLike, portTransport } from "../app/transport.ts";
import { isOwnFrame } from "./security.ts";

export const CONNECT = "domlab:connect";

export class Sessions {
  private readonly host: AppHost;
  private readonly open = new Set<RendererSession>();
  private readonly onSession: () => void;

  /** @param onSession called after a session has begun */
  constructor(host: AppHost, onSession: () => void = () => {}) {
    this.host = host;
    this.onSession = onSession;
    ipcMain.on(CONNECT, (event) => this.connect(event));
  }

  private connect(event: IpcMainEvent): void {
    const [port, ...others] = event.ports;
    if (!isOwnFrame(event.senderFrame) || port === undefined || others.length > 0) {
      this.host.say("a page that is not the app's own asked for a session; it gets none");
      for (const each of event.ports) each.close();
      return;
    }
    this.serve(port, event.sender);
  }

  private serve(port: MessagePortMain, contents: Electron.WebContents): void {
    const transport = portTransport(port as PortLike);
    const session = serveRenderer(transport, this.host);
    this.open.add(session);
    // A page that is loaded anew closes its port; a process that dies may not.
    const end = () => session.close();
    contents.once("render-process-gone", end);
    contents.once("destroyed", end);
    transport.onClose(() => {
      this.open.delete(session);
      contents.off("render-process-gone", end);
      contents.off("destroyed", end);
    });
    this.onSession();
  }

  get size(): number {
    return this.open.size;
  }

  /** Sends an event to one page, the newest: what is to be done once. */
  sendToOne(event: AppEvent): void {
    [...this.open].at(-1)?.send(event);
  }

  close(): void {
    for (const session of [...this.open]) session.close();
  }
}

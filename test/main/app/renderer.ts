/** The renderer's end of a connection, as the page has it. */
import { createBirpc } from "birpc";
import type { ControlAnswer, ControlWire, EventWire } from "../../../main/lab/control-api.ts";

export interface Renderer {
  call(method: string, parameters?: unknown): Promise<ControlAnswer>;
  readonly events: { readonly kind: string; readonly [key: string]: unknown }[];
}

/** @param on gives the listener for text that comes */
export function renderer(send: (text: string) => void, on: (listener: (text: string) => void) => void): Renderer {
  const events: Renderer["events"] = [];
  const wire: EventWire = { event: (event) => void events.push(event as (typeof events)[number]) };
  const rpc = createBirpc<ControlWire, EventWire>(wire, {
    post: (text: string) => send(text),
    on: (listener) => on((text) => listener(JSON.parse(text))),
    serialize: (value) => JSON.stringify(value),
    timeout: -1,
  });
  return { events, call: (method, parameters = {}) => rpc.call(method, parameters) };
}

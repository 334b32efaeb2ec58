/**
 * Runs a program as Electron's utility process would: with a `process.parentPort` and without Node's own way to the parent.
 * `node utility-shim.js program`, started by child_process.fork.
 */
import { EventEmitter } from "node:events";
import { pathToFileURL } from "node:url";

const own = process as NodeJS.Process & { parentPort?: unknown };
const send = process.send?.bind(process);
const port = new EventEmitter();
const queue: unknown[] = [];

/** Messages wait for the first listener (docs/api/parent-port.md). */
process.on("message", (message) => {
  // V8's serializer alone knows no Buffer, as Node's does.
  const data = structuredClone(message);
  if (port.listenerCount("message") === 0) queue.push(data);
  else port.emit("message", { data, ports: [] });
});
port.on("newListener", (name) => {
  if (name !== "message") return;
  setImmediate(() => {
    for (const data of queue.splice(0)) port.emit("message", { data, ports: [] });
  });
});
own.parentPort = Object.assign(port, { postMessage: (message: unknown) => send?.(structuredClone(message)) });
delete own.send;

const [program] = process.argv.splice(2);
if (program === undefined) throw new Error("no program");
await import(pathToFileURL(program).href);

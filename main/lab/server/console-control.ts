/** The rows of the control table that are about consoles. */
import type { ControlSession, MachineFunctions } from "../control-api.ts";
import { CONSOLE_WINDOW, type MachineState } from "../machine-api.ts";
import { MachineError } from "../machines/errors.ts";
import type { Attachment } from "../machines/machine-console.ts";
import type { Machines } from "../machines/machines.ts";

type ConsoleRows =
  | "consoleAttach"
  | "consoleDetach"
  | "consoleAcknowledge"
  | "consoleWrite"
  | "consoleResize"
  | "consoleLog";

/** Consoles that one connection may watch. */
const MOST_ATTACHMENTS = 256;
const LONGEST_PIECE = 1 << 20;

export function consoleControl(machines: Machines): Pick<MachineFunctions, ConsoleRows> {
  const sessions = new WeakMap<ControlSession, Map<number, Attachment>>();
  let last = 0;

  const attachmentsOf = (session: ControlSession): Map<number, Attachment> => {
    const known = sessions.get(session);
    if (known !== undefined) return known;
    const fresh = new Map<number, Attachment>();
    sessions.set(session, fresh);
    session.onEnd(() => {
      for (const attachment of fresh.values()) attachment.detach();
      fresh.clear();
    });
    return fresh;
  };
  /** Another connection's attachment is as unknown as one that never was. */
  const attachmentOf = (session: ControlSession, id: number): Attachment => {
    const found = sessions.get(session)?.get(id);
    if (found === undefined) throw new MachineError("failed", `this connection watches no console ${id}`, "attach it");
    return found;
  };

  return {
    consoleAttach: ({ machine, offset = 0 }, session) => {
      const { console } = machines.find(machine);
      const attachments = attachmentsOf(session);
      if (attachments.size >= MOST_ATTACHMENTS) {
        const what = `${MOST_ATTACHMENTS} consoles are watched over this connection`;
        throw new MachineError("busy", what, "detach one, or open another connection");
      }
      const id = ++last;
      const attachment = console.attach(offset < 0 ? console.end : offset, CONSOLE_WINDOW, {
        output: (at, bytes) => {
          session.send({ kind: "console", attachment: id, offset: at, data: bytes.toString("base64") });
        },
        state: (at, state) => {
          session.send({ kind: "console-state", attachment: id, offset: at, state: state as MachineState });
        },
      });
      attachments.set(id, attachment);
      return { attachment: id, offset: attachment.offset, end: console.end };
    },
    consoleDetach: ({ attachment }, session) => {
      attachmentOf(session, attachment).detach();
      sessions.get(session)?.delete(attachment);
      return {};
    },
    consoleAcknowledge: ({ attachment, offset }, session) => {
      attachmentOf(session, attachment).acknowledge(offset);
      return {};
    },
    consoleWrite: async ({ machine, data }) => {
      const found = machines.find(machine);
      if (await found.console.write(Buffer.from(data, "base64"))) return {};
      const remedy = `start it: domlab start ${found.name}`;
      throw new MachineError("wrong-state", `${found.name} is ${found.state}: nobody reads what is typed`, remedy);
    },
    consoleResize: ({ machine, columns, rows }) => {
      machines.find(machine).resizeConsole({ columns, rows });
      return {};
    },
    consoleLog: ({ machine, offset = 0, bytes: most = LONGEST_PIECE }) => {
      const { console } = machines.find(machine);
      const { offset: at, bytes } = console.scrollback.read(offset, most);
      return { offset: at, data: bytes.toString("base64"), end: console.end };
    },
  };
}

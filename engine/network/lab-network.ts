/** The switches of one lab and the ports on them, by name. */
import type { PortOptions, SwitchPort } from "./port.ts";
import { type SwitchOptions, VirtualSwitch } from "./switch.ts";
import { type Clock, monotonicClock, NetworkError } from "./types.ts";

/** As interface names of Linux: they become file names, words of rules and parts of XenStore paths. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/;
const SWITCHES_MOST = 64;

/** A port and the switch that it is on. */
export interface Place {
  readonly port: SwitchPort;
  readonly network: VirtualSwitch;
}

function checkName(name: string, of: string): void {
  if (NAME.test(name)) return;
  const shown = name.replace(/[^\x20-\x7e]+/g, "?").slice(0, 40);
  throw new NetworkError("bad-name", `"${shown}" cannot name a ${of}`, "use up to 15 letters, digits, dots, - and _");
}

export class LabNetwork {
  readonly #clock: Clock;
  readonly #switches = new Map<string, VirtualSwitch>();
  readonly #places = new Map<string, Place>();

  constructor(clock: Clock = monotonicClock) {
    this.#clock = clock;
  }

  /** @throws NetworkError "bad-name", "duplicate-name", "bad-mtu", "too-many" */
  create(options: SwitchOptions): VirtualSwitch {
    const { name } = options;
    checkName(name, "switch");
    if (this.#switches.has(name)) {
      throw new NetworkError("duplicate-name", `there is a switch ${name}`, "choose another name");
    }
    if (this.#switches.size === SWITCHES_MOST) {
      throw new NetworkError("too-many", `the lab has ${SWITCHES_MOST} switches`, "delete one first");
    }
    const created = new VirtualSwitch({ clock: this.#clock, ...options });
    this.#switches.set(name, created);
    return created;
  }

  /** @throws NetworkError "unknown-switch"; "switch-in-use" while it has ports */
  delete(name: string): void {
    const network = this.get(name);
    const [first] = network.ports;
    if (first !== undefined) {
      throw new NetworkError("switch-in-use", `${name} has ports (${first.name})`, "detach them first");
    }
    this.#switches.delete(name);
  }

  /** @throws NetworkError "unknown-switch" */
  get(name: string): VirtualSwitch {
    const found = this.#switches.get(name);
    if (found !== undefined) return found;
    const names = [...this.#switches.keys()];
    const remedy = names.length === 0 ? "create one with domlab network create" : `there are: ${names.join(", ")}`;
    const shown = name.replace(/[^\x20-\x7e]+/g, "?").slice(0, 40);
    throw new NetworkError("unknown-switch", `no switch is called "${shown}"`, remedy);
  }

  has(name: string): boolean {
    return this.#switches.has(name);
  }

  list(): VirtualSwitch[] {
    return [...this.#switches.values()];
  }

  /**
   * Puts a port on a switch.
   * @throws NetworkError "unknown-switch", "bad-name", "duplicate-name" (in the whole lab), and what addPort() throws
   */
  attach(switchName: string, options: PortOptions): Place {
    const network = this.get(switchName);
    checkName(options.name, "port");
    const other = this.#places.get(options.name);
    if (other !== undefined) {
      const what = `${other.network.name} has a port ${options.name}`;
      throw new NetworkError("duplicate-name", what, "choose another name");
    }
    const place: Place = { port: network.addPort(options), network };
    this.#places.set(options.name, place);
    return place;
  }

  /** Takes a port off its switch. @throws NetworkError "unknown-port" */
  detach(name: string): void {
    const { port, network } = this.place(name);
    network.removePort(port);
    this.#places.delete(name);
  }

  /** @throws NetworkError "unknown-port" */
  place(name: string): Place {
    const found = this.#places.get(name);
    if (found !== undefined) return found;
    const shown = name.replace(/[^\x20-\x7e]+/g, "?").slice(0, 40);
    throw new NetworkError("unknown-port", `no interface is called "${shown}"`, "see domlab network list");
  }

  /** The port of that name, if there is one. */
  find(name: string): Place | undefined {
    return this.#places.get(name);
  }

  /** Flushes every switch. */
  batchEnd(): void {
    for (const network of this.#switches.values()) network.batchEnd();
  }
}

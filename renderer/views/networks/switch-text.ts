/** Switches, uplinks and forwarded ports as people read and write them; what the lab reads is in its own words. */
import type { Topology } from "../../../main/lab/view-api.ts";

type Switch = Topology["switches"][number];
type Port = Switch["ports"][number];
export type Uplink = Switch["uplink"];
export type Forward = Switch["forwards"][number];

/** The uplink is a port of its switch too, under this name (engine/domain/driver/network-switch.ts). */
const UPLINK_PORT = "uplink";

export const isGuestPort = ({ name, domid }: Port): boolean => domid !== undefined || name !== UPLINK_PORT;

export const uplinkKinds = {
  user: { title: "The host's network", hint: "Through the host's own sockets: needs no privileges." },
  none: { title: "No uplink", hint: "Machines on this switch reach each other and nothing else." },
  tap: { title: "Interface of the host (tap)", hint: "Needs the right to make network interfaces." },
  passt: { title: "passt", hint: "The host's addresses as they are, through the program passt." },
  socket: { title: "Another lab (socket)", hint: "Joins switches of two labs through a Unix socket." },
  pcap: { title: "Capture files (pcap)", hint: "Writes what leaves to a file, plays what comes from one." },
} as const satisfies Record<Uplink["kind"], { title: string; hint: string }>;

/** "host's network 10.0.2.0/24" in few words. */
export function uplinkTitle(uplink: Uplink): string {
  switch (uplink.kind) {
    case "user":
      return uplink.subnet === undefined ? "host network" : `host ${uplink.subnet}`;
    case "tap":
      return `tap ${uplink.bridge ?? uplink.name ?? ""}`.trim();
    case "socket":
      return uplink.listen ? "socket, listens" : "socket, connects";
    case "pcap":
      return "capture files";
    case "passt":
      return "passt";
    case "none":
      return "no uplink";
  }
}

/** Credit in an interval as "10 Mb/s". */
export function rateText({ bytes, intervalUs }: { readonly bytes: number; readonly intervalUs: number }): string {
  let bits = (bytes * 8 * 1e6) / intervalUs;
  for (const unit of ["b/s", "Kb/s", "Mb/s"]) {
    if (bits < 1000) return `${Number(bits.toPrecision(3))} ${unit}`;
    bits /= 1000;
  }
  return `${Number(bits.toPrecision(3))} Gb/s`;
}

const bracketed = (address: string): string => (address.includes(":") ? `[${address}]` : address);

/** A forward as the lab reads it: "tcp:127.0.0.1:8080:10.0.2.15:80". */
export function forwardText(forward: Omit<Forward, "problem">): string {
  const { protocol, hostAddress, hostPort, guestAddress, guestPort } = forward;
  const guest = guestAddress === "" ? "" : `${bracketed(guestAddress)}:`;
  return `${protocol}:${bracketed(hostAddress)}:${hostPort}:${guest}${guestPort}`;
}

/** What a user fills in for a new switch. Text, as it stands in the fields. */
export interface SwitchForm {
  name: string;
  kind: Uplink["kind"];
  subnet: string;
  hostPorts: string;
  interfaceName: string;
  bridge: string;
  socketPath: string;
  listen: boolean;
  writeFile: string;
  playFile: string;
  mtu: string;
  rate: string;
  isolated: boolean;
  vlans: boolean;
}

export const emptyForm: SwitchForm = {
  name: "",
  kind: "none",
  subnet: "",
  hostPorts: "",
  interfaceName: "",
  bridge: "",
  socketPath: "",
  listen: true,
  writeFile: "",
  playFile: "",
  mtu: "",
  rate: "",
  isolated: false,
  vlans: false,
};

/** The settings of a kind of uplink, in the order in which they are written. */
function settingsOf(form: SwitchForm): readonly (readonly [string, string])[] {
  switch (form.kind) {
    case "user": {
      const ports = form.hostPorts.split(/[\s,]+/).filter((port) => port !== "");
      return [["subnet", form.subnet], ...ports.map((port) => ["host", port] as const)];
    }
    case "tap":
      return [
        ["name", form.interfaceName],
        ["bridge", form.bridge],
      ];
    case "socket":
      return [[form.listen ? "listen" : "connect", form.socketPath]];
    case "pcap":
      return [
        ["write", form.writeFile],
        ["play", form.playFile],
      ];
    default:
      return [];
  }
}

/** The uplink as the lab reads it: "user,subnet=10.0.5.0/24,host=8080". Commas separate, so that no value has one. */
export function uplinkText(form: SwitchForm): string {
  const settings = settingsOf(form).map(([key, value]) => [key, value.trim()] as const);
  return [form.kind, ...settings.filter(([, value]) => value !== "").map(([key, value]) => `${key}=${value}`)].join(
    ",",
  );
}

/** What is wrong that the lab would take otherwise than it was meant; undefined when nothing is. */
export function formProblem(form: SwitchForm): string | undefined {
  const paths =
    form.kind === "socket" ? [form.socketPath] : form.kind === "pcap" ? [form.writeFile, form.playFile] : [];
  for (const path of paths.map((each) => each.trim()).filter((each) => each !== "")) {
    if (!/^(\/|[A-Za-z]:[\\/])/.test(path)) return `"${path}" does not begin at the root; write the whole path`;
    if (path.includes(",")) return `"${path}" has a comma; choose a path without one`;
  }
  return undefined;
}

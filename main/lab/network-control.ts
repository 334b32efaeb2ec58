/** The control functions about networks, of a lab that is one host with its guests. */
import { vifDirectories } from "../../engine/device/net/vif-nodes.ts";
import { parseXenbusState, xenbusStateName } from "../../engine/device/xenbus/state.ts";
import type { Host } from "../../engine/domain/host.ts";
import { LEAST_MTU, MOST_MTU, parseVifName, vifName } from "../../engine/domain/network-config.ts";
import type { AttachedVif } from "../../engine/domain/vif-toolstack.ts";
import { parseRate } from "../../engine/network/policy/rate.ts";
import { BadInput } from "../failure.ts";
import { parseForward, parseSwitchName, parseUplink } from "../network-option.ts";
import { parseVif } from "../vif-option.ts";
import type { HostFunctions } from "./control-api.ts";
import type { LabVif, networkApi } from "./network-api.ts";

/** What is needed of the host; a test has a smaller one. */
export type NetworkHost = Pick<Host, "attachVif" | "detachVif"> & {
  readonly network: Host["network"];
  readonly vifs: Pick<Host["vifs"], "list">;
  readonly xenstore: { readonly toolstack: Pick<Host["xenstore"]["toolstack"], "read"> };
};

/** Where messages point that do not know an interface. */
const LISTED = "domlab network-list shows those there are";

function listVifs(host: NetworkHost): LabVif[] {
  const { toolstack } = host.xenstore;
  return host.vifs.list().map((device) => {
    const { name, frontendId, handle, mac, bridge, ips, backendId } = device;
    const state = parseXenbusState(toolstack.read(`${vifDirectories(device).backend}/state`));
    const backend = toolstack.read(`/local/domain/${backendId}/name`) ?? String(backendId);
    return { name, frontendId, handle, mac, bridge, ips, backendId, backend, state, stateName: xenbusStateName(state) };
  });
}

/** The interface that a user means by its name, its number in the guest, or its MAC address. */
function findVif(host: NetworkHost, guest: number, text: string): AttachedVif {
  const name = /^\d+$/.test(text) ? vifName(guest, Number(text)) : text;
  const isCalled = (vif: AttachedVif) => vif.name === name || vif.mac === text.toLowerCase();
  // Guests on different switches may have the same address.
  const found = host.vifs.list(guest).find(isCalled) ?? host.vifs.list().find(isCalled);
  if (found !== undefined) return found;
  const isWord = parseVifName(text) === undefined && !/^\d+$|:/.test(text);
  const what = isWord ? `"${text}" is no number, name or MAC address of an interface` : `there is no interface ${text}`;
  throw new BadInput("bad-option", what, LISTED);
}

function parseMtu(text: string): number {
  const value = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (value >= LEAST_MTU && value <= MOST_MTU) return value;
  const what = `--mtu ${text} is no number from ${LEAST_MTU} to ${MOST_MTU}`;
  throw new BadInput("bad-option", what, "say for example --mtu 9000");
}

function uplinkRate(text: string) {
  const rate = parseRate(text);
  if (!rate.ok) throw new BadInput("bad-option", `--rate: ${rate.error.what}`, rate.error.remedy);
  return { bytes: rate.value.bytes, intervalUs: rate.value.intervalUs };
}

/** @param guest number of the guest of that name, or of the one that commands mean; throws when there is none */
export function networkControl(
  host: NetworkHost,
  guest: (name?: string) => number,
): Pick<HostFunctions, keyof typeof networkApi> {
  const { network } = host;
  return {
    networkAttach: async ({ vif, machine }) => {
      const { name, mac } = await host.attachVif(guest(machine), parseVif(vif));
      return { name, mac };
    },
    networkDetach: async ({ vif, force, machine }) => {
      await host.detachVif(findVif(host, guest(machine), vif).name, force);
      return {};
    },
    networkList: () => listVifs(host),
    networkLink: async ({ vif, up, machine }) => {
      await network.link(findVif(host, guest(machine), vif).name, up);
      return {};
    },
    switchCreate: async ({ name, uplink, cwd, mtu, rate, isolated, vlans }) => {
      await network.createSwitch({
        name: parseSwitchName(name),
        uplink: parseUplink(uplink, cwd),
        isolated,
        vlans,
        ...(mtu !== undefined && { mtu: parseMtu(mtu) }),
        ...(rate !== undefined && { uplinkRate: uplinkRate(rate) }),
      });
      return {};
    },
    switchDelete: async ({ name }) => {
      await network.deleteSwitch(name);
      return {};
    },
    switchShow: () => network.show(),
    firewall: ({ target, command }) => network.firewall(target, command),
    account: ({ name, ...change }) => network.classes(name, change),
    impair: async ({ target, text }) => {
      await network.impair(target, text);
      return {};
    },
    forward: async ({ name, forward, remove }) => {
      const parsed = parseForward(forward);
      if (remove) await network.removeForward(name, parsed);
      else await network.addForward(name, parsed);
      return {};
    },
    networkLog: ({ after }) => network.log(after),
    captureStart: ({ target, ...wish }) => network.ask("captureStart", { ...network.target(target), ...wish }),
    captureCount: (parameters) => network.ask("captureCount", parameters),
    captureStop: (parameters) => network.ask("captureStop", parameters),
  };
}

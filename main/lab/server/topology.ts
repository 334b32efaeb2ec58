/**
 * The network of a lab as one picture: switches with what hangs on them, and the interfaces of machines that do not
 * run.
 */
import { NO_SETTINGS } from "../../../engine/domain/network-config.ts";
import type { Machines } from "../machines/machines.ts";
import type { NetworkHost } from "../network-control.ts";
import type { Topology } from "../view-api.ts";

type Port = Topology["switches"][number]["ports"][number];
type Vif = ReturnType<NetworkHost["vifs"]["list"]>[number];

/** Rules that somebody added: what restores a firewall names its chains' policies too. */
const ruleCount = (lines: readonly string[]): number => lines.filter((line) => / -A |^-A /.test(line)).length;

function resting(machines: Machines): Topology["resting"] {
  return machines
    .all()
    .filter(({ guest }) => guest === undefined)
    .flatMap(({ id, name, record }) =>
      record.config.vifs.map(({ bridge, mac, ips, vlan }, index) => ({
        machine: { id, name },
        index,
        bridge,
        ips: [...ips],
        ...(mac !== undefined && { mac }),
        ...(vlan !== undefined && { vlan: typeof vlan === "number" ? vlan : [...vlan] }),
      })),
    );
}

/** What a guest's interface adds to its port. */
function ownerOf(vif: Vif | undefined, machines: Machines): Partial<Port> {
  if (vif === undefined) return {};
  const owner = machines.all().find(({ guest }) => guest?.handle.id === vif.frontendId);
  return {
    domid: vif.frontendId,
    mac: vif.mac,
    ips: [...vif.ips],
    ...(vif.vlan !== undefined && { vlan: vif.vlan }),
    ...(owner && { machine: { id: owner.id, name: owner.name } }),
  };
}

export async function topologyOf({ network, vifs }: NetworkHost, machines: Machines): Promise<Topology> {
  // Without switches there may be no network domain, which must not be started for a look.
  const shown = network.list().length === 0 ? [] : await network.show();
  const interfaces = new Map(vifs.list().map((vif) => [vif.name, vif]));
  const switches = shown.map(({ ports, addresses, uplinkState: _, ...rest }) => {
    const settings = network.settingsOf(rest.name);
    return {
      ...rest,
      ports: ports.map(({ name, up, counters, impair }): Port => {
        const own = network.settingsOf(name);
        return {
          name,
          up,
          counters,
          impair,
          ips: [],
          learnt: [...new Set(addresses.filter(({ port }) => port === name).map(({ mac }) => mac))],
          rules: own === NO_SETTINGS ? 0 : ruleCount(own.rules),
          ...ownerOf(interfaces.get(name), machines),
        };
      }),
      rules: ruleCount(settings.rules),
      impair: settings.impair,
    };
  });
  return { switches, resting: resting(machines) };
}

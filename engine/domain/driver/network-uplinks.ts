/** Makes the uplinks that switches are described with. */
import { contains4, maskOf, parseIpv4 } from "../../network/address.ts";
import { PasstUplink } from "../../network/uplink/passt.ts";
import { PcapFileUplink } from "../../network/uplink/pcap-file.ts";
import { SocketUplink } from "../../network/uplink/socket.ts";
import { type OnReadable, TapUplink } from "../../network/uplink/tap.ts";
import { type Uplink, type UplinkContext, UplinkError } from "../../network/uplink/types.ts";
import { GATEWAY_MAC, settle } from "../../network/uplink/user/settings.ts";
import { UserUplink } from "../../network/uplink/user/user-uplink.ts";
import type { ForwardConfig, SwitchConfig, UplinkConfig } from "../network-config.ts";

/** Ports of the host that lead to guests, of an uplink that can do that. */
export interface Forwards {
  /**
   * Opens a port.
   * @param mac interface that is meant when no address is named
   * @returns the forward with the guest's address filled in
   * @throws UplinkError: one line
   */
  add(forward: ForwardConfig, mac?: string): Promise<ForwardConfig>;
  /** Closes it. */
  remove(forward: ForwardConfig): Promise<void>;
  list(): readonly ForwardConfig[];
}

/** An uplink, and what only some of them can. */
export interface UplinkWithForwards {
  readonly uplink: Uplink;
  readonly forwards?: Forwards;
  /** Has DHCP give an interface one of these addresses, if one is the uplink's to give. */
  readonly reserve?: (mac: string, addresses: readonly string[]) => void;
  readonly unreserve?: (mac: string) => void;
}

/** Of a switch whose uplink opens no ports. */
export const NO_FORWARDS: Forwards = {
  add: async () => {
    throw new UplinkError("this switch forwards no ports", "use one with the uplink user (domlab network create)");
  },
  remove: async () => {},
  list: () => [],
};

/** passt serves one guest, at the address that DHCP gives out first elsewhere. */
const PASST_GUEST = { version: 4, address: parseIpv4("10.0.2.15"), mask: maskOf(24), bits: 24 } as const;

class UserForwards implements Forwards {
  private readonly uplink: UserUplink;
  private readonly open: ForwardConfig[] = [];

  constructor(uplink: UserUplink) {
    this.uplink = uplink;
  }

  /** The address that an interface has or will get. */
  private addressOf(mac: string | undefined): string {
    const address = mac === undefined ? undefined : this.uplink.reserveAddress(mac);
    if (address !== undefined) return address;
    const what = mac === undefined ? "there is no guest on this switch yet" : "the guest gets no address by DHCP";
    throw new UplinkError(what, "name the guest's address: tcp:8080:10.0.2.50:80");
  }

  async add(wish: ForwardConfig, mac?: string): Promise<ForwardConfig> {
    const forward = wish.guestAddress === "" ? { ...wish, guestAddress: this.addressOf(mac) } : wish;
    await this.uplink.addForward(forward);
    this.open.push(forward);
    return forward;
  }

  async remove(forward: ForwardConfig): Promise<void> {
    await this.uplink.removeForward(forward);
    const same = (other: ForwardConfig) =>
      other.protocol === forward.protocol &&
      other.hostAddress === forward.hostAddress &&
      other.hostPort === forward.hostPort;
    const index = this.open.findIndex(same);
    if (index >= 0) this.open.splice(index, 1);
  }

  list(): readonly ForwardConfig[] {
    return this.open;
  }
}

function userUplink(
  { subnet, hostPorts }: Extract<UplinkConfig, { kind: "user" }>,
  mtu: number,
  context: UplinkContext,
): UplinkWithForwards {
  const options = {
    mtu,
    ...(subnet !== undefined && { subnet }),
    ...(hostPorts !== undefined && { hostLoopback: hostPorts }),
  };
  const uplink = new UserUplink(context, options);
  const { subnet: network } = settle(options);
  const inside = (address: string) => !address.includes(":") && contains4(network, parseIpv4(address));
  return {
    uplink,
    forwards: new UserForwards(uplink),
    reserve: (mac, addresses) => {
      const own = addresses.find((address) => !address.includes("/") && inside(address));
      if (own === undefined || uplink.reserveAddress(mac, own) !== undefined) return;
      context.log(`DHCP cannot give ${own} to ${mac}: it is another interface's`);
    },
    unreserve: (mac) => uplink.unreserveAddress(mac),
  };
}

/**
 * @param onReadable watches a descriptor of the host
 * @returns undefined for a switch without an uplink
 * @throws UplinkError for settings that do not fit
 */
export function createUplink(
  { uplink, mtu }: SwitchConfig,
  context: UplinkContext,
  onReadable: OnReadable,
): UplinkWithForwards | undefined {
  switch (uplink.kind) {
    case "none":
      return undefined;
    case "user":
      return userUplink(uplink, mtu, context);
    case "tap": {
      const { name, bridge } = uplink;
      const options = { mtu, ...(name !== undefined && { name }), ...(bridge !== undefined && { bridge }) };
      return { uplink: new TapUplink(context, options, onReadable) };
    }
    case "socket": {
      const { path, listen } = uplink;
      return { uplink: new SocketUplink(context, { path, mode: listen ? "listen" : "connect" }) };
    }
    case "pcap": {
      const { write, play } = uplink;
      const options = { ...(write !== undefined && { write }), ...(play !== undefined && { play }) };
      return { uplink: new PcapFileUplink(context, options) };
    }
    case "passt": {
      const { gateway, dns } = settle({});
      const settings = { guest: PASST_GUEST, gateway, dns, gatewayMac: GATEWAY_MAC, mtu, forwards: [] };
      return { uplink: new PasstUplink(context, settings) };
    }
  }
}

/** A stock guest behind the `user` uplink: DHCP, a server on the host, forwarded ports, and what it must not reach. */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { freePort } from "./host-tools.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

const lab = new DiskLab();
let guest: ShellGuest;
let declared: Server;
let hidden: Server;
let hiddenRequests = 0;
const portOf = (server: Server) => (server.address() as AddressInfo).port;
const BODY = "from the host\n".repeat(20_000);

async function serve(server: Server): Promise<Server> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

beforeAll(async () => {
  declared = await serve(createServer((_request, response) => response.end(BODY)));
  hidden = await serve(createServer((_request, response) => response.end("secret")));
  hidden.on("connection", () => hiddenRequests++);
  const { network } = lab.host;
  await network.createSwitch({ name: "lab0", uplink: { kind: "user", hostPorts: [portOf(declared)] } });
  guest = await lab.start({ name: "web", vifs: [{ bridge: "lab0", ips: ["10.0.2.50"] }] });
  await guest.ready();
});
afterAll(async () => {
  await lab.end();
  declared.close();
  hidden.close();
});

/** What a TCP server on the host's loopback answers to one request. */
async function fetchPage(port: number): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.end("GET / HTTP/1.0\r\n\r\n");
  let text = "";
  for await (const bytes of socket) text += bytes;
  return text;
}

describe("a guest behind the user uplink", () => {
  it("got its address, route and name server before its command ran", async () => {
    expect(await guest.output("ip addr show dev eth0")).toContain("inet 10.0.2.50/24");
    expect(await guest.output("ip route")).toContain("default via 10.0.2.2 dev eth0");
    expect(await guest.output("cat /etc/resolv.conf")).toContain("nameserver 10.0.2.3");
  });

  it("pings the gateway and fetches from a declared port of the host", async () => {
    expect(await guest.output("ping -c 2 10.0.2.2")).toContain("2 packets received");
    const sum = await guest.output(`wget -q -O - http://10.0.2.2:${portOf(declared)}/ | wc -c`);
    expect(Number(sum)).toBe(BODY.length);
  });

  it("is there again when its driver is bound again at once", async () => {
    for (let round = 0; round < 5; round++) {
      const pinged = await guest.output(`
        cd /sys/bus/xen/drivers/vif; echo vif-0 >unbind; echo vif-0 >bind; cd /
        i=0; until [ -e /sys/class/net/eth0 ]; do i=$((i+1)); [ $i -lt 100 ]; usleep 100000; done
        ip link set eth0 up; ip addr add 10.0.2.50/24 dev eth0; ip route add default via 10.0.2.2
        i=0; until ping -c 1 -W 1 10.0.2.2; do i=$((i+1)); [ $i -lt 30 ]; done`);
      expect(pinged).toContain("1 packets received");
    }
  });

  it("does not reach the host's loopback otherwise", async () => {
    const addresses = ["10.0.2.2", "127.0.0.1", "10.0.2.3"];
    for (const address of addresses) {
      const { status } = await guest.run(`ip route add ${address} via 10.0.2.2 2>/dev/null
        wget -q -T 3 -O - http://${address}:${portOf(hidden)}/`);
      expect(status).not.toBe(0);
    }
    expect(hiddenRequests).toBe(0);
  });

  it("is reached through forwarded ports, which are taken once and closed again", async () => {
    const { network } = lab.host;
    await guest.output("mkdir -p /www; echo page of the guest >/www/index.html; httpd -p 80 -h /www");
    const hostPort = await freePort();
    const forward = { protocol: "tcp" as const, hostAddress: "127.0.0.1", hostPort, guestAddress: "", guestPort: 80 };
    expect(await network.addForward("lab0", forward)).toMatchObject({ guestAddress: "10.0.2.50" });
    expect(await fetchPage(hostPort)).toContain("page of the guest");
    await expect(network.addForward("lab0", { ...forward, guestPort: 81 })).rejects.toThrow(/already is forwarded.*; /);
    await expect(network.addForward("lab0", { ...forward, hostPort: portOf(hidden) })).rejects.toThrow(/in use.*; /);
    // The domain's next process opens it again.
    const domain = await lab.host.networkDomain();
    process.kill(domain.pid, "SIGKILL");
    for (const end = Date.now() + 20_000; Date.now() < end; ) {
      const page = await fetchPage(hostPort).catch(() => "");
      if (page.includes("page of the guest")) break;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(await fetchPage(hostPort)).toContain("page of the guest");
    await network.removeForward("lab0", forward);
    await expect(fetchPage(hostPort)).rejects.toThrow(/ECONNREFUSED/);
  });
});

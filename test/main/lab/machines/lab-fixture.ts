/** A lab in a folder of its own with a fake host and real images, reached over its socket as by any tool. */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { ControlMethod, ControlParameters, ControlResult } from "../../../../main/lab/control-api.ts";
import { ControlClient } from "../../../../main/lab/control-client.ts";
import { type BootImages, CatalogueImages } from "../../../../main/lab/machines/boot-image.ts";
import { LabServer, type LabServerOptions } from "../../../../main/lab/server/lab-server.ts";
import { FakeHost } from "./fake-host.ts";

/** Only asked about names. */
const catalogue = new CatalogueImages(() => [], os.tmpdir());

export const boot: BootImages = {
  checkImage: (config) => catalogue.checkImage(config),
  promptOf: () => "fake# ",
  boot: async () => ({ image: { kernel: { path: "/vmlinuz" }, initrd: [], commandLine: "" }, prompt: "fake# " }),
  bootFiles: async () => ({ kernel: "/vmlinuz", commandLine: "console=hvc0" }),
  rootImage: async () => undefined,
};

export const MIB = 1 << 20;

export class LabFixture {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), "domlab-machines-"));
  host = new FakeHost();
  server!: LabServer;
  client!: ControlClient;
  private readonly clients: ControlClient[] = [];

  get home(): string {
    return path.join(this.folder, "home");
  }

  async open(options: Partial<LabServerOptions> = {}): Promise<this> {
    const host = new FakeHost();
    host.obedient = this.host.obedient;
    this.host = host;
    const root = path.join(this.folder, "run");
    this.server = await LabServer.open({ home: this.home, version: "test", root, host: () => host, boot, ...options });
    this.client = await this.connect();
    return this;
  }

  async connect(): Promise<ControlClient> {
    const client = await ControlClient.connect(this.server.served.sockets.control);
    this.clients.push(client);
    return client;
  }

  call<Method extends ControlMethod>(
    method: Method,
    parameters: ControlParameters<Method>,
  ): Promise<ControlResult<Method>> {
    return this.client.call(method, parameters);
  }

  /** A machine with a disk of 8 MiB. */
  async create(name: string, config: Record<string, unknown> = {}): Promise<string> {
    const given = { name, ...config } as ControlParameters<"machineCreate">["config"];
    const newDisks = [{ vdev: "xvda", size: 8 * MIB, format: "qcow2" as const }];
    return (await this.call("machineCreate", { config: given, newDisks })).id;
  }

  /** The file behind a machine's first disk. */
  async disk(name: string): Promise<string> {
    return (await this.call("machineShow", { machine: name })).disks[0]?.source ?? "";
  }

  /** Ends the lab as a user does. */
  async quit(machines?: "suspend" | "shutdown" | "destroy"): Promise<string[]> {
    const notes = await this.server.quit(machines);
    await this.server.ended;
    return notes;
  }

  /** A copy of the lab's folder as a kill at this moment would leave it. */
  freeze(): string {
    const copy = mkdtempSync(path.join(os.tmpdir(), "domlab-frozen-"));
    cpSync(this.home, path.join(copy, "home"), { recursive: true });
    return copy;
  }

  async dispose(): Promise<void> {
    for (const client of this.clients) client.close();
    await this.quit("destroy").catch(() => undefined);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/**
 * A lab in a folder that freeze() left.
 * @param home where it was: records name images by absolute paths, which are led to the copies
 */
export async function reopened(copy: string, home: string): Promise<LabFixture> {
  const fixture = new LabFixture();
  rmSync(fixture.folder, { recursive: true, force: true });
  cpSync(copy, fixture.folder, { recursive: true });
  rmSync(copy, { recursive: true, force: true });
  const records = ["lab.json", "lab.json.bak"].map((file) => path.join(fixture.home, file));
  const machines = path.join(fixture.home, "machines");
  for (const id of readdirSync(machines)) records.push(path.join(machines, id, "machine.json"));
  for (const file of records.filter((each) => existsSync(each))) {
    writeFileSync(file, readFileSync(file, "utf8").replaceAll(`${home}/`, `${fixture.home}/`));
  }
  return await fixture.open();
}

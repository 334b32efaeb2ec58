/** Several domains in one process whose memory is as in the program: files, found through a domain directory. */
import { GrantTableOp, mapGrantRef, unmapGrantRef } from "../../engine/abi/grant-table.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import type { Fields, Struct, StructValue } from "../../engine/abi/struct.ts";
import { Domain } from "../../engine/hypervisor/domain.ts";
import { GrantMaps } from "../../engine/hypervisor/grant-map.ts";
import { entryWord } from "../../engine/hypervisor/grant-pins.ts";
import { hypercall } from "../../engine/hypervisor/hypercall.ts";
import type { VcpuContext } from "../../engine/hypervisor/vcpu.ts";
import { createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { DomainDirectory } from "../../engine/memory/domain-directory.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory, type GuestMemory, type Mapping } from "../../engine/memory/guest-memory.ts";
import { Peers } from "../../engine/memory/peers.ts";
import { initialisePhysmapIdentity } from "../../engine/memory/physmap.ts";
import { domId } from "../../engine/memory/types.ts";
import { FakeCpu, RAM_BYTES } from "./fake-domain.ts";

const PRIVATE = 8 << 20;
const PHYSMAP = 0x10000;
const CODE_FLAGS = 0x500000;
/** Where tests put hypercall arguments. */
export const ARGS = 0x5000;

/** A domain without a vCPU. */
export interface Service {
  readonly id: number;
  readonly guest: GuestMemory;
  readonly mapping: Mapping;
  readonly peers: Peers;
  readonly maps: GrantMaps;
  readonly generation: number;
}

export interface Guest extends Service {
  readonly domain: Domain;
  readonly vcpu: VcpuContext;
  readonly cpu: FakeCpu;
  /** Guest-physical memory below RAM_BYTES. */
  readonly ram: DataView;
  call(number: number, ...args: readonly (number | bigint)[]): number;
  /** One element of a grant_table_op: answers it as it came back. */
  grantOp<F extends Fields>(op: number, struct: Struct<F>, args: Partial<StructValue<F>>): StructValue<F>;
  map(hostAddr: number, dom: number, ref: number, flags?: number): { status: number; handle: number };
  unmap(hostAddr: number, handle: number): number;
  read32(address: number): number;
  write32(address: number, value: number): void;
}

export class GrantLab {
  readonly directory = DomainDirectory.create();
  private readonly closers: (() => void)[] = [() => this.directory.close()];

  private enter(id: number, guest: GuestMemory): number {
    if (guest.token.kind !== "mapped") throw new Error("the lab needs mapped memory");
    this.directory.add(domId(id), guest.plan, guest.token.path);
    this.closers.push(() => guest.close());
    return this.directory.get(id)?.generation ?? 0;
  }

  service(id: number): Service {
    const guest = createGuestMemory(planFrames(RAM_BYTES), 0, "mapped");
    const mapping = guest.attach();
    initialisePhysmapIdentity(mapping);
    const generation = this.enter(id, guest);
    const peers = new Peers(this.directory, id, mapping);
    return { id, guest, mapping, peers, maps: new GrantMaps(mapping, id, peers), generation };
  }

  guest(id: number): Guest {
    const guest = createGuestMemory(planFrames(RAM_BYTES), PRIVATE, "mapped");
    const memory = createCpuMemory(guest, { frames: PRIVATE, physmap: PHYSMAP, codeFlags: CODE_FLAGS });
    const { mapping } = memory;
    const generation = this.enter(id, guest);
    const peers = new Peers(this.directory, id, mapping);
    const cpu = new FakeCpu(memory);
    const domain = new Domain({
      id: domId(id),
      memory,
      clock: () => 1000,
      wallclockNs: 0n,
      log: () => {},
      emergencyConsole: () => {},
      notifyHost: () => {},
      peers,
    });
    const vcpu = domain.addVcpu(cpu);
    const ram = new DataView(mapping.memory.buffer, mapping.base, RAM_BYTES);
    const call: Guest["call"] = (number, ...args) => {
      const registers = cpu.longMode ? [7, 6, 2, 10, 8] : [3, 1, 2, 6, 7];
      cpu.setRegister(0, BigInt(number));
      for (const [i, arg] of args.entries()) cpu.setRegister(registers[i] ?? 9, BigInt(arg));
      hypercall(vcpu);
      return Number(BigInt.asIntN(cpu.longMode ? 64 : 32, cpu.getRegister(0)));
    };
    const grantOp: Guest["grantOp"] = (op, struct, args) => {
      const layout = cpu.longMode ? struct : struct.compat;
      new Uint8Array(ram.buffer, ram.byteOffset + ARGS, layout.size).set(layout.encode(args));
      const result = call(Hypercall.grant_table_op, op, ARGS, 1);
      if (result !== 0) throw new Error(`grant_table_op ${op} answered ${result}`);
      return layout.read(ram, ARGS);
    };
    const at = (address: number, write: boolean): number => {
      const place = cpu.translate(BigInt(address), write);
      if (place === 0) throw new Error(`page fault at ${address.toString(16)}`);
      return place;
    };
    return {
      id,
      guest,
      mapping,
      peers,
      maps: domain.grantMaps,
      generation,
      domain,
      vcpu,
      cpu,
      ram,
      call,
      grantOp,
      map: (hostAddr, dom, ref, flags = 2) =>
        grantOp(GrantTableOp.map_grant_ref, mapGrantRef, { hostAddr: BigInt(hostAddr), dom, ref, flags, status: 77 }),
      unmap: (hostAddr, handle) =>
        grantOp(GrantTableOp.unmap_grant_ref, unmapGrantRef, { hostAddr: BigInt(hostAddr), handle, status: 77 }).status,
      read32: (address) => mapping.view.getUint32(at(address, false), true),
      write32: (address, value) => mapping.view.setUint32(at(address, true), value, true),
    };
  }

  /** The domain has ended: it is in the directory no more. */
  end(domain: Service): void {
    this.directory.remove(domId(domain.id));
  }

  close(): void {
    for (const close of this.closers.reverse()) close();
  }
}

/** Writes an entry of a domain's grant table as its kernel would: the frame first. */
export function writeEntry(domain: Service, ref: number, flags: number, domid: number, frame: number): void {
  const at = entryWord(domain.mapping, ref);
  Atomics.store(domain.mapping.words, at + 1, frame | 0);
  Atomics.store(domain.mapping.words, at, (domid << 16) | flags);
}

/** Flags of an entry as they are now. */
export function entryFlags(domain: Service, ref: number): number {
  return Atomics.load(domain.mapping.words, entryWord(domain.mapping, ref)) & 0xffff;
}

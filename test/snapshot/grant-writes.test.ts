/** Pages that other domains write by grants while a capture is under way. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  GrantTableOp,
  GTF_ACCEPT_TRANSFER,
  GTF_PERMIT_ACCESS,
  GTF_READONLY,
  grantCopy,
  transferGrant,
} from "../../engine/abi/grant-table.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import { GrantMaps } from "../../engine/hypervisor/grant-map.ts";
import { grantMapper, type PeerGrantMapper } from "../../engine/hypervisor/grant-mapper.ts";
import { settleMapsOf } from "../../engine/hypervisor/grant-recovery.ts";
import { Maptrack } from "../../engine/hypervisor/maptrack.ts";
import { RamPool } from "../../engine/hypervisor/ram-pool.ts";
import { markWritten } from "../../engine/memory/dirty-log.ts";
import { defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { removeFromPhysmap } from "../../engine/memory/physmap.ts";
import { fileOffset } from "../../engine/memory/types.ts";
import { MemoryCapture } from "../../engine/snapshot/capture.ts";
import { ARGS, GrantLab, type Service, writeEntry } from "../hypervisor/grant-domains.ts";
import { PAGE } from "./memory-domain.ts";

const FRONT = 5;
const BACK = 2;
const REF = 20;
const FRAME = 40;
const HOLE = 0x200;

describe.skipIf(defaultMemoryKind() !== "mapped")("pages written by grants", () => {
  let lab: GrantLab;
  let front: Service;
  let back: Service;
  let mapper: PeerGrantMapper;
  let capture: MemoryCapture;

  beforeEach(() => {
    lab = new GrantLab();
    front = lab.service(FRONT);
    back = lab.service(BACK);
    const found = grantMapper(back.maps, FRONT);
    if (found === undefined) throw new Error("the frontend lives");
    mapper = found;
    front.mapping.bytes.fill(1, front.mapping.base, front.mapping.base + 128 * PAGE);
    writeEntry(front, REF, GTF_PERMIT_ACCESS, BACK, FRAME);
    capture = new MemoryCapture(front.guest, front.mapping);
  });
  afterEach(() => {
    capture.close();
    lab.close();
  });

  const special = (): number => front.mapping.plan.control - front.mapping.plan.ramBytes;
  const writeTo = (handle: number): void => {
    mapper.memory.bytes[mapper.address(handle) + 7] = 42;
  };
  async function round(): Promise<void> {
    capture.prepare();
    await capture.precopy();
  }
  function finished(): { pages: number; different: number[] } {
    const pages = (capture.finish().bytes - special()) / PAGE;
    return { pages, different: capture.verify() };
  }

  it("are taken when the page is mapped, written and unmapped after the copy", async () => {
    await round();
    const handle = mapper.map(REF, false);
    writeTo(handle);
    mapper.unmap(handle);
    expect(finished()).toEqual({ pages: 1, different: [] });
  });

  it("are taken when the page was mapped before all, and unmapped after the copy", async () => {
    const handle = mapper.map(REF, false);
    await round();
    writeTo(handle);
    mapper.unmap(handle);
    expect(finished()).toEqual({ pages: 1, different: [] });
  });

  it("are taken while the page stays mapped all the time", async () => {
    const handle = mapper.map(REF, false);
    await round();
    await round();
    writeTo(handle);
    expect(finished()).toEqual({ pages: 1, different: [] });
    mapper.unmap(handle);
  });

  it("are none where the page could only be read", async () => {
    writeEntry(front, REF, GTF_PERMIT_ACCESS | GTF_READONLY, BACK, FRAME);
    await round();
    mapper.unmap(mapper.map(REF, true));
    expect(finished()).toEqual({ pages: 0, different: [] });
  });

  it("are taken when a mapper was killed in the middle of unmapping", async () => {
    const handle = mapper.map(REF, false);
    await round();
    writeTo(handle);
    expect(new Maptrack(back.mapping).begin(handle)).toBeGreaterThanOrEqual(0);
    settleMapsOf(back, [front, back]);
    expect(new GrantMaps(back.mapping, BACK, back.peers).listMaps()).toEqual([]);
    expect(finished()).toEqual({ pages: 1, different: [] });
  });

  it("are taken when the hypervisor copies to a page, or a page comes by a transfer", async () => {
    const [from, to] = [lab.guest(7), lab.guest(8)];
    to.mapping.bytes.fill(1, to.mapping.base, to.mapping.base + 128 * PAGE);
    const other = new MemoryCapture(to.guest, to.mapping);
    writeEntry(from, REF, GTF_PERMIT_ACCESS, 8, FRAME);
    writeEntry(to, REF, GTF_ACCEPT_TRANSFER, 7, HOLE);
    to.domain.ram.release(fileOffset(100 * PAGE));
    other.prepare();
    await other.precopy();
    from.write32(FRAME * PAGE, 0x1234);
    // Its arguments are written by the test, past everything that marks.
    markWritten(to.mapping, ARGS, PAGE);
    const copy = { sourceRef: BigInt(REF), sourceDomid: 7, destRef: 0x41n, destDomid: DOMID_SELF, len: 16, flags: 1 };
    expect(to.grantOp(GrantTableOp.copy, grantCopy, copy).status).toBe(0);
    expect(from.grantOp(GrantTableOp.transfer, transferGrant, { mfn: 0x50n, domid: 8, ref: REF }).status).toBe(0);
    expect(other.finish().bytes).toBe(3 * PAGE + to.mapping.plan.control - to.mapping.plan.ramBytes);
    expect(other.verify()).toEqual([]);
    other.close();
  });

  it("and pages given back to the host, which read as zero, are taken", async () => {
    await round();
    const pool = new RamPool(front.mapping, 256);
    removeFromPhysmap(front.mapping, FRAME);
    expect(pool.release(fileOffset(FRAME * PAGE))).toBe(true);
    expect(finished()).toEqual({ pages: 1, different: [] });
  });
});

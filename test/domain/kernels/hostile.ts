/** A unikernel that attacks its disk's backend with everything it has; each command is one attack. */
import { GTF_PERMIT_ACCESS } from "../../../engine/abi/grant-table.ts";
import { BlockStatus, BlockOperation as Op, X86_64_PROTOCOL } from "../../../engine/device/block/protocol.ts";
import { RING_REQ_EVENT, RING_REQ_PROD, RING_RSP_EVENT, RING_RSP_PROD } from "../../../engine/device/ring/layout.ts";
import { XenbusState } from "../../../engine/device/xenbus/state.ts";
import type { Kernel, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import { entryWord, grantPins } from "../../../engine/hypervisor/grant-pins.ts";
import { GRANT_REFS } from "../../../engine/memory/frame-plan.ts";
import { obey } from "./agent.ts";
import type { FlipRequest, StormRequest } from "./hostile-vcpu.ts";
import { indirectWords, RawFront, type RawSegment, requestWords } from "./raw-front.ts";

const PAGE = 4096;
const CANARY = 0x5a;
const MOST_DIRECT = 11;
const MOST_INDIRECT = 256;
const MOST_FLIP_ROUNDS = 20;

interface Place {
  readonly vdev: number;
}

/** References that the backend must not be able to use, and one for reading only. */
function badReferences(front: RawFront): number[] {
  const stranger = front.grant(false, 0x7fe0);
  const foreignFrame = front.grant();
  const { words } = front.domain.grants.memory;
  words[entryWord(front.domain.thread.mapping, foreignFrame.ref) + 1] = 0x7fff_ffff;
  const noType = front.grant();
  words[entryWord(front.domain.thread.mapping, noType.ref)]! &= ~3;
  return [0, 7, 4000, GRANT_REFS - 1, GRANT_REFS, 0x7fff_ffff, 0xffff_ffff, stranger.ref, foreignFrame.ref, noType.ref];
}

const whole = (ref: number): RawSegment => ({ ref, first: 0, last: 7 });

/** Requests of which none can be granted. */
function malformed(front: RawFront, sectors: number): Int32Array[] {
  const good = front.grant();
  const readOnly = front.grant(true);
  const { memory } = front.domain.grants;
  const requests: Int32Array[] = [];
  for (const bad of [...badReferences(front), readOnly.ref]) {
    for (let place = 0; place < MOST_DIRECT; place++) {
      const segments = Array.from({ length: MOST_DIRECT }, (_, i) => whole(i === place ? bad : good.ref));
      requests.push(requestWords({ operation: Op.read, segments }));
    }
  }
  for (const [first, last] of [
    [1, 0],
    [0, 8],
    [7, 255],
    [255, 255],
    [8, 8],
  ] as const) {
    requests.push(requestWords({ operation: Op.write, segments: [{ ref: good.ref, first, last }] }));
  }
  for (const count of [0, 12, 100, 255]) requests.push(requestWords({ operation: Op.read, count }));
  for (const sector of [sectors, sectors - 7, 2 ** 32, 2 ** 53, 2 ** 63]) {
    requests.push(requestWords({ operation: Op.write, sector, segments: [whole(good.ref)] }));
    requests.push(requestWords({ operation: Op.read, sector, segments: [whole(good.ref)] }));
  }
  for (const operation of [4, 7, 8, 100, 255]) requests.push(requestWords({ operation, segments: [whole(good.ref)] }));
  // Indirect ones: what they carry, how many, and which page has the segments.
  const list = front.grant();
  for (const carried of [Op.write_barrier, Op.flush_diskcache, Op.discard, Op.indirect, 255]) {
    requests.push(indirectWords({ carried, count: 1, refs: [list.ref] }));
  }
  for (const count of [0, MOST_INDIRECT + 1, 512, 4096, 0xffff]) {
    requests.push(indirectWords({ carried: Op.read, count, refs: Array(8).fill(list.ref) as number[] }));
  }
  for (const ref of badReferences(front)) requests.push(indirectWords({ carried: Op.read, count: 1, refs: [ref] }));
  // A list with one bad reference, at its ends and in its middle; each list has a page of its own.
  for (const place of [0, 128, MOST_INDIRECT - 1]) {
    const { page, ref } = front.grant();
    for (let i = 0; i < MOST_INDIRECT; i++) {
      memory.words[page / 4 + 2 * i] = i === place ? 4001 : good.ref;
      memory.words[page / 4 + 2 * i + 1] = 7 << 8;
    }
    requests.push(indirectWords({ carried: Op.read, count: MOST_INDIRECT, refs: [ref] }));
  }
  return requests;
}

/** Words of the ring's slots that a second vCPU changes, and the values that they take. */
function flips(front: RawFront, choices: { readonly refs: number[]; readonly entries: readonly number[] }) {
  const { size, slotSize } = front.ring.shared;
  const first = front.ring.shared.header + 16;
  const { sectorWord, segmentsWord } = X86_64_PROTOCOL;
  const words: number[] = [];
  const values: number[][] = [];
  const flip = (word: number, ...between: number[]) => {
    words.push(word);
    values.push(between);
  };
  for (let slot = 0; slot < size; slot += 3) {
    const start = first + (slot * slotSize) / 4;
    flip(start, Op.read | (1 << 8), Op.read | (11 << 8), Op.write | (255 << 8), Op.indirect | (256 << 16), Op.read);
    flip(start + sectorWord, 0, -1, 8, 1 << 30);
    flip(start + sectorWord + 1, 0, -1, 0, 0);
    for (let i = 0; i < 3; i++) {
      flip(start + segmentsWord + 2 * i, ...choices.refs);
      flip(start + segmentsWord + 2 * i + 1, 7 << 8, 0xffff, 8 << 8, 7);
    }
  }
  for (const entry of choices.entries) flip(entry, front.domain.grants.memory.words[entry] ?? 0, 0, 1 << 15, -1);
  return { words, values };
}

class Attacker {
  private readonly domain: TypescriptDomain;
  private readonly fronts = new Map<number, RawFront>();
  private vcpu: ReturnType<TypescriptDomain["startVcpu"]> | undefined;
  private running = false;

  constructor(domain: TypescriptDomain) {
    this.domain = domain;
  }

  private async front({ vdev }: Place): Promise<RawFront> {
    let front = this.fronts.get(vdev);
    if (front === undefined) {
      front = await RawFront.open(this.domain, vdev);
      this.fronts.set(vdev, front);
    }
    return front;
  }

  private accomplice() {
    this.vcpu ??= this.domain.startVcpu(new URL("./hostile-vcpu.js", import.meta.url).href);
    return this.vcpu;
  }

  /** Connects, shows indexes that cannot be, and disconnects; for each of them. @returns whether the ring was let go each time */
  async indexes(place: Place): Promise<boolean> {
    const front = await this.front(place);
    let free = true;
    const fields = [RING_REQ_PROD, RING_RSP_PROD, RING_REQ_EVENT, RING_RSP_EVENT];
    for (const field of fields) {
      for (const value of [33, 34, 1 << 16, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_ffe0, 7]) {
        await front.connect();
        const { page, ref } = front.grant();
        await front.answers([requestWords({ operation: Op.read, segments: [whole(ref)] })]);
        front.turnAway();
        front.ring.shared.store(field, value);
        front.notify();
        front.ring.shared.store(RING_REQ_PROD, value);
        front.notify();
        free = (await front.disconnect()) && this.domain.grants.endAccess(ref) && free;
        this.domain.grants.freePage(page);
      }
    }
    return free;
  }

  /** @returns how often each status was answered to requests that are all wrong, and then to one that is right */
  async nonsense({ sectors, ...place }: Place & { sectors: number }): Promise<unknown> {
    const front = await this.front(place);
    await front.connect();
    const requests = malformed(front, sectors);
    const answers = await front.answers(requests);
    const { ref } = front.grant();
    const [right] = await front.answers([requestWords({ operation: Op.read, segments: [whole(ref)] })]);
    const count = (status: number) => answers.filter((each) => each === status).length;
    const free = await front.disconnect();
    return {
      requests: requests.length,
      refused: count(BlockStatus.error) + count(BlockStatus.eopnotsupp),
      right,
      free,
    };
  }

  /** XenStore nodes that make no sense, each until the backend gives up. @returns what it says */
  async nodes({ bad, ...place }: Place & { bad: Readonly<Record<string, string>>[] }): Promise<string[]> {
    const front = await this.front(place);
    const { store } = this.domain;
    const said: string[] = [];
    const error = `error/${front.directory}/error`;
    for (const nodes of bad) {
      await store.remove(error);
      await front.publish(nodes);
      await front.backendIs(XenbusState.Closing, XenbusState.Closed);
      const backend = await store.read(`${front.directory}/backend`);
      said.push((await store.read(`${backend}/state`)) ?? "");
      for (const key of Object.keys(nodes)) await store.remove(`${front.directory}/${key}`);
      await front.disconnect();
    }
    return said;
  }

  /** Changes requests, and grants if `entries`, while the backend takes them. @returns what came of it */
  async flip({ requests, entries, ...place }: Place & { requests: number; entries: boolean }): Promise<unknown> {
    const front = await this.front(place);
    const { grants, thread } = this.domain;
    await front.connect();
    const stop = (grants.allocatePage() ?? 0) / 4;
    const own = Array.from({ length: 3 }, () => front.grant());
    const canary = front.grant(true);
    const { bytes } = grants.memory;
    bytes.fill(CANARY, canary.page, canary.page + PAGE);
    const request: FlipRequest = {
      ...flips(front, {
        refs: [...own.map(({ ref }) => ref), canary.ref, 0, 5000],
        entries: entries ? own.map(({ ref }) => entryWord(thread.mapping, ref)) : [],
      }),
      stop,
    };
    const flipping = this.accomplice().call(request);
    const each = requestWords({ operation: Op.read, segments: own.map(({ ref }) => whole(ref)) });
    const answers: number[] = [];
    // Until some were refused for it: the other vCPU may have to wait for a core.
    for (let n = 0; n < MOST_FLIP_ROUNDS && !(n > 0 && answers.includes(BlockStatus.error)); n++) {
      answers.push(...(await front.answers(Array.from({ length: requests }, () => each))));
    }
    Atomics.store(grants.memory.words, stop, 1);
    const flipped = (await flipping) as number;
    const strange = answers.filter((status) => status > BlockStatus.okay || status < BlockStatus.eopnotsupp).length;
    const kept = bytes.subarray(canary.page, canary.page + PAGE).every((byte) => byte === CANARY);
    const free = await front.disconnect();
    const refused = answers.includes(BlockStatus.error);
    return { flipped: flipped > 1000, refused, strange, kept, free };
  }

  /** Takes grants back as soon as requests with them have been pushed. @returns the number of answers */
  async revoke({ rounds, ...place }: Place & { rounds: number }): Promise<number> {
    const front = await this.front(place);
    const { words } = this.domain.grants.memory;
    await front.connect();
    const own = Array.from({ length: MOST_DIRECT }, () => front.grant());
    const entries = own.map(({ ref }) => entryWord(this.domain.thread.mapping, ref));
    const each = requestWords({ operation: Op.read, segments: own.map(({ ref }) => whole(ref)) });
    for (let round = 0; round < rounds; round++) {
      const expected = front.statuses.length + 8;
      front.push(Array.from({ length: 8 }, () => each));
      for (const entry of entries) Atomics.store(words, entry, 0);
      await front.until("answers", () => front.statuses.length === expected);
      for (const entry of entries) Atomics.store(words, entry, (front.backendId << 16) | GTF_PERMIT_ACCESS);
    }
    await front.disconnect();
    return front.statuses.length;
  }

  /** So many events without any reason, as fast as a vCPU can send them. */
  async storm({ events, ...place }: Place & { events: number }): Promise<number> {
    const front = await this.front(place);
    await front.connect();
    const sent = await this.accomplice().call({ port: front.port, events } satisfies StormRequest);
    await front.disconnect();
    return sent as number;
  }

  /** Writes states as fast as XenStore takes them, whatever the backend says. */
  async toggle({ times, ...place }: Place & { times: number }): Promise<void> {
    const front = await this.front(place);
    await front.connect();
    const states = [3, 4, 5, 6, 1, 3, 4, 6, 1, 3, 4, 1, 5, 2, 7, 0, 8, 6, 1];
    for (let n = 0; n < times; n += states.length) await Promise.all(states.map((state) => front.setState(state)));
    await front.disconnect();
  }

  /** Connects and disconnects in good order. @returns how often the ring was let go */
  async cycle({ times, ...place }: Place & { times: number }): Promise<number> {
    const front = await this.front(place);
    let free = 0;
    for (let n = 0; n < times; n++) {
      await front.connect();
      if (await front.disconnect()) free++;
    }
    return free;
  }

  /** Writes a node that the backend watches, again and again. */
  async scribble({ times, ...place }: Place & { times: number }): Promise<void> {
    const front = await this.front(place);
    await front.connect();
    const batch = 1000;
    for (let n = 0; n < times; n += batch) {
      await Promise.all(Array.from({ length: batch }, () => front.setState(XenbusState.Connected)));
    }
    await front.disconnect();
  }

  /** Keeps the backend busy with pages of ours until this domain is killed. */
  async hold(place: Place): Promise<void> {
    const front = await this.front(place);
    await this.domain.store.write(`${front.directory}/feature-persistent`, "1");
    await front.connect();
    const own = Array.from({ length: MOST_DIRECT }, () => front.grant());
    const each = requestWords({ operation: Op.read, segments: own.map(({ ref }) => whole(ref)) });
    await front.answers([each]);
    this.running = true;
    void (async () => {
      while (this.running) await front.answers(Array.from({ length: front.ring.size }, () => each));
    })();
  }

  /** How many of this domain's grants somebody has mapped. */
  pinned(): number {
    const { mapping } = this.domain.thread;
    return Array.from({ length: GRANT_REFS }, (_, ref) => ref).filter((ref) => grantPins(mapping, ref) !== 0).length;
  }
}

const kernel: Kernel = async (domain) => {
  const attacker = new Attacker(domain);
  await obey(domain, {
    indexes: (argument: Place) => attacker.indexes(argument),
    nonsense: (argument: Place & { sectors: number }) => attacker.nonsense(argument),
    nodes: (argument: Place & { bad: Readonly<Record<string, string>>[] }) => attacker.nodes(argument),
    flip: (argument: Place & { requests: number; entries: boolean }) => attacker.flip(argument),
    revoke: (argument: Place & { rounds: number }) => attacker.revoke(argument),
    storm: (argument: Place & { events: number }) => attacker.storm(argument),
    toggle: (argument: Place & { times: number }) => attacker.toggle(argument),
    cycle: (argument: Place & { times: number }) => attacker.cycle(argument),
    scribble: (argument: Place & { times: number }) => attacker.scribble(argument),
    hold: (argument: Place) => attacker.hold(argument),
    pinned: () => attacker.pinned(),
  });
};

export default kernel;

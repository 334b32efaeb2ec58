/** What a block frontend is asked to do, and how a request that is too large for one message is cut up. */
import { SECTOR } from "./protocol.ts";

/** A part of one page of one's own memory. */
export interface BlockSegment {
  /** Byte offset of the page in GrantSource.memory. */
  readonly page: number;
  /**
   * A grant of the page to the backend that the caller holds: nothing is granted or taken back then. Without it the page is
   * granted for this request alone. With persistent grants in effect such a grant must allow writing.
   */
  readonly ref?: number;
  /** First and last 512-byte unit within the page, both inclusive, 0…7. */
  readonly first: number;
  readonly last: number;
}

/** Sectors are counted in units of 512 bytes, whatever the disk's sector size. */
export type BlockCommand =
  | {
      readonly operation: "read" | "write" | "write_barrier";
      readonly sector: number;
      readonly segments: readonly BlockSegment[];
    }
  | { readonly operation: "flush" }
  | { readonly operation: "discard"; readonly sector: number; readonly sectors: number; readonly secure?: boolean };

export type BlockFailureCode =
  /** The backend could not do it. */
  | "io-error"
  /** The backend does not offer it. */
  | "unsupported"
  /** The backend broke the protocol; nothing more is sent to it. */
  | "backend-broken"
  /** The device is closed or gone. */
  | "closed"
  /** The domain's grant table is full. */
  | "no-grants"
  /** It is done, but the backend keeps pages mapped: see heldPages. */
  | "page-held";

export interface BlockFailure {
  readonly code: BlockFailureCode;
  /** One line. */
  readonly message: string;
  /**
   * Pages that the backend did not let go of. They belong to the frontend now, which frees them when it can: the caller
   * must neither use nor free them.
   */
  readonly heldPages?: readonly number[];
}

/** Called exactly once, never inside submit(). No argument: success. */
export type BlockDone = (failure?: BlockFailure) => void;

/** A command on its way. */
export interface PendingRequest {
  readonly command: BlockCommand;
  readonly done: BlockDone;
  /** Order of submission. */
  readonly sequence: number;
  /** Grants made for this request, one for each segment without one; empty before it has been put into a ring. */
  ownRefs: number[];
}

/** Bytes of a segment. */
export function segmentLength(segment: BlockSegment): number {
  return (segment.last - segment.first + 1) * SECTOR;
}

/** Cuts a request into pieces of at most `limit` segments, in order; `done` is called when all of them are done. */
export function splitRequest(request: PendingRequest, limit: number): PendingRequest[] {
  const { command } = request;
  if (command.operation === "flush" || command.operation === "discard" || command.segments.length <= limit) {
    return [request];
  }
  const { segments } = command;
  let remaining = Math.ceil(segments.length / limit);
  let failure: BlockFailure | undefined;
  const held: number[] = [];
  const done: BlockDone = (piece) => {
    if (piece) {
      held.push(...(piece.heldPages ?? []));
      // What went wrong first matters, but a failed transfer more than a page that was kept.
      if (!failure || failure.code === "page-held") failure = piece;
    }
    if (--remaining > 0) return;
    request.done(failure && held.length > 0 ? { ...failure, heldPages: held } : failure);
  };
  const pieces: PendingRequest[] = [];
  let { sector } = command;
  for (let from = 0; from < segments.length; from += limit) {
    const part = segments.slice(from, from + limit);
    pieces.push({
      command: { operation: command.operation, sector, segments: part },
      done,
      sequence: request.sequence,
      ownRefs: request.ownRefs.length > 0 ? request.ownRefs.splice(0, part.length) : [],
    });
    for (const segment of part) sector += segmentLength(segment) / SECTOR;
  }
  return pieces;
}

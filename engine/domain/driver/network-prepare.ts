/** Frames in the form that a frontend takes: what it cannot be left to do is done before. */
import type { Frame } from "../../device/net/frame.ts";
import type { FrameAcceptance } from "../../device/net/receive-ring.ts";
import { Headers } from "../../network/headers.ts";
import { finishChecksum, segmentTcp } from "../../network/offload.ts";

const headers = new Headers();

/**
 * Segments and finishes checksums where the frontend takes no such metadata. Satisfies FramePreparation.
 * @returns the frames to deliver instead; none when the metadata does not fit the frame
 */
export function prepareFrame(frame: Frame, accepts: FrameAcceptance): readonly Frame[] {
  const { segmentation } = frame;
  const segments = segmentation === "tcpv4" ? accepts.gso4 : segmentation === "tcpv6" ? accepts.gso6 : true;
  if (segments && (accepts.sg || segmentation === "none")) return [finishChecksum(frame)];
  return headers.parse(frame) === undefined ? segmentTcp(frame, headers) : [];
}

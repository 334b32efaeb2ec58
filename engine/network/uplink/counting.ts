/** What uplinks count alike: frames and bytes of both ways, and what could not be delivered. */
import type { DeliveryFailure, Frame } from "../../device/net/frame.ts";
import type { UplinkContext, UplinkCounters } from "./types.ts";

/** Counters of an uplink that can be down or have no room. */
export interface DropCounters extends UplinkCounters {
  /** Frames from the switch that were dropped: nobody is there to take them; whoever is, is too slow. */
  droppedDown: number;
  droppedFull: number;
}

/** A new uplink's counters. */
export function zeroCounters(): Pick<UplinkCounters, "framesIn" | "bytesIn" | "framesOut" | "bytesOut"> {
  return { framesIn: 0, bytesIn: 0, framesOut: 0, bytesOut: 0 };
}

/** A frame came from the switch. */
export function countIn(counters: UplinkCounters, frame: Frame): void {
  counters.framesIn++;
  counters.bytesIn += frame.length;
}

/** Hands a frame to the switch. */
export function sendCounted(context: UplinkContext, counters: UplinkCounters, frame: Frame): void {
  counters.framesOut++;
  counters.bytesOut += frame.length;
  context.send(frame);
}

/** A frame was dropped, since nobody is there to take it. */
export function droppedDown(counters: DropCounters): DeliveryFailure {
  counters.droppedDown++;
  return "down";
}

/** A frame was dropped, since too many wait already. */
export function droppedFull(counters: DropCounters): DeliveryFailure {
  counters.droppedFull++;
  return "full";
}

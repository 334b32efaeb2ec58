/** Sizes that the two ends of a console share; the ring's layout is engine/abi/console.ts. */

/** Rotation size of a domain's console log. */
export const LOG_LIMIT = 16 * 1024 * 1024;
/** Last bytes of console output that are kept for a crash report. */
export const TAIL_LIMIT = 16 * 1024;
/**
 * Output that a reader has not acknowledged yet: above the high mark the ring is left full, so that the guest waits;
 * below the low mark reading goes on. Two marks, so that a slow reader does not cause a stop and start for each piece.
 */
export const OUTPUT_HIGH_WATERMARK = 1024 * 1024;
export const OUTPUT_LOW_WATERMARK = 256 * 1024;

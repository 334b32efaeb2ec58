/** What a check of an image found, in words, and which repairs help. */
import type { ImageCheckReport } from "../../../main/lab/image-api.ts";
import { plural } from "../../lib/format.ts";

export interface Verdict {
  readonly tone: "ok" | "warn" | "bad";
  readonly text: string;
}

export interface Repair {
  readonly id: "leaks" | "errors" | "all";
  readonly label: string;
  /** What it does, and what it loses. */
  readonly hint: string;
  readonly danger: boolean;
}

/** The report in one sentence. */
export function verdictOf({ state, leaks, errors, corrupt, dirty }: ImageCheckReport): Verdict {
  if (state === "errors") {
    const also = leaks > 0 ? ` and ${plural(leaks, "cluster")} that nothing uses` : "";
    return { tone: "bad", text: `The image is damaged: ${plural(errors, "error")}${also}.` };
  }
  if (corrupt) return { tone: "warn", text: "The tables are in order, but the image is marked as damaged." };
  if (state === "leaks") {
    return { tone: "warn", text: `${plural(leaks, "cluster")} take room that nothing uses. That is harmless.` };
  }
  if (dirty) return { tone: "warn", text: "The image was not closed properly; its tables are in order." };
  return { tone: "ok", text: "The image is in order." };
}

/** What a repair did; undefined for a report of none. */
export function repairedText({ repaired }: ImageCheckReport): string | undefined {
  if (repaired === undefined) return undefined;
  const { leaks, errors, dropped } = repaired;
  const done = [
    errors > 0 ? `${plural(errors, "error")} mended` : "",
    leaks > 0 ? `${plural(leaks, "cluster")} freed` : "",
    dropped > 0 ? `${plural(dropped, "reference")} dropped that led nowhere` : "",
  ].filter((text) => text !== "");
  return done.length === 0 ? "There was nothing to mend." : `${done.join(", ")}.`;
}

/** The repairs that may help, the mildest first. */
export function repairsFor({ state, leaks, corrupt, dirty }: ImageCheckReport): Repair[] {
  const repairs: Repair[] = [];
  if (leaks > 0) {
    repairs.push({
      id: "leaks",
      label: "Free unused room",
      hint: "Frees what nothing uses; no content changes.",
      danger: false,
    });
  }
  if (state === "errors" || corrupt || dirty) {
    repairs.push({
      id: "errors",
      label: "Repair",
      hint: "Mends the tables where it is clear what they should say.",
      danger: false,
    });
  }
  if (state === "errors") {
    repairs.push({
      id: "all",
      label: "Repair and drop",
      hint: "Also drops references that lead nowhere: what a guest had there reads as zeros afterwards.",
      danger: true,
    });
  }
  return repairs;
}

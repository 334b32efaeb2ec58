/** A second vCPU of a hostile unikernel: changes memory under a backend's eyes, or storms it with events, until it is told. */
import type { IoKernel } from "../../../engine/domain/typescript/kernel.ts";

export interface FlipRequest {
  /** Indexes of words to change, and what each of them alternates between. */
  readonly words: readonly number[];
  readonly values: readonly (readonly number[])[];
  /** Index of a word that is not 0 when it is enough. */
  readonly stop: number;
}

export interface StormRequest {
  readonly port: number;
  readonly events: number;
}

const hostileVcpu: IoKernel = (thread) => (message) => {
  const request = message as FlipRequest | StormRequest;
  if ("port" in request) {
    for (let n = 0; n < request.events; n++) thread.events.send(request.port);
    return request.events;
  }
  const { words } = thread.mapping;
  let flips = 0;
  while (Atomics.load(words, request.stop) === 0) {
    for (let i = 0; i < request.words.length; i++) {
      const choices = request.values[i] ?? [];
      words[request.words[i] ?? 0] = choices[flips % choices.length] ?? 0;
      flips++;
    }
  }
  return flips;
};

export default hostileVcpu;

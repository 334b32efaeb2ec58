/** Kernels that do what a test tells them: commands come through XenStore, answers go out through the domain's log. */
import type { TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";

/** Where commands are put, one node each, below the domain's home. */
export const COMMANDS = "data/command";
/** Begins a line of the log that answers a command: then the domain's number, the command's, and an Answer as JSON. */
export const ANSWER = "answer";

export interface Command {
  readonly name: string;
  readonly argument: unknown;
}

export type Answer = { readonly value: unknown } | { readonly error: string };

export type Commands = Readonly<Record<string, (argument: never) => unknown>>;

async function perform(commands: Commands, { name, argument }: Command): Promise<Answer> {
  try {
    const run = commands[name] as ((argument: unknown) => unknown) | undefined;
    if (run === undefined) throw new RangeError(`no command ${name}`);
    return { value: (await run(argument)) ?? null };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/** Performs commands as they come, several at a time. Fulfilled when the host wants the domain to end. */
export async function obey(domain: TypescriptDomain, commands: Commands): Promise<void> {
  const { store } = domain;
  const taken = new Set<string>();
  const look = async (): Promise<void> => {
    for (const number of (await store.directory(COMMANDS)) ?? []) {
      if (taken.has(number)) continue;
      taken.add(number);
      const text = await store.read(`${COMMANDS}/${number}`);
      if (text === undefined) continue;
      const answer = await perform(commands, JSON.parse(text) as Command);
      domain.log(`${ANSWER} ${domain.id} ${number} ${JSON.stringify(answer)}`);
    }
  };
  await store.watch(COMMANDS, () => void look());
  if (domain.stopping.aborted) return;
  await new Promise<void>((resolve) => domain.stopping.addEventListener("abort", () => resolve()));
}

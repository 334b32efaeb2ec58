/**
 * How records of older versions become the present one's, step by step. Each step takes what the version before wrote
 * and is never changed once it has shipped; the schema is only checked at the end.
 */
import type { z } from "zod";
import { StoreError } from "./errors.ts";
import { LAB_VERSION, type LabData, labData, type MachineFile, machineFile } from "./schema.ts";

/** JSON of unknown making. */
export type Json = Record<string, unknown>;

/** From one version to the next. What a step throws means that the records are damaged. */
export interface MigrationStep {
  /** All records but the machines, which follow through `machine`. */
  lab(data: Json): Json;
  /** A machine's record, in lab.json or in its own file. */
  machine(record: Json): Json;
}

/** What the files of a lab look like. Tests put another in its place. */
export interface LabFormat {
  readonly version: number;
  /** steps[n] leads from version n to n + 1. */
  readonly steps: Readonly<Record<number, MigrationStep>>;
  readonly lab: z.ZodType<LabData>;
  readonly machine: z.ZodType<MachineFile>;
}

export const labFormat: LabFormat = { version: LAB_VERSION, steps: {}, lab: labData, machine: machineFile };

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The version that a file says it has; undefined when it says none. */
export function versionOf(value: unknown): number | undefined {
  const version = isObject(value) ? value.version : undefined;
  return typeof version === "number" && Number.isSafeInteger(version) && version >= 1 ? version : undefined;
}

/** @throws StoreError "later-version" */
export function refuseLaterVersion(file: string, version: number, format: LabFormat): void {
  if (version <= format.version) return;
  const versions = `its version is ${version}, this one's ${format.version}`;
  const what = `${file} was made by a later version of domlab (${versions})`;
  throw new StoreError("later-version", what, "update domlab");
}

function step(format: LabFormat, version: number): MigrationStep {
  const found = format.steps[version];
  if (found === undefined) throw new Error(`no migration leads from version ${version}`);
  return found;
}

function machineSteps(record: unknown, from: number, format: LabFormat): unknown {
  if (!isObject(record)) throw new Error("a machine is no object");
  let current = record;
  for (let version = from; version < format.version; version++) current = step(format, version).machine(current);
  return current;
}

/** Brings the content of a lab.json to the present version. Throws when it cannot be followed. */
export function migrateLab(data: Json, from: number, format: LabFormat): Json {
  if (from === format.version) return data;
  const machines = Array.isArray(data.machines) ? data.machines : [];
  let current: Json = structuredClone(data);
  for (let version = from; version < format.version; version++) current = step(format, version).lab(current);
  return {
    ...current,
    version: format.version,
    machines: machines.map((record) => machineSteps(structuredClone(record), from, format)),
  };
}

/** Brings the content of a machine.json to the present version. Throws when it cannot be followed. */
export function migrateMachineFile(data: Json, from: number, format: LabFormat): Json {
  if (from === format.version) return data;
  return { ...data, version: format.version, machine: machineSteps(structuredClone(data.machine), from, format) };
}

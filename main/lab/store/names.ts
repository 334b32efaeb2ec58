/** Names of machines: what one is, and which are taken. Two that differ in case only would be told apart by no one. */
import { StoreError } from "./errors.ts";
import { type DeepReadonly, type LabData, MACHINE_NAME, MACHINE_NAME_RULE } from "./schema.ts";

const LONGEST_NAME = 64;
const FALLBACK = "machine";

type Machines = Pick<DeepReadonly<LabData>, "machines">;

function takenNames(lab: Machines, except?: string): Set<string> {
  const others = lab.machines.filter(({ state, id }) => state !== "deleted" && id !== except);
  return new Set(others.map(({ config }) => config.name.toLowerCase()));
}

/** The nearest text that is a name: "My Server!" → "My-Server". */
function asName(text: string): string {
  const clean = text
    .normalize("NFKD")
    .replace(/\p{M}+/gu, "")
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+|[-.]+$/g, "")
    .slice(0, LONGEST_NAME);
  return MACHINE_NAME.test(clean) ? clean : FALLBACK;
}

/** A name that is free and looks like the text: "web", else "web-2", "web-3" … */
export function suggestName(text: string, lab: Machines): string {
  const taken = takenNames(lab);
  const base = asName(text);
  if (!taken.has(base.toLowerCase())) return base;
  const [, stem = base, digits] = /^(.*?)-(\d{1,6})$/.exec(base) ?? [];
  for (let number = digits === undefined ? 2 : Number(digits) + 1; ; number++) {
    const candidate = `${stem.slice(0, LONGEST_NAME - 1 - String(number).length)}-${number}`;
    if (!taken.has(candidate.toLowerCase())) return candidate;
  }
}

/**
 * Makes sure that a machine can be called so.
 * @param except id of the machine that may already have the name
 * @throws StoreError "bad-name" or "name-taken", with a name that would do
 */
export function checkName(name: string, lab: Machines, except?: string): void {
  if (!MACHINE_NAME.test(name)) {
    const what = `"${name.slice(0, 100)}" is no name for a machine`;
    throw new StoreError("bad-name", what, `use ${MACHINE_NAME_RULE}, for example ${suggestName(name, lab)}`);
  }
  if (takenNames(lab, except).has(name.toLowerCase())) {
    const what = `there is a machine called ${name} already`;
    throw new StoreError("name-taken", what, `choose another name, for example ${suggestName(name, lab)}`);
  }
}

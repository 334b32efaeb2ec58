/** What would be wrong with a configuration, for a form that is being filled in: nothing is made or changed. */
import { existsSync } from "node:fs";
import { explain } from "../../failure.ts";
import type { AppFunctions } from "../control-api.ts";
import type { MachineContext } from "../machines/context.ts";
import { isImage } from "../machines/guest-config.ts";
import type { Machine } from "../machines/machine.ts";
import { type Machines, needsRestart } from "../machines/machines.ts";
import { pathText } from "../store/errors.ts";
import { checkName } from "../store/names.ts";
import { enteredConfig, type MachineConfig } from "../store/schema.ts";

type Report = Awaited<ReturnType<AppFunctions["machineCheckConfig"]>>;
type Problem = Report["problems"][number];

/** The schema library's words about limits. */
const LIMITS: readonly (readonly [RegExp, string])[] = [
  [/^Too big: expected number to be <=?(\S+)$/, "too large; $1 at most"],
  [/^Too small: expected number to be >=?(\S+)$/, "too small; $1 at least"],
  [/^Too big: expected string to have <=(\d+) characters$/, "too long; $1 characters at most"],
  [/^Invalid input: expected int, received number$/, "not a whole number; leave out the fraction"],
  [/^Invalid input: expected number, received .*$/, "not a number; write one"],
];

/** Our own messages are "what; remedy" already. */
function plain(message: string): string {
  const limit = LIMITS.find(([words]) => words.test(message));
  if (limit !== undefined) return message.replace(...limit);
  return message.includes("; ") ? message : `${message}; correct it`;
}

function formProblems(error: { issues: readonly { path: readonly PropertyKey[]; message: string }[] }): Problem[] {
  return error.issues.map(({ path, message }) => ({ path: pathText(path), line: plain(message) }));
}

/** The line of what `check` throws. */
function lineOf(check: () => void): string | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    return explain(error).line;
  }
}

/** MAC addresses that another machine has on the same switch. */
function macProblems(config: MachineConfig, machines: Machines, own: Machine | undefined): Problem[] {
  return config.vifs.flatMap(({ mac, bridge }, index) => {
    const wanted = mac?.toLowerCase();
    const owner = machines
      .all()
      .find(
        (machine) =>
          machine !== own &&
          machine.record.config.vifs.some((vif) => vif.bridge === bridge && vif.mac?.toLowerCase() === wanted),
      );
    if (wanted === undefined || owner === undefined) return [];
    const line = `${owner.name} has the MAC address ${mac} on ${bridge} already; choose another, or leave it out`;
    return [{ path: `vifs.${index}.mac`, line }];
  });
}

/** Ports of the host that another machine leads to itself. */
function forwardProblems(config: MachineConfig, machines: Machines, own: Machine | undefined): Problem[] {
  return config.forwards.flatMap(({ protocol, hostAddress, hostPort }, index) => {
    const owner = machines
      .all()
      .find(
        (machine) =>
          machine !== own &&
          machine.record.config.forwards.some(
            (each) => each.protocol === protocol && each.hostAddress === hostAddress && each.hostPort === hostPort,
          ),
      );
    if (owner === undefined) return [];
    const line = `port ${hostPort} is forwarded to ${owner.name} already; choose another port of the host`;
    return [{ path: `forwards.${index}.hostPort`, line }];
  });
}

function fileProblems(config: MachineConfig): Problem[] {
  const files = [
    ...config.disks.map((disk, index) => [`disks.${index}.source`, isImage(disk) ? disk.source : undefined] as const),
    ["kernel", config.kernel] as const,
    ["initrd", config.initrd] as const,
  ];
  return files.flatMap(([path, file]) =>
    file === undefined || existsSync(file) ? [] : [{ path, line: `${file} does not exist; check the path` }],
  );
}

/** @param own the machine that the configuration is for, if there is one already */
export function checkMachineConfig(
  { store, boot }: Pick<MachineContext, "store" | "boot">,
  machines: Machines,
  given: unknown,
  own: Machine | undefined,
): Report {
  const form = enteredConfig.safeParse(given);
  if (!form.success) return { ok: false, problems: formProblems(form.error), restart: [] };
  const config = form.data;
  const name = lineOf(() => checkName(config.name, store.data, own?.id));
  const image = lineOf(() => boot.checkImage(config));
  const problems = [
    ...(name === undefined ? [] : [{ path: "name", line: name }]),
    ...(image === undefined ? [] : [{ path: "image", line: image }]),
    ...macProblems(config, machines, own),
    ...forwardProblems(config, machines, own),
    ...fileProblems(config),
  ];
  const restart = own?.guest === undefined ? [] : needsRestart(own.record.config, config);
  return { ok: problems.length === 0, problems, restart, defaults: JSON.parse(JSON.stringify(config)) };
}

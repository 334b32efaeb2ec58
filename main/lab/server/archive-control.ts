/** The rows of the control table that write machines into archives and read them. */
import type { MachineFunctions } from "../control-api.ts";
import type { MachineContext } from "../machines/context.ts";
import { exportMachine } from "../machines/export-archive.ts";
import { importMachine } from "../machines/import-archive.ts";
import type { Machines } from "../machines/machines.ts";

/** @param version of this program, which archives name */
export function archiveControl(
  context: MachineContext,
  machines: Machines,
  version: string,
): Pick<MachineFunctions, "machineExport" | "machineImport"> {
  const { operations } = context;
  return {
    machineExport: async ({ machine, path, force = false, operation }) => {
      const found = machines.find(machine);
      const what = `export of ${found.name}`;
      const { notes, ...exported } = await operations.run({ id: operation, what, machine: found.id }, (control) =>
        exportMachine(context, found, { path, force, version }, control),
      );
      return { ...exported, notes: [...notes] };
    },
    machineImport: ({ path, name, move = false, operation }) =>
      operations.run({ id: operation, what: "import of a machine" }, (control) =>
        importMachine(context, { path, name, move }, control),
      ),
  };
}

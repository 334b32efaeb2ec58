import { describe, expect, it } from "vitest";
import { ACPI_ADDRESS, acpiTables } from "../../engine/builder/acpi.ts";

describe("ACPI tables", () => {
  const bytes = acpiTables(3);
  const view = new DataView(bytes.buffer);
  const sum = (start: number, length: number) =>
    bytes.subarray(start, start + length).reduce((a, b) => a + b, 0) & 0xff;
  const signature = (start: number) => Buffer.from(bytes.subarray(start, start + 4)).toString();

  it("lead from the RSDP to sealed tables", () => {
    expect(sum(0, 20)).toBe(0);
    expect(sum(0, 36)).toBe(0);
    const xsdt = Number(view.getBigUint64(24, true)) - ACPI_ADDRESS;
    const length = view.getUint32(xsdt + 4, true);
    const tables = Array.from(
      { length: (length - 36) / 8 },
      (_, i) => Number(view.getBigUint64(xsdt + 36 + i * 8, true)) - ACPI_ADDRESS,
    );
    const fadt = tables[0] ?? 0;
    tables.push(xsdt, Number(view.getBigUint64(fadt + 140, true)) - ACPI_ADDRESS);
    expect(tables.map(signature)).toEqual(["FACP", "APIC", "XSDT", "DSDT"]);
    for (const table of tables) expect(sum(table, view.getUint32(table + 4, true))).toBe(0);
  });

  it("announce one local APIC for each vCPU", () => {
    const madt = Buffer.from(bytes).indexOf("APIC");
    expect(view.getUint32(madt + 4, true)).toBe(44 + 3 * 8);
    expect([...bytes.subarray(madt + 44 + 16, madt + 44 + 24)]).toEqual([0, 8, 2, 2, 1, 0, 0, 0]);
  });
});

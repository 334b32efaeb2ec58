/**
 * The ACPI tables of a domain (ACPI specification 6.4, chapter 5): RSDP, XSDT, FADT, MADT and an empty DSDT.
 *
 * They exist for the MADT: Linux starts the Xen clock event device only on a processor whose local APIC is announced. The FADT
 * says that there is no ACPI hardware, no PC devices and no legacy interrupt controller to look for.
 */

/** Where the tables lie: in the part of the first MiB that is not RAM and that a guest searches for the RSDP. */
export const ACPI_ADDRESS = 0xe0000;

const HEADER = 36;
const RSDP_SIZE = 36;
const FADT_SIZE = 268;
/** FADT, boot architecture: no VGA, no CMOS clock. */
const BOOT_NO_VGA_NO_CMOS = (1 << 2) | (1 << 5);
/** FADT flags: WBINVD works; reduced hardware. */
const FADT_FLAGS = 1 | (1 << 20);
const LOCAL_APIC_ADDRESS = 0xfee00000;

function ascii(bytes: Uint8Array, offset: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[offset + i] = text.charCodeAt(i);
}

/** Makes the bytes from 0 to `length` sum up to 0 modulo 256 by way of the byte at `offset`. */
function seal(bytes: Uint8Array, offset: number, length = bytes.length): void {
  bytes[offset] = 0;
  let sum = 0;
  for (let i = 0; i < length; i++) sum += bytes[i] ?? 0;
  bytes[offset] = -sum & 0xff;
}

interface Table {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** A table with its header; seal it when its body is written. */
function table(signature: string, revision: number, length: number): Table {
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  ascii(bytes, 0, signature);
  view.setUint32(4, length, true);
  bytes[8] = revision;
  ascii(bytes, 10, "DOMLAB");
  ascii(bytes, 16, "DOMLAB  ");
  view.setUint32(24, 1, true);
  ascii(bytes, 28, "DLAB");
  view.setUint32(32, 1, true);
  return { bytes, view };
}

function sealed({ bytes }: Table): Uint8Array {
  seal(bytes, 9);
  return bytes;
}

function fadt(dsdt: number): Uint8Array {
  const made = table("FACP", 5, FADT_SIZE);
  made.view.setUint32(40, dsdt, true);
  made.view.setUint16(109, BOOT_NO_VGA_NO_CMOS, true);
  made.view.setUint32(112, FADT_FLAGS, true);
  made.view.setBigUint64(140, BigInt(dsdt), true);
  return sealed(made);
}

/** One enabled local APIC per vCPU, processor id and APIC id equal; no I/O APIC. */
function madt(vcpus: number): Uint8Array {
  const entry = 8;
  const made = table("APIC", 3, HEADER + 8 + vcpus * entry);
  made.view.setUint32(HEADER, LOCAL_APIC_ADDRESS, true);
  for (let vcpu = 0; vcpu < vcpus; vcpu++) {
    made.bytes.set([0, entry, vcpu, vcpu, 1, 0, 0, 0], HEADER + 8 + vcpu * entry);
  }
  return sealed(made);
}

function xsdt(tables: readonly number[]): Uint8Array {
  const made = table("XSDT", 1, HEADER + tables.length * 8);
  for (const [i, address] of tables.entries()) made.view.setBigUint64(HEADER + i * 8, BigInt(address), true);
  return sealed(made);
}

function rsdp(xsdtAddress: number): Uint8Array {
  const bytes = new Uint8Array(RSDP_SIZE);
  const view = new DataView(bytes.buffer);
  ascii(bytes, 0, "RSD PTR ");
  ascii(bytes, 9, "DOMLAB");
  bytes[15] = 2;
  view.setUint32(20, RSDP_SIZE, true);
  view.setBigUint64(24, BigInt(xsdtAddress), true);
  seal(bytes, 8, 20);
  seal(bytes, 32);
  return bytes;
}

/** All tables of a domain in one piece, to be written at guest-physical `ACPI_ADDRESS`, where the RSDP then is. */
export function acpiTables(vcpus: number): Uint8Array {
  const places = { dsdt: 64, fadt: 128, madt: 512 };
  const madtBytes = madt(vcpus);
  const xsdtPlace = places.madt + Math.ceil(madtBytes.length / 64) * 64;
  const xsdtBytes = xsdt([ACPI_ADDRESS + places.fadt, ACPI_ADDRESS + places.madt]);
  const all = new Uint8Array(xsdtPlace + xsdtBytes.length);
  all.set(rsdp(ACPI_ADDRESS + xsdtPlace));
  all.set(sealed(table("DSDT", 2, HEADER)), places.dsdt);
  all.set(fadt(ACPI_ADDRESS + places.dsdt), places.fadt);
  all.set(madtBytes, places.madt);
  all.set(xsdtBytes, xsdtPlace);
  return all;
}

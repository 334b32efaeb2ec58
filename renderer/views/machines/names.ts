/** Names for new machines. */

/** `wish`, or `wish-2`, `wish-3` … when a machine has it already; capitals do not distinguish names. */
export function freeName(wish: string, machines: readonly { readonly name: string }[]): string {
  const taken = new Set(machines.map(({ name }) => name.toLowerCase()));
  let name = wish;
  for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${wish}-${number}`;
  return name;
}

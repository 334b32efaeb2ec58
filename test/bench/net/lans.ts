/** IPv4 networks of the benchmark, without their last number, and names of the host's tap interfaces. */

/** Of the guests among themselves. */
export const LAN = "10.1.0";
/** Interfaces of the host that the first guest of each pair has as eth2, where we may make them. */
export const TAPS = { domlab: "dlbench0", qemu: "dlbench1" } as const;
/** Network of each tap: the host is .1, the guest .2. */
export const TAP_LANS = { domlab: "10.77.1", qemu: "10.77.2" } as const;

/** Numbers that must not be mixed up, and the constructors that brand them. No check happens here. */
declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** A domain's number; 0 is the host's control plane. */
export type DomId = Branded<number, "DomId">;
/** An event channel of a domain, 1…4095. */
export type EventPort = Branded<number, "EventPort">;
/** An index into a domain's grant table. */
export type GrantRef = Branded<number, "GrantRef">;
/** A guest frame number: guest-physical address / 4096. */
export type Gfn = Branded<number, "Gfn">;
/** A guest-physical address in bytes. */
export type GuestAddress = Branded<number, "GuestAddress">;
/** A byte offset into a domain's shared memory file. */
export type FileOffset = Branded<number, "FileOffset">;

export const domId = (value: number): DomId => value as DomId;
export const eventPort = (value: number): EventPort => value as EventPort;
export const grantRef = (value: number): GrantRef => value as GrantRef;
export const gfn = (value: number): Gfn => value as Gfn;
export const guestAddress = (value: number): GuestAddress => value as GuestAddress;
export const fileOffset = (value: number): FileOffset => value as FileOffset;

/** The host's control plane as a peer of event channels and grants. */
export const DOM0 = domId(0);

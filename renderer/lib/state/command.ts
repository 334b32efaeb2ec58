/** Something that can be done from the palette or with keys. */
export interface Command {
  /** Unique; a later command of the same id stands before an earlier one. */
  readonly id: string;
  readonly title: string;
  /** Heading in the palette: "Machine web", "Go to". */
  readonly section: string;
  /** "Mod+K": Mod is Command on a Mac, Control elsewhere. Also sequences of two: "G M". */
  readonly keys?: string;
  /** Words that find it besides its title. */
  readonly words?: string;
  /** One of as many as there are machines: behind the others as long as nothing is searched for. */
  readonly many?: boolean;
  /** False: for its keys alone; the palette need not offer itself. */
  readonly listed?: boolean;
  readonly enabled?: () => boolean;
  run(): void;
}

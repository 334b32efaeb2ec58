/** What mmdebstrap says while it works, as one line with a percentage. */

/** Phases in their order; `upTo` is the percentage at the end of each, from measured times. */
const PHASES = [
  { begins: /^I: (running apt-get update|running --setup-hook)/, text: "reading package lists", upTo: 8 },
  { begins: /^I: downloading packages/, text: "fetching base packages", upTo: 20, counts: /^Get:/ },
  { begins: /^I: extracting archives/, text: "unpacking base packages", upTo: 24 },
  { begins: /^I: installing essential packages/, text: "setting up base packages", upTo: 42, counts: /^Setting up / },
  { begins: /^I: installing remaining packages/, text: "fetching more packages", upTo: 52, counts: /^Get:/ },
  { begins: /^(Selecting previously|Preparing to unpack)/, text: "setting up", upTo: 74, counts: /^Setting up / },
  { begins: /^I: running special hook: tar-in/, text: "adding the kernel's modules", upTo: 80 },
  { begins: /^I: running --customize-hook/, text: "configuring", upTo: 86 },
  { begins: /^I: creating tarball/, text: "copying the root file system", upTo: 95 },
] as const;
/** The phase whose beginning is an ordinary line of dpkg's, which the one before must have come to. */
const SETTING_UP = 5;
/** Percentage at which the file system is made. */
export const FILE_SYSTEM_PERCENT = 96;

/** Follows the build; lines come in the order in which they are printed. */
export class BuildProgress {
  private phase = -1;
  private expected = 0;
  private done = 0;
  private detail = "";

  /** Takes one line of output. Returns what to show now, or undefined when nothing has changed. */
  line(text: string): string | undefined {
    const packages = /^\d+ upgraded, (\d+) newly installed/.exec(text)?.[1];
    if (packages !== undefined) this.expected = Number(packages);
    const next = PHASES.findIndex(({ begins }, index) => index > this.phase && begins.test(text));
    if (next >= 0 && (next !== SETTING_UP || this.phase === SETTING_UP - 1)) {
      this.phase = next;
      this.done = 0;
      this.detail = "";
      return this.text();
    }
    const phase = PHASES[this.phase];
    if (phase === undefined || !("counts" in phase) || !phase.counts.test(text)) return undefined;
    this.done++;
    this.detail = /^Get:\d+ \S+ \S+ \S+ (\S+)|^Setting up ([^\s:]+)/.exec(text)?.slice(1).find(Boolean) ?? "";
    return this.text();
  }

  private text(): string {
    const phase = PHASES[this.phase];
    if (phase === undefined) return "";
    const from = PHASES[this.phase - 1]?.upTo ?? 0;
    const part = this.expected > 0 ? Math.min(1, this.done / this.expected) : 0;
    const percent = Math.floor(from + (phase.upTo - from) * part);
    return `making the Debian image: ${percent} %, ${phase.text}${this.detail && ` (${this.detail})`}`;
  }
}

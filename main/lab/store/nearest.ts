/** Which of the known words somebody meant. */

/** Least number of letters to insert, drop, change or swap with their neighbour (optimal string alignment). */
export function editDistance(from: string, to: string): number {
  let [before, last] = [[] as number[], Array.from({ length: to.length + 1 }, (_, index) => index)];
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const same = from[i - 1] === to[j - 1];
      let least = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
      const swapped = i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1];
      if (swapped) least = Math.min(least, before[j - 2]! + 1);
      row.push(least);
    }
    [before, last] = [last, row];
  }
  return last[to.length]!;
}

const LONGEST = 64;
const plain = (word: string) => word.toLowerCase().replace(/[_-]/g, "");

/**
 * How far a word is from a known one, or from how that begins ("memroy" from memoryMiB); case and hyphens do not count.
 */
function distance(word: string, known: string): number {
  const [short, long] = [plain(word), plain(known)];
  const beginning =
    short.length < 3 ? Number.POSITIVE_INFINITY : editDistance(short, long.slice(0, short.length)) + 0.5;
  return Math.min(editDistance(short, long), beginning);
}

/** The known word that is nearest, if it is near enough to be meant; the first of those that are equally near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (word.length === 0 || word.length > LONGEST) return undefined;
  const far = Math.max(1, Math.floor(word.length / 3)) + 0.5;
  let best: { readonly word: string; readonly distance: number } | undefined;
  for (const each of known) {
    const apart = distance(word, each);
    if (apart <= far && (best === undefined || apart < best.distance)) best = { word: each, distance: apart };
  }
  return best?.word;
}

/** "did you mean memoryMiB?", or the words that there are. */
export function suggestion(word: string, known: readonly string[]): string {
  const near = nearest(word, known);
  return near === undefined ? `use ${known.join(", ")}` : `did you mean ${near}?`;
}

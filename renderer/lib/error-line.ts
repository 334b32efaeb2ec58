/** What a caught value says, for the user: the lab's refusals are one line with their remedy. */
export function errorLine(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

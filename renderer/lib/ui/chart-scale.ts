/** Scales of charts. */

/** 1, 2 or 5 times a power of ten, at least `value`; 1 for nothing. */
export function niceTop(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5].find((factor) => factor * power >= value) ?? 10;
  return step * power;
}

/** Place of the time in a rising list that is nearest; 0 in an empty one. */
export function nearestIndex(times: readonly number[], wanted: number): number {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] ?? 0) < wanted) low = middle + 1;
    else high = middle;
  }
  const isEarlierNearer = low > 0 && wanted - times[low - 1]! < times[low]! - wanted;
  return isEarlierNearer ? low - 1 : Math.max(0, low);
}

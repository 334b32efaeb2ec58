/** Attachment for the control of a dialog that is to be typed into first: `{@attach firstFocus}`. */
export function firstFocus(node: HTMLElement): () => void {
  // A frame later: until then the dialog notes what had the focus before, to give it back.
  const frame = requestAnimationFrame(() => node.focus());
  return () => cancelAnimationFrame(frame);
}

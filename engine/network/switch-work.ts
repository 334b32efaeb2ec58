/** What a switch needs for one frame on its way; reused, so that no frame allocates it. */
import { FRAME_HEAD, Frame } from "../device/net/frame.ts";
import { Headers } from "./headers.ts";

/** A frame with its VLAN tag changed; `frame` is undefined until the first port needs it. */
export class Variant {
  readonly scratch = new Frame(FRAME_HEAD + 8);
  readonly headers = new Headers();
  frame: Frame | undefined = undefined;
}

/** Frames that come while another is being delivered have a Work of their own. */
export class Work {
  readonly headers = new Headers();
  /** VLAN of the frame; 0 on switches that know none. */
  vlan = 0;
  readonly untagged = new Variant();
  readonly tagged = new Variant();
}

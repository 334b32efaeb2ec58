/**
 * struct xencons_interface { char in[1024], out[2048]; XENCONS_RING_IDX in_cons, in_prod, out_cons, out_prod; };
 * (xen/include/public/io/console.h). Indexes run freely; a position is index & (length - 1).
 */
export const CONSOLE_IN_LENGTH = 1024;
export const CONSOLE_OUT_LENGTH = 2048;
export const CONSOLE_IN = 0;
export const CONSOLE_OUT = 1024;
export const CONSOLE_IN_CONS = 3072;
export const CONSOLE_IN_PROD = 3076;
export const CONSOLE_OUT_CONS = 3080;
export const CONSOLE_OUT_PROD = 3084;

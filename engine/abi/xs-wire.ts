import { defineStruct } from "./struct.ts";

/** Message types (xen/include/public/io/xs_wire.h, enum xsd_sockmsg_type). */
export const XsType = {
  CONTROL: 0,
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  TRANSACTION_START: 6,
  TRANSACTION_END: 7,
  INTRODUCE: 8,
  RELEASE: 9,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  WATCH_EVENT: 15,
  ERROR: 16,
  IS_DOMAIN_INTRODUCED: 17,
  RESUME: 18,
  SET_TARGET: 19,
  RESET_WATCHES: 21,
  DIRECTORY_PART: 22,
  GET_FEATURE: 23,
  SET_FEATURE: 24,
  GET_QUOTA: 25,
  SET_QUOTA: 26,
} as const;

/** struct xsd_sockmsg { uint32_t type, req_id, tx_id, len; }; */
export const xsHeader = defineStruct({ type: "u32", requestId: "u32", transactionId: "u32", length: "u32" });
/** Longest payload (XENSTORE_PAYLOAD_MAX); a longer one ends the connection. */
export const XS_PAYLOAD_MAX = 4096;
/** Longest absolute path (XENSTORE_ABS_PATH_MAX), and longest one below a domain's home (XENSTORE_REL_PATH_MAX). */
export const XS_ABSOLUTE_PATH_MAX = 3072;
export const XS_RELATIVE_PATH_MAX = 2048;

/**
 * struct xenstore_domain_interface { char req[1024], rsp[1024]; XENSTORE_RING_IDX req_cons, req_prod, rsp_cons,
 *   rsp_prod; uint32_t server_features, connection, error; };
 */
export const XS_RING_LENGTH = 1024;
export const XS_REQUEST = 0;
export const XS_RESPONSE = 1024;
export const XS_REQUEST_CONS = 2048;
export const XS_REQUEST_PROD = 2052;
export const XS_RESPONSE_CONS = 2056;
export const XS_RESPONSE_PROD = 2060;
export const XS_SERVER_FEATURES = 2064;
export const XS_CONNECTION = 2068;
export const XS_ERROR = 2072;
/** Bits of XS_SERVER_FEATURES: the guest may ask to reconnect, XS_ERROR is there, WATCH takes a depth. */
export const XS_FEATURE_RECONNECTION = 1;
export const XS_FEATURE_ERROR = 2;
export const XS_FEATURE_WATCH_DEPTH = 4;
export const XS_FEATURES = XS_FEATURE_RECONNECTION | XS_FEATURE_ERROR | XS_FEATURE_WATCH_DEPTH;
/** XS_CONNECTION values. */
export const XS_CONNECTED = 0;
export const XS_RECONNECT = 1;
/** XS_ERROR values. */
export const XS_ERROR_NONE = 0;
export const XS_ERROR_COMM = 1;
export const XS_ERROR_RINGIDX = 2;
export const XS_ERROR_PROTO = 3;

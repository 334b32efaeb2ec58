/** Imports of generated bodies; unused ones cost nothing. */
export const COMMON_IMPORTS = `
import { CUR, GPR, KIND_ADD, KIND_DEC, KIND_INC, KIND_SUB, LAZY_A, LAZY_B, LAZY_KIND, LEFT, RIP, R_A, R_B, R_BASE, R_COUNT, R_DISP, R_HANDLER, R_IMM, R_IMM_HIGH, R_INDEX, R_LINK, R_OFFSET, R_OP, R_SCALE, TLB, TLB_ADDEND, TLB_MASK, TLB_W, SLOT_PAGE } from "../layout";
import { lockAddress, missPop, missPush, missRead, missWrite } from "../mmu";
import { getCarry, getCond, setArith, setCarry, setCarryOverflow, setCounted, setResult } from "../flags";
import { rclFlags, rclValue, rcrFlags, rcrValue, rolFlags, rolValue, rorFlags, rorValue, setScanFlags, setCarried, shldFlags, shldValue, shrdFlags, shrdValue, signedHigh } from "../alu";
`;

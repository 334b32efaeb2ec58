/**
 * Where everything the CPU owns lies in the linear memory of one virtual CPU.
 *
 * Every vCPU worker has a memory of its own; its low 64 MiB are private (this file), and the guest's RAM is mapped
 * above them from the domain's shared file, so the addresses here are constants of the program. Plain TypeScript:
 * the AssemblyScript core and the TypeScript around it import the same file.
 */

// --- register file --------------------------------------------------------------------------------------------
/**
 * 16 general registers of 8 bytes; a record names one by its byte offset (AH is 1, CH is 9, ...). At the very start: there
 * the machine code of compiled blocks needs one byte for their address instead of four.
 */
export const GPR = 0x0;
/** Extra 8-byte slots after the 16 registers, addressed like registers (byte offsets from GPR). */
export const SLOT_ZERO = 128; // always 0
export const SLOT_PAGE = 136; // linear address of the code page that is running
export const SLOT_TEMP = 144; // an address computed by a micro-operation
export const SLOT_ES = 152; // segment bases, in the order of the segment numbers
export const SLOT_CS = 160;
export const SLOT_SS = 168;
export const SLOT_DS = 176;
export const SLOT_FS = 184;
export const SLOT_GS = 192;

/** u64 instruction pointer (linear offset within CS). Exact whenever CUR is 0. */
export const RIP = 0x100;
/** u32 the record that is executing, or 0: then RIP is exact. A fault takes its RIP from here. */
export const CUR = 0x108;
/** i32 instructions left before exec() must return. */
export const LEFT = 0x10c;
/** u64 lazy flags: operand and result shifted so that their sign bit is bit 63. See flags.ts. */
export const LAZY_A = 0x110;
export const LAZY_B = 0x118;
/** u32 lazy flags: kind in the low byte, shift count in the second. */
export const LAZY_KIND = 0x120;
/** u32 EFLAGS; arithmetic bits are valid as far as LAZY_KIND says. Bit 1 always set. */
export const EFLAGS = 0x124;
/** u32 current privilege level. */
export const CPL = 0x128;
/** u32 address of the TLB in use: TLB_KERNEL or TLB_USER. */
export const TLB = 0x12c;
/** u64 xor-ed into jump cache tags: bit 62 while CPL is 3. */
export const JUMP_TAG = 0x130;
/** u32 execution mode: MODE_*. */
export const MODE = 0x138;
/** u32 why exec() returned: EXIT_*. */
export const EXIT = 0x140;
/** u32 one-instruction shadow after STI or a load of SS: interrupts wait. */
export const SHADOW = 0x144;
/** u64 count of retired instructions. */
export const ICOUNT = 0x148;
/** Exit details: meaning by exit reason (EXIT_*). */
export const EXIT_A = 0x150; // u32
export const EXIT_B = 0x154; // u32
export const EXIT_C = 0x158; // u64
/** Pending exception of a fault under way: u32 vector, u32 has error code, u32 error code; u32 depth for #DF. */
export const EXC_VECTOR = 0x160;
export const EXC_HAS_ERROR = 0x164;
export const EXC_ERROR = 0x168;
export const EXC_DEPTH = 0x16c;
/** External interrupt line: u32 address of a byte that is non-zero while it is asserted (0: none), u32 vector. */
export const IRQ_BYTE = 0x170;
export const IRQ_VECTOR = 0x174;
/** u32 an injected one-shot external interrupt: vector + 1, or 0. */
export const IRQ_INJECT = 0x178;
/** u32 non-zero asks exec() to return soon (written from other threads). */
export const KICK = 0x17c;
/** u32 0xffffffff in 16/32-bit code (mask for RIP), u64. */
export const RIP_MASK = 0x180;
/** u32 next free byte of the code pool. */
export const POOL_NEXT = 0x18c;
/** u32 bumped by every TLB flush and code invalidation. */
export const CODE_EPOCH = 0x190;
/** i32 instructions left of the whole run, and u32 the part of them given to exec(). */
export const REMAINING = 0x198;
export const SLICE = 0x19c;
/** u32 non-zero: the exception in EXC_VECTOR… is to be delivered before the next instruction. */
export const EXC_PENDING = 0x1a0;
/** u32 times a block runs before it is handed to the compiler; 0: never. */
export const HOT_THRESHOLD = 0x1a4;
/** u32 blocks in HOT_QUEUE. */
export const HOT_COUNT = 0x1a8;
/** u32 bumped when all decoded code is dropped: records and what was compiled from them are void. */
export const CODE_RESETS = 0x1ac;

// --- control registers, descriptor tables, MSRs ---------------------------------------------------------------
export const CR0 = 0x200; // u64 each
export const CR2 = 0x208;
export const CR3 = 0x210;
export const CR4 = 0x218;
export const CR8 = 0x220;
export const EFER = 0x228;
export const DR = 0x230; // 8 u64: DR0 … DR7
export const GDTR_BASE = 0x270; // u64, limit u32 behind
export const GDTR_LIMIT = 0x278;
export const IDTR_BASE = 0x280;
export const IDTR_LIMIT = 0x288;
/**
 * Segment registers ES CS SS DS FS GS LDTR TR, 16 bytes each: u16 selector, u16 unused, u32 attributes (descriptor
 * bits 8…23 as in the high word: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D 14, G 15), u32 limit in bytes, u32 unused.
 * Bases: the SLOT_* of the register file for ES…GS, SEG_BASE_LDTR and SEG_BASE_TR for the other two.
 */
export const SEG = 0x300;
export const SEG_BASE_LDTR = 0x380; // u64
export const SEG_BASE_TR = 0x388;
export const MSR_STAR = 0x400; // u64 each
export const MSR_LSTAR = 0x408;
export const MSR_CSTAR = 0x410;
export const MSR_SFMASK = 0x418;
export const MSR_KERNEL_GS_BASE = 0x420;
export const MSR_SYSENTER_CS = 0x428;
export const MSR_SYSENTER_ESP = 0x430;
export const MSR_SYSENTER_EIP = 0x438;
export const MSR_TSC_AUX = 0x440;
export const MSR_PAT = 0x448;
export const MSR_TSC_OFFSET = 0x450; // added to the host's time stamp
export const MSR_APIC_BASE = 0x458;
export const MSR_MISC_ENABLE = 0x460;
export const MSR_MTRR_DEF_TYPE = 0x468;

// --- floating point and vectors -------------------------------------------------------------------------------
/** 8 physical x87 registers of 16 bytes: u64 significand (shared with MM0…MM7), u16 sign and exponent. */
export const FPR = 0x800;
export const FPU_CONTROL = 0x880; // u16
export const FPU_STATUS = 0x882; // u16, with TOP in bits 11…13
export const FPU_TAG = 0x884; // u8, one bit a physical register: 1 = not empty (the FXSAVE form)
export const FPU_OPCODE = 0x886; // u16, 11 bits
export const FPU_IP = 0x888; // u64
export const FPU_DP = 0x890; // u64
export const FPU_CS = 0x898; // u16
export const FPU_DS = 0x89a; // u16
export const MXCSR = 0x89c; // u32
export const XMM = 0x900; // 16 × 16 bytes
/** Bytes of an instruction at a page's end, copied for decoding. */
export const SCRATCH_CODE = 0xbc0;
/** Scratch for 16-byte and larger transfers: 1 KiB. */
export const SCRATCH = 0xc00;

/** A record whose case ends the interpreter; and the place of single-stepped instructions. */
export const STOPPED_RECORD = 0x2000;
export const STEP_RECORDS = 0x2040;

/** CPUID: u32 count, then entries of 32 bytes: leaf, subleaf (0xffffffff = any), eax, ebx, ecx, edx, 0, 0. */
export const CPUID_COUNT = 0x3000;
export const CPUID_TABLE = 0x3010;
export const CPUID_MAX = 96;

// --- caches ---------------------------------------------------------------------------------------------------
/** TLB entry, 32 bytes: u64 read tag, u64 write tag, u32 addend, u32 page in this memory, u64 execute tag. */
export const TLB_KERNEL = 0x10000;
export const TLB_USER = 0x20000;
export const TLB_ENTRIES = 2048;
export const TLB_MASK = 0xffe0; // (TLB_ENTRIES - 1) * 32, applied to address >> 7
export const TLB_W = 8;
export const TLB_ADDEND = 16;
export const TLB_PAGE = 20;
export const TLB_X = 24;
/** Jump cache entry, 16 bytes: u64 tag (linear address ^ JUMP_TAG), u32 record, u32 function that runs it. */
export const JUMP_CACHE = 0x40000;
export const JUMP_ENTRIES = 8192;
export const JUMP_MASK = 0x1fff0;
export const JUMP_RECORD = 8;
export const JUMP_FUNCTION = 12;
/** u32 records of blocks (their heads) that have become hot, HOT_COUNT of them. */
export const HOT_QUEUE = 0x60000;
export const HOT_MOST = 0x1000;
// 0x100000 … 0x1fffff: static data of the core (asc --memoryBase, in build.mjs).
/** u8 a page of this memory: 1 while records decoded from it exist. */
export const CODE_FLAG = 0x200000;
/**
 * u8 a page of this memory: 1 when it was written since somebody last cleared the byte. While it is 0 no TLB entry made since
 * lets the page be written (memory/dirty-log.ts).
 */
export const DIRTY_FLAG = 0x300000;
/** u32 a page of this memory: generation of its decoded code. */
export const CODE_GENERATION = 0x400000;
/**
 * u32 a guest frame: address in this memory, or 0 where nothing is mapped; bit 0 set = read-only. PHYSMAP_DEVICE alone:
 * the frame is the device page, whose accesses the host answers.
 */
export const PHYSMAP = 0x800000;
export const PHYSMAP_DEVICE = 2;
/** Bit 2 of an address: the frame's contents may be on their way, and the host is asked for them before the first access. */
export const PHYSMAP_LATER = 4;
export const PHYSMAP_FRAMES = 0x100000; // 4 GiB of guest-physical space
/** Block entry hash, 16 bytes: u32 code address in this memory, u32 record, u32 generation, u32 mode. */
export const ENTRY_HASH = 0xc00000;
export const ENTRY_COUNT = 0x40000;
/** Decoded records. */
export const CODE_POOL = 0x1000000;
export const CODE_POOL_END = 0x4000000;
/** The guest's frames are mapped from here on. */
export const FRAMES = 0x4000000;

// --- decoded record, 32 bytes ---------------------------------------------------------------------------------
export const R_OP = 0; // u16 case of the interpreter's switch
export const R_A = 2; // u8 register slot (destination, or ModRM.reg): byte offset from GPR
export const R_B = 3; // u8 register slot (source, or ModRM.rm)
export const R_BASE = 4; // u8 slot of the address base
export const R_INDEX = 5; // u8 slot of the address index
export const R_SCALE = 6; // u8 shift of the index
export const R_LENGTH = 7; // u8 instruction length in bytes; LENGTH_FUSED is set where a jump was joined to it
export const LENGTH_FUSED = 0x80;
export const R_DISP = 8; // i32 displacement
export const R_OFFSET = 12; // u16 offset of the instruction in its page
export const R_COUNT = 14; // u16 instructions of this block up to and including this record
export const R_IMM = 16; // i64 immediate (sign-extended to the operation's size, then to 64 bits)
export const R_IMM_HIGH = 20; // i32 second half: jump target relative to the page start, for fused records
export const R_LINK = 24; // u32 record of the jump target in the same page, or 0
// cold records (OP_COLD…) use the link word otherwise:
export const R_HANDLER = 24; // u16 function table index
export const R_PREFIX = 26; // u8 PREFIX_* bits
export const R_SIZE = 27; // u8 log2 of the operand size in bytes
export const R_MODRM = 28; // u8 the ModRM byte
export const R_REG = 29; // u8 ModRM.reg with REX.R (0…15)
export const R_RM = 30; // u8 ModRM.rm with REX.B (0…15), or 255 when the operand is in memory
export const R_SEG = 31; // u8 segment number of the memory operand (0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS)
export const RECORD = 32;
// The head of a block, a record before its first instruction, has R_OP, R_OFFSET, R_COUNT (0) and:
export const R_RECORDS = 4; // u16 records of the block behind the head
export const R_HEAT = 8; // u32 runs until it is hot
export const R_FUNCTION = 16; // u32 function table index: what runs the block (record) → the next record
export const R_PAGE = 20; // u32 page of the code in this memory
export const R_GENERATION = 24; // u32 generation of that page's code

export const PREFIX_LOCK = 1;
export const PREFIX_REPNE = 2;
export const PREFIX_REP = 4;
export const PREFIX_OPSIZE = 8;
export const PREFIX_ADDR = 16; // address size differs from the mode's own
export const PREFIX_REX = 32;
export const PREFIX_REXW = 64;
export const PREFIX_SEG = 128;

// --- values ---------------------------------------------------------------------------------------------------
export const MODE_REAL = 0;
export const MODE_16 = 1; // protected, 16-bit code segment
export const MODE_32 = 2; // protected or compatibility, 32-bit code segment
export const MODE_64 = 3;

export const EXIT_NONE = 0;
export const EXIT_BUDGET = 1; // the instruction budget is used up, or a kick
export const EXIT_HYPERCALL = 2; // VMCALL or VMMCALL; RIP is past it
export const EXIT_HALT = 3; // HLT; RIP is past it
export const EXIT_PORT = 4; // A = port, B = bytes | 16 for OUT; RIP still at the instruction: complete or inject
export const EXIT_MSR_READ = 5; // A = ECX; RIP still at the instruction
export const EXIT_MSR_WRITE = 6; // A = ECX, C = value; RIP still at the instruction
export const EXIT_SHUTDOWN = 7; // triple fault

export const KIND_EXPLICIT = 0; // everything in EFLAGS
export const KIND_SUB = 1; // A - B
export const KIND_ADD = 2; // A + B
export const KIND_DEC = 3; // A - B, CF in EFLAGS
export const KIND_INC = 4; // A + B, CF in EFLAGS
export const KIND_RESULT = 5; // ZF SF PF from A; CF OF AF in EFLAGS

export const FLAG_CF = 1;
export const FLAG_PF = 4;
export const FLAG_AF = 16;
export const FLAG_ZF = 64;
export const FLAG_SF = 128;
export const FLAG_TF = 256;
export const FLAG_IF = 512;
export const FLAG_DF = 1024;
export const FLAG_OF = 2048;
export const FLAGS_ARITH = 2261; // CF PF AF ZF SF OF
export const FLAG_RF = 0x10000;
export const FLAG_VM = 0x20000;

export const EXC_DE = 0;
export const EXC_DB = 1;
export const EXC_BP = 3;
export const EXC_OF = 4;
export const EXC_BR = 5;
export const EXC_UD = 6;
export const EXC_NM = 7;
export const EXC_DF = 8;
export const EXC_TS = 10;
export const EXC_NP = 11;
export const EXC_SS = 12;
export const EXC_GP = 13;
export const EXC_PF = 14;
export const EXC_MF = 16;
export const EXC_XM = 19;
/** No exception: the running instruction stopped in its middle and is to be resumed. */
export const EXC_RESTART = 256;

export const CR0_PE = 1;
export const CR0_MP = 2;
export const CR0_EM = 4;
export const CR0_TS = 8;
export const CR0_ET = 16;
export const CR0_NE = 32;
export const CR0_WP = 0x10000;
export const CR0_AM = 0x40000;
export const CR0_PG = 0x80000000;
export const CR4_TSD = 4;
export const CR4_DE = 8;
export const CR4_PSE = 16;
export const CR4_PAE = 32;
export const CR4_PGE = 128;
export const CR4_OSFXSR = 512;
export const CR4_OSXMMEXCPT = 1024;
export const CR4_FSGSBASE = 0x10000;
export const EFER_SCE = 1;
export const EFER_LME = 0x100;
export const EFER_LMA = 0x400;
export const EFER_NXE = 0x800;

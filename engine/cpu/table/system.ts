/**
 * Instructions of the system programmer (SDM vol 2, APM vol 3): segments, control registers, interrupts, ports, MSRs.
 *
 * `Ap` is a far pointer in the instruction, offset (operand size) before selector: R_IMM holds the offset, zero-extended,
 * in its low half and the selector in its high half. Rows of byte-sized port accesses have handlers of their own.
 */
export const SYSTEM_ROWS = `
* | 06 | push_es | | pushEs | no64
* | 0E | push_cs | | pushCs | no64
* | 16 | push_ss | | pushSs | no64
* | 1E | push_ds | | pushDs | no64
* | 0F A0 | push_fs | | pushFs | d64
* | 0F A8 | push_gs | | pushGs | d64
* | 07 | pop_es | | popEs | jump no64
* | 17 | pop_ss | | popSs | jump no64
* | 1F | pop_ds | | popDs | jump no64
* | 0F A1 | pop_fs | | popFs | jump d64
* | 0F A9 | pop_gs | | popGs | jump d64
* | 8C | mov | Ev,Sw | moveFromSegment |
* | 8E | mov | Sw,Ew | moveToSegment | jump
* | C4 m | les | Gv,M | loadEsPointer | jump no64
* | C5 m | lds | Gv,M | loadDsPointer | jump no64
* | 0F B2 m | lss | Gv,M | loadSsPointer | jump
* | 0F B4 m | lfs | Gv,M | loadFsPointer | jump
* | 0F B5 m | lgs | Gv,M | loadGsPointer | jump

* | 9A | callf | Ap | callFarImmediate | jump no64
* | EA | jmpf | Ap | jumpFarImmediate | jump no64
* | FF /3 m | callf | M | callFarMemory | jump
* | FF /5 m | jmpf | M | jumpFarMemory | jump
* | CA | retf | Iw | returnFarRelease | jump
* | CB | retf | | returnFarPlain | jump
* | CF | iret | | interruptReturn | jump
* | 0F 05 | syscall | | syscallEnter | jump
* | 0F 07 | sysret | | syscallReturn | jump priv
* | 0F 34 | sysenter | | sysenterEnter | jump
* | 0F 35 | sysexit | | sysenterReturn | jump priv

* | CC | int3 | | interruptBreakpoint | jump
* | CD | int | Ib | interruptNumber | jump
* | CE | into | | interruptOverflow | jump no64
* | F1 | int1 | | interruptDebug | jump
* | FA | cli | | clearInterrupts |
* | FB | sti | | setInterrupts | jump
* | 9C | pushf | | pushFlags | d64
* | 9D | popf | | popFlags | jump d64
* | F4 | hlt | | halt | jump priv

* | E4 | in | AL,Ib | inByteImmediate | jump
* | E5 | in | eAX,Ib | inImmediate | jump
* | E6 | out | Ib,AL | outByteImmediate | jump
* | E7 | out | Ib,eAX | outImmediate | jump
* | EC | in | AL,DX | inByte | jump
* | ED | in | eAX,DX | inWide | jump
* | EE | out | DX,AL | outByte | jump
* | EF | out | DX,eAX | outWide | jump
* | 6C | insb | | inStringByte | jump byte string
* | 6D | ins | | inString | jump string
* | 6E | outsb | | outStringByte | jump byte string
* | 6F | outs | | outString | jump string

* | 0F 00 /0 | sldt | Ev | storeLdt |
* | 0F 00 /1 | str | Ev | storeTask |
* | 0F 00 /2 | lldt | Ew | loadLdt | priv
* | 0F 00 /3 | ltr | Ew | loadTask | priv
* | 0F 00 /4 | verr | Ew | verifyRead |
* | 0F 00 /5 | verw | Ew | verifyWrite |
* | 0F 01 /0 m | sgdt | M | storeGdtr |
* | 0F 01 /1 m | sidt | M | storeIdtr |
* | 0F 01 /2 m | lgdt | M | loadGdtr | priv
* | 0F 01 /3 m | lidt | M | loadIdtr | priv
* | 0F 01 /4 | smsw | Ev | storeMachineStatus |
* | 0F 01 /6 | lmsw | Ew | loadMachineStatus | jump priv
* | 0F 01 /7 m | invlpg | M | invalidatePage | jump priv
* | 0F 01 C1 | vmcall | | hypercall | jump
* | 0F 01 D9 | vmmcall | | hypercall | jump
* | 0F 01 C8 | monitor | | undefinedInstruction |
* | 0F 01 C9 | mwait | | undefinedInstruction |
* | 0F 01 D0 | xgetbv | | undefinedInstruction |
* | 0F 01 D1 | xsetbv | | undefinedInstruction |
* | 0F 01 F8 | swapgs | | swapGs | only64 priv
* | 0F 01 F9 | rdtscp | | readTimeStampAux |
* | 0F 02 | lar | Gv,Ew | loadAccessRights |
* | 0F 03 | lsl | Gv,Ew | loadSegmentLimit |
* | 63 | arpl | Ew,Gw | adjustRpl | no64
* | 0F 06 | clts | | clearTaskSwitched | priv
* | 0F 08 | invd | | invalidateCaches | priv
* | 0F 09 | wbinvd | | invalidateCaches | priv
* | 0F 0B | ud2 | | undefinedInstruction |
* | 0F B9 | ud1 | Gv,Ev | undefinedInstruction |
* | 0F FF | ud0 | Gv,Ev | undefinedInstruction |
* | 0F 20 r | mov | Ry,Cy | readControl | priv
* | 0F 22 r | mov | Cy,Ry | writeControl | jump priv
* | 0F 21 r | mov | Ry,Dy | readDebug | priv
* | 0F 23 r | mov | Dy,Ry | writeDebug | priv
* | 0F 30 | wrmsr | | writeMsr | jump priv
* | 0F 32 | rdmsr | | readMsr | jump priv
* | 0F 31 | rdtsc | | readTimeStamp |
* | 0F 33 | rdpmc | | readPerformance |
* | 0F A2 | cpuid | | cpuid |
F3 | 0F AE /0 r | rdfsbase | Ry | readFsBase | only64
F3 | 0F AE /1 r | rdgsbase | Ry | readGsBase | only64
F3 | 0F AE /2 r | wrfsbase | Ry | writeFsBase | only64
F3 | 0F AE /3 r | wrgsbase | Ry | writeGsBase | only64
`;

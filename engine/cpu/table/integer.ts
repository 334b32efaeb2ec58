/**
 * General-purpose instructions (APM volume 3, SDM volume 2). Columns: see rows.ts.
 *
 * One row describes every operand size and both the register and the memory form; the generator derives from it the
 * decoder, the hot cases of the interpreter, and the cases of the golden vectors.
 */
export const INTEGER_ROWS = `
* | 00 | add | Eb,Gb | add | lock
* | 01 | add | Ev,Gv | add | lock
* | 02 | add | Gb,Eb | add |
* | 03 | add | Gv,Ev | add |
* | 04 | add | AL,Ib | add |
* | 05 | add | rAX,Iz | add |
* | 08 | or | Eb,Gb | or | lock undef=af
* | 09 | or | Ev,Gv | or | lock undef=af
* | 0A | or | Gb,Eb | or | undef=af
* | 0B | or | Gv,Ev | or | undef=af
* | 0C | or | AL,Ib | or | undef=af
* | 0D | or | rAX,Iz | or | undef=af
* | 10 | adc | Eb,Gb | adc | lock
* | 11 | adc | Ev,Gv | adc | lock
* | 12 | adc | Gb,Eb | adc |
* | 13 | adc | Gv,Ev | adc |
* | 14 | adc | AL,Ib | adc |
* | 15 | adc | rAX,Iz | adc |
* | 18 | sbb | Eb,Gb | sbb | lock
* | 19 | sbb | Ev,Gv | sbb | lock
* | 1A | sbb | Gb,Eb | sbb |
* | 1B | sbb | Gv,Ev | sbb |
* | 1C | sbb | AL,Ib | sbb |
* | 1D | sbb | rAX,Iz | sbb |
* | 20 | and | Eb,Gb | and | lock undef=af
* | 21 | and | Ev,Gv | and | lock undef=af
* | 22 | and | Gb,Eb | and | undef=af
* | 23 | and | Gv,Ev | and | undef=af
* | 24 | and | AL,Ib | and | undef=af
* | 25 | and | rAX,Iz | and | undef=af
* | 27 | daa |  | daa | no64 undef=of
* | 28 | sub | Eb,Gb | sub | lock
* | 29 | sub | Ev,Gv | sub | lock
* | 2A | sub | Gb,Eb | sub |
* | 2B | sub | Gv,Ev | sub |
* | 2C | sub | AL,Ib | sub |
* | 2D | sub | rAX,Iz | sub |
* | 2F | das |  | das | no64 undef=of
* | 30 | xor | Eb,Gb | xor | lock undef=af
* | 31 | xor | Ev,Gv | xor | lock undef=af
* | 32 | xor | Gb,Eb | xor | undef=af
* | 33 | xor | Gv,Ev | xor | undef=af
* | 34 | xor | AL,Ib | xor | undef=af
* | 35 | xor | rAX,Iz | xor | undef=af
* | 37 | aaa |  | aaa | no64 undef=of,sf,zf,pf
* | 38 | cmp | Eb,Gb | cmp |
* | 39 | cmp | Ev,Gv | cmp |
* | 3A | cmp | Gb,Eb | cmp |
* | 3B | cmp | Gv,Ev | cmp |
* | 3C | cmp | AL,Ib | cmp |
* | 3D | cmp | rAX,Iz | cmp |
* | 3F | aas |  | aas | no64 undef=of,sf,zf,pf
* | 40+r | inc | Zv | inc | no64
* | 48+r | dec | Zv | dec | no64
* | 50+r | push | Zv | push | d64
* | 58+r | pop | Zv | pop | d64
* | 60 | pusha |  | pusha | no64
* | 61 | popa |  | popa | no64
* | 62 | bound | Gv,M | bound | no64
* | 63 | movsxd | Gv,Ed | movsxd | only64
* | 68 | push | Iz | push | d64
* | 69 | imul | Gv,Ev,Iz | imul | undef=sf,zf,af,pf
* | 6A | push | Ibs | push | d64
* | 6B | imul | Gv,Ev,Ibs | imul | undef=sf,zf,af,pf
* | 70+cc | jcc | Jb | jcc | jump d64
* | 80 /0 | add | Eb,Ib | add | lock
* | 80 /1 | or | Eb,Ib | or | lock undef=af
* | 80 /2 | adc | Eb,Ib | adc | lock
* | 80 /3 | sbb | Eb,Ib | sbb | lock
* | 80 /4 | and | Eb,Ib | and | lock undef=af
* | 80 /5 | sub | Eb,Ib | sub | lock
* | 80 /6 | xor | Eb,Ib | xor | lock undef=af
* | 80 /7 | cmp | Eb,Ib | cmp |
* | 81 /0 | add | Ev,Iz | add | lock
* | 81 /1 | or | Ev,Iz | or | lock undef=af
* | 81 /2 | adc | Ev,Iz | adc | lock
* | 81 /3 | sbb | Ev,Iz | sbb | lock
* | 81 /4 | and | Ev,Iz | and | lock undef=af
* | 81 /5 | sub | Ev,Iz | sub | lock
* | 81 /6 | xor | Ev,Iz | xor | lock undef=af
* | 81 /7 | cmp | Ev,Iz | cmp |
* | 82 /0 | add | Eb,Ib | add | no64 lock
* | 82 /1 | or | Eb,Ib | or | no64 lock undef=af
* | 82 /2 | adc | Eb,Ib | adc | no64 lock
* | 82 /3 | sbb | Eb,Ib | sbb | no64 lock
* | 82 /4 | and | Eb,Ib | and | no64 lock undef=af
* | 82 /5 | sub | Eb,Ib | sub | no64 lock
* | 82 /6 | xor | Eb,Ib | xor | no64 lock undef=af
* | 82 /7 | cmp | Eb,Ib | cmp | no64
* | 83 /0 | add | Ev,Ibs | add | lock
* | 83 /1 | or | Ev,Ibs | or | lock undef=af
* | 83 /2 | adc | Ev,Ibs | adc | lock
* | 83 /3 | sbb | Ev,Ibs | sbb | lock
* | 83 /4 | and | Ev,Ibs | and | lock undef=af
* | 83 /5 | sub | Ev,Ibs | sub | lock
* | 83 /6 | xor | Ev,Ibs | xor | lock undef=af
* | 83 /7 | cmp | Ev,Ibs | cmp |
* | 84 | test | Eb,Gb | test | undef=af
* | 85 | test | Ev,Gv | test | undef=af
* | 86 | xchg | Eb,Gb | xchg | lock
* | 87 | xchg | Ev,Gv | xchg | lock
* | 88 | mov | Eb,Gb | mov |
* | 89 | mov | Ev,Gv | mov |
* | 8A | mov | Gb,Eb | mov |
* | 8B | mov | Gv,Ev | mov |
* | 8D | lea | Gv,M | lea |
* | 8F /0 | pop | Ev | pop | d64
* | 90+r | xchg | Zv,rAX | xchg |
F3 | 90 | pause |  | nop |
* | 98 | cbw |  | cbw |
* | 99 | cwd |  | cwd |
* | 9E | sahf |  | sahf |
* | 9F | lahf |  | lahf |
* | A0 | mov | AL,Ob | mov_from_offset |
* | A1 | mov | rAX,Ov | mov_from_offset |
* | A2 | mov | Ob,AL | mov_to_offset |
* | A3 | mov | Ov,rAX | mov_to_offset |
* | A4 | movsb |  | movs | byte string
* | A5 | movs |  | movs | string
* | A6 | cmpsb |  | cmps | byte string
* | A7 | cmps |  | cmps | string
* | A8 | test | AL,Ib | test | undef=af
* | A9 | test | rAX,Iz | test | undef=af
* | AA | stosb |  | stos | byte string
* | AB | stos |  | stos | string
* | AC | lodsb |  | lods | byte string
* | AD | lods |  | lods | string
* | AE | scasb |  | scas | byte string
* | AF | scas |  | scas | string
* | B0+r | mov | Zb,Ib | mov |
* | B8+r | mov | Zv,Iv | mov |
* | C0 /0 | rol | Eb,Ib | rol | undef=of
* | C0 /1 | ror | Eb,Ib | ror | undef=of
* | C0 /2 | rcl | Eb,Ib | rcl | undef=of
* | C0 /3 | rcr | Eb,Ib | rcr | undef=of
* | C0 /4 | shl | Eb,Ib | shl | undef=of,af
* | C0 /5 | shr | Eb,Ib | shr | undef=of,af
* | C0 /6 | shl | Eb,Ib | shl | undef=of,af
* | C0 /7 | sar | Eb,Ib | sar | undef=of,af
* | C1 /0 | rol | Ev,Ib | rol | undef=of
* | C1 /1 | ror | Ev,Ib | ror | undef=of
* | C1 /2 | rcl | Ev,Ib | rcl | undef=of
* | C1 /3 | rcr | Ev,Ib | rcr | undef=of
* | C1 /4 | shl | Ev,Ib | shl | undef=of,af
* | C1 /5 | shr | Ev,Ib | shr | undef=of,af
* | C1 /6 | shl | Ev,Ib | shl | undef=of,af
* | C1 /7 | sar | Ev,Ib | sar | undef=of,af
* | C2 | ret | Iw | ret_imm | jump d64
* | C3 | ret |  | ret | jump d64
* | C6 /0 | mov | Eb,Ib | mov |
* | C7 /0 | mov | Ev,Iz | mov |
* | C8 | enter | Iw,Ib | enter | d64
* | C9 | leave |  | leave | d64
* | D0 /0 | rol | Eb,1 | rol |
* | D0 /1 | ror | Eb,1 | ror |
* | D0 /2 | rcl | Eb,1 | rcl |
* | D0 /3 | rcr | Eb,1 | rcr |
* | D0 /4 | shl | Eb,1 | shl | undef=af
* | D0 /5 | shr | Eb,1 | shr | undef=af
* | D0 /6 | shl | Eb,1 | shl | undef=af
* | D0 /7 | sar | Eb,1 | sar | undef=af
* | D1 /0 | rol | Ev,1 | rol |
* | D1 /1 | ror | Ev,1 | ror |
* | D1 /2 | rcl | Ev,1 | rcl |
* | D1 /3 | rcr | Ev,1 | rcr |
* | D1 /4 | shl | Ev,1 | shl | undef=af
* | D1 /5 | shr | Ev,1 | shr | undef=af
* | D1 /6 | shl | Ev,1 | shl | undef=af
* | D1 /7 | sar | Ev,1 | sar | undef=af
* | D2 /0 | rol | Eb,CL | rol | undef=of
* | D2 /1 | ror | Eb,CL | ror | undef=of
* | D2 /2 | rcl | Eb,CL | rcl | undef=of
* | D2 /3 | rcr | Eb,CL | rcr | undef=of
* | D2 /4 | shl | Eb,CL | shl | undef=of,af,cf
* | D2 /5 | shr | Eb,CL | shr | undef=of,af,cf
* | D2 /6 | shl | Eb,CL | shl | undef=of,af,cf
* | D2 /7 | sar | Eb,CL | sar | undef=of,af
* | D3 /0 | rol | Ev,CL | rol | undef=of
* | D3 /1 | ror | Ev,CL | ror | undef=of
* | D3 /2 | rcl | Ev,CL | rcl | undef=of
* | D3 /3 | rcr | Ev,CL | rcr | undef=of
* | D3 /4 | shl | Ev,CL | shl | undef=of,af,cf
* | D3 /5 | shr | Ev,CL | shr | undef=of,af,cf
* | D3 /6 | shl | Ev,CL | shl | undef=of,af,cf
* | D3 /7 | sar | Ev,CL | sar | undef=of,af
* | D4 | aam | Ib | aam | no64 undef=of,af,cf
* | D5 | aad | Ib | aad | no64 undef=of,af,cf
* | D6 | salc |  | salc | no64
* | D7 | xlat |  | xlat | string
* | E0 | loopne | Jb | loopne | jump d64
* | E1 | loope | Jb | loope | jump d64
* | E2 | loop | Jb | loop | jump d64
* | E3 | jcxz | Jb | jcxz | jump d64
* | E8 | call | Jz | call | jump d64
* | E9 | jmp | Jz | jmp | jump d64
* | EB | jmp | Jb | jmp | jump d64
* | F5 | cmc |  | cmc |
* | F6 /0 | test | Eb,Ib | test | undef=af
* | F6 /1 | test | Eb,Ib | test | undef=af
* | F6 /2 | not | Eb | not | lock
* | F6 /3 | neg | Eb | neg | lock
* | F6 /4 | mul | Eb | mul | undef=sf,zf,af,pf
* | F6 /5 | imul | Eb | imul1 | undef=sf,zf,af,pf
* | F6 /6 | div | Eb | div | undef=cf,of,sf,zf,af,pf
* | F6 /7 | idiv | Eb | idiv | undef=cf,of,sf,zf,af,pf
* | F7 /0 | test | Ev,Iz | test | undef=af
* | F7 /1 | test | Ev,Iz | test | undef=af
* | F7 /2 | not | Ev | not | lock
* | F7 /3 | neg | Ev | neg | lock
* | F7 /4 | mul | Ev | mul | undef=sf,zf,af,pf
* | F7 /5 | imul | Ev | imul1 | undef=sf,zf,af,pf
* | F7 /6 | div | Ev | div | undef=cf,of,sf,zf,af,pf
* | F7 /7 | idiv | Ev | idiv | undef=cf,of,sf,zf,af,pf
* | F8 | clc |  | clc |
* | F9 | stc |  | stc |
* | FC | cld |  | cld |
* | FD | std |  | std |
* | FE /0 | inc | Eb | inc | lock
* | FE /1 | dec | Eb | dec | lock
* | FF /0 | inc | Ev | inc | lock
* | FF /1 | dec | Ev | dec | lock
* | FF /2 | call | Ev | call_indirect_near | jump d64
* | FF /4 | jmp | Ev | jmp_indirect_near | jump d64
* | FF /6 | push | Ev | push | d64
* | 0F 0D | prefetchw | M | nop |
* | 0F 18 | hint_nop | Ev | nop |
* | 0F 19 | hint_nop | Ev | nop |
* | 0F 1A | hint_nop | Ev | nop |
* | 0F 1B | hint_nop | Ev | nop |
* | 0F 1C | hint_nop | Ev | nop |
* | 0F 1D | hint_nop | Ev | nop |
* | 0F 1E | hint_nop | Ev | nop |
* | 0F 1F | nop | Ev | nop |
* | 0F 40+cc | cmovcc | Gv,Ev | cmovcc |
* | 0F 80+cc | jcc | Jz | jcc | jump d64
* | 0F 90+cc | setcc | Eb | setcc |
* | 0F A3 | bt | Ev,Gv | bt | undef=of,sf,af,pf
* | 0F A4 | shld | Ev,Gv,Ib | shld | undef=of,af
* | 0F A5 | shld | Ev,Gv,CL | shld | undef=of,af
* | 0F AB | bts | Ev,Gv | bts | lock undef=of,sf,af,pf
* | 0F AC | shrd | Ev,Gv,Ib | shrd | undef=of,af
* | 0F AD | shrd | Ev,Gv,CL | shrd | undef=of,af
* | 0F AF | imul | Gv,Ev | imul | undef=sf,zf,af,pf
* | 0F B0 | cmpxchg | Eb,Gb | cmpxchg | lock
* | 0F B1 | cmpxchg | Ev,Gv | cmpxchg | lock
* | 0F B3 | btr | Ev,Gv | btr | lock undef=of,sf,af,pf
* | 0F B6 | movzx | Gv,Eb | movzx_b |
* | 0F B7 | movzx | Gv,Ew | movzx_w |
* | 0F BA /4 | bt | Ev,Ib | bt | undef=of,sf,af,pf
* | 0F BA /5 | bts | Ev,Ib | bts | lock undef=of,sf,af,pf
* | 0F BA /6 | btr | Ev,Ib | btr | lock undef=of,sf,af,pf
* | 0F BA /7 | btc | Ev,Ib | btc | lock undef=of,sf,af,pf
* | 0F BB | btc | Ev,Gv | btc | lock undef=of,sf,af,pf
* | 0F BC | bsf | Gv,Ev | bsf | undef=cf,of,sf,af,pf
* | 0F BD | bsr | Gv,Ev | bsr | undef=cf,of,sf,af,pf
* | 0F BE | movsx | Gv,Eb | movsx_b |
* | 0F BF | movsx | Gv,Ew | movsx_w |
* | 0F C0 | xadd | Eb,Gb | xadd | lock
* | 0F C1 | xadd | Ev,Gv | xadd | lock
* | 0F C7 /1 | cmpxchg8b | M | cmpxchg8b | lock
* | 0F C8+r | bswap | Zv | bswap |
`;

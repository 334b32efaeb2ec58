/**
 * MMX instructions, with the MMX forms that SSE, SSE2 and SSSE3 added.
 * Columns: mandatory prefix | opcode | mnemonic | operands | handler | attributes.
 */
export const MMX_ROWS = `
   | 0F FC       | paddb       | Pq,Qq     | mmx_paddb            |
   | 0F FD       | paddw       | Pq,Qq     | mmx_paddw            |
   | 0F FE       | paddd       | Pq,Qq     | mmx_paddd            |
   | 0F D4       | paddq       | Pq,Qq     | mmx_paddq            |
   | 0F F8       | psubb       | Pq,Qq     | mmx_psubb            |
   | 0F F9       | psubw       | Pq,Qq     | mmx_psubw            |
   | 0F FA       | psubd       | Pq,Qq     | mmx_psubd            |
   | 0F FB       | psubq       | Pq,Qq     | mmx_psubq            |
   | 0F EC       | paddsb      | Pq,Qq     | mmx_paddsb           |
   | 0F ED       | paddsw      | Pq,Qq     | mmx_paddsw           |
   | 0F DC       | paddusb     | Pq,Qq     | mmx_paddusb          |
   | 0F DD       | paddusw     | Pq,Qq     | mmx_paddusw          |
   | 0F E8       | psubsb      | Pq,Qq     | mmx_psubsb           |
   | 0F E9       | psubsw      | Pq,Qq     | mmx_psubsw           |
   | 0F D8       | psubusb     | Pq,Qq     | mmx_psubusb          |
   | 0F D9       | psubusw     | Pq,Qq     | mmx_psubusw          |
   | 0F D5       | pmullw      | Pq,Qq     | mmx_pmullw           |
   | 0F E5       | pmulhw      | Pq,Qq     | mmx_pmulhw           |
   | 0F E4       | pmulhuw     | Pq,Qq     | mmx_pmulhuw          |
   | 0F F4       | pmuludq     | Pq,Qq     | mmx_pmuludq          |
   | 0F F5       | pmaddwd     | Pq,Qq     | mmx_pmaddwd          |
   | 0F F6       | psadbw      | Pq,Qq     | mmx_psadbw           |
   | 0F E0       | pavgb       | Pq,Qq     | mmx_pavgb            |
   | 0F E3       | pavgw       | Pq,Qq     | mmx_pavgw            |
   | 0F DA       | pminub      | Pq,Qq     | mmx_pminub           |
   | 0F DE       | pmaxub      | Pq,Qq     | mmx_pmaxub           |
   | 0F EA       | pminsw      | Pq,Qq     | mmx_pminsw           |
   | 0F EE       | pmaxsw      | Pq,Qq     | mmx_pmaxsw           |
   | 0F 74       | pcmpeqb     | Pq,Qq     | mmx_pcmpeqb          |
   | 0F 75       | pcmpeqw     | Pq,Qq     | mmx_pcmpeqw          |
   | 0F 76       | pcmpeqd     | Pq,Qq     | mmx_pcmpeqd          |
   | 0F 64       | pcmpgtb     | Pq,Qq     | mmx_pcmpgtb          |
   | 0F 65       | pcmpgtw     | Pq,Qq     | mmx_pcmpgtw          |
   | 0F 66       | pcmpgtd     | Pq,Qq     | mmx_pcmpgtd          |
   | 0F DB       | pand        | Pq,Qq     | mmx_pand             |
   | 0F DF       | pandn       | Pq,Qq     | mmx_pandn            |
   | 0F EB       | por         | Pq,Qq     | mmx_por              |
   | 0F EF       | pxor        | Pq,Qq     | mmx_pxor             |
   | 0F 63       | packsswb    | Pq,Qq     | mmx_packsswb         |
   | 0F 67       | packuswb    | Pq,Qq     | mmx_packuswb         |
   | 0F 6B       | packssdw    | Pq,Qq     | mmx_packssdw         |
   | 0F 60       | punpcklbw   | Pq,Qd     | mmx_punpcklbw        |
   | 0F 68       | punpckhbw   | Pq,Qq     | mmx_punpckhbw        |
   | 0F 61       | punpcklwd   | Pq,Qd     | mmx_punpcklwd        |
   | 0F 69       | punpckhwd   | Pq,Qq     | mmx_punpckhwd        |
   | 0F 62       | punpckldq   | Pq,Qd     | mmx_punpckldq        |
   | 0F 6A       | punpckhdq   | Pq,Qq     | mmx_punpckhdq        |
   | 0F F1       | psllw       | Pq,Qq     | mmx_psllw            |
   | 0F 71 /6    | psllw       | Nq,Ib     | mmx_psllw_imm        |
   | 0F F2       | pslld       | Pq,Qq     | mmx_pslld            |
   | 0F 72 /6    | pslld       | Nq,Ib     | mmx_pslld_imm        |
   | 0F F3       | psllq       | Pq,Qq     | mmx_psllq            |
   | 0F 73 /6    | psllq       | Nq,Ib     | mmx_psllq_imm        |
   | 0F D1       | psrlw       | Pq,Qq     | mmx_psrlw            |
   | 0F 71 /2    | psrlw       | Nq,Ib     | mmx_psrlw_imm        |
   | 0F D2       | psrld       | Pq,Qq     | mmx_psrld            |
   | 0F 72 /2    | psrld       | Nq,Ib     | mmx_psrld_imm        |
   | 0F D3       | psrlq       | Pq,Qq     | mmx_psrlq            |
   | 0F 73 /2    | psrlq       | Nq,Ib     | mmx_psrlq_imm        |
   | 0F E1       | psraw       | Pq,Qq     | mmx_psraw            |
   | 0F 71 /4    | psraw       | Nq,Ib     | mmx_psraw_imm        |
   | 0F E2       | psrad       | Pq,Qq     | mmx_psrad            |
   | 0F 72 /4    | psrad       | Nq,Ib     | mmx_psrad_imm        |
   | 0F 6E       | movd        | Pq,Ey     | mmx_movd_load        |
   | 0F 7E       | movd        | Ey,Pq     | mmx_movd_store       |
   | 0F 6F       | movq        | Pq,Qq     | mmx_movq_load        |
   | 0F 7F       | movq        | Qq,Pq     | mmx_movq_store       |
   | 0F E7       | movntq      | Mq,Pq     | mmx_movntq           |
   | 0F 70       | pshufw      | Pq,Qq,Ib  | mmx_pshufw           |
   | 0F C4       | pinsrw      | Pq,Ew,Ib  | mmx_pinsrw           |
   | 0F C5       | pextrw      | Gd,Nq,Ib  | mmx_pextrw           |
   | 0F D7       | pmovmskb    | Gd,Nq     | mmx_pmovmskb         |
   | 0F F7       | maskmovq    | Pq,Nq     | mmx_maskmovq         |
   | 0F 77       | emms        |           | mmx_emms             |
   | 0F 38 00    | pshufb      | Pq,Qq     | mmx_pshufb           | feature=ssse3
   | 0F 38 01    | phaddw      | Pq,Qq     | mmx_phaddw           | feature=ssse3
   | 0F 38 02    | phaddd      | Pq,Qq     | mmx_phaddd           | feature=ssse3
   | 0F 38 03    | phaddsw     | Pq,Qq     | mmx_phaddsw          | feature=ssse3
   | 0F 38 04    | pmaddubsw   | Pq,Qq     | mmx_pmaddubsw        | feature=ssse3
   | 0F 38 05    | phsubw      | Pq,Qq     | mmx_phsubw           | feature=ssse3
   | 0F 38 06    | phsubd      | Pq,Qq     | mmx_phsubd           | feature=ssse3
   | 0F 38 07    | phsubsw     | Pq,Qq     | mmx_phsubsw          | feature=ssse3
   | 0F 38 08    | psignb      | Pq,Qq     | mmx_psignb           | feature=ssse3
   | 0F 38 09    | psignw      | Pq,Qq     | mmx_psignw           | feature=ssse3
   | 0F 38 0A    | psignd      | Pq,Qq     | mmx_psignd           | feature=ssse3
   | 0F 38 0B    | pmulhrsw    | Pq,Qq     | mmx_pmulhrsw         | feature=ssse3
   | 0F 38 1C    | pabsb       | Pq,Qq     | mmx_pabsb            | feature=ssse3
   | 0F 38 1D    | pabsw       | Pq,Qq     | mmx_pabsw            | feature=ssse3
   | 0F 38 1E    | pabsd       | Pq,Qq     | mmx_pabsd            | feature=ssse3
   | 0F 3A 0F    | palignr     | Pq,Qq,Ib  | mmx_palignr          | feature=ssse3
`;

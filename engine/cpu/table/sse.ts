/**
 * SSE to SSE4.2 instructions in their legacy encodings, on XMM and general registers, and POPCNT.
 * Columns: mandatory prefix | opcode | mnemonic | operands | handler | attributes.
 * "approx" marks results the manual bounds only by an error (other processors differ in the last bits);
 * "feature=" names the CPUID feature that hides a row.
 */
export const SSE_ROWS = `
66 | 0F FC       | paddb       | Vo,Wo     | sse_paddb            |
66 | 0F FD       | paddw       | Vo,Wo     | sse_paddw            |
66 | 0F FE       | paddd       | Vo,Wo     | sse_paddd            |
66 | 0F D4       | paddq       | Vo,Wo     | sse_paddq            |
66 | 0F F8       | psubb       | Vo,Wo     | sse_psubb            |
66 | 0F F9       | psubw       | Vo,Wo     | sse_psubw            |
66 | 0F FA       | psubd       | Vo,Wo     | sse_psubd            |
66 | 0F FB       | psubq       | Vo,Wo     | sse_psubq            |
66 | 0F EC       | paddsb      | Vo,Wo     | sse_paddsb           |
66 | 0F ED       | paddsw      | Vo,Wo     | sse_paddsw           |
66 | 0F DC       | paddusb     | Vo,Wo     | sse_paddusb          |
66 | 0F DD       | paddusw     | Vo,Wo     | sse_paddusw          |
66 | 0F E8       | psubsb      | Vo,Wo     | sse_psubsb           |
66 | 0F E9       | psubsw      | Vo,Wo     | sse_psubsw           |
66 | 0F D8       | psubusb     | Vo,Wo     | sse_psubusb          |
66 | 0F D9       | psubusw     | Vo,Wo     | sse_psubusw          |
66 | 0F D5       | pmullw      | Vo,Wo     | sse_pmullw           |
66 | 0F E5       | pmulhw      | Vo,Wo     | sse_pmulhw           |
66 | 0F E4       | pmulhuw     | Vo,Wo     | sse_pmulhuw          |
66 | 0F F4       | pmuludq     | Vo,Wo     | sse_pmuludq          |
66 | 0F F5       | pmaddwd     | Vo,Wo     | sse_pmaddwd          |
66 | 0F F6       | psadbw      | Vo,Wo     | sse_psadbw           |
66 | 0F E0       | pavgb       | Vo,Wo     | sse_pavgb            |
66 | 0F E3       | pavgw       | Vo,Wo     | sse_pavgw            |
66 | 0F DA       | pminub      | Vo,Wo     | sse_pminub           |
66 | 0F DE       | pmaxub      | Vo,Wo     | sse_pmaxub           |
66 | 0F EA       | pminsw      | Vo,Wo     | sse_pminsw           |
66 | 0F EE       | pmaxsw      | Vo,Wo     | sse_pmaxsw           |
66 | 0F 74       | pcmpeqb     | Vo,Wo     | sse_pcmpeqb          |
66 | 0F 75       | pcmpeqw     | Vo,Wo     | sse_pcmpeqw          |
66 | 0F 76       | pcmpeqd     | Vo,Wo     | sse_pcmpeqd          |
66 | 0F 64       | pcmpgtb     | Vo,Wo     | sse_pcmpgtb          |
66 | 0F 65       | pcmpgtw     | Vo,Wo     | sse_pcmpgtw          |
66 | 0F 66       | pcmpgtd     | Vo,Wo     | sse_pcmpgtd          |
66 | 0F DB       | pand        | Vo,Wo     | sse_pand             |
66 | 0F DF       | pandn       | Vo,Wo     | sse_pandn            |
66 | 0F EB       | por         | Vo,Wo     | sse_por              |
66 | 0F EF       | pxor        | Vo,Wo     | sse_pxor             |
66 | 0F 63       | packsswb    | Vo,Wo     | sse_packsswb         |
66 | 0F 67       | packuswb    | Vo,Wo     | sse_packuswb         |
66 | 0F 6B       | packssdw    | Vo,Wo     | sse_packssdw         |
66 | 0F 60       | punpcklbw   | Vo,Wo     | sse_punpcklbw        |
66 | 0F 68       | punpckhbw   | Vo,Wo     | sse_punpckhbw        |
66 | 0F 61       | punpcklwd   | Vo,Wo     | sse_punpcklwd        |
66 | 0F 69       | punpckhwd   | Vo,Wo     | sse_punpckhwd        |
66 | 0F 62       | punpckldq   | Vo,Wo     | sse_punpckldq        |
66 | 0F 6A       | punpckhdq   | Vo,Wo     | sse_punpckhdq        |
66 | 0F 6C       | punpcklqdq  | Vo,Wo     | sse_punpcklqdq       |
66 | 0F 6D       | punpckhqdq  | Vo,Wo     | sse_punpckhqdq       |
66 | 0F F1       | psllw       | Vo,Wo     | sse_psllw            |
66 | 0F 71 /6    | psllw       | Uo,Ib     | sse_psllw_imm        |
66 | 0F F2       | pslld       | Vo,Wo     | sse_pslld            |
66 | 0F 72 /6    | pslld       | Uo,Ib     | sse_pslld_imm        |
66 | 0F F3       | psllq       | Vo,Wo     | sse_psllq            |
66 | 0F 73 /6    | psllq       | Uo,Ib     | sse_psllq_imm        |
66 | 0F D1       | psrlw       | Vo,Wo     | sse_psrlw            |
66 | 0F 71 /2    | psrlw       | Uo,Ib     | sse_psrlw_imm        |
66 | 0F D2       | psrld       | Vo,Wo     | sse_psrld            |
66 | 0F 72 /2    | psrld       | Uo,Ib     | sse_psrld_imm        |
66 | 0F D3       | psrlq       | Vo,Wo     | sse_psrlq            |
66 | 0F 73 /2    | psrlq       | Uo,Ib     | sse_psrlq_imm        |
66 | 0F E1       | psraw       | Vo,Wo     | sse_psraw            |
66 | 0F 71 /4    | psraw       | Uo,Ib     | sse_psraw_imm        |
66 | 0F E2       | psrad       | Vo,Wo     | sse_psrad            |
66 | 0F 72 /4    | psrad       | Uo,Ib     | sse_psrad_imm        |
66 | 0F 73 /3    | psrldq      | Uo,Ib     | sse_psrldq           |
66 | 0F 73 /7    | pslldq      | Uo,Ib     | sse_pslldq           |
   | 0F 28       | movaps      | Vo,Wo     | sse_movaps_load      |
   | 0F 29       | movaps      | Wo,Vo     | sse_movaps_store     |
66 | 0F 28       | movapd      | Vo,Wo     | sse_movaps_load      |
66 | 0F 29       | movapd      | Wo,Vo     | sse_movaps_store     |
66 | 0F 6F       | movdqa      | Vo,Wo     | sse_movaps_load      |
66 | 0F 7F       | movdqa      | Wo,Vo     | sse_movaps_store     |
   | 0F 10       | movups      | Vo,Wo     | sse_movups_load      |
   | 0F 11       | movups      | Wo,Vo     | sse_movups_store     |
66 | 0F 10       | movupd      | Vo,Wo     | sse_movups_load      |
66 | 0F 11       | movupd      | Wo,Vo     | sse_movups_store     |
F3 | 0F 6F       | movdqu      | Vo,Wo     | sse_movups_load      |
F3 | 0F 7F       | movdqu      | Wo,Vo     | sse_movups_store     |
   | 0F 2B       | movntps     | Mo,Vo     | sse_movnt_store      |
66 | 0F 2B       | movntpd     | Mo,Vo     | sse_movnt_store      |
66 | 0F E7       | movntdq     | Mo,Vo     | sse_movnt_store      |
F3 | 0F 10       | movss       | Vo,Wd     | sse_movss_load       |
F3 | 0F 11       | movss       | Wd,Vo     | sse_movss_store      |
F2 | 0F 10       | movsd       | Vo,Wq     | sse_movsd_load       |
F2 | 0F 11       | movsd       | Wq,Vo     | sse_movsd_store      |
   | 0F 12       | movlps      | Vo,Mq     | sse_movlps_load      |
   | 0F 12       | movhlps     | Vo,Uo     | sse_movhlps          |
66 | 0F 12       | movlpd      | Vo,Mq     | sse_movlps_load      |
   | 0F 13       | movlps      | Mq,Vo     | sse_movlps_store     |
66 | 0F 13       | movlpd      | Mq,Vo     | sse_movlps_store     |
   | 0F 16       | movhps      | Vo,Mq     | sse_movhps_load      |
   | 0F 16       | movlhps     | Vo,Uo     | sse_movlhps          |
66 | 0F 16       | movhpd      | Vo,Mq     | sse_movhps_load      |
   | 0F 17       | movhps      | Mq,Vo     | sse_movhps_store     |
66 | 0F 17       | movhpd      | Mq,Vo     | sse_movhps_store     |
66 | 0F 6E       | movd        | Vo,Ey     | sse_movd_load        |
66 | 0F 7E       | movd        | Ey,Vo     | sse_movd_store       |
F3 | 0F 7E       | movq        | Vo,Wq     | sse_movq_load        |
66 | 0F D6       | movq        | Wq,Vo     | sse_movq_store       |
F3 | 0F D6       | movq2dq     | Vo,Nq     | sse_movq2dq          |
F2 | 0F D6       | movdq2q     | Pq,Uo     | sse_movdq2q          |
66 | 0F F7       | maskmovdqu  | Vo,Uo     | sse_maskmovdqu       |
   | 0F C3       | movnti      | My,Gy     | sse_movnti           |
   | 0F 50       | movmskps    | Gd,Uo     | sse_movmskps         |
66 | 0F 50       | movmskpd    | Gd,Uo     | sse_movmskpd         |
66 | 0F D7       | pmovmskb    | Gd,Uo     | sse_pmovmskb         |
   | 0F AE /2    | ldmxcsr     | Md        | sse_ldmxcsr          |
   | 0F AE /3    | stmxcsr     | Md        | sse_stmxcsr          |
   | 0F AE /5 r  | lfence      |           | sse_ordering         |
   | 0F AE /6 r  | mfence      |           | memoryFence          |
   | 0F AE /7 r  | sfence      |           | sse_ordering         |
   | 0F AE /7 m  | clflush     | Mb        | sse_ordering         |
*  | 0F 18 /0 m  | prefetchnta | Mb        | sse_ordering         |
*  | 0F 18 /1 m  | prefetcht0  | Mb        | sse_ordering         |
*  | 0F 18 /2 m  | prefetcht1  | Mb        | sse_ordering         |
*  | 0F 18 /3 m  | prefetcht2  | Mb        | sse_ordering         |
   | 0F C6       | shufps      | Vo,Wo,Ib  | sse_shufps           |
66 | 0F C6       | shufpd      | Vo,Wo,Ib  | sse_shufpd           |
66 | 0F 70       | pshufd      | Vo,Wo,Ib  | sse_pshufd           |
F3 | 0F 70       | pshufhw     | Vo,Wo,Ib  | sse_pshufhw          |
F2 | 0F 70       | pshuflw     | Vo,Wo,Ib  | sse_pshuflw          |
   | 0F 14       | unpcklps    | Vo,Wo     | sse_unpcklps         |
66 | 0F 14       | unpcklpd    | Vo,Wo     | sse_unpcklpd         |
   | 0F 15       | unpckhps    | Vo,Wo     | sse_unpckhps         |
66 | 0F 15       | unpckhpd    | Vo,Wo     | sse_unpckhpd         |
66 | 0F C4       | pinsrw      | Vo,Ew,Ib  | sse_pinsrw           |
66 | 0F C5       | pextrw      | Gd,Uo,Ib  | sse_pextrw           |
   | 0F 54       | andps       | Vo,Wo     | sse_andps            |
66 | 0F 54       | andpd       | Vo,Wo     | sse_andps            |
   | 0F 55       | andnps      | Vo,Wo     | sse_andnps           |
66 | 0F 55       | andnpd      | Vo,Wo     | sse_andnps           |
   | 0F 56       | orps        | Vo,Wo     | sse_orps             |
66 | 0F 56       | orpd        | Vo,Wo     | sse_orps             |
   | 0F 57       | xorps       | Vo,Wo     | sse_xorps            |
66 | 0F 57       | xorpd       | Vo,Wo     | sse_xorps            |
   | 0F 58       | addps       | Vo,Wo     | sse_addps            |
66 | 0F 58       | addpd       | Vo,Wo     | sse_addpd            |
F3 | 0F 58       | addss       | Vo,Wd     | sse_addss            |
F2 | 0F 58       | addsd       | Vo,Wq     | sse_addsd            |
   | 0F 59       | mulps       | Vo,Wo     | sse_mulps            |
66 | 0F 59       | mulpd       | Vo,Wo     | sse_mulpd            |
F3 | 0F 59       | mulss       | Vo,Wd     | sse_mulss            |
F2 | 0F 59       | mulsd       | Vo,Wq     | sse_mulsd            |
   | 0F 5C       | subps       | Vo,Wo     | sse_subps            |
66 | 0F 5C       | subpd       | Vo,Wo     | sse_subpd            |
F3 | 0F 5C       | subss       | Vo,Wd     | sse_subss            |
F2 | 0F 5C       | subsd       | Vo,Wq     | sse_subsd            |
   | 0F 5E       | divps       | Vo,Wo     | sse_divps            |
66 | 0F 5E       | divpd       | Vo,Wo     | sse_divpd            |
F3 | 0F 5E       | divss       | Vo,Wd     | sse_divss            |
F2 | 0F 5E       | divsd       | Vo,Wq     | sse_divsd            |
   | 0F 51       | sqrtps      | Vo,Wo     | sse_sqrtps           |
66 | 0F 51       | sqrtpd      | Vo,Wo     | sse_sqrtpd           |
F3 | 0F 51       | sqrtss      | Vo,Wd     | sse_sqrtss           |
F2 | 0F 51       | sqrtsd      | Vo,Wq     | sse_sqrtsd           |
   | 0F 5D       | minps       | Vo,Wo     | sse_minps            |
66 | 0F 5D       | minpd       | Vo,Wo     | sse_minpd            |
F3 | 0F 5D       | minss       | Vo,Wd     | sse_minss            |
F2 | 0F 5D       | minsd       | Vo,Wq     | sse_minsd            |
   | 0F 5F       | maxps       | Vo,Wo     | sse_maxps            |
66 | 0F 5F       | maxpd       | Vo,Wo     | sse_maxpd            |
F3 | 0F 5F       | maxss       | Vo,Wd     | sse_maxss            |
F2 | 0F 5F       | maxsd       | Vo,Wq     | sse_maxsd            |
   | 0F 52       | rsqrtps     | Vo,Wo     | sse_rsqrtps          | approx
F3 | 0F 52       | rsqrtss     | Vo,Wd     | sse_rsqrtss          | approx
   | 0F 53       | rcpps       | Vo,Wo     | sse_rcpps            | approx
F3 | 0F 53       | rcpss       | Vo,Wd     | sse_rcpss            | approx
   | 0F C2       | cmpps       | Vo,Wo,Ib  | sse_cmpps            |
66 | 0F C2       | cmppd       | Vo,Wo,Ib  | sse_cmppd            |
F3 | 0F C2       | cmpss       | Vo,Wd,Ib  | sse_cmpss            |
F2 | 0F C2       | cmpsd       | Vo,Wq,Ib  | sse_cmpsd            |
   | 0F 2E       | ucomiss     | Vo,Wd     | sse_ucomiss          |
66 | 0F 2E       | ucomisd     | Vo,Wq     | sse_ucomisd          |
   | 0F 2F       | comiss      | Vo,Wd     | sse_comiss           |
66 | 0F 2F       | comisd      | Vo,Wq     | sse_comisd           |
   | 0F 2A       | cvtpi2ps    | Vo,Qq     | sse_cvtpi2ps         |
66 | 0F 2A       | cvtpi2pd    | Vo,Qq     | sse_cvtpi2pd         |
F3 | 0F 2A       | cvtsi2ss    | Vo,Ey     | sse_cvtsi2ss         |
F2 | 0F 2A       | cvtsi2sd    | Vo,Ey     | sse_cvtsi2sd         |
   | 0F 2C       | cvttps2pi   | Pq,Wq     | sse_cvttps2pi        |
66 | 0F 2C       | cvttpd2pi   | Pq,Wo     | sse_cvttpd2pi        |
F3 | 0F 2C       | cvttss2si   | Gy,Wd     | sse_cvttss2si        |
F2 | 0F 2C       | cvttsd2si   | Gy,Wq     | sse_cvttsd2si        |
   | 0F 2D       | cvtps2pi    | Pq,Wq     | sse_cvtps2pi         |
66 | 0F 2D       | cvtpd2pi    | Pq,Wo     | sse_cvtpd2pi         |
F3 | 0F 2D       | cvtss2si    | Gy,Wd     | sse_cvtss2si         |
F2 | 0F 2D       | cvtsd2si    | Gy,Wq     | sse_cvtsd2si         |
   | 0F 5A       | cvtps2pd    | Vo,Wq     | sse_cvtps2pd         |
66 | 0F 5A       | cvtpd2ps    | Vo,Wo     | sse_cvtpd2ps         |
F3 | 0F 5A       | cvtss2sd    | Vo,Wd     | sse_cvtss2sd         |
F2 | 0F 5A       | cvtsd2ss    | Vo,Wq     | sse_cvtsd2ss         |
   | 0F 5B       | cvtdq2ps    | Vo,Wo     | sse_cvtdq2ps         |
66 | 0F 5B       | cvtps2dq    | Vo,Wo     | sse_cvtps2dq         |
F3 | 0F 5B       | cvttps2dq   | Vo,Wo     | sse_cvttps2dq        |
66 | 0F E6       | cvttpd2dq   | Vo,Wo     | sse_cvttpd2dq        |
F2 | 0F E6       | cvtpd2dq    | Vo,Wo     | sse_cvtpd2dq         |
F3 | 0F E6       | cvtdq2pd    | Vo,Wq     | sse_cvtdq2pd         |
F2 | 0F 12       | movddup     | Vo,Wq     | sse_movddup          | feature=sse3
F3 | 0F 12       | movsldup    | Vo,Wo     | sse_movsldup         | feature=sse3
F3 | 0F 16       | movshdup    | Vo,Wo     | sse_movshdup         | feature=sse3
66 | 0F D0       | addsubpd    | Vo,Wo     | sse_addsubpd         | feature=sse3
F2 | 0F D0       | addsubps    | Vo,Wo     | sse_addsubps         | feature=sse3
66 | 0F 7C       | haddpd      | Vo,Wo     | sse_haddpd           | feature=sse3
F2 | 0F 7C       | haddps      | Vo,Wo     | sse_haddps           | feature=sse3
66 | 0F 7D       | hsubpd      | Vo,Wo     | sse_hsubpd           | feature=sse3
F2 | 0F 7D       | hsubps      | Vo,Wo     | sse_hsubps           | feature=sse3
F2 | 0F F0       | lddqu       | Vo,Mo     | sse_movups_load      | feature=sse3
66 | 0F 38 00    | pshufb      | Vo,Wo     | sse_pshufb           | feature=ssse3
66 | 0F 38 01    | phaddw      | Vo,Wo     | sse_phaddw           | feature=ssse3
66 | 0F 38 02    | phaddd      | Vo,Wo     | sse_phaddd           | feature=ssse3
66 | 0F 38 03    | phaddsw     | Vo,Wo     | sse_phaddsw          | feature=ssse3
66 | 0F 38 04    | pmaddubsw   | Vo,Wo     | sse_pmaddubsw        | feature=ssse3
66 | 0F 38 05    | phsubw      | Vo,Wo     | sse_phsubw           | feature=ssse3
66 | 0F 38 06    | phsubd      | Vo,Wo     | sse_phsubd           | feature=ssse3
66 | 0F 38 07    | phsubsw     | Vo,Wo     | sse_phsubsw          | feature=ssse3
66 | 0F 38 08    | psignb      | Vo,Wo     | sse_psignb           | feature=ssse3
66 | 0F 38 09    | psignw      | Vo,Wo     | sse_psignw           | feature=ssse3
66 | 0F 38 0A    | psignd      | Vo,Wo     | sse_psignd           | feature=ssse3
66 | 0F 38 0B    | pmulhrsw    | Vo,Wo     | sse_pmulhrsw         | feature=ssse3
66 | 0F 38 1C    | pabsb       | Vo,Wo     | sse_pabsb            | feature=ssse3
66 | 0F 38 1D    | pabsw       | Vo,Wo     | sse_pabsw            | feature=ssse3
66 | 0F 38 1E    | pabsd       | Vo,Wo     | sse_pabsd            | feature=ssse3
66 | 0F 3A 0F    | palignr     | Vo,Wo,Ib  | sse_palignr          | feature=ssse3
66 | 0F 38 28    | pmuldq      | Vo,Wo     | sse_pmuldq           | feature=sse41
66 | 0F 38 29    | pcmpeqq     | Vo,Wo     | sse_pcmpeqq          | feature=sse41
66 | 0F 38 2B    | packusdw    | Vo,Wo     | sse_packusdw         | feature=sse41
66 | 0F 38 38    | pminsb      | Vo,Wo     | sse_pminsb           | feature=sse41
66 | 0F 38 39    | pminsd      | Vo,Wo     | sse_pminsd           | feature=sse41
66 | 0F 38 3A    | pminuw      | Vo,Wo     | sse_pminuw           | feature=sse41
66 | 0F 38 3B    | pminud      | Vo,Wo     | sse_pminud           | feature=sse41
66 | 0F 38 3C    | pmaxsb      | Vo,Wo     | sse_pmaxsb           | feature=sse41
66 | 0F 38 3D    | pmaxsd      | Vo,Wo     | sse_pmaxsd           | feature=sse41
66 | 0F 38 3E    | pmaxuw      | Vo,Wo     | sse_pmaxuw           | feature=sse41
66 | 0F 38 3F    | pmaxud      | Vo,Wo     | sse_pmaxud           | feature=sse41
66 | 0F 38 40    | pmulld      | Vo,Wo     | sse_pmulld           | feature=sse41
66 | 0F 38 20    | pmovsxbw    | Vo,Wq     | sse_pmovsxbw         | feature=sse41
66 | 0F 38 21    | pmovsxbd    | Vo,Wd     | sse_pmovsxbd         | feature=sse41
66 | 0F 38 22    | pmovsxbq    | Vo,Ww     | sse_pmovsxbq         | feature=sse41
66 | 0F 38 23    | pmovsxwd    | Vo,Wq     | sse_pmovsxwd         | feature=sse41
66 | 0F 38 24    | pmovsxwq    | Vo,Wd     | sse_pmovsxwq         | feature=sse41
66 | 0F 38 25    | pmovsxdq    | Vo,Wq     | sse_pmovsxdq         | feature=sse41
66 | 0F 38 30    | pmovzxbw    | Vo,Wq     | sse_pmovzxbw         | feature=sse41
66 | 0F 38 31    | pmovzxbd    | Vo,Wd     | sse_pmovzxbd         | feature=sse41
66 | 0F 38 32    | pmovzxbq    | Vo,Ww     | sse_pmovzxbq         | feature=sse41
66 | 0F 38 33    | pmovzxwd    | Vo,Wq     | sse_pmovzxwd         | feature=sse41
66 | 0F 38 34    | pmovzxwq    | Vo,Wd     | sse_pmovzxwq         | feature=sse41
66 | 0F 38 35    | pmovzxdq    | Vo,Wq     | sse_pmovzxdq         | feature=sse41
66 | 0F 38 10    | pblendvb    | Vo,Wo     | sse_pblendvb         | feature=sse41
66 | 0F 38 14    | blendvps    | Vo,Wo     | sse_blendvps         | feature=sse41
66 | 0F 38 15    | blendvpd    | Vo,Wo     | sse_blendvpd         | feature=sse41
66 | 0F 3A 0C    | blendps     | Vo,Wo,Ib  | sse_blendps          | feature=sse41
66 | 0F 3A 0D    | blendpd     | Vo,Wo,Ib  | sse_blendpd          | feature=sse41
66 | 0F 3A 0E    | pblendw     | Vo,Wo,Ib  | sse_pblendw          | feature=sse41
66 | 0F 38 17    | ptest       | Vo,Wo     | sse_ptest            | feature=sse41
66 | 0F 38 2A    | movntdqa    | Vo,Mo     | sse_movaps_load      | feature=sse41
66 | 0F 38 41    | phminposuw  | Vo,Wo     | sse_phminposuw       | feature=sse41
66 | 0F 3A 14    | pextrb      | Ry,Vo,Ib  | sse_pextrb           | feature=sse41
66 | 0F 3A 14    | pextrb      | Mb,Vo,Ib  | sse_pextrb           | feature=sse41
66 | 0F 3A 15    | pextrw      | Ry,Vo,Ib  | sse_pextrw_store     | feature=sse41
66 | 0F 3A 15    | pextrw      | Mw,Vo,Ib  | sse_pextrw_store     | feature=sse41
66 | 0F 3A 16    | pextrd      | Ey,Vo,Ib  | sse_pextrd           | feature=sse41
66 | 0F 3A 17    | extractps   | Ed,Vo,Ib  | sse_extractps        | feature=sse41
66 | 0F 3A 20    | pinsrb      | Vo,Ry,Ib  | sse_pinsrb           | feature=sse41
66 | 0F 3A 20    | pinsrb      | Vo,Mb,Ib  | sse_pinsrb           | feature=sse41
66 | 0F 3A 21    | insertps    | Vo,Wd,Ib  | sse_insertps         | feature=sse41
66 | 0F 3A 22    | pinsrd      | Vo,Ey,Ib  | sse_pinsrd           | feature=sse41
66 | 0F 3A 08    | roundps     | Vo,Wo,Ib  | sse_roundps          | feature=sse41
66 | 0F 3A 09    | roundpd     | Vo,Wo,Ib  | sse_roundpd          | feature=sse41
66 | 0F 3A 0A    | roundss     | Vo,Wd,Ib  | sse_roundss          | feature=sse41
66 | 0F 3A 0B    | roundsd     | Vo,Wq,Ib  | sse_roundsd          | feature=sse41
66 | 0F 3A 40    | dpps        | Vo,Wo,Ib  | sse_dpps             | feature=sse41
66 | 0F 3A 41    | dppd        | Vo,Wo,Ib  | sse_dppd             | feature=sse41
66 | 0F 3A 42    | mpsadbw     | Vo,Wo,Ib  | sse_mpsadbw          | feature=sse41
66 | 0F 38 37    | pcmpgtq     | Vo,Wo     | sse_pcmpgtq          | feature=sse42
66 | 0F 3A 60    | pcmpestrm   | Vo,Wo,Ib  | sse_pcmpestrm        | feature=sse42
66 | 0F 3A 61    | pcmpestri   | Vo,Wo,Ib  | sse_pcmpestri        | feature=sse42
66 | 0F 3A 62    | pcmpistrm   | Vo,Wo,Ib  | sse_pcmpistrm        | feature=sse42
66 | 0F 3A 63    | pcmpistri   | Vo,Wo,Ib  | sse_pcmpistri        | feature=sse42
F2 | 0F 38 F0    | crc32       | Gd,Eb     | sse_crc32_byte       | feature=sse42
F2 | 0F 38 F1    | crc32       | Gd,Ev     | sse_crc32            | feature=sse42
F3 | 0F B8       | popcnt      | Gv,Ev     | sse_popcnt           | feature=popcnt
`;

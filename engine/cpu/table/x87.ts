/**
 * x87 instructions, by escape byte (SDM volume 2 appendix A.5), and FXSAVE/FXRSTOR.
 * Columns: prefix | opcode | mnemonic | operands | handler | attributes.
 */
export const X87_ROWS = `
* | 9B         | fwait    |        | fwait   | x87
* | D8 /0 m    | fadd     | Md     | x87_d8  | x87
* | D8 /1 m    | fmul     | Md     | x87_d8  | x87
* | D8 /2 m    | fcom     | Md     | x87_d8  | x87
* | D8 /3 m    | fcomp    | Md     | x87_d8  | x87
* | D8 /4 m    | fsub     | Md     | x87_d8  | x87
* | D8 /5 m    | fsubr    | Md     | x87_d8  | x87
* | D8 /6 m    | fdiv     | Md     | x87_d8  | x87
* | D8 /7 m    | fdivr    | Md     | x87_d8  | x87
* | D8 C0+i    | fadd     | ST,STi | x87_d8  | x87
* | D8 C8+i    | fmul     | ST,STi | x87_d8  | x87
* | D8 D0+i    | fcom     | ST,STi | x87_d8  | x87
* | D8 D8+i    | fcomp    | ST,STi | x87_d8  | x87
* | D8 E0+i    | fsub     | ST,STi | x87_d8  | x87
* | D8 E8+i    | fsubr    | ST,STi | x87_d8  | x87
* | D8 F0+i    | fdiv     | ST,STi | x87_d8  | x87
* | D8 F8+i    | fdivr    | ST,STi | x87_d8  | x87
* | D9 /0 m    | fld      | Md     | x87_d9  | x87
* | D9 /2 m    | fst      | Md     | x87_d9  | x87
* | D9 /3 m    | fstp     | Md     | x87_d9  | x87
* | D9 /4 m    | fldenv   | M      | x87_d9  | x87
* | D9 /5 m    | fldcw    | Mw     | x87_d9  | x87
* | D9 /6 m    | fnstenv  | M      | x87_d9  | x87
* | D9 /7 m    | fnstcw   | Mw     | x87_d9  | x87
* | D9 C0+i    | fld      | STi    | x87_d9  | x87
* | D9 C8+i    | fxch     | ST,STi | x87_d9  | x87
* | D9 D0      | fnop     |        | x87_d9  | x87
* | D9 D8+i    | fstp1    | STi    | x87_d9  | x87 alias
* | D9 E0      | fchs     |        | x87_d9  | x87
* | D9 E1      | fabs     |        | x87_d9  | x87
* | D9 E4      | ftst     |        | x87_d9  | x87
* | D9 E5      | fxam     |        | x87_d9  | x87
* | D9 E8      | fld1     |        | x87_d9  | x87
* | D9 E9      | fldl2t   |        | x87_d9  | x87
* | D9 EA      | fldl2e   |        | x87_d9  | x87
* | D9 EB      | fldpi    |        | x87_d9  | x87
* | D9 EC      | fldlg2   |        | x87_d9  | x87
* | D9 ED      | fldln2   |        | x87_d9  | x87
* | D9 EE      | fldz     |        | x87_d9  | x87
* | D9 F0      | f2xm1    |        | x87_d9  | x87 transcendental
* | D9 F1      | fyl2x    |        | x87_d9  | x87 transcendental
* | D9 F2      | fptan    |        | x87_d9  | x87 transcendental
* | D9 F3      | fpatan   |        | x87_d9  | x87 transcendental
* | D9 F4      | fxtract  |        | x87_d9  | x87
* | D9 F5      | fprem1   |        | x87_d9  | x87
* | D9 F6      | fdecstp  |        | x87_d9  | x87
* | D9 F7      | fincstp  |        | x87_d9  | x87
* | D9 F8      | fprem    |        | x87_d9  | x87
* | D9 F9      | fyl2xp1  |        | x87_d9  | x87 transcendental
* | D9 FA      | fsqrt    |        | x87_d9  | x87
* | D9 FB      | fsincos  |        | x87_d9  | x87 transcendental
* | D9 FC      | frndint  |        | x87_d9  | x87
* | D9 FD      | fscale   |        | x87_d9  | x87
* | D9 FE      | fsin     |        | x87_d9  | x87 transcendental
* | D9 FF      | fcos     |        | x87_d9  | x87 transcendental
* | DA /0 m    | fiadd    | Md     | x87_da  | x87
* | DA /1 m    | fimul    | Md     | x87_da  | x87
* | DA /2 m    | ficom    | Md     | x87_da  | x87
* | DA /3 m    | ficomp   | Md     | x87_da  | x87
* | DA /4 m    | fisub    | Md     | x87_da  | x87
* | DA /5 m    | fisubr   | Md     | x87_da  | x87
* | DA /6 m    | fidiv    | Md     | x87_da  | x87
* | DA /7 m    | fidivr   | Md     | x87_da  | x87
* | DA C0+i    | fcmovb   | ST,STi | x87_da  | x87
* | DA C8+i    | fcmove   | ST,STi | x87_da  | x87
* | DA D0+i    | fcmovbe  | ST,STi | x87_da  | x87
* | DA D8+i    | fcmovu   | ST,STi | x87_da  | x87
* | DA E9      | fucompp  |        | x87_da  | x87
* | DB /0 m    | fild     | Md     | x87_db  | x87
* | DB /2 m    | fist     | Md     | x87_db  | x87
* | DB /3 m    | fistp    | Md     | x87_db  | x87
* | DB /5 m    | fld      | Mt     | x87_db  | x87
* | DB /7 m    | fstp     | Mt     | x87_db  | x87
* | DB C0+i    | fcmovnb  | ST,STi | x87_db  | x87
* | DB C8+i    | fcmovne  | ST,STi | x87_db  | x87
* | DB D0+i    | fcmovnbe | ST,STi | x87_db  | x87
* | DB D8+i    | fcmovnu  | ST,STi | x87_db  | x87
* | DB E0      | fneni    |        | x87_db  | x87 alias
* | DB E1      | fndisi   |        | x87_db  | x87 alias
* | DB E2      | fnclex   |        | x87_db  | x87
* | DB E3      | fninit   |        | x87_db  | x87
* | DB E4      | fnsetpm  |        | x87_db  | x87 alias
* | DB E8+i    | fucomi   | ST,STi | x87_db  | x87
* | DB F0+i    | fcomi    | ST,STi | x87_db  | x87
* | DC /0 m    | fadd     | Mq     | x87_dc  | x87
* | DC /1 m    | fmul     | Mq     | x87_dc  | x87
* | DC /2 m    | fcom     | Mq     | x87_dc  | x87
* | DC /3 m    | fcomp    | Mq     | x87_dc  | x87
* | DC /4 m    | fsub     | Mq     | x87_dc  | x87
* | DC /5 m    | fsubr    | Mq     | x87_dc  | x87
* | DC /6 m    | fdiv     | Mq     | x87_dc  | x87
* | DC /7 m    | fdivr    | Mq     | x87_dc  | x87
* | DC C0+i    | fadd     | STi,ST | x87_dc  | x87
* | DC C8+i    | fmul     | STi,ST | x87_dc  | x87
* | DC D0+i    | fcom2    | ST,STi | x87_dc  | x87 alias
* | DC D8+i    | fcomp3   | ST,STi | x87_dc  | x87 alias
* | DC E0+i    | fsubr    | STi,ST | x87_dc  | x87
* | DC E8+i    | fsub     | STi,ST | x87_dc  | x87
* | DC F0+i    | fdivr    | STi,ST | x87_dc  | x87
* | DC F8+i    | fdiv     | STi,ST | x87_dc  | x87
* | DD /0 m    | fld      | Mq     | x87_dd  | x87
* | DD /2 m    | fst      | Mq     | x87_dd  | x87
* | DD /3 m    | fstp     | Mq     | x87_dd  | x87
* | DD /4 m    | frstor   | M      | x87_dd  | x87
* | DD /6 m    | fnsave   | M      | x87_dd  | x87
* | DD /7 m    | fnstsw   | Mw     | x87_dd  | x87
* | DD C0+i    | ffree    | STi    | x87_dd  | x87
* | DD C8+i    | fxch4    | ST,STi | x87_dd  | x87 alias
* | DD D0+i    | fst      | STi    | x87_dd  | x87
* | DD D8+i    | fstp     | STi    | x87_dd  | x87
* | DD E0+i    | fucom    | ST,STi | x87_dd  | x87
* | DD E8+i    | fucomp   | ST,STi | x87_dd  | x87
* | DE /0 m    | fiadd    | Mw     | x87_de  | x87
* | DE /1 m    | fimul    | Mw     | x87_de  | x87
* | DE /2 m    | ficom    | Mw     | x87_de  | x87
* | DE /3 m    | ficomp   | Mw     | x87_de  | x87
* | DE /4 m    | fisub    | Mw     | x87_de  | x87
* | DE /5 m    | fisubr   | Mw     | x87_de  | x87
* | DE /6 m    | fidiv    | Mw     | x87_de  | x87
* | DE /7 m    | fidivr   | Mw     | x87_de  | x87
* | DE C0+i    | faddp    | STi,ST | x87_de  | x87
* | DE C8+i    | fmulp    | STi,ST | x87_de  | x87
* | DE D0+i    | fcomp5   | ST,STi | x87_de  | x87 alias
* | DE D9      | fcompp   |        | x87_de  | x87
* | DE E0+i    | fsubrp   | STi,ST | x87_de  | x87
* | DE E8+i    | fsubp    | STi,ST | x87_de  | x87
* | DE F0+i    | fdivrp   | STi,ST | x87_de  | x87
* | DE F8+i    | fdivp    | STi,ST | x87_de  | x87
* | DF /0 m    | fild     | Mw     | x87_df  | x87
* | DF /2 m    | fist     | Mw     | x87_df  | x87
* | DF /3 m    | fistp    | Mw     | x87_df  | x87
* | DF /4 m    | fbld     | Mt     | x87_df  | x87
* | DF /5 m    | fild     | Mq     | x87_df  | x87
* | DF /6 m    | fbstp    | Mt     | x87_df  | x87
* | DF /7 m    | fistp    | Mq     | x87_df  | x87
* | DF C0+i    | ffreep   | STi    | x87_df  | x87 alias
* | DF C8+i    | fxch7    | ST,STi | x87_df  | x87 alias
* | DF D0+i    | fstp8    | STi    | x87_df  | x87 alias
* | DF D8+i    | fstp9    | STi    | x87_df  | x87 alias
* | DF E0      | fnstsw   | AX     | x87_df  | x87
* | DF E8+i    | fucomip  | ST,STi | x87_df  | x87
* | DF F0+i    | fcomip   | ST,STi | x87_df  | x87
  | 0F AE /0 m | fxsave   | M      | fxsave  | x87
  | 0F AE /1 m | fxrstor  | M      | fxrstor | x87
`;

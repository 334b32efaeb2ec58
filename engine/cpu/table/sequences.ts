/**
 * Runs of operations that are frequent in real guests, by operation name (see generate/cases.ts). Each saves the
 * dispatches in between, which is what branchy code spends most of its time on. Measured on a Debian boot and busybox
 * loads by counting pairs of consecutive operations, merging the most frequent pair, and counting again.
 */
export const SEQUENCES = `
pop_r_64 pop_r_64
mov_rr_32 mov_rr_32
xor_rr_32 mov_rr_32
cold cold
push_r_64 push_r_64
add_rr_32 mov_rr_32
push_r_64 mov_rr_64
mov_rr_32 add_rr_32
pop_r_64 ret
rol_ri_32 xor_rr_32
mov_rr_64 mov_rr_64
movzx_b_rm_32 add_ri_64
and_rr_32 xor_rr_32
inc_r_64 cmp_mi_8_jcc_5
mov_rm_64 mov_rm_64
mov_rm_64 mov_mr_64
mov_rr_32 rol_ri_32
mov_rr_64 call
add_ri_32 movsxd_rr_64
movsxd_rr_64 add_rr_64
add_ri_32 add_ri_32
add_rr_64 cmp_rr_32_jcc_5
movzx_b_rm_32 test_rr_8_jcc_9
cmp_rr_32_jcc_5 movzx_b_rm_32
cmp_rm_8 jcc_5
mov_rr_32 ror_ri_32
ror_ri_32 xor_rr_32
ror_ri_32 ror_ri_32
mov_rm_32 mov_rm_32
add_rr_32 xor_rr_32
mov_rr_64 push_r_64
mov_rr_32 xor_rr_32
xor_rr_32 add_rr_32
ror_ri_32 add_rr_32
mov_rr_32 shr_ri_32
cmp_mi_8_jcc_5 inc_r_64
mov_mr_64 mov_mr_64
add_ri_64 mov_mi_8
mov_mi_8 test_rr_8_jcc_5
add_ri_64 test_rr_8_jcc_4
mov_rm_64 sub_rm_64
rol_ri_32 add_rr_32
add_ri_64 pop_r_64
add_rr_32 mov_rm_32
xor_rr_32 xor_rr_32
mov_rr_32 and_ri_32
cold mov_mr_16
mov_ri_32 cmp_rr_16
cmp_rr_16 cmovcc_rr_32
cmovcc_rr_32 cold
mov_rm_16 mov_ri_32
mov_mr_64 mov_rm_64
mov_rm_8 cmp_rm_8
mov_rm_64 mov_rr_64
mov_rr_64 mov_rm_8
mov_rr_32 jmp
xor_rr_32 and_rr_32
add_rr_32 mov_mr_32
xor_rr_32 ror_ri_32
mov_rr_32 and_rr_32
movsxd_rr_64 add_rr_64 cmp_rr_32_jcc_5
mov_rm_8 cmp_rm_8 jcc_5
jcc_4 jmp
mov_rm_8 test_rr_8_jcc_5
lea_rm_64 jcc_4
movzx_b_rr_32 test_mi_8_jcc_5
mov_rr_64 mov_rr_64 mov_rm_8
mov_rr_64 sub_rr_64
cmp_mi_8 lea_rm_64
inc_r_64 cmp_mi_8_jcc_5 cmp_mi_8
cmp_rm_8 jcc_5 cmp_mi_8_jcc_5
add_rm_32 add_rm_32
and_rr_32 xor_rr_32 lea_rm_32
add_rm_32 not_r_32
xor_rr_32 mov_rr_32 add_rm_32
not_r_32 inc_r_64
mov_rr_32 ror_ri_32 ror_ri_32
mov_rr_32 add_rr_32 cmp_ri_64_jcc_4
mov_rr_32 mov_rr_32 jmp
mov_rm_32 add_rm_32
add_rr_64 add_rr_64
add_ri_64 cmp_ri_64_jcc_5
add_ri_64 cmp_mi_8_jcc_5
movzx_b_rm_32 add_ri_64 test_rr_8_jcc_4
movsxd_rm_64 add_rr_64
xor_rr_32 jmp
mov_rm_64 call
pop_r_64 pop_r_64 ret
mov_rm_64 test_rr_64_jcc_4
cmp_rm_8 jcc_4
movzx_b_rm_32 cmp_rm_8
and_ri_32 mov_mr_32
mov_mr_32 cmp_rr_64_jcc_5
mov_rm_8 inc_r_64
dec_m_32 jcc_5
xor_rr_32 add_rr_32 mov_mr_32
test_rr_8_jcc_4 cmp_rr_64_jcc_5
cmp_rr_64_jcc_5 movzx_b_rr_32
mov_rr_32 mov_rr_32 shr_ri_32
mov_rm_32 mov_rm_32 add_ri_64
mov_rr_32 xor_rr_32 mov_rm_32
shr_ri_32 rol_ri_32
mov_rr_64 shr_ri_64
mov_rm_64 lea_rm_64
inc_r_64 test_rr_8_jcc_4
mov_rm_32 and_ri_32
and_ri_32 and_ri_32
lea_rm_64 movsxd_rm_64
mov_rm_64 mov_mr_64 xor_rr_32
cmp_mi_8_jcc_4 xor_rr_32
add_ri_32 add_rr_64
xor_rr_32 mov_rr_32 and_ri_32
mov_rr_64 mov_rr_32
mov_mr_32 add_ri_32
xor_rr_32 shr_ri_32
mov_rm_8 cmp_mr_8
mov_mr_16 mov_mr_16
shr_ri_32 movzx_b_rr_32
cmp_rr_64_jcc_4 mov_rm_8
xor_rm_32 jmp
mov_rr_64 mov_rr_64 mov_rm_8 test_rr_8_jcc_5
lea_rm_64 jcc_4 jmp
add_rm_32 not_r_32 inc_r_64
movzx_b_rm_32 cmp_rm_8 jcc_4
movzx_b_rm_32 add_ri_64 test_rr_8_jcc_4 cmp_rr_64_jcc_5
xor_rr_32 add_rr_32 mov_mr_32 cmp_rr_64_jcc_5
mov_rr_32 xor_rr_32 mov_rm_32 add_rm_32
mov_rr_32 mov_rr_32 shr_ri_32 rol_ri_32
lea_rm_64 movsxd_rm_64 add_rr_64
xor_rr_32 shr_ri_32 movzx_b_rr_32
cmp_rr_64_jcc_4 mov_rm_8 inc_r_64
add_ri_32 add_rr_64 add_rr_64
mov_rm_64 sub_rm_64 jcc_5
lea_rm_32 lea_rm_32
mov_rm_32 mov_rm_32 lea_rm_32
mov_mr_32 movzx_b_rm_32
inc_r_32 jmp
lea_rm_32 shl_ri_32
shl_ri_32 mov_mr_32
add_rr_64 mov_rm_16
inc_r_64 cmp_mi_8_jcc_5 inc_r_32
inc_r_64 cmp_ri_64_jcc_5
cold mov_mr_16 inc_r_64
movzx_b_rm_32 test_rr_8_jcc_4
cmp_ri_8_jcc_5 cmp_ri_8_jcc_4
inc_r_64 test_rr_8_jcc_4 jmp
add_ri_64 movzx_b_rm_32
add_ri_64 test_rr_8_jcc_4 cmp_ri_8_jcc_5
movzx_b_rm_32 jmp
pop_r_64 jmp
cold jcc_2
cmp_ri_8_jcc_4 test_rr_32_jcc_5
push_r_64 mov_rr_64 call
add_rr_64 cmp_rr_64_jcc_3
add_rr_64 sar_ri_64
sar_ri_64 add_rr_64
mov_rr_64 shr_ri_64 sar_ri_64
add_ri_64 cmp_rr_64_jcc_4
push_r_64 sub_ri_64
mov_rm_8 cmp_rm_8 jcc_5 add_rr_64
push_r_64 lea_rm_64
push_r_64 mov_rr_64 sub_ri_64
push_r_64 mov_rr_32
mov_rm_8 cmp_mr_8 jcc_4
movzx_b_rm_32 test_rr_8_jcc_5
test_rr_8_jcc_4 add_ri_64
cold mov_rr_64
push_r_64 mov_rr_64 push_r_64
mov_rm_64 mov_rm_32
mov_rm_64 cmp_mr_64
mov_rr_64 jmp
mov_rr_64 add_ri_64
push_r_64 push_r_64 push_r_64
mov_rm_64 sub_rm_64 jcc_4
lea_rm_64 mov_rr_64
movzx_b_rm_32 movzx_b_rm_32
mov_mr_32 mov_rm_32
movzx_b_rm_32 add_ri_64 test_mi_8_jcc_5
mov_rr_64 lea_rm_64
add_ri_64 mov_rr_64
`;

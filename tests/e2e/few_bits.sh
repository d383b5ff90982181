#!/usr/bin/env bash
# Pictures at --compute a8 and a4: how far they are from those of the same weights at f32, and that
# the program says what ran. The demo model, in NVFP4, draws 4 prompts; measured were 54 dB (least
# 49) at a8 and 39 dB (least 37) at a4.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

prompts=$T/prompts.txt
printf '%s\n' 'a large red circle on a blue background' 'a small blue star on a white background' \
    'a green square on a yellow background' 'a yellow ring on a black background' >"$prompts"
demo=$(dirname "$0")/../../models/demo/flux

# at_least POLICY MEAN LEAST
at_least() {
    what="pictures at $1"
    run eval image -m "$demo" --compute "$1" --prompts "$prompts" --json
    expect_status 0
    local mean least
    mean=$("$tool" get "$T/stdout" psnr_db.mean)
    least=$("$tool" get "$T/stdout" psnr_db.least)
    printf '%s: PSNR to f32 %.1f dB, least %.1f dB\n' "$1" "$mean" "$least"
    check test "$(awk "BEGIN { print ($mean >= $2 && $least >= $3) }")" = 1
}
at_least a8 51 48
at_least a4 38 35

for policy in a8 a4; do
    what="a picture at $policy"
    run image -m "$demo" -p cat -s 1 --compute $policy -t 1 -v -o "$T/out/1.png"
    expect_status 0
    expect_said "compute $policy" "$policy is for quantised weights alone"
    "$tool" png "$T/out/1.png" nibble >"$T/recipe"
    check test "$("$tool" get "$T/recipe" compute)" = $policy
    check test -n "$("$tool" get "$T/recipe" kernels.linear)"
    run image -m "$demo" -p cat -s 1 --compute $policy -t 7 -o "$T/out/7.png"
    expect_status 0
    check cmp "$T/out/1.png" "$T/out/7.png"
done

what="weights that nobody rounded"
run image -m "$models/dev" -p cat "${quick[@]}" --compute bf16 --no-metadata -o "$T/out/bf16.png"
expect_status 0
run image -m "$models/dev" -p cat "${quick[@]}" --compute a8 --no-metadata -o "$T/out/a8.png"
expect_status 0
check cmp "$T/out/bf16.png" "$T/out/a8.png"

what="the doctor"
run doctor --no-check --json
expect_status 0
check test -n "$("$tool" get "$T/stdout" linears.a8)"
check test -n "$("$tool" get "$T/stdout" linears.a4)"
finish

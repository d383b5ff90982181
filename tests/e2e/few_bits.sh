#!/usr/bin/env bash
# Pictures at --compute a8 and a4: how far they are from those of the same weights at f32, and that
# the program says what ran. The demo model, in NVFP4, draws 4 prompts; measured were 54 dB (least
# 49) at a8 and 39 dB (least 37) at a4, 40 dB (least 37) with calibrated scales of inputs.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

prompts=$T/prompts.txt
printf '%s\n' 'a large red circle on a blue background' 'a small blue star on a white background' \
    'a green square on a yellow background' 'a yellow ring on a black background' >"$prompts"
demo=$(dirname "$0")/../../models/demo/flux

# at_least POLICY MEAN LEAST [MODEL]
at_least() {
    what="pictures at $1 of ${4-$demo}"
    run eval image -m "${4-$demo}" --compute "$1" --prompts "$prompts" --json
    expect_status 0
    local mean least
    mean=$("$tool" get "$T/stdout" psnr_db.mean)
    least=$("$tool" get "$T/stdout" psnr_db.least)
    printf '%s: PSNR to f32 %.1f dB, least %.1f dB\n' "$1" "$mean" "$least"
    check test "$(awk "BEGIN { print ($mean >= $2 && $least >= $3) }")" = 1
}
at_least a8 51 48
at_least a4 38 35

# With the scales of inputs that calibration finds, in the place of each row's own.
cp -r "$demo" "$T/trained"
rm -r "$T/trained/transformer"
mv "$T/trained/transformer-bf16" "$T/trained/transformer"
what="calibrated"
run quantize "$T/trained" -o "$T/calibrated" --method four-over-six --calib "$prompts" -v
expect_status 0
expect_said "scales of inputs are written for 52 of 52 layers"
at_least a4 38 35 "$T/calibrated"

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

# comfy's files may ask for unrounded inputs, layer by layer: those are computed as at bf16.
noted=$T/noted/transformer/diffusion_pytorch_model.safetensors
# ask LAYERS VALUE: what the notes of layers whose names match say.
ask() {
    local bytes header
    bytes=$(od -An -tu8 -N8 "$T/asks_nothing" | tr -d ' ')
    header=$(tail -c +9 "$T/asks_nothing" | head -c "$bytes" | sed -E \
        's/(\\"'"$1"'\\": ?\{\\"format\\": ?\\"nvfp4\\")/\1, \\"full_precision_matrix_mult\\": '"$2"'/g')
    cp "$T/asks_nothing" "$noted"
    "$tool" header "$noted" "$header"
}
noted_picture() {
    run image -m "$T/noted" -p cat "${quick[@]}" --compute "$1" --no-metadata -o "$T/$2.png"
    expect_status 0
}
same() {
    cmp -s "$T/$1.png" "$T/$2.png" && echo same
}
run quantize "$models/dev" -o "$T/noted" --dialect comfy
expect_status 0
cp "$noted" "$T/asks_nothing"
noted_picture bf16 bf16
for policy in a8 a4; do
    what="layers of comfy's that ask for nothing, $policy"
    cp "$T/asks_nothing" "$noted"
    noted_picture $policy $policy
    check test -z "$(same $policy bf16)"
    ask '[^"]*' false
    noted_picture $policy asked
    check test "$(same $policy asked)" = same
    what="layers that ask for unrounded inputs, $policy"
    ask '[^"]*' true
    noted_picture $policy asked
    check test "$(same bf16 asked)" = same
    what="one such layer, $policy"
    ask 'transformer_blocks\.0\.ff\.net\.2' true
    noted_picture $policy asked
    check test -z "$(same $policy asked)$(same bf16 asked)"
done
what="a wish that is neither true nor false"
rm -f "$T"/out/*
ask 'transformer_blocks\.0\.ff\.net\.2' '1'
refused 65 "transformer_blocks.0.ff.net.2.weight" "full_precision_matrix_mult: wanted" \
    -- image -m "$T/noted" -p cat "${quick[@]}" -o "$T/out/a.png"

# takes MODEL WANTED WHY: what --compute auto takes is told, kept, and draws as if named.
recipe_of() {
    "$tool" png "$1" nibble >"$T/recipe"
    "$tool" get "$T/recipe" "$2"
}
takes() {
    what="auto with $1"
    rm -f "$T"/out/*
    run image -m "$1" -p cat -s 1 --size 32x32 --steps 1 --t5-length 16 -v -o "$T/out/1.png"
    expect_status 0
    expect_said "compute $2 (auto): " "$3"
    check test "$(recipe_of "$T/out/1.png" compute)" = "$2"
    check test "$(recipe_of "$T/out/1.png" compute_why | grep -cF "$3")" = 1
    run image -m "$1" -p cat -s 1 --size 32x32 --steps 1 --t5-length 16 --compute "$2" --json \
        -o "$T/out/2.png"
    expect_status 0
    check test "$("$tool" get "$T/stdout" compute)" = "$2"
    check test "$("$tool" get "$T/stdout" compute_why)" = null
    check test "$(recipe_of "$T/out/2.png" compute_why)" = null
    check test "$(recipe_of "$T/out/1.png" pixels)" = "$(recipe_of "$T/out/2.png" pixels)"
}
run doctor --no-check --json
expect_status 0
plain=$("$tool" get "$T/stdout" compute)
few=$("$tool" get "$T/stdout" compute_quantised)
why_plain="no weights of FP8 or fewer bits" why_few="this processor"
[ "$plain" = bf16 ] || why_plain="no instruction for products of BF16"
takes "$models/dev" "$plain" "$why_plain"
takes "$demo" "$few" "$why_few"
takes "$models/fp8" "$few" "$why_few"
run quantize "$models/dev" -o "$T/t5" --format fp8 --component text_encoder_2
expect_status 0
takes "$T/t5" "$plain" "$why_plain"
check test "$few" = a8 -o "$few" = "$plain"

what="the doctor"
run doctor --no-check --json
expect_status 0
check test -n "$("$tool" get "$T/stdout" linears.a8)"
check test -n "$("$tool" get "$T/stdout" linears.a4)"
finish

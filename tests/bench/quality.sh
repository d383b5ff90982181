#!/usr/bin/env bash
# What four bits and faster arithmetic cost: the demo model in each form draws the 200 held-out
# prompts and is compared with its own pictures at F32.
#
#     tests/bench/quality.sh BUILD [FORM...]     # the README's table, about a minute a form
#
# A form is NAME=QUANTIZE ARGUMENTS@COMPUTE, the arguments empty for the weights as they are.
set -euo pipefail
build=$1
shift
here=$(cd "$(dirname "$0")/../.." && pwd)
truth=$here/tests/e2e/demo_prompts.tsv
demo=$here/models/demo/flux
W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT

if [ $# -eq 0 ]; then
    all=transformer,text_encoder,text_encoder_2
    set -- "as trained=@f32" "as trained=@bf16" \
        "NVFP4, max=--method max@bf16" \
        "NVFP4, four-over-six=--method four-over-six@bf16" \
        "NVFP4, sweep=--method sweep@bf16" \
        "NVFP4, sweep, calibrated=--method sweep --calib $W/calibration@bf16" \
        "NVFP4, sweep, text encoders too=--method sweep --component $all@bf16" \
        "MXFP4=--format mxfp4@bf16" \
        "FP8=--format fp8@bf16" \
        "FP8, text encoders too=--format fp8 --component $all@bf16" \
        "NVFP4, four-over-six=--method four-over-six@a8" \
        "NVFP4, four-over-six, text encoders too=--method four-over-six --component $all@a8" \
        "NVFP4, sweep=--method sweep@a8" \
        "MXFP4=--format mxfp4@a8" \
        "FP8=--format fp8@a8" \
        "FP8, text encoders too=--format fp8 --component $all@a8" \
        "NVFP4, sweep=--method sweep@a4" \
        "NVFP4, sweep, calibrated=--method sweep --calib $W/calibration@a4"
fi

# 98 of 100
right() {
    sed -n "s/^$1-shape prompts: \(.*\) right.*/\1/p" "$W/score"
}

# Prompts of the model's world that are not among those it is judged by.
cat >"$W/calibration" <<'END'
a small red circle on a white background
a large blue square at the top on a yellow background
a green star on the left and a pink ring on the right on a black background
a medium purple cross above a large orange triangle on a gray background
the little white ring in the top left corner on a blue background
a black square below a yellow circle on a green background
a big gray triangle in the middle on a purple background
an orange cross and a small red star with a white background
END

grep -v '^#' "$truth" | cut -f2 >"$W/prompts"
cp -r "$demo" "$W/reference"
rm -r "$W/reference/transformer"
mv "$W/reference/transformer-bf16" "$W/reference/transformer"
printf '| weights | compute | PSNR, dB | SSIM | cosine of latents | one shape | two shapes |\n'
printf '|---|---|---|---|---|---|---|\n'
for form in "$@"; do
    name=${form%%=*} compute=${form##*@} how=${form#*=}
    how=${how%@*}
    model=$W/reference
    rm -rf "$W/model" "$W/drawn"
    if [ -n "$how" ]; then
        model=$W/model
        # shellcheck disable=SC2086 # several words
        "$build/nibble" quantize "$W/reference" -o "$model" $how >/dev/null 2>&1
    fi
    "$build/nibble" eval image -m "$model" -r "$W/reference" --compute "$compute" \
        --prompts "$W/prompts" -o "$W/drawn" >"$W/figures"
    "$build/tests/e2e/demo_judge" "$truth" "$W/drawn" >"$W/score" || true
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$name" "$compute" \
        "$(awk '/^PSNR/ { print $3 }' "$W/figures")" "$(awk '/^SSIM/ { print $2 }' "$W/figures")" \
        "$(awk '/^cosine/ { print $2 }' "$W/figures")" \
        "$(right one)" "$(right two)"
done

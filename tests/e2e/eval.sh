#!/usr/bin/env bash
# nibble eval image: a model against itself is equal, its 4-bit form is near and not equal, and
# what cannot be compared is refused.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

printf '# two prompts\na cat\n\na dog on a sofa\r\n' >"$T/prompts"
small=(--size 32x32 --steps 2 --prompts "$T/prompts")

what="a model against itself"
run eval image -m "$models/dev" "${small[@]}" --compute f32 --json -o "$T/out/pictures"
expect_status 0
check grep -q '"pictures":2,"compute":"f32","psnr_db":{"mean":99.0,"least":99.0}' "$T/stdout"
check test -f "$T/out/pictures/000.png" -a -f "$T/out/pictures/001.png"
check test ! -e "$T/out/pictures/002.png"

what="the pictures are those of nibble image"
run image -m "$models/dev" -p "a dog on a sofa" --seed 1 --size 32x32 --steps 2 --compute f32 \
    -o "$T/out/dog.png"
expect_status 0
check cmp "$T/out/dog.png" "$T/out/pictures/001.png"

what="its 4-bit form"
run quantize "$models/dev" -o "$T/out/fp4"
expect_status 0
run eval image -m "$T/out/fp4" -r "$models/dev" "${small[@]}" --compute f32
expect_status 0
psnr=$(awk '/^PSNR/ { print $3 }' "$T/stdout")
check awk "BEGIN { exit !($psnr > 10 && $psnr < 60) }"

what="bad use"
run eval
expect_status 64
run eval image -m "$models/dev"
expect_status 64
expect_said "--prompts"
run eval image -m "$models/dev" --prompts "$T/none"
expect_status 66
printf '#\n\n' >"$T/empty"
run eval image -m "$models/dev" --prompts "$T/empty"
expect_status 65
expect_said "$T/empty" "found none"
finish

#!/usr/bin/env bash
# The small model that ships draws 200 held-out prompts, and plain code judges the pictures: the
# quality gate of pipeline/arithmetic.h, of its four bits and of the arithmetic that --compute auto
# takes on this machine, against the weights as trained.
#   demo_score.sh NIBBLE JUDGE TRUTH.tsv MODEL MIN_ONE MIN_TWO
# First the judge itself: it must find true pictures right, and swapped ones wrong.
set -euo pipefail
nibble=$1 judge=$2 truth=$3 model=$4 min_one=$5 min_two=$6
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
min_psnr=28  # dB, mean over the prompts
max_lost=2   # of 200 pictures: one percentage point

mkdir "$T/true"
"$judge" --draw "$truth" "$T/true"
echo "true pictures:"
"$judge" --min-one 1 --min-two 1 "$truth" "$T/true"
if "$judge" --swap --min-one 0.1 --min-two 0.1 "$truth" "$T/true" >"$T/swapped"; then
    echo "the judge finds swapped pictures right:"
    cat "$T/swapped"
    exit 1
fi

# The model as trained: the same with the transformer in BF16.
cp -r "$model" "$T/trained"
rm -r "$T/trained/transformer"
mv "$T/trained/transformer-bf16" "$T/trained/transformer"

grep -v '^#' "$truth" | cut -f2 >"$T/prompts"
right() {
    sed -n 's/^all prompts: \([0-9]*\) of .*/\1/p' "$1"
}
# draw MODEL FOLDER ARGS...: the prompts' pictures, and figures beside the trained weights' at F32.
draw() {
    "$nibble" eval image -q -m "$1" -r "$T/trained" -p "$T/prompts" -o "$2" "${@:3}" >"$T/figures"
}

draw "$T/trained" "$T/reference" --compute bf16
echo "with the weights as trained:"
"$judge" "$truth" "$T/reference" | tee "$T/trained_score"

# As it ships and as nobody asked: what --compute auto takes here. And at bf16, if that is another.
for compute in auto bf16; do
    draw "$model" "$T/drawn-$compute" --compute "$compute"
    echo "pictures drawn by nibble at --compute $compute:"
    "$judge" --min-one "$min_one" --min-two "$min_two" "$truth" "$T/drawn-$compute" |
        tee "$T/score"
    cat "$T/figures"
    psnr=$(awk '/^PSNR/ { print $3 }' "$T/figures")
    lost=$(($(right "$T/trained_score") - $(right "$T/score")))
    echo "four bits lose $lost pictures; PSNR $psnr dB"
    [ "$lost" -le "$max_lost" ]
    awk "BEGIN { exit !($psnr >= $min_psnr) }"
    ! grep -q -- '--compute bf16' "$T/figures" || break
done

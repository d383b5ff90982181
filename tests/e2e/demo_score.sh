#!/usr/bin/env bash
# The small model that ships draws 200 held-out prompts, and plain code judges the pictures; then
# what its four bits cost against the weights as trained.
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
"$nibble" eval image -q -m "$model" -r "$T/trained" -p "$T/prompts" -o "$T/drawn" >"$T/figures"
"$nibble" eval image -q -m "$T/trained" -p "$T/prompts" -o "$T/reference" >/dev/null
echo "pictures drawn by nibble:"
"$judge" --min-one "$min_one" --min-two "$min_two" "$truth" "$T/drawn" | tee "$T/score"
echo "with the weights as trained:"
"$judge" "$truth" "$T/reference" | tee "$T/trained_score"
cat "$T/figures"

right() {
    sed -n 's/^all prompts: \([0-9]*\) of .*/\1/p' "$1"
}
psnr=$(awk '/^PSNR/ { print $3 }' "$T/figures")
lost=$(($(right "$T/trained_score") - $(right "$T/score")))
echo "four bits lose $lost pictures; PSNR $psnr dB"
[ "$lost" -le "$max_lost" ]
awk "BEGIN { exit !($psnr >= $min_psnr) }"

#!/usr/bin/env bash
# The small model that ships draws 200 held-out prompts, and plain code judges the pictures.
#   demo_score.sh NIBBLE JUDGE TRUTH.tsv MODEL MIN_ONE MIN_TWO
# First the judge itself: it must find true pictures right, and swapped ones wrong.
set -euo pipefail
nibble=$1 judge=$2 truth=$3 model=$4 min_one=$5 min_two=$6
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT

mkdir "$T/true" "$T/drawn"
"$judge" --draw "$truth" "$T/true"
echo "true pictures:"
"$judge" --min-one 1 --min-two 1 "$truth" "$T/true"
if "$judge" --swap --min-one 0.1 --min-two 0.1 "$truth" "$T/true" >"$T/swapped"; then
    echo "the judge finds swapped pictures right:"
    cat "$T/swapped"
    exit 1
fi
while IFS=$'\t' read -r number prompt _; do
    case $number in '#'*) continue ;; esac
    "$nibble" image -q -m "$model" -p "$prompt" --seed "$((10#$number))" -o "$T/drawn/$number.png"
done <"$truth"
echo "pictures drawn by nibble:"
"$judge" --min-one "$min_one" --min-two "$min_two" "$truth" "$T/drawn"

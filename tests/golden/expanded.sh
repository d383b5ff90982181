#!/usr/bin/env bash
# expanded.sh CASE GOLDEN_TEST NIBBLE: a case whose weights nibble quantize has expanded to F32 before gives
# what diffusers gave too.
set -euo pipefail
case=$1 golden_test=$2 nibble=$3
models=$case/../models
T=$(mktemp -d)
trap 'chmod -R u+w "$T"; rm -rf "$T"' EXIT
mkdir "$T/case" "$T/models"
cp "$case"/* "$T/case"
for model in "$models"/*; do ln -s "$(realpath "$model")" "$T/models"; done

# expand PATH [PATH]: what is called PATH is the same expanded, under another name if there is one.
expand() {
    local model=${1%%/*}
    if [ -L "$T/models/$model" ]; then
        rm "$T/models/$model"
        [ "$model" = "$1" ] || mkdir "$T/models/$model"
    fi
    "$nibble" quantize "$models/$1" -o "$T/models/${2-$1}" --format f32 -q
}

case $(basename "$case") in
gguf)
    expand gguf/flux1-dev.gguf gguf/flux1-dev.safetensors
    expand gguf/t5xxl.gguf gguf/t5xxl.safetensors
    sed -i 's/\.gguf/.safetensors/' "$T/case/case.json"
    ;;
nunchaku-fp4) expand nunchaku/svdq-fp4_r16-flux.1-dev.safetensors ;;
nunchaku-int4) expand nunchaku/svdq-int4-flux.1-dev ;;
fp8-plain) expand fp8 ;;
*) expand "$(basename "$case")" ;;
esac
"$golden_test" "$T/case" "$nibble"

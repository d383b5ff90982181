#!/usr/bin/env bash
# Pictures from GGUF files: at F32 the same, byte for byte, as from the same weights expanded to F32;
# and files that lie.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

single=$models/single
transformer=$models/gguf/flux1-dev.gguf
t5=$models/gguf/t5xxl.gguf
exact=("${quick[@]}" --noise-dtype f32 --no-metadata)

# parts TRANSFORMER T5: the arguments that name all parts.
parts() {
    all=(--transformer "$1" --t5 "$2" --vae "$single/ae.safetensors"
        --clip "$single/clip_l.safetensors" --tokenizers "$single")
}

what="expanded to F32"
run quantize "$transformer" -o "$T/t.safetensors" --format f32
expect_status 0
run quantize "$t5" -o "$T/t5.safetensors" --format f32
expect_status 0
parts "$transformer" "$t5"
run image "${all[@]}" -p cat -o "$T/gguf.png" "${exact[@]}"
expect_status 0
parts "$T/t.safetensors" "$T/t5.safetensors"
run image "${all[@]}" -p cat -o "$T/f32.png" "${exact[@]}"
expect_status 0
check cmp "$T/gguf.png" "$T/f32.png"

what="info"
run info "$transformer"
expect_status 0
check grep -q "FLUX.1 dev" "$T/stdout"
check grep -q "BFL layout, quantization: GGUF, layers: .* Q4_0, .* Q6_K, .* plain" "$T/stdout"
run info "$t5"
expect_status 0
check grep -q "T5 encoder" "$T/stdout"
check grep -q "llama.cpp layout, quantization: GGUF, layers:" "$T/stdout"

# spoil OFFSET BYTES: a copy of the transformer with other bytes at a place, refused by name.
spoil() {
    cp "$transformer" "$T/bad.gguf"
    chmod u+w "$T/bad.gguf"
    printf '%b' "$2" | dd of="$T/bad.gguf" bs=1 seek="$1" conv=notrunc status=none
}
bad() {
    parts "$T/bad.gguf" "$t5"
    refused 65 bad.gguf "$@" -- image "${all[@]}" -p cat -o "$T/out/a.png" "${exact[@]}"
    refused 65 bad.gguf "$@" -- info "$T/bad.gguf"
}
what="no GGUF file"
spoil 0 gguf
bad "not a GGUF file"
what="version 1"
spoil 4 '\x01'
bad "GGUF version 1, wanted 2 or 3"
what="too many tensors"
spoil 8 '\xff\xff\xff\xff\xff\xff\xff\xff'
bad tensors
what="too many keys"
spoil 16 '\xff\xff\xff\xff\xff\xff\xff\x7f'
bad keys
size=$(stat -Lc %s "$transformer")
for bytes in 0 3 4 23 24 40 300 2000 $((size / 2)) $((size - 64)); do
    what="cut to $bytes bytes"
    head -c "$bytes" "$transformer" >"$T/bad.gguf"
    bad
done

what="a type that is not there"
at=$(grep -abo 'img_in.weight' "$transformer" | head -n 1 | cut -d: -f1)
at=$((at + 13 + 4 + 16))
spoil "$at" '\x63'
bad "img_in.weight" "unknown type 99"
what="a type that cannot be read"
spoil "$at" '\x10'
bad "img_in.weight" "type 16 (IQ2_XXS)"
what="an offset behind the end"
spoil $((at + 4 + 6)) '\x01'
bad "img_in.weight" "go beyond"
what="an offset between blocks of alignment"
spoil $((at + 4)) '\x01'
bad "img_in.weight" "no multiple of the alignment"
what="another name"
spoil $((at - 20 - 13)) X
parts "$T/bad.gguf" "$t5"
refused 65 bad.gguf -- image "${all[@]}" -p cat -o "$T/out/a.png" "${exact[@]}"
finish

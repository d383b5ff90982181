#!/usr/bin/env bash
# GGUF files in every slot and all-in-one files: the same pictures, byte for byte, as from single
# safetensors files of the same weights.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

single=$models/single
clip=$single/clip_l.safetensors
vae=$single/ae.safetensors
small=("${quick[@]}" --tokenizers "$single" --no-metadata -p cat)

# draw NAME TRANSFORMER T5 VAE CLIP
draw() {
    run image --transformer "$2" --t5 "$3" --vae "$4" --clip "$5" -o "$T/$1.png" "${small[@]}"
    expect_status 0
}

# all OUT VAE_PREFIX TRANSFORMER T5
all() {
    check "$tool" pack "$1" model.diffusion_model. "$3" "$2" "$vae" \
        text_encoders.clip_l.transformer. "$clip" text_encoders.t5xxl.transformer. "$4"
}

what="plain files"
run quantize "$models/gguf/flux1-dev.gguf" -o "$T/t.safetensors" --format f32
expect_status 0
run quantize "$models/gguf/t5xxl.gguf" -o "$T/t5.safetensors" --format f32
expect_status 0
draw plain "$T/t.safetensors" "$T/t5.safetensors" "$vae" "$clip"

check "$tool" pack "$T/t.gguf" "" "$T/t.safetensors"
check "$tool" pack "$T/t5.gguf" "" "$T/t5.safetensors"
check "$tool" pack "$T/vae.gguf" "" "$vae"
check "$tool" pack "$T/clip.gguf" "" "$clip"
what="GGUF in one slot"
for slot in t t5 vae clip; do
    declare -A files=([t]=$T/t.safetensors [t5]=$T/t5.safetensors [vae]=$vae [clip]=$clip)
    files[$slot]=$T/$slot.gguf
    draw "$slot" "${files[t]}" "${files[t5]}" "${files[vae]}" "${files[clip]}"
    check cmp "$T/plain.png" "$T/$slot.png"
    run info "$T/$slot.gguf"
    expect_status 0
done
what="GGUF in all slots"
draw all "$T/t.gguf" "$T/t5.gguf" "$T/vae.gguf" "$T/clip.gguf"
check cmp "$T/plain.png" "$T/all.png"

# As ComfyUI and stable-diffusion.cpp write whole checkpoints, blocks or not.
for prefix in vae. first_stage_model.; do
    all "$T/f32.gguf" $prefix "$T/t.safetensors" "$T/t5.safetensors"
    all "$T/blocks.gguf" $prefix "$models/gguf/flux1-dev.gguf" "$T/t5.safetensors"
    all "$T/f32.safetensors" $prefix "$T/t.safetensors" "$T/t5.safetensors"
    for file in f32.gguf blocks.gguf f32.safetensors; do
        what="$file, $prefix"
        draw one "$T/$file" "$T/$file" "$T/$file" "$T/$file"
        check cmp "$T/plain.png" "$T/one.png"
        run image -m "$T/$file" -o "$T/model.png" "${small[@]}"
        expect_status 0
        check cmp "$T/plain.png" "$T/model.png"
        run info "$T/$file"
        expect_status 0
        for part in transformer autoencoder CLIP T5; do check grep -q "$part" "$T/stdout"; done
    done
done

# Here the noise is drawn in the type of T5's weights, not of the whole file's.
what="FP8 in one part"
draw plain "$single/flux1-dev.safetensors" "$single/t5xxl.safetensors" "$vae" "$clip"
all "$T/fp8.safetensors" vae. "$single/flux1-dev.safetensors" "$single/t5xxl.safetensors"
run image -m "$T/fp8.safetensors" -o "$T/model.png" "${small[@]}"
expect_status 0
check cmp "$T/plain.png" "$T/model.png"
what="a part of its own beside a file"
run image -m "$T/fp8.safetensors" --vae "$T/vae.gguf" -o "$T/model.png" "${small[@]}"
expect_status 0
check cmp "$T/plain.png" "$T/model.png"

what="a part that is not in the file"
check "$tool" pack "$T/half.gguf" model.diffusion_model. "$T/t.safetensors" vae. "$vae"
refused 65 half.gguf "embeddings.token_embedding.weight is missing" -- image -m "$T/half.gguf" \
    -o "$T/out/a.png" "${small[@]}"
what="another part's file"
refused 65 vae.gguf "is missing" -- image -m "$T/fp8.safetensors" --clip "$T/vae.gguf" \
    -o "$T/out/a.png" "${small[@]}"
what="no tokenizers beside it"
refused 66 tokenizer -- image -m "$T/fp8.safetensors" "${quick[@]}" -p cat -o "$T/out/a.png"
finish

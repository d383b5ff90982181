#!/usr/bin/env bash
# LoRA files: one picture from every dialect, on 4-bit weights the same as on these weights
# expanded, kept in the PNG; and what is refused.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

cases=$(dirname "$models")
dev=$models/dev
exact=("${quick[@]}" --noise-dtype f32 --no-metadata)

# draw MODEL PICTURE ARGS...
draw() {
    local model=$1 picture=$2
    shift 2
    run image -m "$model" -p cat -o "$picture" "${exact[@]}" "$@"
    expect_status 0
}
differ() {
    check test "$(cmp -s "$1" "$2" || echo differs)" = differs
}

what="dialects"
draw "$dev" "$T/plain.png"
for dialect in peft kohya comfy bfl onetrainer; do
    draw "$dev" "$T/$dialect.png" --lora "$cases/lora-$dialect/lora.safetensors"
    check cmp "$T/$dialect.png" "$T/peft.png"
done
differ "$T/peft.png" "$T/plain.png"
what="info"
for dialect in "peft diffusers 50" "kohya kohya 36" "comfy ComfyUI 36" "bfl BFL 36" \
    "onetrainer OneTrainer 50" "xlabs XLabs 12"; do
    read -r folder name layers <<<"$dialect"
    run info "$cases/lora-$folder/lora.safetensors"
    check grep -q "LoRA, FLUX.1" "$T/stdout"
    check grep -q "$layers layers, rank 2 to 3" "$T/stdout"
    check grep -q "$name layout" "$T/stdout"
done

what="weights"
kohya=$cases/lora-kohya/lora.safetensors
draw "$dev" "$T/none.png" --lora "$kohya:0"
check cmp "$T/none.png" "$T/plain.png"
draw "$dev" "$T/both.png" --lora "$kohya:0.25" --lora "$cases/lora-comfy/lora.safetensors:0.75"
differ "$T/both.png" "$T/plain.png"
draw "$dev" "$T/text.png" --lora "$cases/lora-text/lora.safetensors"
differ "$T/text.png" "$T/plain.png"
cp "$kohya" "$T/style:2"
draw "$dev" "$T/colon.png" --lora "$T/style:2"
check cmp "$T/colon.png" "$T/peft.png"

what="threads"
for threads in 1 2 7; do
    run image -m "$dev" -p cat -o "$T/$threads.png" "${quick[@]}" --compute bf16 -t "$threads" \
        --lora "$kohya" --no-metadata
    expect_status 0
    check cmp "$T/$threads.png" "$T/1.png"
done

for form in modelopt:nvfp4 comfy:nvfp4 compressed-tensors:mxfp4 comfy:fp8; do
    what="on $form"
    rm -rf "$T"/out/*
    run quantize "$dev" -o "$T/out/m" --dialect "${form%:*}" --format "${form#*:}"
    run quantize "$T/out/m" -o "$T/out/x" --format f32
    draw "$T/out/m" "$T/out/plain.png"
    draw "$T/out/m" "$T/out/m.png" --lora "$kohya"
    draw "$T/out/x" "$T/out/x.png" --lora "$kohya"
    check cmp "$T/out/m.png" "$T/out/x.png"
    differ "$T/out/m.png" "$T/out/plain.png"
done
rm -rf "$T"/out/*

what="metadata"
run image -m "$dev" -p cat -o "$T/meta.png" "${quick[@]}" --lora "$kohya:0.5"
"$tool" png "$T/meta.png" nibble >"$T/recipe.json"
check test "$("$tool" get "$T/recipe.json" loras.0.name)" = lora
check test "$("$tool" get "$T/recipe.json" loras.0.weight)" = 0.5
check test "$("$tool" png "$T/meta.png" parameters | head -n 1)" = "cat <lora:lora:0.5>"

what="the result as JSON"
run image -m "$dev" -p cat -o "$T/told.png" "${quick[@]}" --json --lora "$T/style:2" \
    --lora "$cases/lora-comfy/lora.safetensors:0.75"
expect_status 0
"$tool" png "$T/told.png" nibble >"$T/told.json"
check test "$("$tool" get "$T/stdout" loras.0.path)" = "$T/style:2"
check test "$("$tool" get "$T/stdout" loras.0.weight)" = 1.0
check test "$("$tool" get "$T/stdout" loras.1.path)" = "$cases/lora-comfy/lora.safetensors"
check test "$("$tool" get "$T/stdout" loras.1.weight)" = 0.75
for i in 0 1; do
    digest=$("$tool" get "$T/stdout" loras.$i.digest)
    check test "${#digest}" = 64
    check test "$("$tool" get "$T/told.json" loras.$i.digest)" = "$digest"
done
check test "$("$tool" get "$T/told.json" loras.0.digest)" != "$digest"
run image -m "$dev" -p cat -o "$T/told.png" "${quick[@]}" --json
check test "$("$tool" get "$T/stdout" loras)" = "[]"

# spoil ARGS...: a copy of the kohya file at $bad, changed by the tool
bad=$T/bad.safetensors
module=lora_unet_double_blocks_0_img_attn_qkv
spoil() {
    local action=$1
    shift
    cp "$kohya" "$bad"
    "$tool" "$action" "$bad" "$@"
}
# refuse CODE TEXT...: of the picture with $bad
refuse() {
    local code=$1
    shift
    refused "$code" "$@" -- image -m "$dev" -p cat -o "$T/out/a.png" -q "${quick[@]}" --lora "$bad"
}

what="a name that means nothing"
spoil rename "$module.lora_up.weight" "$module.lora_sideways.weight"
refuse 65 "$bad: tensor $module.lora_sideways.weight: means nothing" --lora-lenient
what="a layer that the model has not"
spoil rename "$module.alpha" lora_unet_double_blocks_19_img_attn_qkv.alpha
refuse 65 "$bad: tensor lora_unet_double_blocks_19_img_attn_qkv.alpha"
draw "$dev" "$T/lenient.png" --lora "$bad" --lora-lenient
expect_said "1 of 108 tensors mean nothing to this model" double_blocks_19
what="half a pair"
spoil drop "$module.lora_up.weight"
refuse 65 "$bad: tensor $module.lora_down.weight: the other half"
what="a wrong shape"
spoil tensor "$module.lora_up.weight" shape '[72, 4]'
refuse 65 "$module.lora_up.weight: wanted [144, 2], found [72, 4]"
spoil tensor "$module.lora_down.weight" shape '[4, 24]'
refuse 65 "$bad: tensor $module.lora_up.weight: wanted [144, 4], found [144, 2]"
what="a model of another width"
refused 65 "tensor " "wanted [" "found [" -- image -m "$models/schnell" -p cat -o "$T/out/a.png" -q \
    "${quick[@]}" --lora "$cases/lora-xlabs/lora.safetensors"
what="another family"
spoil rename "$module.alpha" lora_unet_down_blocks_0_attentions_0_proj_in.alpha
refuse 65 "$bad: a LoRA for Stable Diffusion, not for FLUX.1"
what="no LoRA"
cp "$models/single/ae.safetensors" "$bad"
refuse 65 "$bad: no LoRA"
what="cut short"
head -c 20000 "$kohya" >"$bad"
refuse 65 "$bad"
what="no file"
rm "$bad"
refuse 66 "$bad"
what="no weight"
refused 64 "--lora" "wanted a finite weight" -- image -m "$dev" -p cat -o "$T/out/a.png" -q \
    "${quick[@]}" --lora "$kohya:inf"

finish

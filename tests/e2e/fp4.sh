#!/usr/bin/env bash
# Pictures from 4-bit and FP8 weights of every dialect: at F32 the same, byte for byte, as from the
# same weights expanded to F32.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

exact=("${quick[@]}" --noise-dtype f32 --no-metadata)
forms="modelopt:nvfp4 modelopt:mxfp4 modelopt:fp8 comfy:nvfp4 comfy:fp8
    compressed-tensors:nvfp4 compressed-tensors:mxfp4 compressed-tensors:fp8"
all=transformer,text_encoder,text_encoder_2
single=$models/single

# draw MODEL PICTURE; draw_file TRANSFORMER PICTURE
draw() {
    run image -m "$1" -p cat -o "$2" "${exact[@]}"
    expect_status 0
}
draw_file() {
    run image --transformer "$1" --vae "$single/ae.safetensors" --t5 "$single/t5xxl.safetensors" \
        --clip "$single/clip_l.safetensors" --tokenizers "$single" -p cat -o "$2" "${exact[@]}"
    expect_status 0
}

draw "$models/dev" "$T/plain.png"
for form in $forms; do
    what=$form
    rm -rf "$T"/out/*
    run quantize "$models/dev" -o "$T/out/m" --dialect "${form%:*}" --format "${form#*:}" \
        --component $all
    expect_status 0
    run quantize "$T/out/m" -o "$T/out/x" --format f32 --component $all
    expect_status 0
    draw "$T/out/m" "$T/out/m.png"
    draw "$T/out/x" "$T/out/x.png"
    check cmp "$T/out/m.png" "$T/out/x.png"
    check test "$(cmp -s "$T/out/m.png" "$T/plain.png" || echo differs)" = differs

    what="$form, one file with fused matrices"
    [ "${form#*:}" != fp8 ] || continue
    run quantize "$single/flux1-dev.safetensors" -o "$T/out/m.safetensors" \
        --dialect "${form%:*}" --format "${form#*:}"
    expect_status 0
    run quantize "$T/out/m.safetensors" -o "$T/out/x.safetensors" --format f32
    expect_status 0
    draw_file "$T/out/m.safetensors" "$T/out/m.png"
    draw_file "$T/out/x.safetensors" "$T/out/x.png"
    check cmp "$T/out/m.png" "$T/out/x.png"
done
rm -rf "$T"/out/*

layer=transformer_blocks.0.attn.to_q
quantized() {
    rm -rf "$T/model"
    run quantize "$models/dev" -o "$T/model" --dialect "$1"
    expect_status 0
    file=$T/model/transformer/diffusion_pytorch_model.safetensors
}
for case in modelopt:weight_scale modelopt:weight_scale_2 comfy:weight_scale \
    compressed-tensors:weight_scale compressed-tensors:weight_global_scale; do
    what="without $case"
    quantized "${case%:*}"
    "$tool" drop "$file" "$layer.${case#*:}"
    refused 65 "$layer.${case#*:} is missing" -- image -m "$T/model" -p cat -o "$T/out/a.png" \
        "${exact[@]}"
done
what="half of a low-rank branch"
quantized modelopt
"$tool" rename "$file" "$layer.bias" "$layer.svdquant_lora_a"
refused 65 "$layer.svdquant_lora_a" "$layer.svdquant_lora_b is missing" \
    -- image -m "$T/model" -p cat -o "$T/out/a.png" "${exact[@]}"
what="scales of the input channels, not as many as there are"
quantized modelopt
"$tool" rename "$file" "transformer_blocks.0.ff.net.0.proj.bias" "$layer.pre_quant_scale"
refused 65 "$layer.pre_quant_scale" "wanted [48], found [192]" \
    -- image -m "$T/model" -p cat -o "$T/out/a.png" "${exact[@]}"
finish

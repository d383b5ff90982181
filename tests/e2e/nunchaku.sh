#!/usr/bin/env bash
# nunchaku's files: what info says of them, pictures that do not depend on threads, and what is
# refused. (That pictures are right is golden.flux.nunchaku-*'s to say.)
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

exact=("${quick[@]}" --noise-dtype f32 --no-metadata)
single=$models/single
name=svdq-fp4_r16-flux.1-dev.safetensors
others=(--vae "$single/ae.safetensors" --t5 "$single/t5xxl.safetensors"
    --clip "$single/clip_l.safetensors" --tokenizers "$single" -p cat "${exact[@]}")

what=info
run info "$models/nunchaku/$name"
expect_status 0
check grep -qF "nunchaku (SVDQuant, rank 16), layers: 16 NVFP4, 4 INT4, 10 plain" "$T/stdout"
check grep -qF "1 double and 2 single blocks, width 128" "$T/stdout"
run info "$models/nunchaku/svdq-int4-flux.1-dev"
expect_status 0
check grep -qF "nunchaku (SVDQuant, rank 32), layers: 20 INT4, 10 plain" "$T/stdout"

what=threads
for threads in 1 3; do
    run image --transformer "$models/nunchaku/$name" -o "$T/out/$threads.png" -t "$threads" \
        "${others[@]}"
    expect_status 0
done
check cmp "$T/out/1.png" "$T/out/3.png"
rm -rf "$T"/out/*

copy() {
    cp "$models/nunchaku/$name" "$T/$name"
    chmod u+w "$T/$name"
}
draw=(image --transformer "$T/$name" -o "$T/out/a.png" "${others[@]}")
layer=transformer_blocks.0.mlp_context_fc1
for part in wscales smooth lora_down lora_up bias qweight; do
    what="without $part"
    copy
    "$tool" drop "$T/$name" "$layer.$part"
    refused 65 "$layer.$part is missing" -- "${draw[@]}"
done
what="without wzeros"
copy
"$tool" drop "$T/$name" single_transformer_blocks.0.norm.linear.wzeros
refused 65 "single_transformer_blocks.0.norm.linear.wzeros is missing" -- "${draw[@]}"
what="another layer's codes"
copy
"$tool" rename "$T/$name" "$layer.qweight" spare
"$tool" rename "$T/$name" transformer_blocks.0.mlp_context_fc2.qweight "$layer.qweight"
refused 65 "$layer.qweight" "wanted [512, 64], found [128, 256]" -- "${draw[@]}"
what="a file of another model's width"
copy
"$tool" tensor "$T/$name" x_embedder.weight shape "[64, 128]"
refused 65 "2 heads of 64 do not make the width of x_embedder, 64" -- "${draw[@]}"
what="quantize: a file, a folder into a folder and into a file, and back to a picture"
for form in fp8:modelopt nvfp4:comfy; do
    copy
    run quantize "$T/$name" -o "$T/out/x.safetensors" --format "${form%:*}" --dialect "${form#*:}"
    expect_status 0
    run info "$T/out/x.safetensors"
    check grep -q "FLUX.1 dev" "$T/stdout"
    check grep -q "diffusers layout, quantization: \(FP8, scaled\|ComfyUI, layers: 36 NVFP4\)" \
        "$T/stdout"
    run image --transformer "$T/out/x.safetensors" -o "$T/out/a.png" "${others[@]}"
    expect_status 0
    rm "$T"/out/*
done
run quantize "$models/nunchaku/svdq-int4-flux.1-dev" -o "$T/out/int4" --keep '*.norm.linear' -v
expect_status 0
expect_said "single_transformer_blocks.1.norm.linear is kept, as BF16"
check grep -q "2 kept as BF16" "$T/stdout"
check test "$(ls "$T/out/int4")" = "config.json
diffusion_pytorch_model.safetensors"
run image --transformer "$T/out/int4" -o "$T/out/a.png" "${others[@]}"
expect_status 0
rm -r "$T"/out/*
what="quantize: a part that is missing"
copy
"$tool" drop "$T/$name" "$layer.wscales"
refused 65 "$layer.wscales is missing" -- quantize "$T/$name" -o "$T/out/x.safetensors"
finish

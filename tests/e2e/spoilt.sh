#!/usr/bin/env bash
# Pictures that weights cannot have meant: values that are no numbers end the run, naming the part
# that gave them, and leave no file; a picture of one colour is told of.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

nan=ff zero=00 infinite=0000807f thousand=00007a44 # of F32, or of anything
transformer=transformer/diffusion_pytorch_model.safetensors
vae=vae/diffusion_pytorch_model.safetensors

# spoil FILE TENSOR BYTES ...: a fresh copy of the model with those bytes all over the tensors.
spoil() {
    copy_model dev
    while [ $# -gt 0 ]; do
        check "$tool" fill "$T/model/$1" "$2" "$3"
        shift 3
    done
}
draw=(image -m "$T/model" -p cat "${quick[@]}")

while read -r file tensor bytes said; do
    what="$tensor of $bytes"
    spoil "$file" "$tensor" "$bytes"
    for compute in f32 bf16 a8; do
        refused 65 "$T/model: $said" "are not finite" -- "${draw[@]}" --compute $compute \
            -o "$T/out/a.png"
    done
    refused 65 "$said" -- "${draw[@]}" -b 2 --dump "$T/out/dump" -o "$T/out/%d.png"
    refused 65 "$said" -- "${draw[@]}" --steps 3 -q --json -o "$T/out/a.png"
done <<END
$transformer proj_out.weight $nan transformer, step 1 of
$transformer transformer_blocks.0.attn.to_q.weight $nan transformer, step 1 of
$transformer proj_out.bias $infinite transformer, step 1 of
text_encoder/model.safetensors final_layer_norm.weight $nan clip: 
text_encoder_2/model.safetensors encoder.final_layer_norm.weight $nan t5: 
$vae decoder.conv_out.weight $nan vae: 
$vae decoder.conv_out.bias $infinite vae: 
END

what="a picture as any other"
spoil
run "${draw[@]}" --json -o "$T/out/a.png"
expect_status 0
check test "$(grep -c 'of one colour' "$T/stderr")" = 0
check test "$("$tool" get "$T/stdout" images.0.one_colour)" = false

while read -r bias colour; do
    what="a picture all $colour"
    spoil $vae decoder.conv_out.weight $zero $vae decoder.conv_out.bias "$bias"
    run "${draw[@]}" --json -b 2 -o "$T/out/%d.png"
    expect_status 0
    expect_said "picture 0: all of it is of one colour, $colour" "picture 1: all of it is of one"
    check test "$("$tool" get "$T/stdout" images.1.one_colour)" = true
    check test -s "$T/out/2.png"
done <<END
$zero #808080
$thousand #ffffff
000080bf #000000
END
finish

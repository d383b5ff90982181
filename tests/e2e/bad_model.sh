#!/usr/bin/env bash
# Checkpoints and configurations that lie: each is refused with a sentence that names the file.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

transformer=transformer/diffusion_pytorch_model.safetensors
weight=transformer_blocks.0.attn.to_q.weight
index=transformer/diffusion_pytorch_model.safetensors.index.json

draw() {
    local code=$1
    shift
    refused "$code" "$@" -- image -m "$T/model" -p cat -o "$T/out/a.png" "${quick[@]}"
}

# spoil FILE COMMAND...: a fresh copy whose FILE the command of e2e_tool changes.
spoil() {
    local file=$1
    shift
    copy_model schnell
    "$tool" "$1" "$T/model/$file" "${@:2}" || fail "e2e_tool $*"
}

# cut FILE BYTES: a fresh copy whose FILE ends there.
cut_at() {
    copy_model schnell
    truncate -s "$2" "$T/model/$1"
}

# setting FILE KEY VALUE...: each value of that key is refused, naming file and key.
setting() {
    local file=$1 key=$2 value
    shift 2
    for value in "$@"; do
        what="$file: $key = $value"
        spoil "$file" set "$key" "$value"
        draw 65 "$file" "$key"
    done
}

what="a good model"
copy_model schnell
run image -m "$T/model" -p cat -o "$T/out/a.png" "${quick[@]}"
expect_status 0
rm -f "$T"/out/*

for file in $transformer vae/diffusion_pytorch_model.safetensors \
    text_encoder/model.safetensors text_encoder_2/model.safetensors; do
    size=$(stat -Lc %s "$models/schnell/$file")
    for bytes in 0 7 8 100 $((size / 2)) $((size - 1)); do
        what="$file cut to $bytes bytes"
        cut_at "$file" "$bytes"
        draw 65 "$file"
    done
    what="$file with something behind its data"
    copy_model schnell
    printf 'more' >>"$T/model/$file"
    draw 65 "$file"
    what="no $file"
    copy_model schnell
    rm "$T/model/$file"
    draw 66 "$T/model/${file%%/*}"
done

for length in 0 1 99999999 9223372036854775807 18446744073709551615; do
    what="header of $length bytes"
    spoil $transformer length $length
    draw 65 $transformer
done
for header in '' '{' '[]' '"text"' '{"a":1}' '{"a":{}}' 'null' \
    '{"a":{"dtype":"F32","shape":[1]}}' \
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}' \
    '{"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}}' \
    '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}' \
    '{"a":{"dtype":"F32","shape":[1e30],"data_offsets":[0,4]}}' \
    '{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}' \
    '{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}' \
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}' \
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}' \
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e18]}}' \
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' \
    "$(printf '[%.0s' {1..5000})"; do
    what="header ${header:0:80}"
    spoil $transformer header "$header"
    draw 65 $transformer
done
what="header without tensors"
spoil $transformer header '{}'
draw 65 /model/transformer "wanted 0 bytes of tensors"
what="header that is not UTF-8"
spoil $transformer header "$(printf '{"\xff":1}')"
draw 65 $transformer

for case in 'data_offsets [0,4]' 'data_offsets [1000000000,1000003200]' 'data_offsets [-8,3192]' \
    'data_offsets [0,3200]' 'data_offsets "x"' 'shape [1,1]' 'shape [40,40,40]' 'shape []' \
    'dtype "F33"' 'dtype 7' 'dtype "I32"' 'dtype "F64"'; do
    what="$weight: $case"
    spoil $transformer tensor $weight "${case%% *}" "${case#* }"
    draw 65 $transformer "$weight"
done
what="a tensor of integers"
spoil $transformer tensor $weight dtype '"I16"'
draw 65 $transformer $weight I16
what="a tensor of another shape and the same size"
spoil $transformer tensor $weight shape '[20,80]'
draw 65 $transformer $weight '40' '20'
what="a missing tensor"
spoil $transformer drop $weight
draw 65 "/model/$transformer: tensor $weight: wanted [" ", found nothing"
what="a tensor of another name"
spoil $transformer rename $weight other
draw 65 "/model/$transformer: tensor $weight: wanted [" ", found nothing"
what="a missing bias"
spoil $transformer drop transformer_blocks.1.attn.to_q.bias
draw 65 "/model/$transformer: tensor transformer_blocks.1.attn.to_q.bias: wanted [" \
    ", found nothing"
what="a tensor missing in shards"
copy_model sharded
for shard in "$T/model/transformer"/*-of-*.safetensors; do
    "$tool" drop "$shard" $weight 2>/dev/null
done
sed -i "/\"$weight\"/d" "$T/model/$index"
draw 65 "/model/$index: tensor $weight: wanted [" ", found nothing"

setting transformer/config.json num_layers -1 0 1e18 1000000000000000000 '"two"' '[]' true
setting transformer/config.json num_single_layers -1 1000000000000000000 1.5
setting transformer/config.json num_attention_heads -1 0 1000000000000000000
setting transformer/config.json attention_head_dim -1 0 1000000000000000000
setting transformer/config.json in_channels 0 -64 1000000000000000000
setting transformer/config.json joint_attention_dim 0 -1 1000000000000000000
setting transformer/config.json pooled_projection_dim 0 -1 1000000000000000000
setting transformer/config.json axes_dims_rope '[8,4,9]' '[8,4]' '[8,4,8,0]' '[-8,14,14]' '7' \
    '["8",4,8]' '[8,4,8.5]'
setting transformer/config.json guidance_embeds '"no"' 7
setting transformer/config.json patch_size 0 2 -1
setting text_encoder/config.json hidden_size 0 -1 1000000000000000000 '"x"'
setting text_encoder/config.json num_attention_heads 0 5 -1
setting text_encoder/config.json num_hidden_layers -1 1000000000000000000
setting text_encoder/config.json vocab_size 0 -1 1000000000000000000
setting text_encoder/config.json max_position_embeddings 0 -1 1000000000000000000
setting text_encoder/config.json hidden_act '"none"' 7
setting text_encoder/config.json layer_norm_eps -1 '"x"'
setting text_encoder_2/config.json d_model 0 -1 1000000000000000000
setting text_encoder_2/config.json num_heads 0 -1 1000000000000000000
setting text_encoder_2/config.json num_layers -1 1000000000000000000
setting text_encoder_2/config.json relative_attention_num_buckets 0 -1 1000000000000000000
setting text_encoder_2/config.json relative_attention_max_distance 0 -1
setting text_encoder_2/config.json feed_forward_proj '"none"' 7
setting vae/config.json block_out_channels '[]' '[0,16,16,16]' '[-8,16,16,16]' '7' \
    '[1000000000000000000]'
setting vae/config.json layers_per_block -1 1000000000000000000
setting vae/config.json norm_num_groups 0 -1 3
setting vae/config.json latent_channels 0 -16 1000000000000000000
setting vae/config.json scaling_factor 0 '"x"'
setting scheduler/scheduler_config.json shift '"x"' -1
setting scheduler/scheduler_config.json time_shift_type '"none"' 7
setting scheduler/scheduler_config.json use_karras_sigmas true
setting scheduler/scheduler_config.json num_train_timesteps 0 -1

# A configuration that is right by itself, and not that of these weights.
what="other channels than the VAE has"
spoil transformer/config.json set in_channels 63
draw 65 transformer in_channels 63
what="more blocks than there are weights"
spoil transformer/config.json set num_layers 3
draw 65 transformer_blocks.2
what="other heads than the weights have"
spoil transformer/config.json set num_attention_heads 4
draw 65 $transformer
what="another text width"
spoil transformer/config.json set joint_attention_dim 48
draw 65
what="another width of T5"
spoil text_encoder_2/config.json set d_ff 64
draw 65 text_encoder_2/model.safetensors

for file in model_index.json transformer/config.json vae/config.json text_encoder/config.json \
    text_encoder_2/config.json scheduler/scheduler_config.json tokenizer/vocab.json \
    tokenizer_2/tokenizer.json; do
    for text in '' '{' 'nonsense' '[]' '7' '{"a":1,"a":2}' $'{"\xff":1}'; do
        what="$file holding $text"
        copy_model schnell
        printf '%s' "$text" >"$T/model/$file"
        draw 65 "$file"
    done
    what="no $file"
    copy_model schnell
    rm "$T/model/$file"
    draw 66 "$T/model"
    what="$file is a folder"
    mkdir "$T/model/$file"
    draw 65
done
what="no merges.txt"
copy_model schnell
rm "$T/model/tokenizer/merges.txt"
draw 66 merges.txt
what="a pipeline of another class"
spoil model_index.json set _class_name '"StableDiffusionPipeline"'
draw 65 model_index.json StableDiffusionPipeline

# Shards: a lying index, a shard that is not there.
index=transformer/diffusion_pytorch_model.safetensors.index.json
shard() {
    copy_model sharded
}
what="a missing shard"
shard
rm "$T/model/transformer/diffusion_pytorch_model-00002-of-00004.safetensors"
draw 66 diffusion_pytorch_model-00002-of-00004.safetensors
what="an index without a map"
shard
"$tool" set "$T/model/$index" weight_map '[]'
draw 65 $index
what="an index that names a file outside"
shard
"$tool" set "$T/model/$index" weight_map '{"x":"../../../../etc/passwd"}'
draw 65 $index
what="an index of a tensor that no shard has"
shard
"$tool" set "$T/model/$index" weight_map \
    '{"no.such.tensor":"diffusion_pytorch_model-00001-of-00004.safetensors"}'
draw 65 no.such.tensor
finish

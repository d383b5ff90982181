#!/usr/bin/env bash
# Where models are looked for: paths, the Hugging Face cache, the built-in demo; and nibble info.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

commit=0123456789abcdef0123456789abcdef01234567

# make_cache HUB: a cache as huggingface_hub lays it out, of links to blobs.
make_cache() {
    local repository=$1/models--some--thing file
    mkdir -p "$repository/refs" "$repository/blobs" "$repository/snapshots/$commit"
    printf '%s' $commit >"$repository/refs/main"
    (cd "$models/schnell" && find -L . -type f) | while IFS= read -r file; do
        local blob
        blob=$(cksum <"$models/schnell/$file" | tr ' ' -)
        cp -L "$models/schnell/$file" "$repository/blobs/$blob"
        mkdir -p "$repository/snapshots/$commit/$(dirname "$file")"
        ln -s "$repository/blobs/$blob" "$repository/snapshots/$commit/$file"
    done
}

draw() {
    rm -f "$T/out/a.png"
    run image -m "$1" -p cat -o "$T/out/a.png" "${quick[@]}" --no-metadata
    expect_status 0
    check cmp "$T/first.png" "$T/out/a.png"
}

run image -m "$models/schnell" -p cat -o "$T/first.png" "${quick[@]}" --no-metadata
expect_status 0

make_cache "$T/hub"
what="HF_HUB_CACHE"
HF_HUB_CACHE=$T/hub draw some/thing
what="a revision"
HF_HUB_CACHE=$T/hub draw some/thing@$commit
what="HF_HOME"
make_cache "$T/hf/hub"
HF_HOME=$T/hf draw some/thing
what="XDG_CACHE_HOME"
make_cache "$T/xdg/huggingface/hub"
XDG_CACHE_HOME=$T/xdg draw some/thing
what="HOME"
make_cache "$T/home/.cache/huggingface/hub"
draw some/thing
rm -f "$T/out/a.png"
what="HF_HUB_CACHE before HOME"
HF_HUB_CACHE=$T/empty refused 66 "$T/empty/models--some--thing" -- image -m some/thing -p cat \
    -o "$T/out/a.png"

what="no such model"
refused 66 "$T/none" -- image -m "$T/none" -p cat -o "$T/out/a.png"
refused 66 other/thing "$T/home/.cache/huggingface/hub" -- image -m other/thing -p cat \
    -o "$T/out/a.png"
refused 64 --model -- image -m "" -p cat -o "$T/out/a.png"
what="a revision that is not there"
refused 66 nightly -- image -m some/thing@nightly -p cat -o "$T/out/a.png"
what="a ref that leads out of the cache"
printf '../../../..' >"$T/home/.cache/huggingface/hub/models--some--thing/refs/main"
run image -m some/thing -p cat -o "$T/out/a.png"
check test "$status" = 65 -o "$status" = 66
what="a folder that is no model"
refused 66 "$T/home" -- image -m "$T/home" -p cat -o "$T/out/a.png"
what="a file that is no model"
printf 'hello' >"$T/file"
run image -m "$T/file" -p cat -o "$T/out/a.png"
check test "$status" = 65 -o "$status" = 66
what="no demo"
NIBBLE_DEMO=$T/none refused 66 "$T/none" demo -- image -p cat -o "$T/out/a.png"
what="the demo"
NIBBLE_DEMO=$models/schnell run image -p cat -o "$T/out/a.png" "${quick[@]}" --no-metadata
expect_status 0
check cmp "$T/first.png" "$T/out/a.png"
NIBBLE_DEMO=$models/schnell draw demo
what="NIBBLE_MODEL"
NIBBLE_MODEL=$models/schnell run image -p cat -o "$T/out/a.png" "${quick[@]}" --no-metadata
check cmp "$T/first.png" "$T/out/a.png"
rm -f "$T/out/a.png"

# Parts as single files, alone and in the place of a folder's.
single=$models/single
parts=(--transformer "$single/flux1-dev.safetensors" --vae "$single/ae.safetensors"
    --clip "$single/clip_l.safetensors" --t5 "$single/t5xxl.safetensors")
what="a pipeline of single files"
run image "${parts[@]}" -p cat -o "$T/out/a.png" "${quick[@]}"
expect_status 0
what="tokenizers of their own"
run image "${parts[@]}" --tokenizers "$models/dev" -p cat -o "$T/out/a.png" "${quick[@]}"
expect_status 0
what="a folder's part in the place of another's"
run image -m "$models/schnell" --vae "$models/schnell/vae" -p cat -o "$T/out/a.png" \
    "${quick[@]}" --no-metadata
expect_status 0
check cmp "$T/first.png" "$T/out/a.png"
rm -f "$T/out/a.png"
what="parts that are not enough"
refused 64 clip -- image "${parts[@]:0:4}" -p cat -o "$T/out/a.png" "${quick[@]}"
what="a part that is not there"
refused 66 "$T/none" -- image -m "$models/dev" --vae "$T/none" -p cat -o "$T/out/a.png"
what="a part that is another part"
refused 65 ae.safetensors -- image -m "$models/dev" --t5 "$single/ae.safetensors" -p cat \
    -o "$T/out/a.png" "${quick[@]}"
what="tokenizers that are not there"
refused 66 "$T/none" -- image "${parts[@]}" --tokenizers "$T/none" -p cat -o "$T/out/a.png"

for model in dev schnell sharded fp8 fp8-weight-scale; do
    what="info of $model"
    run info "$models/$model"
    expect_status 0
    check grep -q transformer "$T/stdout"
    check grep -q parameters "$T/stdout"
    run info "$models/$model" --json --digest --tensors
    expect_status 0
    for key in family parameters components.0.name components.0.dtypes; do
        check "$tool" get "$T/stdout" $key >/dev/null
    done
done
what="info of a file"
run info "$models/schnell/vae/diffusion_pytorch_model.safetensors" --tensors
expect_status 0
check grep -q 'decoder.conv_in.weight' "$T/stdout"
what="info of a bad file"
refused 65 "$T/file" -- info "$T/file"
refused 66 "$T/none" -- info "$T/none"
refused 64 info -- info a b
what="info of a pipeline with a bad part"
copy_model schnell
truncate -s 100 "$T/model/vae/diffusion_pytorch_model.safetensors"
run info "$T/model"
expect_status 65
check grep -q transformer "$T/stdout"
expect_said vae/diffusion_pytorch_model.safetensors
finish

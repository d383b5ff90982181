#!/usr/bin/env bash
# nibble quantize: folders and files in, whole output or none out, whatever happens meanwhile.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

fp4=$models/../../fp4

# A file of one BF16 matrix of zeros, 16384 columns wide, that takes no place on the disk.
make_sparse() {
    local rows=$2 header size
    size=$((rows * 16384 * 2))
    header='{"big.weight":{"dtype":"BF16","shape":['$rows',16384],"data_offsets":[0,'$size']}}'
    while [ $((${#header} % 8)) -ne 0 ]; do header="$header "; done
    printf '%b' "\\x$(printf '%02x' ${#header})\\0\\0\\0\\0\\0\\0\\0$header" >"$1"
    truncate -s $((8 + ${#header} + size)) "$1"
}

# start ARGS...: in the background, until its temporary output is there.
start() {
    "$nibble" quantize "$@" >"$T/stdout" 2>"$T/stderr" &
    pid=$!
    local i
    for ((i = 0; i < 2000; i++)); do
        [ -z "$(find "$T/out" -name '*.tmp*' -print -quit)" ] || return 0
        kill -0 $pid 2>/dev/null || break
        sleep 0.005
    done
    fail "no output was begun"
    show
}

what="a file"
run quantize "$fp4/input.safetensors" -o "$T/out/a.safetensors" --json
expect_status 0
check grep -q '"converted":24,"copied":0' "$T/stdout"
check test ! -s "$T/stderr"
run info "$T/out/a.safetensors"
expect_status 0

what="a file over itself, again and by three threads"
cp "$T/out/a.safetensors" "$T/once.safetensors"
run quantize "$fp4/input.safetensors" -o "$T/out/a.safetensors" -t 3
expect_status 0
check cmp -s "$T/out/a.safetensors" "$T/once.safetensors"
check test "$(ls -A "$T/out")" = a.safetensors
rm "$T"/out/*

what="a pipeline, and back"
run quantize "$models/dev" -o "$T/out/dev" --keep '*.norm*.linear' --method sweep
expect_status 0
check diff -r "$models/dev" "$T/out/dev" -q --exclude=transformer
check test "$(grep -c '"norm_out.linear"' "$T/out/dev/transformer/config.json")" = 1
check test "$(grep -c 'norm1.linear"' "$T/out/dev/transformer/config.json")" = 2
run quantize "$T/out/dev" -o "$T/out/back" --format f32
expect_status 0
check test "$(grep -c quantization_config "$T/out/back/transformer/config.json")" = 0
run image -m "$T/out/back" -p cat -o "$T/out/a.png" "${quick[@]}"
expect_status 0
rm -r "$T"/out/*

what="components and shards"
run quantize "$models/sharded" -o "$T/out/m" --component transformer,text_encoder_2 \
    --component vae --dialect compressed-tensors
expect_status 0
check diff -r "$models/sharded" "$T/out/m" -q --exclude=transformer --exclude=text_encoder_2 \
    --exclude=vae
check test "$(ls "$T/out/m/transformer")" = "$(ls "$models/sharded/transformer")"
check grep -q weight_packed "$T/out/m/transformer/diffusion_pytorch_model.safetensors.index.json"
rm -r "$T"/out/*

what="usage"
refused 64 "wanted one file or folder" -- quantize -o "$T/out/a"
refused 64 "wanted one file or folder" -- quantize a b -o "$T/out/a"
refused 64 "wanted --output" -- quantize "$models/dev"
refused 64 "--format: wanted nvfp4|mxfp4" -- quantize "$models/dev" -o "$T/out/a" --format int4
refused 64 "no MXFP4" -- quantize "$models/dev" -o "$T/out/a" --format mxfp4 --dialect comfy
refused 64 "a pipeline does not fit into a file" -- quantize "$models/dev" -o "$T/out/a.safetensors"
refused 64 "--component" -- quantize "$models/dev" -o "$T/out/a" --component transformer,
refused 64 "is named twice" -- quantize "$models/dev" -o "$T/out/a" --component vae,vae
refused 64 "is no component" -- quantize "$models/dev" -o "$T/out/a" --component ../dev
refused 64 "--keep: wanted" -- quantize "$models/dev" -o "$T/out/a" --keep ""
what="calibration: other bytes than the plain sweep's, the same for any number of threads"
printf 'a cat\na dog\n' >"$T/prompts"
sweep=(quantize "$models/dev" --method sweep)
run "${sweep[@]}" -o "$T/out/plain"
expect_status 0
run "${sweep[@]}" -o "$T/out/one" --calib "$T/prompts" -t 1
expect_status 0
run "${sweep[@]}" -o "$T/out/three" --calib "$T/prompts" -t 3
expect_status 0
check diff -r "$T/out/one" "$T/out/three"
check test "$(diff -rq "$T/out/one" "$T/out/plain" | wc -l)" -gt 0
what="calibration: at most the model's own size, else what was asked for"
run "${sweep[@]}" -o "$T/out/a" --calib "$T/prompts"
expect_status 0
expect_said "2 prompts, 64x64, 4 steps"
copy_model dev
sed -i 's/"sample_size": 64/"sample_size": 1024/' "$T/model/vae/config.json"
run quantize "$T/model" --method sweep -o "$T/out/large" --calib "$T/prompts"
expect_status 0
expect_said "2 prompts, 256x256, 4 steps"
run "${sweep[@]}" -o "$T/out/b" --calib "$T/prompts" --calib-size 64x32 --calib-steps 1
expect_status 0
expect_said "2 prompts, 64x32, 1 steps"
check test "$(diff -rq "$T/out/a" "$T/out/b" | wc -l)" -gt 0
rm -r "$T"/out/*
refused 64 "wanted --calib" -- "${sweep[@]}" -o "$T/out/a" --calib-size 64x64
refused 64 "wanted --calib" -- "${sweep[@]}" -o "$T/out/a" --calib-steps 2
refused 64 "--calib-steps" -- "${sweep[@]}" -o "$T/out/a" --calib "$T/prompts" --calib-steps 0
refused 64 "--calib-size" -- "${sweep[@]}" -o "$T/out/a" --calib "$T/prompts" --calib-size 64
refused 64 "wanted --format nvfp4 or fp8" -- quantize "$models/dev" -o "$T/out/a" \
    --format mxfp4 --calib "$T/prompts"
refused 64 "wanted a picture pipeline" -- quantize "$fp4/input.safetensors" -o "$T/out/a" \
    --method sweep --calib "$T/prompts"
refused 66 "$T/nothing" -- "${sweep[@]}" -o "$T/out/a" --calib "$T/nothing"

# count NAME DIALECT: the tensors of that name in the transformer of $T/out/DIALECT.
count() {
    "$nibble" info "$T/out/$2/transformer" --tensors | grep -c "\.$1 "
}
what="calibration: the scale of every layer's inputs beside it"
for form in modelopt:nvfp4:input_scale compressed-tensors:nvfp4:input_global_scale \
    comfy:nvfp4:input_scale modelopt:fp8:input_scale compressed-tensors:fp8:input_scale \
    comfy:fp8:input_scale; do
    IFS=: read -r dialect format name <<<"$form"
    run quantize "$models/dev" -o "$T/out/$dialect" --format "$format" --dialect "$dialect" \
        --calib "$T/prompts" --json -v
    expect_status 0
    n=$(sed 's/.*"converted":\([0-9]*\).*/\1/' "$T/stdout")
    check test "$n" -gt 10
    check grep -q "\"input_scales\":$n," "$T/stdout"
    expect_said "for $n of $n layers"
    check test "$(count "$name" "$dialect")" = "$n"
    run image -m "$T/out/$dialect" -p cat -o "$T/out/a.png" "${quick[@]}"
    expect_status 0
    rm -r "$T"/out/*
done
what="calibration of what is in four bits already, whatever its codes are called"
run quantize "$models/dev" -o "$T/out/compressed-tensors" --dialect compressed-tensors
expect_status 0
run quantize "$T/out/compressed-tensors" -o "$T/out/modelopt" --calib "$T/prompts" --json
expect_status 0
check grep -q "\"input_scales\":$(count input_scale modelopt)," "$T/stdout"
check test "$(count input_scale modelopt)" -gt 10
rm -r "$T"/out/*
what="calibration: layers that are never used have none, and weights stay what they are"
run quantize "$models/dev" -o "$T/out/modelopt" --component transformer,vae
expect_status 0
run quantize "$models/dev" -o "$T/out/calibrated" --component transformer,vae --calib "$T/prompts"
expect_status 0
"$nibble" info "$T/out/calibrated/vae" --tensors >"$T/tensors"
check grep -q " decoder.*to_q.input_scale " "$T/tensors"
check grep -q " encoder.*to_q.weight_scale " "$T/tensors"
check test "$(grep -c " encoder.*to_q.input_scale " "$T/tensors")" = 0
check test "$(count input_scale modelopt)" = 0
same=("${quick[@]}" --noise-dtype f32 --no-metadata)
for model in modelopt calibrated; do
    for compute in f32 a4; do
        run image -m "$T/out/$model" -p cat -o "$T/out/$model-$compute.png" "${same[@]}" \
            --compute $compute
        expect_status 0
    done
done
check cmp "$T/out/modelopt-f32.png" "$T/out/calibrated-f32.png"
check test "$(cmp -s "$T/out/modelopt-a4.png" "$T/out/calibrated-a4.png" || echo differs)" = differs
rm -r "$T"/out/*

what="input and output"
refused 66 "no such component" -- quantize "$models/dev" -o "$T/out/a" --component unet
refused 66 nowhere -- quantize "$T/nowhere" -o "$T/out/a"
refused 73 "its folder is not there" -- quantize "$models/dev" -o "$T/out/no/a"
mkdir "$T/full"
touch "$T/full/file"
refused 73 "is there already" -- quantize "$models/dev" -o "$T/full"
refused 73 "is a folder" -- quantize "$fp4/input.safetensors" -o "$T/full"
check test "$(ls "$T/full")" = file

what="a LoRA"
for lora in "$models"/../lora-*/*.safetensors; do
    case $lora in */expected.safetensors) continue ;; esac
    refused 65 "is a LoRA" -- quantize "$lora" -o "$T/out/a.safetensors"
    loras=$((${loras-0} + 1))
done
check test "${loras-0}" -ge 5

what="an infinity in the last weight of a pipeline, which is kept"
copy_model dev
file=$T/model/transformer/diffusion_pytorch_model.safetensors
printf '\0\0\200\177' | dd of="$file" bs=1 conv=notrunc seek=$(($(stat -c %s "$file") - 4)) status=none
refused 65 transformer/diffusion_pytorch_model.safetensors x_embedder "NaN or an infinity" \
    -- quantize "$T/model" -o "$T/out/a"

what="a list in the configuration, and one on the command line in its place"
mkdir -p "$T/home/.config/nibble"
printf 'keep = *.attn.*\nkeep = *.ff*\n' >"$T/home/.config/nibble/config"
run quantize "$models/dev" -o "$T/out/a" --json
few=$(grep -o '"converted":[0-9]*' "$T/stdout")
run quantize "$models/dev" -o "$T/out/b" --json --keep nothing
many=$(grep -o '"converted":[0-9]*' "$T/stdout")
check test "${few#*:}" -lt "${many#*:}"
rm -r "$T/home/.config" "$T"/out/*

make_sparse "$T/big.safetensors" 16384
what="stopped by a signal"
for signal in INT TERM; do
    start "$T/big.safetensors" -o "$T/out/big.safetensors"
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    expect_status 75
    check test -z "$(ls -A "$T/out")"
done
what="killed, and run again"
start "$T/big.safetensors" -o "$T/out/big.safetensors"
kill -KILL $pid
wait $pid 2>/dev/null
check test ! -e "$T/out/big.safetensors"
check test -n "$(ls -A "$T/out")"
run quantize "$T/big.safetensors" -o "$T/out/big.safetensors" -q
expect_status 0
check test "$(ls -A "$T/out")" = big.safetensors
finish

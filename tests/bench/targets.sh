#!/usr/bin/env bash
# Every figure that the CPU's speed is judged by, beside what is wanted, in one run on a quiet machine.
#
#     tests/bench/targets.sh BUILD --work DIR [--python PYTHON] [--sd SD_CLI] [--rounds N]
#
# BUILD is a Release build. PYTHON has torch, diffusers, transformers, numpy and gguf; SD_CLI is a built
# stable-diffusion.cpp. What they are needed for is left out, and said so, where they are not given. DIR
# keeps synthetic weights (40 GB in all) for the next time.
set -euo pipefail
build=$1
shift
work= python= sd= rounds=3
while [ $# -gt 0 ]; do
    case $1 in
    --work) work=$2 ;;
    --python) python=$2 ;;
    --sd) sd=$2 ;;
    --rounds) rounds=$2 ;;
    *) echo "targets.sh: unknown argument $1" >&2 && exit 64 ;;
    esac
    shift 2
done
[ -n "$work" ] || { echo "targets.sh: --work DIR is missing" >&2 && exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
nibble=$build/nibble
mkdir -p "$work"

section() { # TITLE WANTED...
    printf '\n## %s\n' "$1"
    shift
    printf 'wanted: %s\n' "$@"
    echo
}

echo "# $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors"
"$nibble" version

section "The same result for any number of rows and threads" "no failure"
"$build/tests/nb_check" | tail -3

section "Products of few rows" "NVFP4, 1 row, from memory: 85 % of reading" \
    "NVFP4, 1 row, in cache: 90 GB/s of packed weights on two cores"
"$nibble" bench gemv -q
"$nibble" bench gemv -q --weights nvfp4 --compute a8

if [ -n "$python" ]; then
    section "Products of many rows and attention, beside torch" \
        "NVFP4 at bf16 0.95x of torch's BF16, a8 1.7x; F32 2x of torch's F32" \
        "attention 3x of torch's BF16 and half of the rate of products"
    "$python" "$here/vs_torch.py" --nibble "$nibble" --rounds "$rounds"

    section "Beside diffusers" "VAE decode at 512x512: bf16 1x of torch's BF16, channels last"
    "$python" "$here/vs_diffusers.py" --nibble "$nibble" --work "$work/diffusers" --rounds "$rounds"
else
    echo && echo "beside torch and diffusers: not run, --python was not given"
fi

section "A picture of FLUX.1-schnell, 512x512, 4 steps, NVFP4" \
    "start to the first step at most 1 s, files in memory" "at most 9 GB with mapped weights" \
    "at most 5 % of a step outside linears, attention and convolutions"
if [ -d "$work/sdcpp/nvfp4" ]; then # in memory, as if just written
    find "$work/sdcpp/nvfp4" -name '*.safetensors' -exec cat {} + >/dev/null
fi
for compute in a8 bf16; do
    "$nibble" bench image -q --keep "$work/sdcpp/nvfp4" --compute "$compute" -r 1
done

if [ -n "$python" ] && [ -n "$sd" ]; then
    section "Beside stable-diffusion.cpp" "the whole command 4x as fast"
    "$python" "$here/vs_sdcpp.py" --sd "$sd" --nibble "$nibble" --work "$work/sdcpp"
else
    echo && echo "beside stable-diffusion.cpp: not run, --python and --sd were not both given"
fi

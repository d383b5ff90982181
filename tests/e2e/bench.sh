#!/usr/bin/env bash
# nibble bench: what is typed, the forms of its table, that files go when it ends or is stopped.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

export TMPDIR=$T/out # what is temporary must be gone at the end
tiny=(bench image --parts step --double 1 --single 0 --size 32x32 --tokens 8 --steps 2 -r 1)

get() {
    "$tool" get "$T/stdout" "$1"
}

# Nothing of a run stays behind.
check_gone() {
    check test -z "$(ls -A "$T/out")"
}

what="what is typed"
refused 64 "wanted image, gemm, gemv, attn or conv, found nothing" -- bench
refused 64 "found picture" -- bench picture
refused 64 "several words" -- bench gemm gemv
refused 64 "--parts: wanted names of clip,t5,step,vae, found steps" -- "${tiny[@]}" --parts steps
refused 64 "--parts" "found " -- "${tiny[@]}" --parts step,
refused 64 "--weights: wanted auto|nvfp4" -- "${tiny[@]}" --weights int4
refused 64 "--double: wanted 1 to 19" -- "${tiny[@]}" --double 20
refused 64 "--size" -- "${tiny[@]}" --size 8x8
refused 64 "--format: wanted md|csv|json" -- "${tiny[@]}" --format xml
refused 73 "$T/none" -- "${tiny[@]}" --keep "$T/none/model"

what="a table as JSON"
run "${tiny[@]}" --json
expect_status 0
check test "$(get arch)" = flux-schnell
check test "$(get weights)" = nvfp4
check test "$(get double_blocks)" = 1
check test "$(get steps)" = 2
check test "$(get results.0.part)" = step
check test "$(get results.1.part)" = png
for key in processor threads compute resident_peak_bytes arena_peak_bytes mapped_peak_bytes \
    results.0.seconds results.0.spread results.0.cpu_seconds results.0.gflops \
    results.0.computed_full; do
    check test -n "$(get $key)"
done
# 1 block of 57: what all would take is more by as much as they have more arithmetic.
check awk -v part="$(get results.0.seconds)" -v all="$(get results.0.computed_full)" \
    'BEGIN { exit !(all > 50 * part && all < 60 * part) }'
check_gone

what="a table for people"
run "${tiny[@]}" --weights bf16
expect_status 0
check grep -qE '^\| step +\| +[0-9.]+ \|' "$T/stdout"
check grep -q 'computed from that' "$T/stdout"
check test "$(grep -c '^|' "$T/stdout")" = 4
expect_said "run 1 of 1"

what="a table as CSV"
run "${tiny[@]}" --weights fp8 --format csv -q
expect_status 0
check test "$(head -n 1 "$T/stdout" | cut -d, -f1-6)" = processor,threads,compute,part,seconds,spread
check test "$(wc -l <"$T/stdout")" = 3
check test ! -s "$T/stderr"
check_gone

what="where the time goes"
run "${tiny[@]}" --profile --json
expect_status 0
check test "$(get results.0.part)" = step
check test "$(get results.0.operation)" = all
for key in seconds part_percent cpu_seconds cores floor_seconds floor_percent roof; do
    check test -n "$(get results.0.$key)"
done
n=0
sum=0
while operation=$(get results.$((n + 1)).operation 2>/dev/null) && [ -n "$operation" ]; do
    n=$((n + 1))
    names=${names-}$operation,
    sum=$(awk -v sum="$sum" -v more="$(get results.$n.seconds)" 'BEGIN { print sum + more }')
done
for name in "linear " attention norm rope elementwise none; do
    check test "${names/$name/}" != "$names"
done
check awk -v all="$(get results.0.seconds)" -v sum="$sum" \
    'BEGIN { exit !(sum > 0.999 * all && sum < 1.001 * all) }'
run "${tiny[@]}" --profile -q
expect_status 0
check grep -qE '^\| step \| attention +\| +1 \|' "$T/stdout"
check_gone

what="weights that are kept"
run "${tiny[@]}" --keep "$T/kept" -q
expect_status 0
check test -e "$T/kept/transformer/diffusion_pytorch_model.safetensors"
before=$(stat -c %Y.%i "$T/kept/transformer/diffusion_pytorch_model.safetensors")
run "${tiny[@]}" --keep "$T/kept" -q
expect_status 0
check test "$before" = "$(stat -c %Y.%i "$T/kept/transformer/diffusion_pytorch_model.safetensors")"
refused 65 "$T/kept" "weights: wanted \"mxfp4\", found \"nvfp4\"" -- "${tiny[@]}" \
    --weights mxfp4 --keep "$T/kept"
refused 65 "no synthetic pipeline" -- "${tiny[@]}" --keep "$models/schnell"
what="other programs read them"
run image -m "$T/kept" -p ship --size 32x32 --steps 1 -s 1 -o "$T/ship.png"
expect_status 0
check test "$("$tool" png "$T/ship.png")" = 32x32
run info "$T/kept"
expect_status 0

what="no room" # 68 GB are wanted
room=$(df --output=avail -k "$T" | tail -n 1)
if [ "$room" -lt 60000000 ]; then
    refused 73 "wanted room for" -- bench image --arch flux-dev --weights f32 --keep "$T/large"
fi

for signal in INT TERM; do
    what="SIG$signal while it draws"
    rm -f "$T/stderr"
    "$nibble" "${tiny[@]}" --steps 1000 --size 256x256 -v >"$T/stdout" 2>"$T/stderr" &
    pid=$!
    for ((i = 0; i < 2400; i++)); do
        ! grep -qs "denoise 1/1000" "$T/stderr" || break
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    expect_status 75
    check test ! -s "$T/stdout"
    check_gone
done

what="a signal while weights are written"
rm -f "$T/stderr"
"$nibble" bench image --parts step --double 3 --single 0 --size 32x32 >"$T/stdout" 2>"$T/stderr" &
pid=$!
for ((i = 0; i < 2400; i++)); do
    ! grep -qs "writing" "$T/stderr" || break
    sleep 0.01
done
kill -INT $pid
status=0
wait $pid || status=$?
expect_status 75
check_gone

what="kernels"
run bench gemv --weights nvfp4 -r 1 --json
expect_status 0
check test "$(get results.0.weights)" = nvfp4
check test "$(get results.0.rows)" = 1
for key in results.0.gbytes results.0.read_gbytes results.0.read_percent results.1.ms \
    roofs.read.all_threads; do
    check test -n "$(get $key)"
done
check test "$(get results.0.from)" = memory
check test "$(get results.3.from)" = cache
check test "$(get results.3.rows)" = 8
check_gone
what="types that are read and not written are measured too"
run bench gemv -r 1 --format csv -q
expect_status 0
check grep -q ",q4_k,memory,8," "$T/stdout"
check grep -q ",f16,cache,1," "$T/stdout"
what="a product is held against the roof of its own arithmetic"
run bench gemv -r 1 --compute f32 --json -q
expect_status 0
check test "$(get results.0.roof)" = f32
check test -n "$(get results.0.peak_percent)"
if grep -qw avx512_bf16 /proc/cpuinfo; then
    run bench gemv -r 1 --compute bf16 --json -q
    expect_status 0
    check test "$(get results.0.roof)" = bf16
fi
finish

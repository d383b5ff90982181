#!/usr/bin/env bash
# Where pictures go, what stands in them, what is told about them, and the same bytes for any
# number of threads.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

draw=(image -m "$models/dev" -p "a red cat" --size 48x32 --steps 2 --seed 9 --t5-length 8)

what="a path"
run "${draw[@]}" -o "$T/out/a.png"
expect_status 0
check test ! -s "$T/stdout"
check test "$("$tool" png "$T/out/a.png")" = 48x32
check test "$(ls -A "$T/out")" = a.png
what="an existing picture is replaced"
printf old >"$T/out/a.png"
run "${draw[@]}" -o "$T/out/a.png"
expect_status 0
check test "$("$tool" png "$T/out/a.png")" = 48x32
what="stdout"
run "${draw[@]}" -o -
expect_status 0
check cmp "$T/stdout" "$T/out/a.png"
what="a relative path"
(cd "$T/out" && "$nibble" "${draw[@]}" -o b.png -q)
check cmp "$T/out/a.png" "$T/out/b.png"
what="the default path"
(cd "$T/out" && "$nibble" "${draw[@]}" -q)
check cmp "$T/out/a.png" "$T/out/nibble-9.png"
what="a pipe"
mkfifo "$T/pipe"
cat "$T/pipe" >"$T/piped" &
run "${draw[@]}" -o "$T/pipe"
wait $!
expect_status 0
check test -p "$T/pipe"
check cmp "$T/piped" "$T/out/a.png"
rm -f "$T"/out/*

what="patterns"
run "${draw[@]}" -b 2 -o "$T/out/x-%03d.png"
expect_status 0
check test "$(cd "$T/out" && echo *)" = "x-001.png x-002.png"
mkdir "$T/both"
mv "$T"/out/* "$T/both"
what="several pictures without a pattern"
run "${draw[@]}" -b 2 -o "$T/out/x.y.png"
expect_status 0
check test "$(cd "$T/out" && echo *)" = "x.y-0001.png x.y-0002.png"
check cmp "$T/both/x-002.png" "$T/out/x.y-0002.png"
rm -f "$T"/out/*
what="{seed}"
run "${draw[@]}" -b 2 --seed-step -o "$T/out/{seed}.png"
expect_status 0
check test "$(cd "$T/out" && echo *)" = "10.png 9.png"
rm -f "$T"/out/*
run "${draw[@]}" -b 2 -o "$T/out/{seed}.png"
expect_status 0
check test "$(cd "$T/out" && echo *)" = "9-0001.png 9-0002.png"
checks=$((checks + 1))
! cmp -s "$T/out/9-0001.png" "$T/out/9-0002.png" || fail "two equal pictures"
rm -f "$T"/out/*

what="--json"
run "${draw[@]}" -b 2 -o "$T/out/%d.png" --json
expect_status 0
for key in images.0.path images.1.sha256 seed width height steps seconds.denoise compute device \
    threads peak_memory_bytes model; do
    check "$tool" get "$T/stdout" "$key" >/dev/null
done
check test "$("$tool" get "$T/stdout" images.1.path)" = "$T/out/2.png"
check test "$("$tool" get "$T/stdout" seed)" = 9
what="--progress-fd"
status=0
"$nibble" "${draw[@]}" -o "$T/out/p.png" --progress-fd 5 -q 5>"$T/progress" || status=$?
expect_status 0
check test -s "$T/progress"
while IFS= read -r line; do
    printf '%s' "$line" >"$T/line"
    check "$tool" get "$T/line" stage >/dev/null
done <"$T/progress"
check grep -q '"stage":"denoise","picture":0,"step":2,"of":2' "$T/progress"
what="--log-format json"
run "${draw[@]}" -o "$T/out/p.png" --log-format json -v
expect_status 0
while IFS= read -r line; do
    printf '%s' "$line" >"$T/line"
    check "$tool" get "$T/line" "" >/dev/null
done <"$T/stderr"
rm -f "$T"/out/*

what="metadata"
run "${draw[@]}" -o "$T/out/a.png"
"$tool" png "$T/out/a.png" parameters >"$T/parameters"
check grep -q '^a red cat' "$T/parameters"
check grep -q 'Steps: 2' "$T/parameters"
check grep -q 'Seed: 9' "$T/parameters"
check grep -q 'Size: 48x32' "$T/parameters"
"$tool" png "$T/out/a.png" nibble >"$T/recipe"
check "$tool" get "$T/recipe" "" >/dev/null
check grep -q 'a red cat' "$T/recipe"
what="no metadata"
run "${draw[@]}" -o "$T/out/a.png" --no-metadata
check test -z "$("$tool" png "$T/out/a.png" parameters)"
check test -z "$("$tool" png "$T/out/a.png" nibble)"
rm -f "$T"/out/*

what="an output that cannot be"
refused 73 "$T/none/a.png" "$T/none" -- "${draw[@]}" -o "$T/none/a.png"
refused 73 "$T/home" folder -- "${draw[@]}" -o "$T/home"
printf x >"$T/file"
refused 73 "$T/file/a.png" -- "${draw[@]}" -o "$T/file/a.png"
refused 73 output -- "${draw[@]}" -o ""
refused 73 "$T/none/d" -- "${draw[@]}" -o "$T/out/a.png" --dump "$T/none/d"
refused 73 a.png -- "${draw[@]}" -o "$T/out/$(printf 'n%.0s' {1..300})a.png"
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$T/locked"
    chmod a-w "$T/locked"
    refused 73 "$T/locked" -- "${draw[@]}" -o "$T/locked/a.png"
fi
what="a full stdout"
status=0
"$nibble" "${draw[@]}" -o - >/dev/full 2>"$T/stderr" || status=$?
expect_status 74
expect_said "No space left"
what="a full device"
refused 74 /dev/full "No space left" -- "${draw[@]}" -o /dev/full
check test -c /dev/full
what="a file system without room"
(ulimit -f 1 && trap '' XFSZ && exec "$nibble" "${draw[@]}" -o "$T/out/a.png") >"$T/stdout" 2>"$T/stderr"
status=$?
expect_status 74
expect_said "$T/out/a.png"
check test -z "$(ls -A "$T/out")"
what="--json to a full stdout"
status=0
"$nibble" "${draw[@]}" -o "$T/out/a.png" --json >/dev/full 2>"$T/stderr" || status=$?
expect_status 74
what="a reader that goes away"
set +o pipefail
"$nibble" "${draw[@]}" -o - 2>"$T/stderr" | true
set -o pipefail
checks=$((checks + 1))
! grep -q 'Sanitizer' "$T/stderr" || fail "a crash"

for compute in f32 bf16; do
    what="the same bytes for 1, 2 and 7 threads, $compute"
    for threads in 1 2 7; do
        run "${draw[@]}" --compute $compute --true-cfg 2 --negative-prompt dog -t $threads \
            -o "$T/out/$threads.png"
        expect_status 0
    done
    check cmp "$T/out/1.png" "$T/out/2.png"
    check cmp "$T/out/1.png" "$T/out/7.png"
done

what="--dump and --init-latents"
run "${draw[@]}" -o "$T/out/a.png" --dump "$T/out/dump"
expect_status 0
check "$nibble" info "$T/out/dump" -v >"$T/listing"
for name in prompt_embeds pooled_prompt_embeds sigmas noise latents.0 latents.2 velocity.1 image; do
    check grep -q "$name " "$T/listing"
done
"$tool" rename "$T/out/dump" latents.0 latents
run "${draw[@]}" --seed 77 -o "$T/out/b.png" --init-latents "$T/out/dump" --no-metadata
expect_status 0
run "${draw[@]}" -o "$T/out/c.png" --no-metadata
check cmp "$T/out/b.png" "$T/out/c.png"
rm -f "$T"/out/*.png
mv "$T/out/dump" "$T/dump"
what="latents of another size"
refused 65 "$T/dump" latents -- "${draw[@]}" --size 64x64 -o "$T/out/a.png" --init-latents "$T/dump"
what="latents without a tensor latents"
"$tool" rename "$T/dump" latents other
refused 65 "$T/dump" latents -- "${draw[@]}" -o "$T/out/a.png" --init-latents "$T/dump"
what="no latents"
refused 66 "$T/none" -- "${draw[@]}" -o "$T/out/a.png" --init-latents "$T/none"
refused 65 "$T/home" -- "${draw[@]}" -o "$T/out/a.png" --init-latents "$T/home"
finish

#!/usr/bin/env bash
# Signals: the first one stops the work inside a step with exit code 75 and nothing half done.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

# Long enough that it is certainly under way when the signal comes.
long=(image -m "$models/dev" -p cat --size 256x256 --steps 1000 --seed 1 -o "$T/out/a.png")

# start: the long run in the background, past its first step.
start() {
    "$nibble" "${long[@]}" --progress-fd 5 >"$T/stdout" 2>"$T/stderr" 5>"$T/progress" &
    pid=$!
    local i
    for ((i = 0; i < 600; i++)); do
        ! grep -q '"denoise","picture":0,"step":1' "$T/progress" || return 0
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    fail "no step was done"
    show
}

for signal in INT TERM; do
    what="SIG$signal"
    start
    begin=$(date +%s%N)
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    took=$((($(date +%s%N) - begin) / 1000000))
    expect_status 75
    check test "$(grep -c '^nibble: ' "$T/stderr")" = 1
    check test -z "$(ls -A "$T/out")"
    check test "$took" -lt 5000
done

what="pictures that were finished before the signal stay"
long=(image -m "$models/schnell" -p cat --size 64x64 --steps 4 --seed 1 -b 10000 -o "$T/out/%05d.png")
start
for ((i = 0; i < 600; i++)); do
    [ -e "$T/out/00002.png" ] && break
    sleep 0.05
done
kill -INT $pid
status=0
wait $pid || status=$?
expect_status 75
for file in "$T"/out/*; do
    check test "$("$tool" png "$file")" = 64x64
done
finish

# shellcheck shell=bash disable=SC2034
# Sourced by the scripts here, which ctest runs as SCRIPT NIBBLE E2E_TOOL GOLDEN_MODELS: runs the
# program and says what was wanted and what was found. A script ends with `finish`.
set -uo pipefail

nibble=$1
tool=$2
models=$3
T=$(mktemp -d)
trap 'chmod -R u+w "$T"; rm -rf "$T"' EXIT
mkdir "$T/home" "$T/out"

# Nothing of the user's own settings may reach the program.
for variable in $(compgen -e); do
    case $variable in NIBBLE_* | HF_* | XDG_*) unset "$variable" ;; esac
done
export HOME=$T/home LC_ALL=C.UTF-8

checks=0
failures=0
status=0

fail() {
    printf 'FAILED %s: %s\n' "${what-}" "$*"
    failures=$((failures + 1))
}

check() {
    checks=$((checks + 1))
    "$@" || fail "$*"
}

finish() {
    printf '%s: %d checks, %d failures\n' "$(basename "$0")" "$checks" "$failures"
    [ "$failures" -eq 0 ]
    exit
}

# run ARGS...: the program's stdout in $T/stdout, stderr in $T/stderr, exit code in $status.
run() {
    status=0
    "$nibble" "$@" >"$T/stdout" 2>"$T/stderr" || status=$?
}

show() {
    printf '    %s\n' "$(head -c 1500 "$T/stderr" | head -n 12)"
}

expect_status() {
    checks=$((checks + 1))
    if [ "$status" -ne "$1" ]; then
        fail "wanted exit code $1, found $status"
        show
    fi
}

# Each text somewhere on stderr.
expect_said() {
    local text
    for text in "$@"; do
        checks=$((checks + 1))
        if ! grep -qF -- "$text" "$T/stderr"; then
            fail "wanted \"$text\" on stderr"
            show
        fi
    done
}

# refused CODE TEXT... -- ARGS...: the program ends with that code and one sentence that holds the
# texts; stdout stays empty, and no file is left in $T/out.
refused() {
    local code=$1 texts=() sentences left
    shift
    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    shift
    run "$@"
    expect_status "$code"
    sentences=$(grep -c '^nibble: ' "$T/stderr")
    checks=$((checks + 1))
    if [ "$sentences" -ne 1 ]; then
        fail "wanted one sentence, found $sentences"
        show
    fi
    [ "${#texts[@]}" -eq 0 ] || expect_said "${texts[@]}"
    check test ! -s "$T/stdout"
    left=$(ls -A "$T/out")
    checks=$((checks + 1))
    if [ -n "$left" ]; then
        fail "left behind: $left"
        rm -rf "${T:?}"/out/*
    fi
}

# A copy of a golden model that may be spoilt, at $T/model.
copy_model() {
    rm -rf "$T/model"
    cp -rL "$models/$1" "$T/model"
    chmod -R u+w "$T/model"
}

# Small pictures in little time.
quick=(--size 32x32 --steps 1 --seed 1 --t5-length 16 --compute f32)

#!/usr/bin/env bash
# Does style.sh find what it is for? A small checkout, clean at first, gets one offence at a time.
set -euo pipefail

style=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/style.sh
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
failures=0

make_clean() {
    rm -rf "$here/tree"
    mkdir -p "$here/tree"/{kernels,models,text,pipeline,cli,tests,build-x,.hidden}
    cp "$(dirname "$style")/../.clang-format" "$here/tree"
    printf '#ifndef NB_A_H\n#define NB_A_H\n#endif\n' >"$here/tree/kernels/a.h"
    printf '#include "kernels/a.h"\n\n#include <stdio.h>\n' >"$here/tree/models/b.c"
    printf '#include "models/c.h"\n' >"$here/tree/cli/d.c"
    touch "$here/tree/models/c.h"
}

# expect WANTED: a line of the answer that holds this, and exit code 1.
expect() {
    local status=0 out
    out=$("$style" "$here/tree") || status=$?
    if [ "$status" -ne 1 ] || [[ $out != *"$1"* ]]; then
        printf 'wanted 1 and "%s", found %s and: %s\n' "$1" "$status" "$out"
        failures=$((failures + 1))
    fi
    make_clean
}

make_clean
status=0
out=$("$style" "$here/tree") || status=$?
if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
    printf 'a clean tree: found %s and: %s\n' "$status" "$out"
    failures=$((failures + 1))
fi

printf '#include "models/c.h"\n' >"$here/tree/kernels/e.c"
expect 'include against the arrow: kernels/e.c:1:'
printf '#  include <cli/d.c>\n' >"$here/tree/pipeline/e.c"
expect 'include against the arrow: pipeline/e.c:1:'
printf '#include "tests/x.h"\n' >"$here/tree/text/e.c"
expect 'include of a test: text/e.c:1:'
printf '#include "a.h"\n' >"$here/tree/kernels/e.c"
expect 'not rooted at the checkout: kernels/e.c:1:'
printf '#include "kernels/none.h"\n' >"$here/tree/kernels/e.c"
expect 'does not exist: kernels/none.h'
printf '\n%.0s' {1..1001} >"$here/tree/text/e.c"
expect 'text/e.c: 1001 lines'
printf '/* %0100d */\n' 0 >"$here/tree/text/e.c"
expect 'longer than 96 columns: text/e.c:1:'
mkdir "$here/tree/scripts"
expect 'top level: scripts does not belong there'
for call in strcpy sprintf atoi strtok rand; do
    printf 'int a = %s(1);\n' "$call" >"$here/tree/text/e.c"
    expect "call that is not wanted: text/e.c:1:int a = $call"
done
if command -v clang-format >/dev/null && clang-format --version | grep -q 'version 14\.'; then
    printf 'int   a;\n' >"$here/tree/text/e.c"
    expect 'format: clang-format would change text/e.c'
fi
[ "$failures" -eq 0 ] && echo "style_test: every rule can fail"

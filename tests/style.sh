#!/usr/bin/env bash
# style.sh [CHECKOUT]: the rules that a machine can check, one line for each offence.
#   - includes follow kernels <- models <- text <- pipeline <- cli and are rooted at the checkout
#   - a source file has at most 1,000 lines of at most 96 columns (the format leaves comments alone)
#   - clang-format 14 (Debian 12's) would change nothing; other versions format otherwise, so
#     without that one this check is left out, and said so
#   - at the top level stand only the folders and files that the layout names
#   - no call of strcpy, strcat, sprintf, vsprintf, gets, atoi, atol, atof, strtok, rand, srand
# Exit code: 0 clean, 1 offences, 77 clean but the format could not be checked.
set -euo pipefail

cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
folders=(kernels models text pipeline cli)
offences=0
skipped=0

offend() {
    printf '%s\n' "$*"
    offences=$((offences + 1))
}

# Every line of stdin is an offence.
offend_each() {
    local line
    while IFS= read -r line; do
        [ -z "$line" ] || offend "$1: $line"
    done
}

sources() {
    find "$@" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) | sort
}

check_top_level() {
    local entry entries
    local -A known=()
    for entry in pipeline models kernels text cli tests CMakeLists.txt README.md setup.sh \
        LICENSE; do
        known[$entry]=1
    done
    # In a clone what counts is what is committed, so that a picture somebody drew is no offence.
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1 && [ -e .git ]; then
        entries=$(git ls-files | cut -d/ -f1 | sort -u)
    else
        entries=$(find . -mindepth 1 -maxdepth 1 ! -name '*.png' -printf '%f\n')
    fi
    while IFS= read -r entry; do
        case $entry in
        .* | build | build-*) ;;
        *) [ -n "${known[$entry]-}" ] || offend "top level: $entry does not belong there" ;;
        esac
    done <<<"$entries"
}

check_arrow() {
    local above i
    for ((i = 0; i < ${#folders[@]}; i++)); do
        above=$(IFS='|' && echo "${folders[*]:i+1}")
        [ -z "$above" ] || offend_each "include against the arrow" < <(
            sources "${folders[i]}" | xargs -r grep -HnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[\"<]($above)/"
        )
        # Only the program takes something from the tests: the check harness, for doctor.
        [ "${folders[i]}" = cli ] || offend_each "include of a test" < <(
            sources "${folders[i]}" | xargs -r grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"tests/'
        )
    done
}

check_rooted() {
    offend_each "include that is not rooted at the checkout" < <(
        sources "${folders[@]}" tests | xargs -r grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' |
            grep -vE 'include[[:space:]]*"(kernels|models|text|pipeline|cli|tests)/[^"]+"'
    )
    offend_each "include that does not exist" < <(
        sources "${folders[@]}" tests | xargs -r grep -hoE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]+"' |
            sed 's/.*"\(.*\)"/\1/' | sort -u | while IFS= read -r path; do
            [ -e "$path" ] || echo "$path"
        done
    )
}

check_length() {
    local file lines
    while IFS= read -r file; do
        lines=$(wc -l <"$file")
        [ "$lines" -le 1000 ] || offend "$file: $lines lines, at most 1000 are wanted"
    done < <(sources "${folders[@]}" tests)
    offend_each "longer than 96 columns" < <(
        sources "${folders[@]}" tests | LC_ALL=C.UTF-8 xargs -r grep -HnE '^.{97}'
    )
}

check_calls() {
    local names='strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|strtok|rand|srand'
    # Comments may name them.
    offend_each "call that is not wanted" < <(
        sources "${folders[@]}" tests | xargs -r grep -HnE "(^|[^[:alnum:]_.>])($names)[[:space:]]*\(" |
            grep -vE '^[^:]+:[0-9]+:[[:space:]]*(/\*|\*|//)'
    )
}

find_clang_format() {
    local name
    for name in clang-format-14 clang-format; do
        if command -v "$name" >/dev/null && "$name" --version | grep -qE 'version 14\.'; then
            echo "$name"
            return
        fi
    done
}

check_format() {
    local clang_format file
    clang_format=$(find_clang_format)
    if [ -z "$clang_format" ]; then
        echo "SKIP format: clang-format 14 is not here"
        skipped=1
        return
    fi
    while IFS= read -r file; do
        "$clang_format" --dry-run --Werror "$file" >/dev/null 2>&1 ||
            offend "format: clang-format would change $file"
    done < <(sources "${folders[@]}" tests)
}

check_top_level
check_arrow
check_rooted
check_length
check_calls
check_format
if [ "$offences" -gt 0 ]; then
    echo "style: $offences offences"
    exit 1
fi
echo "style: clean"
[ "$skipped" -eq 0 ] || exit 77

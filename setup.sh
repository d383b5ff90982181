#!/usr/bin/env bash
# Makes nibble ready on Debian 12 or Ubuntu 24.04 and runs it:
#   ./setup.sh image "a large red circle on a blue background" -o circle.png
#   ./setup.sh test        builds and runs every test, then once more with sanitizers
#   ./setup.sh             builds and says what to do next
# Packages that are missing are installed with apt, by sudo unless root runs this. Any words but
# "test" go to build/nibble.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
jobs=$(nproc)
build_packages=(gcc libc6-dev cmake make pkg-config libpng-dev libjansson-dev libpcre2-dev
    libutf8proc-dev)
test_packages=(libcmocka-dev clang-format)

say() {
    printf 'setup: %s\n' "$*" >&2
}

# Runs a command silently; if it fails, shows what it said and ends.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 60 "$log" >&2
        say "failed with status $status: $*"
    fi
    rm -f "$log"
    return "$status"
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_missing() {
    local package missing=() as_root=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "no apt here: these Debian packages, or what this system calls them, are needed: $*"
        return
    fi
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "missing, and neither root nor sudo here: apt-get install ${missing[*]}"
            return 1
        fi
        as_root=(sudo)
    fi
    say "installing with apt: ${missing[*]}"
    quietly "${as_root[@]}" apt-get update -q
    quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# build FOLDER TARGET [cmake flags...]
build() {
    local folder=$1 target=$2
    shift 2
    quietly cmake -S "$here" -B "$folder" -DCMAKE_BUILD_TYPE=Release "$@"
    quietly cmake --build "$folder" --target "$target" -j "$jobs"
}

build_program() {
    install_missing "${build_packages[@]}"
    if [ ! -x "$here/build/nibble" ]; then
        say "building build/nibble on $jobs processors"
    fi
    # The tests need packages of their own; a build that has them already keeps them.
    if [ -e "$here/build/CMakeCache.txt" ]; then
        build "$here/build" nibble
    else
        build "$here/build" nibble -DNB_TESTS=OFF
    fi
}

run_tests() {
    install_missing "${build_packages[@]}" "${test_packages[@]}"
    say "building build/ with its tests on $jobs processors"
    build "$here/build" all -DNB_TESTS=ON
    (cd "$here/build" && ctest --output-on-failure -j "$jobs")
    say "building build-asan/ with AddressSanitizer and UndefinedBehaviorSanitizer"
    build "$here/build-asan" all -DNB_TESTS=ON -DNB_SANITIZE=ON
    (cd "$here/build-asan" && ctest --output-on-failure -j "$jobs" -LE slow)
}

if [ "${1-}" = test ] && [ "$#" -eq 1 ]; then
    run_tests
    exit
fi
build_program
if [ "$#" -gt 0 ]; then
    exec "$here/build/nibble" "$@"
fi
say "the program is $here/build/nibble; to begin with:"
say "  build/nibble image \"a large red circle on a blue background\" -o circle.png"
say "  build/nibble --help"
say "  ./setup.sh test"

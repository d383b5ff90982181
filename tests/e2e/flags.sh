#!/usr/bin/env bash
# What is typed, set and configured: flags, words, environment, configuration file, help.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

draw=(image -m "$models/schnell" -o "$T/out/a.png" --size 32x32 --t5-length 16)

# value FLAG VALUE WANTED: refused as usage, naming the flag, what was wanted and what was found.
value() {
    what="$1 $2"
    refused 64 "$1" "wanted $3" "found $2" -- "${draw[@]}" -p cat "$1" "$2"
}

what="no command"
refused 64 "nibble --help" --
what="an unknown command"
refused 64 imaeg "did you mean image" -- imaeg
refused 64 frobnicate -- frobnicate
what="an unknown flag"
refused 64 --stepz "did you mean --steps" -- "${draw[@]}" -p cat --stepz 4
refused 64 -Z -- "${draw[@]}" -p cat -Z
refused 64 --no-steps -- "${draw[@]}" -p cat --no-steps
what="a flag without its value"
refused 64 --steps -- "${draw[@]}" -p cat --steps
refused 64 --steps -- "${draw[@]}" -p cat --steps=
for bad in abc 0 -1 1.5 1e3 ' 4' 4x 99999999999999999999 ''; do
    what="--steps \"$bad\""
    refused 64 "--steps: wanted 1 to 1000, found" -- "${draw[@]}" -p cat --steps "$bad"
done
for bad in 512 512x 0x512 x512 512x512x512 512x-1 axb 99999x512; do
    value --size "$bad" WIDTHxHEIGHT
done
for bad in 0 -16 99999 wide; do
    value --width "$bad" "1 to"
    value --height "$bad" "1 to"
done
for bad in -1 nan inf x 1001; do
    value --guidance "$bad" "0 to 1000"
done
for bad in x 1.5 18446744073709551616 -9223372036854775809; do
    value --seed "$bad" "a whole number"
done
for bad in much -1 4Q 4GG; do
    value --max-ram "$bad" "a number of bytes"
done
value --compute f64 "auto|f32|bf16"
value --rng mt "torch-cpu|torch-cuda"
value --noise-dtype f8 "auto|f32"
value --threads -1 "0 to"
value --threads 1000000 "0 to"
value --batch-count 0 "1 to"
value --t5-length 0 "1 to"
value --rng-sms 0 "1 to"
value --log-format xml "text|json"
what="an unknown device"
refused 64 tpu -- "${draw[@]}" -p cat --device tpu
what="a device that is not there"
refused 69 cuda -- "${draw[@]}" -p cat --device cuda:7
what="a descriptor that is not open"
refused 64 --progress-fd -- "${draw[@]}" -p cat --progress-fd 77
what="stdout wanted twice"
refused 64 --json -- "${draw[@]}" -p cat --json -o -
refused 64 --batch-count -- "${draw[@]}" -p cat -b 2 -o -

what="no prompt"
refused 64 "no prompt" -- "${draw[@]}"
what="two prompts"
refused 64 "two prompts" -- "${draw[@]}" -p cat dog
refused 64 "two prompts" -- "${draw[@]}" -p cat -f "$T/none"
what="no prompt file"
refused 66 "$T/none" -- "${draw[@]}" -f "$T/none"
refused 66 "$T" -- "${draw[@]}" -f "$T"
what="a prompt that is not UTF-8"
refused 65 prompt UTF-8 0xff "offset 4" -- "${draw[@]}" -p $'cat \xff'
refused 65 prompt UTF-8 0xc0 -- "${draw[@]}" -p $'\xc0\x80'
refused 65 prompt UTF-8 0xed -- "${draw[@]}" -p $'\xed\xa0\x80'
refused 65 "negative prompt" UTF-8 -- "${draw[@]}" -p cat --negative-prompt $'\xfe'
printf 'cat \xff' >"$T/bad.txt"
refused 65 "$T/bad.txt" UTF-8 -- "${draw[@]}" -f "$T/bad.txt"
printf 'cat \0 dog' >"$T/bad.txt"
refused 65 "$T/bad.txt" NUL -- "${draw[@]}" -f "$T/bad.txt"
head -c 17000000 /dev/zero | tr '\0' a >"$T/bad.txt"
refused 65 "$T/bad.txt" "at most" -- "${draw[@]}" -f "$T/bad.txt"

# A run that works, and what it drew: same NAME ARGS... compares with the first picture.
good() {
    run "${draw[@]}" --steps 1 --compute f32 "$@"
    expect_status 0
}
same() {
    what=$1
    shift
    rm -f "$T/out/a.png"
    good "$@"
    check cmp "$T/first.png" "$T/out/a.png"
}
differs() {
    what=$1
    shift
    rm -f "$T/out/a.png"
    good "$@"
    checks=$((checks + 1))
    ! cmp -s "$T/first.png" "$T/out/a.png" || fail "the same picture"
}
what="a prompt by --prompt"
good -p "a red cat" -s 5 --no-metadata
mv "$T/out/a.png" "$T/first.png"
same "words" a red cat -s 5 --no-metadata
same "words around flags" a -s 5 red --no-metadata cat
same "words behind --" -s5 --no-metadata -- a red cat
same "--flag=value" --prompt="a red cat" --seed=5 --metadata=no
same "the last counts" -p dog -p "a red cat" -s 1 -s 5 --metadata --no-metadata --steps 2 --steps 1
printf 'a red cat\r\n\n' >"$T/prompt.txt"
same "a prompt file" -f "$T/prompt.txt" -s 5 --no-metadata
same "stdin" - -s 5 --no-metadata <"$T/prompt.txt"
same "stdin by --prompt" -p - -s 5 --no-metadata <"$T/prompt.txt"
differs "another seed" a red cat -s 6 --no-metadata
differs "another prompt" a red dog -s 5 --no-metadata
differs "a prompt that begins with a dash" -s 5 --no-metadata -- -v --steps
differs "metadata" a red cat -s 5
export NIBBLE_SEED=5 NIBBLE_METADATA=no
same "the environment" a red cat
differs "the command line before the environment" a red cat -s 6
export XDG_CONFIG_HOME=$T/config
mkdir -p "$T/config/nibble"
printf '# mine\n\n  seed = 6\nmetadata = no\n tensors = yes\n' >"$T/config/nibble/config"
same "the environment before the configuration" a red cat
unset NIBBLE_SEED NIBBLE_METADATA
differs "the configuration" a red cat
same "the command line before the configuration" a red cat -s 5
printf 'seed = 5\nmetadata=no' >"$T/config/nibble/config"
same "the configuration without a last newline" a red cat
same "an empty variable" a red cat
rm -f "$T/out/a.png"
what="a value of the configuration"
printf 'seed = 5\nsteps = many\n' >"$T/config/nibble/config"
refused 65 "$T/config/nibble/config:2" steps "1 to 1000" many -- "${draw[@]}" cat
what="a flag of the configuration that no command has"
printf 'sed = 5\n' >"$T/config/nibble/config"
refused 65 "$T/config/nibble/config:1" sed -- "${draw[@]}" cat
printf 'seed\n' >"$T/config/nibble/config"
refused 65 "$T/config/nibble/config:1" "flag = value" -- "${draw[@]}" cat
what="help in spite of a bad configuration"
run image --help
expect_status 0
unset XDG_CONFIG_HOME
what="a value of the environment"
NIBBLE_STEPS=many refused 64 NIBBLE_STEPS "1 to 1000" many -- "${draw[@]}" cat
rm -f "$T/out/a.png"

what="a megabyte of prompt"
yes 'a red cat on a blue sofa, ' | tr -d '\n' | head -c 1000000 >"$T/long.txt"
good -f "$T/long.txt" -s 5
what="a megabyte without a blank"
head -c 1000000 /dev/zero | tr '\0' x >"$T/long.txt"
good -f "$T/long.txt" -s 5
what="an empty prompt"
good -p "" -s 5

what="a random seed is told"
good cat
check grep -qE '^seed [0-9]+$' "$T/stderr"
seed=$(sed -nE 's/^seed ([0-9]+)$/\1/p' "$T/stderr")
mv "$T/out/a.png" "$T/first.png"
same "the seed that was told" cat -s "$seed"
what="quiet"
good cat -q -s 5
check test ! -s "$T/stderr"
what="a random seed is told even then"
good cat -q
check grep -qE '^seed [0-9]+$' "$T/stderr"
check test "$(wc -l <"$T/stderr")" = 1
what="seeds beyond 2^63"
good 'cat "seed":-1' -s 18446744073709551615 --json
check grep -q '"seed":18446744073709551615,"draw"' "$T/stdout"
check grep -q '"seed":18446744073709551615,"width"' "$T/stdout"
check test "$("$tool" png "$T/out/a.png" nibble | grep -c '"seed":"18446744073709551615"')" = 1
check test "$("$tool" png "$T/out/a.png" parameters | grep -c 'Seed: 18446744073709551615')" = 1
what="verbose"
good cat -v -s 1
expect_said "linear" "denoise" "compute f32"

commands=$("$nibble" --help | sed -nE 's/^  ([a-z]+) .*/\1/p' | grep -vxE 'help|nibble')
check test "$(wc -w <<<"$commands")" -ge 5
for command in $commands; do
    what="help of $command"
    run "$command" --help
    expect_status 0
    check grep -q "^Usage: nibble $command" "$T/stdout"
    check grep -q "^Examples:" "$T/stdout"
    check test ! -s "$T/stderr"
    cp "$T/stdout" "$T/help"
    run help "$command"
    check cmp "$T/help" "$T/stdout"
    run "$command" -h
    check cmp "$T/help" "$T/stdout"
done
what="help of everything"
run --help
expect_status 0
check grep -q "image" "$T/stdout"
rm -f "$T/out/a.png"
what="doctor"
run doctor --no-check --json
expect_status 0
for key in processor instruction_sets variants.linear libraries device; do
    check "$tool" get "$T/stdout" "$key" >/dev/null
done
run doctor --op add
expect_status 0
check grep -qE '^check +[1-9][0-9]* variants agree with their references, 0 do not' "$T/stdout"
refused 64 none -- doctor --no-check none
refused 69 cuda -- doctor --device cuda
what="version"
run version --json
expect_status 0
check "$tool" get "$T/stdout" libraries.jansson >/dev/null
run --version
expect_status 0
what="a full stdout"
status=0
"$nibble" version >/dev/full 2>"$T/stderr" || status=$?
expect_status 74
expect_said stdout "No space left"
finish

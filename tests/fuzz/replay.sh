#!/bin/bash
# replay.sh - a corpus that is not what its list says fails the replay.
. "${top_srcdir:-.}/tests/shell/tap.sh"

target=$top_builddir/tests/fuzz/fuzz_image
image=$top_srcdir/tests/fuzz/corpus/image/int-i
mkdir "$work/corpus"
cp "$image" "$work/corpus/one"
cp "$image" "$work/corpus/two"

# replay NAME...: the lines that a list of these gives.
replay() {
    printf '%s\n' "$@" >"$work/corpus.list"
    "$target" "$work/corpus" | tr '\n' ';'
}

same "all there" "ok 1 - one;ok 2 - two;1..2;" "$(replay one two)"
same "one missing" \
    "not ok 1 - lost: the file is missing;ok 2 - one;ok 3 - two;1..3;" \
    "$(replay one two lost)"
same "one too many" \
    "ok 1 - one;not ok 2 - two: it is not in the list;1..2;" "$(replay one)"
same "an empty list" "Bail out! " "$(replay '' | head -c 10)"
rm "$work/corpus.list"
same "no list" "Bail out! " "$("$target" "$work/corpus" | head -c 10)"
tap_done

#!/bin/bash
# paths.sh - the tree stands alone: no file of it names a place outside, on the
# machine where it happened to be written.
. "${top_srcdir:-.}/tests/shell/tap.sh"

# outside TREE: lines that do, in what is ours (not what a build has made of
# it). The brackets keep this file from naming such a place itself.
outside() (
    cd "$1" || exit
    grep -rnIE --exclude-dir=.deps --exclude-dir=.libs --exclude='*.log' \
        --exclude='*.trs' --exclude='*.l[ao]' --exclude=zp.pc \
        '(^|[^A-Za-z0-9_.$}-])/(hom[e]/[a-z]+|roo[t])(/|[^A-Za-z0-9_]|$)' \
        core reactors tools examples tests docs .ci .clang-format .gitignore \
        configure.ac Makefile.am README NEWS COPYING bootstrap 2>/dev/null
)

check "there are files to look at" test -f "$top_srcdir/core/zp.h"
same "no file names a path outside of the tree" "" "$(outside "$top_srcdir")"
mkdir -p "$work/tree/core"
for line in 'see /roo''t/notes' '#include "/hom''e/me/x.h"'; do
    echo "$line" >"$work/tree/core/file"
    check "found: $line" test -n "$(outside "$work/tree")"
done
echo 'a beetroot/home at $dir/root/x' >"$work/tree/core/file"
same "not mistaken: a word like it" "" "$(outside "$work/tree")"
tap_done

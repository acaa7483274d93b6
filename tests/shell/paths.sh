#!/bin/bash
# paths.sh - the tree stands alone: no file of it names a place outside, on the
# machine where it happened to be written.
. "${top_srcdir:-.}/tests/shell/tap.sh"

# outside TREE: lines that do. The bracket keeps this file from naming it.
outside() (
    cd "$1" || exit
    grep -rnIE --exclude-dir=.git --exclude-dir='build*' \
        --exclude-dir=autom4te.cache --exclude-dir=m4 --exclude-dir='zproc-*' \
        --exclude=configure --exclude=configure~ --exclude=Makefile.in \
        --exclude=aclocal.m4 \
        '(^|[^A-Za-z0-9_.$}-])/(wor[k]|hom[e]/[a-z]+|roo[t])(/|[^A-Za-z0-9_]|$)|[.]librar[y]/' . |
        grep -v '^\./build-aux/'
)

same "no file names a path outside of the tree" "" "$(outside "$top_srcdir")"
mkdir "$work/tree"
for line in 'see /wor''k/notes' 'in ../.librar''y/x' '#include "/hom''e/me/x.h"'
do
    echo "$line" >"$work/tree/file"
    check "found: $line" test -n "$(outside "$work/tree")"
done
echo 'a framework/worker at $dir/work/x' >"$work/tree/file"
same "not mistaken: a word like it" "" "$(outside "$work/tree")"
tap_done

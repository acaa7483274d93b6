#!/bin/bash
# symbols.sh - libzp shows exactly what its headers declare.
. "${top_srcdir:-.}/tests/shell/tap.sh"
. "$top_srcdir/tests/shell/api.sh"

declared=$(api_functions "$top_srcdir/core/zp.h" "$top_srcdir/core/zp_ev.h")
mapped=$(sed -n 's/^ *\(zp_[a-z0-9_]*\);$/\1/p' "$top_srcdir/core/libzp.map" |
    sort)
check "the headers declare something" test -n "$declared"
same "core/libzp.map names what the headers declare" "$declared" "$mapped"

so=$top_builddir/.libs/libzp.so
a=$top_builddir/.libs/libzp.a
if [ -f "$so" ]; then
    exported=$(nm -D --defined-only "$so" |
        awk '$2 != "A" { sub("@.*", "", $3); print $3 }' | sort -u)
    # Sanitizers export something of theirs.
    [ "${ZP_SANITIZER-no}" = no ] ||
        exported=$(echo "$exported" | grep '^zp_')
    same "libzp.so exports what the headers declare" "$declared" "$exported"
    same "each is of version ZP_1.0" "" "$(nm -D --defined-only "$so" |
        awk '$2 != "A" { print $3 }' | grep '^zp_' | grep -v '@@ZP_1\.0$')"
    same "it has the soname libzp.so.1" "libzp.so.1" "$(objdump -p "$so" |
        awk '$1 == "SONAME" { print $2 }')"
else
    skip "libzp.so exports what the headers declare" "no shared library built"
fi
if [ -f "$a" ]; then
    same "libzp.a has no global name without zp_" "" \
        "$(nm -g --defined-only "$a" 2>/dev/null |
            awk 'NF == 3 && $3 !~ /^zp_/ { print $3 }' |
            grep -vE '^(_*(asan|tsan|ubsan|odr)|__odr_asan)' | sort -u)"
else
    skip "libzp.a has no global name without zp_" "no static library built"
fi

# Names that another library exports already.
same "no name of zenoh-pico or CZMQ is taken" "" "$(echo "$declared" |
    grep -E '^(zp_start_|zp_read(_|$)|zp_send_|zp_config_|zproc_)')"
tap_done

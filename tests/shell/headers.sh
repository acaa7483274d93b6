#!/bin/bash
# headers.sh - zp.h and zp_ev.h can be included alone, by every kind of
# program, without one warning.
. "${top_srcdir:-.}/tests/shell/tap.sh"

ln -s "$top_srcdir/core" "$work/include" # a path without blanks
strict="-pedantic -Wall -Wextra -Werror -Wshadow -I$work/include"

# compiles COMPILER LANGUAGE STANDARD HEADER
compiles() {
    what="$4 alone: $1 -std=$3"
    if ! command -v "$1" >/dev/null; then
        skip "$what" "no $1"
        return
    fi
    # ev.h is another project's: its own warnings are its own.
    printf '#include <%s>\n' "$4" >"$work/alone"
    # shellcheck disable=SC2086
    check "$what" "$1" $strict -std="$3" -x "$2" -fsyntax-only "$work/alone"
}

for header in zp.h zp_ev.h; do
    for cc in gcc clang; do
        compiles $cc c c99 $header
        compiles $cc c c11 $header
        compiles $cc c gnu11 $header
    done
    for cxx in g++ clang++; do
        compiles $cxx c++ c++17 $header
    done
done

# Twice, and in either order.
printf '#include <zp_ev.h>\n#include <zp.h>\n#include <zp_ev.h>\n' \
    >"$work/twice"
# shellcheck disable=SC2086
check "both, twice" "${CC:-cc}" $strict -std=c11 -x c -fsyntax-only \
    "$work/twice"

# Its macros are good C in user code, too.
cat >"$work/macros.c" <<'END'
#include <zp.h>
int watch(zp_state *state, zp_watch_fn *fn);
int waits(zp_state *state, uint64_t since);
int fails(zp_ctx *ctx);
int watch(zp_state *state, zp_watch_fn *fn)
{
    return zp_call_when_change(state, NULL, ZP_KEYS("a", "b"), NULL, fn, NULL);
}
int waits(zp_state *state, uint64_t since)
{
    const zp_watch_options *defaults = ZP_WATCH();
    int rc = zp_get_when_none(state, NULL, "a", 1, defaults);
    if (rc < 0)
        return rc;
    return zp_get_when_equal(state, NULL, "a", -1,
                             ZP_WATCH(.flags = ZP_SINCE, .since = since),
                             ZP_I(1));
}
int fails(zp_ctx *ctx)
{
    return zp_fail(ctx, ZP_ENOKEY, "no %s", "b");
}
END
for std in c99 c11; do
    # shellcheck disable=SC2086
    check "the macros, -std=$std" "${CC:-cc}" $strict -std=$std \
        -fsyntax-only "$work/macros.c"
done
tap_done

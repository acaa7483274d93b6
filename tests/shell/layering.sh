#!/bin/bash
# layering.sh - the arrows between the parts of zproc point one way: tools,
# examples -> zp.h; reactors -> core -> libraries; and each foreign library is
# known to few files only.
. "${top_srcdir:-.}/tests/shell/tap.sh"

# violations TREE: each include that points the wrong way, one per line.
violations() (
    cd "$1" || exit
    grep -HE '^[[:space:]]*#[[:space:]]*include' core/*.[ch] reactors/*.[ch] \
        tools/*.[ch] examples/*.[ch] 2>/dev/null |
        sed -E 's/^([^:]+):[^<"]*([<"][^>"]*)[>"].*/\1 \2/' |
        while read -r file include; do
            allowed "$file" "$include" || echo "$file includes ${include#?}"
        done
)

allowed() {
    case "$2" in
    *'<tpl.h'*) only "$1" core/value.c ;;
    *'<lmdb.h'*) only "$1" core/store_lmdb.h ;;
    *'store_lmdb.h'*) only "$1" 'core/store*.c' ;;
    *'<zmq.h'*) only "$1" core/zmq_call.h ;;
    *'loop_inside.h'*) only "$1" 'core/loop*.c' ;;
    *'zmq_call.h'*) only "$1" core/loop.c 'core/server*.[ch]' \
        'core/client*.c' 'reactors/feed*.[ch]' reactors/swarm_wire.c ;;
    *'<ev.h'* | *'zp_ev.h'*) only "$1" core/zp_ev.h core/loop_inside.h \
        'core/server*.c' core/client.c reactors/feed.c 'examples/*' ;;
    esac || return 1
    case "$1 $2" in
    examples/*'"'*) return 1 ;;
    tools/*'"tools/'*) ;;
    tools/*'"'*) return 1 ;;
    core/*'"core/'*) ;;
    core/*'"'*) return 1 ;;
    reactors/*'"core/'* | reactors/*'"reactors/'*) ;;
    reactors/*'"'*) return 1 ;;
    esac
}

only() {
    file=$1
    shift
    for pattern; do
        # shellcheck disable=SC2254
        case $file in $pattern) return 0 ;; esac
    done
    return 1
}

same "every include points the right way" "" "$(violations "$top_srcdir")"

# A test that cannot fail is none: put in one violation of each kind.
mkdir -p "$work/tree"/{core,reactors,tools,examples}
while read -r file include; do
    echo "#include $include" >"$work/tree/$file"
    same "found: $file includes $include" \
        "$file includes $(echo "$include" | tr -d '<>"')" \
        "$(violations "$work/tree")"
    rm "$work/tree/$file"
done <<'END'
core/state.c "reactors/feed.h"
core/state.c "tools/any.h"
core/state.c "tests/support/zp_test.h"
core/state.c "state.h"
core/state.c <lmdb.h>
core/state.c <tpl.h>
core/state.c <zmq.h>
core/state.c <ev.h>
core/state.c "core/store_lmdb.h"
core/state.c "core/zmq_call.h"
reactors/watch.c <lmdb.h>
reactors/watch.c "tests/support/zp_test.h"
tools/zp-server.c "core/server.h"
tools/zp-server.c <zmq.h>
examples/hello.c "core/state.h"
examples/hello.c <tpl.h>
END

# The public header needs none of the four, nor anything but C.
echo '#include <zp.h>' >"$work/bare.c"
needs() {
    "${CC:-cc}" -I"$top_srcdir/core" -M "$work/bare.c" >"$work/needs" &&
        ! grep -E '/(ev|zmq|tpl|lmdb)\.h' "$work/needs" &&
        grep -q '/zp\.h' "$work/needs"
}
check "zp.h includes no header of the libraries" needs
tap_done

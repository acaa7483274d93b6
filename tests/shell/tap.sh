# tap.sh - for tests in shell, to be sourced: TAP lines, a directory that goes
# away, nothing left running. Not a test itself.
#
#   . "${top_srcdir:-.}/tests/shell/tap.sh"
#   check "it works" command arguments...     ok if the command succeeds
#   check_fails "it fails" command...         ok if it does not
#   same "it prints" "$expected" "$got"
#   skip "it works" "why not"
#   tap_done

set -u
export LC_ALL=C
top_srcdir=$(cd "${top_srcdir:-.}" && pwd)
top_builddir=${top_builddir:-$top_srcdir/build}
tap_n=0
work=$(mktemp -d "${TMPDIR:-/tmp}/zpt-XXXXXX")
ZP_RUNTIME_DIR=$(mktemp -d /dev/shm/zpt-XXXXXX 2>/dev/null) ||
    ZP_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/zpt-XXXXXX")
export ZP_RUNTIME_DIR

tap_clean() {
    chmod -R u+w "$work" 2>/dev/null
    rm -rf "$work" "$ZP_RUNTIME_DIR"
}
trap tap_clean EXIT
trap 'exit 1' HUP INT TERM

# Say what is to be known of a failure: a file or the input.
explain() { sed 's/^/# /' "$@"; }

ok() {
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1"
}

not_ok() {
    tap_n=$((tap_n + 1))
    echo "not ok $tap_n - $1"
}

skip() {
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1 # SKIP $2"
}

check() {
    what=$1
    shift
    if "$@" >"$work/.output" 2>&1 </dev/null; then
        ok "$what"
    else
        not_ok "$what"
        explain "$work/.output"
        return 1
    fi
}

check_fails() {
    what=$1
    shift
    if "$@" >"$work/.output" 2>&1 </dev/null; then
        not_ok "$what"
        explain "$work/.output"
        return 1
    fi
    ok "$what"
}

same() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        not_ok "$1"
        printf '%s\n' "$2" >"$work/.expected"
        printf '%s\n' "$3" >"$work/.got"
        diff "$work/.expected" "$work/.got" | explain
        return 1
    fi
}

# Wait until a command succeeds, for at most so many seconds: for facts that
# come true sooner or later, never to order things.
until_true() {
    tap_end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $tap_end ] || return 1
        sleep 0.02
    done
}

tap_done() {
    echo "1..$tap_n"
}

# models.sh - the doorbell's model (docs/models/doorbell.pml): Spin finds
# nothing wrong with it as it is, and an error as soon as any one step of the
# protocol is taken out. A model that cannot fail would prove nothing.
. "${top_srcdir:-.}/tests/shell/tap.sh"

model=$top_srcdir/docs/models/doorbell.pml
variants='NO_WRITER_FENCE NO_SLEEP_FENCE NO_RECHECK NO_SYNC_FENCE ANSWER_EARLY
NO_DRY NO_DRY_AGAIN DRAIN_LATE WRITER_CLEARS LOOKED_FIRST CALLS_FIRST
TRUST_LOOKED NO_READ_ON_SYNC READ_FIRST NO_RETRY
SYNC_FIRST'
bell_variants='BYTE_FIRST LOST_FLAG FLAG_BEFORE_FIFO LOG_BEFORE_FLAG
NO_FLAG_FENCE NO_FLAG WANT_LATE NO_HUSH NO_LATE
NO_LATE_AGAIN' # of the model with -DBELL
write_variants='WRITE_LATE' # with -DWRITES

# Write what Spin's checker, compiled with $1, says of the model with -D$2 (-D$3,
# -D$4) to "$work/out".
run_model() {
    local optimize=$1
    shift
    rm -rf "$work/spin" "$work/out"
    mkdir "$work/spin" && cd "$work/spin" &&
        spin -a "-D$1" ${2:+"-D$2"} ${3:+"-D$3"} "$model" >"$work/out" 2>&1 &&
        gcc $optimize -w -DSAFETY -DCOLLAPSE -DMEMLIM=2000 -o pan pan.c \
            >>"$work/out" 2>&1 &&
        timeout 300 ./pan -n -E -m1000000 >>"$work/out" 2>&1
}

# The whole space was searched, with no error.
is_right() {
    run_model -O2 "$@"
    grep -q 'errors: 0$' "$work/out" &&
        ! grep -qi 'error:\|search not completed\|max search depth' \
            "$work/out" && return
    cat "$work/out"
    return 1
}

# An assertion of the property was violated; most find it at once, which takes
# less than to compile well.
is_wrong() {
    run_model -O0 "$@"
    grep -q 'assertion violated' "$work/out" && return
    cat "$work/out"
    return 1
}

if [ "${ZP_SANITIZER-no}" != no ]; then
    echo "1..0 # SKIP a model is the same whatever the library is built with"
    exit 0
fi
for tool in spin gcc; do
    if ! command -v $tool >/dev/null 2>&1; then
        echo "1..0 # SKIP $tool is not installed"
        exit 0
    fi
done
listed=$(sed -n 's/^ \*   \([A-Z_]*\)  .*/\1/p' "$model" | sort | tr '\n' ' ')
same "every step that the model can leave out is tried" \
    "$(printf '%s\n' $variants $bell_variants $write_variants | sort | tr '\n' ' ')" "$listed"
check "the protocol loses nothing" is_right RIGHT
check "the watcher's bell loses nothing" is_right BELL
check "... nor does a third commit, with a server that lives" \
    is_right BELL COMMITS=3 KILLS=0
check "nor does a server that writes" is_right WRITES
for variant in $variants; do
    check "Spin finds the error of $variant" is_wrong $variant
done
for variant in $bell_variants; do
    case $variant in
    NO_LATE_AGAIN) more=COMMITS=3 ;; # one rings, one dies, one takes back
    *) more= ;;
    esac
    check "Spin finds the error of $variant, of the bell" \
        is_wrong $variant BELL $more
done
for variant in $write_variants; do
    check "Spin finds the error of $variant, of the server that writes" \
        is_wrong $variant WRITES
done
tap_done

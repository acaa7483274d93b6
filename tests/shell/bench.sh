#!/bin/bash
# bench.sh - the driver of make bench: medians, verdicts, bench.tsv, and that
# nothing is left of a run; with sides that only say numbers. (What the real
# sides measure is for nobody to check on a busy machine.)
. "${top_srcdir:-.}/tests/shell/tap.sh"

bin=$work/bin
tsv=$work/bench.tsv
mkdir "$bin"
cp "$top_builddir/tests/bench/bench" "$bin/bench"

# side NAME WORDS...: a program that says each of WORDS, then the last of them
# again and again, one per round.
side() {
    {
        echo '#!/bin/bash'
        echo "words=(${*:2})"
        # shellcheck disable=SC2016
        echo 'echo ready; while read -r _; do echo "ok us=${words[0]} rate=${words[0]}"
            [ ${#words[@]} = 1 ] || words=("${words[@]:1}"); done'
    } >"$bin/bench-$1"
    chmod +x "$bin/bench-$1"
}

# says NAME WORDS...: one that says this instead of "ready".
says() {
    printf '#!/bin/bash\necho %q\nread -r _\n' "${*:2}" >"$bin/bench-$1"
    chmod +x "$bin/bench-$1"
}

# bench [MEASURE]
bench() {
    "$bin/bench" --quick --only "${1:-get}" --output "$tsv" >"$work/out" 2>&1
}

# The field of that name in the only line of the table.
field() {
    awk -F'\t' -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
        NR == 2 { print $at[name] }' "$tsv"
}

side ours 1 100 2 3 2
side floor 1
side redis 70
check "a run" bench
same "the header line" \
    "name unit ours floor peer peer_name ours/floor ours/peer target verdict" \
    "$(head -1 "$tsv" | tr '\t' ' ')"
same "ten fields in each line" "10 10" \
    "$(awk -F'\t' '{ print NF }' "$tsv" | xargs)"
same "the median of the rounds" 2 "$(field ours)"
same "the ratio to the floor" 2 "$(field ours/floor)"
same "the ratio to the peer" 0.0285714 "$(field ours/peer)"
same "both targets are met" ok "$(field verdict)"

side ours 2.6
check "a slower one: measured is measured" bench
same "too far from the floor" short "$(field verdict)"

side ours 2.4
check "another" bench
same "too near to the peer" short "$(field verdict)"

side ours 70
check "one that has only a peer" bench callback-64
same "as good as it" ok "$(field verdict)"

side ours 85
check "and one that is slower" bench callback-64
same "misses what allows it 1.2 times its time" short "$(field verdict)"

side ours 2
says redis skip not installed
check "a peer that is not there" bench
same "is skipped" skipped "$(field verdict)"
same "and is no number" "" "$(field peer)"
check "the reason is told" grep -q "not installed" "$work/out"

side ours 9
check "a miss is a miss without the peer, too" bench
same "short" short "$(field verdict)"

side ours 30
side floor 7
side python 70
check "a peer of its own" bench spawn
same "counts instead of the other" 0.428571 "$(field ours/peer)"
same "met" ok "$(field verdict)"
side ours 36
check "slower" bench spawn
same "is short" short "$(field verdict)"
same "the name of the peer" "Python Process, start, join" \
    "$(field peer_name)"

side ours 3000000
side python 2000000
check "a rate" bench map
same "is to be larger than the peer's" ok "$(field verdict)"
side ours 2900000
check "a smaller one" bench map
same "is short" short "$(field verdict)"
side ours 990000
side python 10
check "one that is far above the peer's" bench map
same "but not as large as it should be" short "$(field verdict)"

rm "$bin/bench-redis"
side floor 1
side ours 2
check "a peer that was not built" bench
same "is skipped as well" skipped "$(field verdict)"

says ours fail out of luck
check_fails "a side that fails fails the run" bench
same "and is told as such" failed "$(field verdict)"
check "with the reason" grep -q "out of luck" "$work/out"

printf '#!/bin/bash\nexit 3\n' >"$bin/bench-ours"
check_fails "so does one that ends" bench
same "failed" failed "$(field verdict)"

rm "$bin/bench-ours"
check_fails "and our own that is not there" bench

check_fails "unknown measures are refused" "$bin/bench" --only nothing
check "they can be listed" "$bin/bench" --list

# A run that is interrupted while a side hangs.
printf '#!/bin/bash\necho ready; echo $$ >%q; exec sleep 1000\n' \
    "$work/pid" >"$bin/bench-ours"
chmod +x "$bin/bench-ours"
"$bin/bench" --quick --only get --output "$tsv" >"$work/out" 2>&1 &
pid=$!
check "a side hangs" until_true 10 test -s "$work/pid"
check "in a directory of this run" test -d "/dev/shm/zp-bench-$pid-"*
kill -TERM $pid
wait $pid
check_fails "interrupted is not measured" test $? = 0
check_fails "the side is gone" kill -0 "$(cat "$work/pid")"
check "it is said" grep -q interrupted "$work/out"
check_fails "the directory, too" test -e "/dev/shm/zp-bench-$pid-"*
tap_done

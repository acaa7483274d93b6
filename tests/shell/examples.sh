#!/bin/bash
# examples.sh - each example runs and prints what it should: in any order that
# is possible, and in none that is not.
. "${top_srcdir:-.}/tests/shell/tap.sh"

bin=$top_builddir/examples

# The button is pressed while the other examples run, and is looked at when they
# are through. A short press is two changes, and between the two its process may
# be put aside for a while: what is long must be longer than that.
(
    "$bin/button" 15 2>&1
    echo "status $?"
) >"$work/button" </dev/null &
button=$!

# feast BAKED EATEN LEFT: is this, on stdin, a cookie eater's output? Nobody
# eats before there is a first cookie; and where as many are eaten as baked,
# each nom comes after its cookie.
feast() {
    awk -v baked="$1" -v eaten="$2" -v left="$3" '
        done { exit bad = 1 }
        $0 == "Here'\''s a cookie!" { b++; next }
        $0 == "nom nom nom" {
            e++
            if (b < 1 || baked == eaten && e > b)
                exit bad = 1
            next
        }
        $0 == "cookies left: " left { done = 1; next }
        { exit bad = 1 }
        END { exit bad || !done || b != baked || e != eaten }'
}

# The judge is judged first: c a cookie, n a nom, l the last line.
lines() {
    echo "$1" | sed "s/c/Here's a cookie!\n/g; s/n/nom nom nom\n/g
        s/l/cookies left: 0\n/; s/x/else\n/" | sed '/^$/d' |
        sed 's/^Here.s a cookie!$/Here'\''s a cookie!/'
}
judge() { lines "$1" | feast 5 5 0; }
for good in cncncncncnl cccccnnnnnl ccncnncncnl; do
    check "possible: $good" judge $good
done
for bad in cncncncncn ncncncncncl cnncccncnnl cncncncnl cncncncncncnl \
    cnxcncncncnl cncncncncnll lcncncncncn ''; do
    check_fails "impossible: $bad" judge "$bad"
done

# What the thread sanitizer says when a child's thread has bad luck (run-test
# tells of it) is no matter: a map's worker is started again then.
no_bad_luck() { sed '/ThreadSanitizer: dup thread with used id/d'; }

# says EXAMPLE ARGUMENT...: all that it does, and its status.
says() {
    { "$bin/$1" "${@:2}" 2>&1; echo "status $?"; } | no_bad_luck
}

# prints EXAMPLE EXPECTED
prints() {
    echo "$2" >"$work/$1.prints"
    same "$1" "$2" "$(says "$1")"
}

# prints_again EXAMPLE: and says what was wrong.
prints_again() {
    says "$1" | diff "$work/$1.prints" -
}

# feasts EXAMPLE BAKED EATEN LEFT; and says what was wrong.
feasts() {
    "$bin/$1" >"$work/out" 2>"$work/err"
    status=$?
    [ $status = 0 ] && [ ! -s "$work/err" ] &&
        feast "$2" "$3" "$4" <"$work/out" && return
    cat "$work/out" "$work/err"
    echo "status $status"
    return 1
}

prints hello "child: hello!
parent: bye!
status 0"
prints atomicity "$(seq 10)
status 0"
# The same game on three loops (own_loop is in docs_examples.sh).
pongs="pong 1
pong 2
pong 3
status 0"
prints poll_loop "$pongs"
if [ -x "$bin/glib_loop" ]; then
    prints glib_loop "$pongs"
else
    skip glib_loop "GLib is not installed"
fi

check cookie_eater feasts cookie_eater 5 5 0
check cookie_eater_extreme feasts cookie_eater_extreme 5 500 -495

prints chain_reaction "main: I set foo to foobar
child1: foo has become foobar, so I wake
child1: I set foo to bar
child2: foo is bar, so I wake
main: both are done
status 0"
prints peanut_processor "buffered     live   hybrid
       1        3        1
       2        6        4
       3        9        7
       4       12       10
left for buffered: 5 6 7 8 9 10 11 12
left for live:
status 0"
prints state_watchers "1     equals 1
1     is not none
1     is truthy
1     is available
none  has changed
none  does not equal 1
none  is none
none  is falsy
none  is available
0     has changed
0     does not equal 1
0     is not none
0     is falsy
0     is available
-5    has changed
-5    is negative
-5    does not equal 1
-5    is not none
-5    is truthy
-5    is available
1     has changed
1     equals 1
1     is not none
1     is truthy
1     is available
gone  has changed
gone  another key has changed
none  was waited for
none  was next
0     was next
-5    was next
1     was next
gone  was next
status 0"

prints process_map "squares: 1 4 9 16 25 36 49 64 81 100
powers: 1 8 27 64 125 216 343 512 729 1000
areas: 133 together
root of 4: 2
root of -4: -4 has no root
root of 9: 3
root of 13: it ended each process that ran it
root of 16: 4
sum: 385
status 0"
prints swarm "up to 5000: 237 steps
up to 50: 111 steps
27: 111 steps
1 to 1000: 59542 steps together
3 workers
0: an error, of this item alone
status 0"
# All ways have the same answers; how long each took is not compared.
same async_vs_zproc "in one thread TIME the answers' sum: 285
fork and pipe TIME the answers' sum: 285
zp_spawn_map TIME the answers' sum: 285
status 0" "$(says async_vs_zproc 9 0.01 |
    sed 's/^\([a-z_ ]*[a-z]\)  *[0-9.]* s   (\(.*\))$/\1 TIME \2/')"

# wordcount has the numbers of wc, however the files are cut.
mkdir -p "$work/tree/some words" "$work/tree/empty"
cp -r "$top_srcdir/docs" "$work/tree"
: >"$work/tree/empty/file"
printf 'no end of line' >"$work/tree/some words/of this"
printf '%2000000s|\n' '' | tr ' ' x >"$work/tree/one word"
seq 300000 >"$work/tree/many words"
ln -s "one word" "$work/tree/link"
(cd "$work/tree" && find . -type f -exec wc -w {} + | grep -v ' total$' |
    sed 's/^ *//' | LC_ALL=C sort -k2 &&
    find . -type f -exec cat {} \; -exec echo \; | wc -w) >"$work/wc"
word_count() { # word_count OPTION...
    (cd "$work/tree" && "$bin/wordcount" "$@" . 2>"$work/err" &&
        [ -z "$(no_bad_luck <"$work/err")" ]) >"$work/out" || return
    { sed '$d' "$work/out" | sort -k2; sed -n '$s/ total$//p' "$work/out"; } |
        diff "$work/wc" -
}
bin=$(cd "$bin" && pwd)
check wordcount word_count
check "wordcount -s" word_count -s
check "wordcount -j 1" word_count -j 1
check "wordcount -p 5000" word_count -j 3 -p 5000
# Bytes of all kinds. (Later versions of wc need no printable ones.)
seq 3000 | tr 0-9 ' ab\n\001\351x\000\t\v' >"$work/bytes"
if [ "$(printf '\001' | wc -w)" = 0 ]; then
    expected=$(wc -w <"$work/bytes")
    for size in 1 2 3 5 64 4096; do
        same "wordcount -p $size: all kinds of bytes" \
            "$expected $work/bytes" "$("$bin/wordcount" -p $size "$work/bytes")"
    done
else
    skip "wordcount: all kinds of bytes" "to this wc each byte is a word"
fi
# One that cannot be read is told of, and the others are counted.
same "wordcount and what cannot be read" "4 tree/some words/of this
status 1
wordcount: /proc/self/mem: Input/output error
wordcount: none: No such file or directory" \
    "$(cd "$work" &&
        says wordcount /proc/self/mem none "tree/some words" | sort)"
# A bar is for a terminal.
if command -v script >/dev/null; then
    check "wordcount on a terminal" grep -q '\[#\{40\}\] 100 %' <(script -qec \
        "'$bin/wordcount' '$work/tree'" /dev/null </dev/null)
else
    skip "wordcount on a terminal" "script is not installed"
fi

prints nested_procs "the sum is 5050
1-100: 5050
  1-50: 1275
    1-25: 325
    26-50: 950
  51-100: 3775
    51-75: 1575
    76-100: 2200
status 0"
prints retries "flaky: 3 attempts, done
fetch: 2 attempts, done
forbidden: 1 attempts, Permission denied: nobody may do that
broken: 4 attempts, the process failed again and again
status 0"
prints services "the service is ready
it says: 3 times 3 is 9
it says: 5 times 5 is 25
it says: 12 times 12 is 144
the customer has ended: all is well
the service has ended: killed by signal 15 (Terminated)
status 0"

# What no two reports have in common: pids, places, times, frames.
masked() {
    sed -e 's/, core dumped//' -e 's/^process [0-9]*/process PID/' \
        -e 's@^\(  at  *\).*/\(remote_errors.c\):[0-9]*$@\1\2:LINE@' \
        -e 's/^\(  started  *\).*, ran [0-9.]* s$/\1TIME/' \
        -e 's/^\(  record  *[0-9]* of \)[^,]*/\1STATE/' \
        -e '/^    #[1-9]/d' -e '/^    \.\.\.$/d' \
        -e 's/^\(    #0  \).*/\1FRAME/'
}
same remote_errors "looker: code -2, status 1, signal 0
  there is no teapot in the house
crasher: code -20012, status -1, signal 11
  killed by signal 11 (Segmentation fault): SIGSEGV at address 0x10
counter: code -20012, status 3, signal 0
  exited with status 3
  it has left 17
winner: code 7, status 0, signal 0
3 of 4 have failed:
process PID (looker) failed
  outcome   code -2 (No such file or directory), exit status 1
  error     there is no teapot in the house
  at        remote_errors.c:LINE
  started   TIME
  attempts  1
  record    1 of STATE, namespace default
process PID (crasher) failed
  outcome   code -20012 (the process failed), SIGSEGV
  error     killed by signal 11 (Segmentation fault): SIGSEGV at address 0x10
  started   TIME
  attempts  1
  record    2 of STATE, namespace default
  backtrace
    #0  FRAME
process PID (counter) failed
  outcome   code -20012 (the process failed), exit status 3
  error     exited with status 3
  started   TIME
  attempts  1
  record    3 of STATE, namespace default
status 0" "$({ "$bin/remote_errors" 2>&1; echo "status $?"; } | masked)"

# lucky: is this a line of three equal numbers, and nothing else?
lucky() { [ "$(sed 's/^luck: \([0-9]\) \1 \1$/lucky/')" = lucky ]; }
try_luck() { echo "$1" | lucky; }
check "luck: 7 7 7 is luck" try_luck "luck: 7 7 7"
for bad in "luck: 7 7 8" "luck: 1 7 7" "7 7 7" ""; do
    check_fails "'$bad' is not" try_luck "$bad"
done
check_fails "nor is it twice" try_luck "luck: 7 7 7
luck: 7 7 7"
luck_test() {
    "$bin/luck_test" >"$work/out" 2>"$work/err" && [ ! -s "$work/err" ] &&
        lucky <"$work/out" && return
    cat "$work/out" "$work/err"
    return 1
}
check luck_test luck_test

# led: are these, on stdin, four terms of four different candidates?
led() {
    awk '
        !/^term [1-4]: candidate [1-5] leads$/ { exit bad = 1 }
        $2 != ++n ":" || seen[$4]++ { exit bad = 1 }
        END { exit bad || n != 4 }'
}
terms() { # terms CANDIDATE...
    local n=0
    for candidate; do
        echo "term $((++n)): candidate $candidate leads"
    done
}
try_led() { terms "$@" | led; }
check "four of five may lead" try_led 3 1 5 2
check_fails "three are too few" try_led 3 1 5
check_fails "five are too many" try_led 3 1 5 2 4
check_fails "the dead do not lead" try_led 3 1 3 2
check_fails "there is no sixth" try_led 3 1 6 2
leader() { # leader SECONDS
    "$bin/leader" "$1" >"$work/out" 2>"$work/err" && [ ! -s "$work/err" ] &&
        led <"$work/out" && return
    cat "$work/out" "$work/err"
    return 1
}
check leader leader "$((2 * ${ZP_TEST_SLOW:-1}))"

# Its output may go anywhere.
same "cookie_eater | cat ends" 11 "$("$bin/cookie_eater" | cat | wc -l)"

# Again and again, all of them at once, while the processors are busy with other
# things: a hundred feasts, and ten rounds of the others.
rounds=25
others=10
case ${ZP_TEST_SLOW-1} in 1) ;; *) rounds=2 others=2 ;; esac
busy=()
for ((i = 0; i < $(nproc); i++)); do
    (while :; do :; done) &
    busy+=($!)
done

# stream ROUNDS COMMAND...: in a directory of its own, what was wrong to `bad`.
streams=()
pids=()
stream() {
    streams+=("$*")
    mkdir "$work/${#streams[@]}"
    cp "$work"/*.prints "$work/${#streams[@]}"
    (
        work=$work/${#streams[@]}
        rounds=$1
        shift
        for ((i = 0; i < rounds; i++)); do
            "$@" >"$work/round" </dev/null || {
                echo "round $i:"
                cat "$work/round"
            }
        done >"$work/bad" 2>&1
    ) &
    pids+=($!)
}
for i in 1 2 3 4; do
    stream $rounds feasts cookie_eater 5 5 0
done
for example in chain_reaction peanut_processor state_watchers \
    process_map swarm nested_procs retries services; do
    stream $others prints_again $example
done
stream $others luck_test
stream $others leader 15
wait "${pids[@]}"
for i in "${!streams[@]}"; do
    same "under load, times ${streams[i]}" "" "$(cat "$work/$((i + 1))/bad")"
done
kill "${busy[@]}"
wait "${busy[@]}" 2>/dev/null
wait $button
same "button, meanwhile" "a short press
a short press
a long press
a short press
status 0" "$(cat "$work/button")"
same "nothing is left" "" "$(ls -A "$ZP_RUNTIME_DIR" 2>/dev/null)"
tap_done

#!/bin/bash
# examples.sh - each example runs and prints what it should: in any order that
# is possible, and in none that is not.
. "${top_srcdir:-.}/tests/shell/tap.sh"

bin=$top_builddir/examples

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

# prints EXAMPLE EXPECTED
prints() {
    same "$1" "$2" "$("$bin/$1" 2>&1; echo "status $?")"
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

# Its output may go anywhere.
same "cookie_eater | cat ends" 11 "$("$bin/cookie_eater" | cat | wc -l)"

# Two hundred feasts while the processors are busy with other things.
rounds=200
case ${ZP_TEST_SLOW-1} in 1) ;; *) rounds=5 ;; esac
busy=()
for ((i = 0; i < $(nproc); i++)); do
    (while :; do :; done) &
    busy+=($!)
done
bad=0
for ((i = 0; i < rounds; i++)); do
    feasts cookie_eater 5 5 0 >"$work/round" </dev/null || {
        bad=$((bad + 1))
        explain "$work/round"
    }
done
kill "${busy[@]}"
wait "${busy[@]}" 2>/dev/null
same "cookie_eater under load, $rounds times" 0 $bad
same "nothing is left" "" "$(ls -A "$ZP_RUNTIME_DIR" 2>/dev/null)"
tap_done

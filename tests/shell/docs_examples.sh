#!/bin/bash
# docs_examples.sh - code that a document shows is code that runs.
#
# README, the guide and the manual pages say where their code is cut from
# (tools/cut-examples tells how); here it is cut again and compared. And the
# comparison itself is shown documents that are wrong.
. "${top_srcdir:-.}/tests/shell/tap.sh"
cd "$top_srcdir" || exit 1

documents=(README docs/*.md docs/man/*.[1-9])
for document in "${documents[@]}"; do
    check "$document shows the code of the examples" \
        tools/cut-examples -c "$document"
done

shown=$(cat "${documents[@]}" | grep -c 'from [a-z]*/[a-z_/-]*\.c: ')
check "$shown blocks of code are cut from examples" test "$shown" -ge 20

# One of each kind: changed by a name, or cut from nowhere, it is found out.
changed() { # changed DOCUMENT PATTERN REPLACEMENT WHAT
    sed "0,/$2/s//$3/" "$1" >"$work/document"
    check "$4: the document is another one" \
        test "$(cmp "$1" "$work/document" 2>&1)"
    check_fails "$4: found" tools/cut-examples -c "$work/document"
}
changed README 'zp_set_int(' 'zp_set(' "a change in README"
changed docs/guide.md 'zp_set_int(' 'zp_set(' "a change in the guide"
changed docs/man/zp_watch.3 'zp_get_int(' 'zp_get(' "a change in a page"
changed docs/man/zp_watch.3 ': go-live' ': go' "a part that is not there"
changed docs/man/zp_watch.3 'manual.c: ' 'manual.c ' "a mark that is none"
changed docs/man/zp_watch.3 '\.Ed' '.Pp' "a block without an end"

# What is cut is what C sees in it, whatever roff thinks of backslashes.
cat >"$work/x.c" <<'END'
    /* [part] */
    printf("a\\n'%s' - `b`^~\n", "x");

    .x = 1;
    /* [/part] */
END
printf '%s\n' '.\" from work/x.c: part' '.Bd -literal' 'old' '.Ed' \
    >"$work/x.3"
(cd "$work" && mkdir work && mv x.c work && "$top_srcdir/tools/cut-examples" x.3)
same "an mdoc block is escaped" \
    'printf("a\e\en\(aq%s\(aq \- \(gab\(ga\(ha\(ti\en", "x");' \
    "$(sed -n 3p "$work/x.3")"
same "a line that begins with a dot, too" '\&.x = 1;' \
    "$(sed -n 5p "$work/x.3")"

# And it runs.
prints() { # prints EXAMPLE EXPECTED
    same "$1" "$2" "$("$top_builddir/examples/$1" 2>"$work/err"
        echo "status $?")" || explain "$work/err"
}
prints first "It is 18 degrees now.
It is 21 degrees now.
It is 24 degrees now.
status 0"
prints own_loop "pong 1
pong 2
pong 3
status 0"
prints manual 'zp_value
si("Ada", 1815)
Ada, 1815, equal: 1
zp_tpl
Ada was born in 1815
Alan was born in 1912
Grace was born in 1906
zp_state
hello
3 4, still there: 0
no number yet
the greeting is no number
zp_dict
apple: 3
pear: 5
zp_snapshot
it was 1, it is 2
one revision ago: 1
zp_history
"happy" (created)
deleted
"awake"
"tired" (created)
zp_atomic
the second time: refused
ann 3, ben 7
zp_set_with
ben: busy
for 30 seconds
zp_call_when_change
a: 0 -> 1
a: 1 -> 2
a: 2 -> 0 (deleted)
3 events, active: 0
zp_watch
100 %
zp_watch_next
answer: nothing -> 42
answer: 42 -> 42 (the same)
answer: 42 -> "forty-two"
answer: "forty-two" -> nothing
zp_get_when
no job yet
job 1
job 2
job 3
zp_spawn
7 / 2 = 3.5
7 / 0: 7 divided by nothing
left 3.5
failed at attempt 1: 7 divided by nothing
zp_ping
zp_ctx
21
status 0'
# The server of zp_serve(3): until it is told to end.
"$top_builddir/examples/manual" serve 2>"$work/err" &
server=$!
until_true 10 test -d "$ZP_RUNTIME_DIR/weather"
kill $server
wait $server
same "manual serve ends with" "0" "$?"
same "nothing is left" "" "$(ls -A "$ZP_RUNTIME_DIR")"
tap_done

#!/bin/bash
# fence.sh - the fence around the tests in C catches what breaks their rules,
# and lets the next test start clean.
. "${top_srcdir:-.}/tests/shell/tap.sh"

bad=$top_builddir/tests/support/bad_manners
run=$top_srcdir/tests/shell/run-test

# as under nohup, in the background
(
    trap '' HUP INT PIPE
    exec bash "$run" "$bad" >"$work/out" 2>"$work/err"
)
check_fails "a failing program says so" test $? = 0
same "what is good and what is not" "1..13
ok good
not ok fails
ok # SKIP skipped
ok child_fails
not ok prints_else
not ok exits_badly
not ok leaves_file
not ok leaves_descriptor
not ok leaves_daemon
not ok waits_too_long
not ok no_sign
ok ends_at_signals
ok good" "$(sed -nE '/^(1\.\.|ok|not ok)/ {
        s/ok [0-9]+ (- )?/ok /; s/ (Could not|- ).*//; p }' "$work/out")"
for name in /left 'open: .*/dev/null' 'still runs: process'; do
    check "it is named: $name" grep -q "$name" "$work/err"
done

timeout 20 bash "$run" "$bad" never_ends >"$work/out" 2>"$work/err"
check_fails "a test that never ends is ended" test $? = 0 -o $? = 124
check "and that is said" grep -q '^Bail out!' "$work/out"
check_fails "nothing runs on" pgrep -f "$bad"
dir=$(sed -n 's/^# run directory: //p' "$work/out")
check "its directory was there" test -n "$dir"
check_fails "and is gone" test -e "$dir"
tap_done

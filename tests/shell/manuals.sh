#!/bin/bash
# manuals.sh - the manual pages are well-formed, and say what the headers say.
# What must stand in two places is compared here: prototypes, constants, the
# fields of structures, error codes and their texts.
. "${top_srcdir:-.}/tests/shell/tap.sh"
cd "$top_srcdir" || exit 1

pages3=(docs/man/*.3)
pages=(docs/man/*.[1-9])

# The headers without comments, one declaration a line.
declarations() {
    cat core/zp.h core/zp_ev.h |
        sed -e 's|/\*.*\*/||' -e '/\/\*/,/\*\//d' -e '/^#/d' |
        tr '\n' ' ' | sed 's/;/;\n/g'
}

# One way to write a prototype.
normal() {
    sed -e 's/[[:space:]]\{1,\}/ /g' -e 's/ *\([*,()]\) */\1/g' \
        -e 's/^ //' -e 's/;.*//' -e 's/ $//' | sort
}

declarations | grep -o 'ZP_API .*;' |
    sed -e 's/ZP_API //' -e 's/ZP_PRINTF([^)]*)//' | normal >"$work/api"
declarations | grep -o 'typedef [a-z ]*zp_[a-z_]*_fn(.*;' |
    sed 's/typedef //' | normal >"$work/types"
sed 's/(.*//; s/.*[ *]//' "$work/api" | sort >"$work/functions"
sed -n 's/^#define \(zp_[a-z_]*\)(.*/\1/p' core/zp.h | sort >"$work/macros"

if command -v "${MANDOC:-mandoc}" >/dev/null; then
    "${MANDOC:-mandoc}" -T lint -W warning "${pages[@]}" >"$work/out" 2>/dev/null
    test ! -s "$work/out"
    ok $? "mandoc finds nothing to warn of"
else
    skip "mandoc" "not installed"
fi

# 2
docs/man-links "${pages3[@]}" | cut -d' ' -f1 >"$work/names"
for page in "${pages3[@]}"; do # a page that has the name of its function
    page=${page##*/}
    grep -qx "${page%.3}" "$work/functions" && echo "${page%.3}"
done | sort - "$work/names" >"$work/named"
sort "$work/functions" "$work/macros" | diff - "$work/named" >"$work/out"
ok $? "each function and macro is named by one page, and nothing else is"

# 3
awk '
function argument(text) { args = args (args == "" ? "" : ",") text }
FNR == 1 { on = 0 }
/^\.Sh / { on = $2 == "SYNOPSIS" }
!on { next }
{
    rest = $0
    sub(/^\.[A-Z][a-z] */, "", rest)
}
$1 == ".Ft" || $1 == ".Vt" {
    type = rest
    sub(/^typedef /, "", type)
    gsub(/"/, "", type)
}
$1 == ".Fn" {
    name = $2
    args = ""
    sub(/^[^ ]+ */, "", rest)
    while (match(rest, /^("[^"]*"|[^" ;]+) */)) {
        word = substr(rest, 1, RLENGTH)
        rest = substr(rest, RLENGTH + 1)
        gsub(/"| *$/, "", word)
        argument(word)
    }
    print type " " name "(" args ")"
}
$1 == ".Fo" { name = $2; args = "" }
$1 == ".Fa" { gsub(/"/, "", rest); argument(rest) }
$1 == ".Fc" { print type " " name "(" args ")" }
' "${pages3[@]}" | normal | grep -v '^int zp_fail(' >"$work/synopses"
sort "$work/api" "$work/types" | diff - "$work/synopses" >"$work/out"
ok $? "the synopses are the prototypes of the headers"

# 4
{
    cat "$work/functions" "$work/macros"
    sed 's/(.*//; s/.* //' "$work/types"
    for page in "${pages[@]}"; do
        page=${page##*/}
        echo "${page%.[1-9]}"
    done
} | sort -u >"$work/known"
{
    grep -ho '^\.Fn zp[a-z_]*\|^\.Fo zp[a-z_]*\|^\.Nm zp[a-z_-]*' "${pages[@]}"
    grep -ho 'Xr zp[a-z_-]*' "${pages[@]}"
} | sed 's/.* //' | sort -u | comm -23 - "$work/known" >"$work/out"
grep -ho '\bzp_[a-z_]*(' README docs/*.md "${pages[@]}" | sed 's/($//' |
    sort -u | comm -23 - "$work/known" >>"$work/out"
test ! -s "$work/out"
ok $? "no page and no document names a function that does not exist"

# 5: a reference gives the section in which the page is
for page in "${pages[@]}"; do
    page=${page##*/}
    echo "${page%.[1-9]} ${page##*.}"
done | cat - <(sed 's/$/ 3/' "$work/functions" "$work/macros") | sort -u \
    >"$work/sections"
grep -ho 'Xr zp[a-z_-]* [1-9]' "${pages[@]}" | sed 's/Xr //' | sort -u |
    comm -23 - "$work/sections" >"$work/out"
test ! -s "$work/out"
ok $? "each reference leads to a page"

# 6
declarations | grep -o 'enum [a-z_]* {.*}' | grep -o '\bZP_[A-Z_]*' |
    grep -v 'ZP_ERROR\|ZP_EFIRST' | sort -u >"$work/constants"
declarations | awk '
    /typedef struct zp_[a-z]* \{|typedef struct zp_[a-z]*_options \{/ { on = 1 }
    on {
        field = $0
        sub(/.*\{/, "", field)
        sub(/;.*/, "", field)
        if (field !~ /\}/) {
            gsub(/.*[ *]/, "", field)
            print field
        }
    }
    /\}/ { on = 0 }' | sort -u >"$work/fields"
{
    while read -r name; do
        grep -qw -e "$name" "${pages3[@]}" || echo "$name"
    done <"$work/constants"
    while read -r name; do
        grep -qw -e "[FV]a $name" -e "\.It Fa.* $name" "${pages3[@]}" ||
            echo "field $name"
    done <"$work/fields"
} >"$work/out"
test ! -s "$work/out" && [ "$(wc -l <"$work/constants")" -ge 20 ] &&
    [ "$(wc -l <"$work/fields")" -ge 40 ]
ok $? "every constant and every field of a structure is described"

# 7
sed -n 's/^ *X(\(ZP_E[A-Z]*\), \(-[0-9]*\), "\(.*\)").*/\1 \2 \3/p' core/zp.h |
    sort >"$work/errors"
sed -n 's/^\.It Dv \(ZP_E[A-Z]*\) Ta \\\(-[0-9]*\) Ta \(.*\)/\1 \2 \3/p' \
    docs/man/zp.7 | sort | diff "$work/errors" - >"$work/out" &&
    [ "$(wc -l <"$work/errors")" -ge 13 ]
ok $? "zp(7) has the error codes of the header"

# 8
for page in "${pages3[@]}"; do
    for section in NAME SYNOPSIS DESCRIPTION 'RETURN VALUES' EXAMPLES ERRORS \
        'SEE ALSO'; do
        grep -qx ".Sh $section" "$page" || echo "$page has no $section"
    done
done >"$work/out"
test ! -s "$work/out"
ok $? "each page has all of its sections"

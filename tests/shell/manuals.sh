#!/bin/bash
# manuals.sh - the manual pages are well-formed, and say what the headers say.
#
# What must stand in two places is compared here: names, prototypes, constants,
# the fields of structures, error codes and their texts. Each comparison is a
# function that prints what is wrong with the tree in the current directory; it
# is run on the real one, and then on copies with one fault each.
. "${top_srcdir:-.}/tests/shell/tap.sh"
mandoc=${MANDOC:-mandoc}

# The headers without comments, one declaration a line.
declarations() {
    sed '/^#/d' core/zp.h core/zp_ev.h | tr '\n' ' ' |
        sed 's@/\*@\n/*@g; s@\*/@*/\n@g' | sed '/^\/\*/d' |
        tr '\n' ' ' | sed 's/;/;\n/g'
}

# One way to write a prototype.
normal() {
    sed -e 's/[[:space:]]\{1,\}/ /g' -e 's/ *\([*,()]\) */\1/g' \
        -e 's/^ //' -e 's/;.*//' -e 's/ $//' | sort
}

prototypes() {
    declarations | grep -o 'ZP_API .*;' |
        sed -e 's/ZP_API //' -e 's/ZP_PRINTF([^)]*)//' | normal
}

callbacks() { # the types of functions
    declarations | grep -o 'typedef [a-z ]*zp_[a-z_]*_fn(.*;' |
        sed 's/typedef //' | normal
}

functions() { prototypes | sed 's/(.*//; s/.*[ *]//' | sort; }

macros() { sed -n 's/^#define \(zp_[a-z_]*\)(.*/\1/p' core/zp.h | sort; }

page_names() { # PAGE SECTION
    for page in docs/man/*.[1-9]; do
        page=${page##*/}
        echo "${page%.[1-9]} ${page##*.}"
    done
}

# The prototypes that the synopses show.
synopses() {
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
    ' docs/man/*.3 | normal | grep -v '^int zp_fail('
}

# ------------------------------------------------------------ the checks --

lint() { "$mandoc" -T lint -W warning docs/man/*.[1-9] 2>/dev/null; }

# Each function and macro is in the NAME of one page, and nothing else is.
names() {
    {
        docs/man-links docs/man/*.3 | cut -d' ' -f1
        page_names | cut -d' ' -f1 | sort | comm -12 - <(functions)
    } | sort >"$work/named"
    { functions; macros; } | sort | diff - "$work/named"
}

prototypes_shown() {
    { prototypes; callbacks; } | sort >"$work/api"
    synopses | diff "$work/api" -
}

# Functions that a document names, in whatever way, but that do not exist.
unknown() {
    {
        functions
        macros
        callbacks | sed 's/(.*//; s/.* //'
        page_names | cut -d' ' -f1
    } | sort -u >"$work/known"
    {
        grep -ho '^\.\(Fn\|Fo\|Nm\) zp[a-z_-]*' docs/man/*.[1-9]
        grep -ho '\<zp_[a-z_]*(' README docs/*.md docs/man/*.[1-9] |
            sed 's/($//'
    } | sed 's/.* //' | sort -u | comm -23 - "$work/known"
}

# References to pages that do not exist, or not in that section.
references() {
    { page_names; functions | sed 's/$/ 3/'; macros | sed 's/$/ 3/'; } |
        sort -u >"$work/pages"
    grep -ho 'Xr zp[a-z_-]* [1-9]' docs/man/*.[1-9] | sed 's/Xr //' |
        sort -u | comm -23 - "$work/pages"
}

constants() {
    declarations | grep -o 'enum [a-z_]* {.*}' | grep -o '\<ZP_[A-Z_]*' |
        grep -v 'ZP_ERROR\|ZP_EFIRST' | sort -u
}

# Those that a program writes, with arguments.
upper_macros() {
    sed -n 's/^#define \(ZP_[A-Z_]*\)(.*/\1/p' core/zp.h |
        grep -v 'ZP_PRINTF\|ZP_ERROR'
}

fields() {
    declarations | awk '
    /typedef struct zp_[a-z_]* \{/ { on = 1 }
    on {
        field = $0
        sub(/.*\{/, "", field)
        sub(/;.*/, "", field)
        if (field !~ /\}/) {
            gsub(/.*[ *]/, "", field)
            print field
        }
    }
    /\}/ { on = 0 }' | sort -u
}

undescribed() {
    { constants; upper_macros; } | while read -r name; do
        grep -qw -e "$name" docs/man/*.3 || echo "$name"
    done
    fields | while read -r name; do
        grep -qw -e "[FV]a $name" -e "\.It Fa.* $name" docs/man/*.3 ||
            echo "field $name"
    done
}

errors() {
    sed -n 's/^ *X(\(ZP_E[A-Z]*\), \(-[0-9]*\), "\(.*\)").*/\1 \2 \3/p' \
        core/zp.h | sort
}

error_table() {
    errors >"$work/errors"
    sed -n 's/^\.It Dv \(ZP_E[A-Z]*\) Ta \\\(-[0-9]*\) Ta \(.*\)/\1 \2 \3/p' \
        docs/man/zp.7 | sort | diff "$work/errors" -
}

# The options of zp-server that its page does not have, and the other way.
options() {
    sed -n 's/^    {"\([a-z-]*\)",.*/\1/p' tools/zp-server.c | sort \
        >"$work/options"
    grep -o 'Fl \\-[a-z-]*' docs/man/zp-server.8 | sed 's/.*\\-//' |
        sort -u | diff "$work/options" -
}

sections() {
    for page in docs/man/*.3; do
        for section in NAME SYNOPSIS DESCRIPTION 'RETURN VALUES' EXAMPLES \
            ERRORS 'SEE ALSO'; do
            grep -qx ".Sh $section" "$page" || echo "$page has no $section"
        done
    done
}

# ------------------------------------------------------- on the real tree --

cd "$top_srcdir" || exit 1
check "there are functions" test "$(functions | wc -l)" -ge 100
check "there are constants" test "$(constants | wc -l)" -ge 20
check "there are macros" test "$(upper_macros | wc -l)" -ge 5
check "there are fields" test "$(fields | wc -l)" -ge 40
check "there are errors" test "$(errors | wc -l)" -ge 13
if command -v "$mandoc" >/dev/null; then
    same "mandoc warns of nothing" "" "$(lint)"
else
    skip "mandoc warns of nothing" "mandoc is not installed"
fi
same "each function is named by one page" "" "$(names)"
same "the synopses are the prototypes of the headers" "" "$(prototypes_shown)"
same "nothing names a function that does not exist" "" "$(unknown)"
same "each reference leads to a page" "" "$(references)"
same "constants and fields are described" "" "$(undescribed)"
same "zp(7) has the error codes" "" "$(error_table)"
same "zp-server(8) has the options" "" "$(options)"
same "each page has all of its sections" "" "$(sections)"

# --------------------------------------------------- and with one fault --

# fault CHECK FILE SED-SCRIPT
fault() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree/core" "$work/tree/docs" "$work/tree/tools"
    cp "$top_srcdir/tools/zp-server.c" "$work/tree/tools"
    cp "$top_srcdir"/core/zp*.h "$work/tree/core"
    cp "$top_srcdir/README" "$work/tree"
    cp -r "$top_srcdir/docs/." "$work/tree/docs"
    chmod -R u+w "$work/tree"
    sed -i "$3" "$work/tree/$2"
    check "$1 finds: $2 $3" test -n "$(cd "$work/tree" && $1)"
}

if command -v "$mandoc" >/dev/null; then
    fault lint docs/man/zp_run.3 's/^\.Ed/.Bd/'
fi
fault names docs/man/zp_state.3 '/^\.Nm zp_pop ,/d'
fault names docs/man/zp_run.3 's/^\.Nm zp_run ,/&\n.Nm zp_pop ,/'
fault names core/zp.h 's/^ZP_API int zp_run(/ZP_API int zp_walk(/'
fault prototypes_shown docs/man/zp_dict.3 's/"size_t n"/"int n"/'
fault prototypes_shown core/zp.h 's/zp_clear(zp_state \*state/&, int n/'
fault prototypes_shown docs/man/zp_atomic.3 's/"zp_state \*txn"/"zp_ctx *c"/'
fault unknown docs/man/zp_run.3 's/^\.Fn zp_run$/.Fn zp_walk/'
fault unknown README 's/zp_run(/zp_walk(/'
fault references docs/man/zp_run.3 's/Xr zp_ctx 3/Xr zp_ctx 7/'
fault undescribed docs/man/zp_ctx.3 's/ZP_SYNC_INTERVAL/ZP_OTHER/'
fault undescribed core/zp.h 's/ZP_EXCLUDE/ZP_OTHER/'
fault undescribed core/zp.h 's/define ZP_WATCH(/define ZP_LOOK(/'
fault undescribed docs/man/zp_ctx.3 's/ start_timeout/ patience/'
fault error_table docs/man/zp.7 's/no such key/no key/'
fault error_table core/zp.h 's/-20013/-20014/'
fault options tools/zp-server.c 's/"max-bytes"/"most-bytes"/'
fault sections docs/man/zp_tpl.3 's/^\.Sh ERRORS/.Sh FAULTS/'
tap_done

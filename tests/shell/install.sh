#!/bin/bash
# install.sh - configure with a prefix of its own, make install, use what is
# installed, make uninstall.
. "${top_srcdir:-.}/tests/shell/tap.sh"
. "$top_srcdir/tests/shell/installed.sh"

if [ "${ZP_SANITIZER-no}" != no ] || [ "${ZP_TEST_SLOW-1}" != 1 ]; then
    echo "1..0 # SKIP an instrumented library is not for installing"
    exit 0
fi
# What an outer make has to say is not for the inner one.
unset MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES

prefix=$work/prefix
mkdir "$work/build" && cd "$work/build" || exit
# By a link, since the source's own path may have blanks in it.
ln -s "$top_srcdir" ../source
check "configure" ../source/configure -q --prefix="$prefix" \
    --disable-dependency-tracking CFLAGS=-O0 &&
    check "make install" make -j2 install &&
    check_installed "$prefix" "$prefix/lib" "$prefix/include" \
        "$prefix/libexec/zproc/zp-server"
for page in $(find "$top_srcdir/docs" -name '*.[1-9]' -printf '%f\n'); do
    check "the manual page $page is there" \
        test -f "$prefix/share/man/man${page##*.}/$page"
done
check "make uninstall" make uninstall
same "nothing is left" "" "$(find "$prefix" ! -type d)"
check_fails "nor zproc's own directory" test -d "$prefix/libexec/zproc"
cd / || exit
tap_done

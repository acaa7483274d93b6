#!/bin/bash
# bootstrap.sh - what ./bootstrap installs, and how, on machines that lack one
# thing or another. The package tools, and the build's, are stand-ins that
# write down how they were called.
. "${top_srcdir:-.}/tests/shell/tap.sh"

# machine NAME: a root directory, a tree, and a PATH with nothing real in it but
# the shell's everyday tools.
machine() {
    m=$work/$1
    mkdir -p "$m"/{bin,root/usr/sbin,root/var/lib/apt/lists,tree/examples}
    for tool in sh cat dirname ls tail rm mkdir chmod tee env grep; do
        ln -s "$(command -v $tool)" "$m/bin/$tool"
    done
    cp "$top_srcdir/bootstrap" "$m/tree/"
    touch "$m/log" "$m/packages"
    fake nproc 'echo 2'
    fake id "echo \${FAKE_UID-0}"
    fake dpkg-query 'for p; do :; done
grep -qx "$p" "$m/packages" && printf installed'
    fake apt-get 'echo "apt-get $*" >>"$m/log"
[ -e "$BOOTSTRAP_ROOT/usr/sbin/policy-rc.d" ] && echo "no services" >>"$m/log"
case $* in
*update*) echo >"$BOOTSTRAP_ROOT/var/lib/apt/lists/x_Packages" ;;
*install*)
    [ ! -e "$m/broken" ] || { rm "$m/broken"; exit 100; }
    for p; do echo "$p" >>"$m/packages"; done ;;
esac'
    for tool in autoreconf make; do
        fake $tool "echo \"$tool \$*\" >>\"\$m/log\""
    done
    fake autoreconf 'echo autoreconf >>"$m/log"
mkdir -p build-aux && echo >Makefile.in && echo >build-aux/tap-driver.sh
printf "#!/bin/sh\necho configure >>\"$m/log\"; echo >Makefile\n" >configure
chmod +x configure'
    export m
}

fake() {
    rm -f "$m/bin/$1"
    printf '#!/bin/sh\n%s\n' "$2" >"$m/bin/$1"
    chmod +x "$m/bin/$1"
}

# bootstrap ARGUMENTS: run it there; its output is in $m/out.
bootstrap() {
    : >"$m/log"
    (cd "$m/tree" && exec env -i m="$m" PATH="$m/bin" \
        FAKE_UID="${FAKE_UID-0}" BOOTSTRAP_ROOT="$m/root" ./bootstrap "$@") \
        >"$m/out" 2>&1 </dev/null
}

installs() { grep -o 'install .*' "$m/log"; }

everything="-y --no-install-recommends gcc libc6-dev make autoconf automake \
libtool pkg-config libev-dev libzmq3-dev libtpl-dev liblmdb-dev"

# A fresh machine: no program, no package, no package list.
machine fresh
rm "$m/bin/make" "$m/bin/autoreconf"
fake apt-get "$(sed 1d "$m/bin/apt-get")
fake() { printf '#!/bin/sh\n%s\n' \"\$2\" >\"\$m/bin/\$1\"
chmod +x \"\$m/bin/\$1\"; }
fake make 'echo \"make \$*\" >>\"\$m/log\"'
fake autoreconf 'mkdir -p build-aux; echo >Makefile.in
echo >build-aux/tap-driver.sh; printf \"#!/bin/sh\nexit 0\n\" >configure
chmod +x configure'"
check "a fresh machine" bootstrap
same "the lists come first, then all that is missing" "apt-get -q update
apt-get -q install $everything
no services" "$(grep -E 'apt-get|services' "$m/log")"
check "it says what it installs" grep -q \
    'installing with apt-get: gcc libc6-dev' "$m/out"
check_fails "services may start again" test -e "$m/root/usr/sbin/policy-rc.d"

# Where all is there, nothing is installed, and little is done.
machine full
printf '%s\n' $everything libcmocka-dev libglib2.0-dev >"$m/packages"
for p in cc g++ automake libtoolize pkg-config spin mandoc; do fake $p ''; done
check "a machine with everything" bootstrap check
check_fails "installs nothing" grep apt-get "$m/log"
same "builds and checks" "autoreconf configure make -j2 make -j2 check \
TESTS= make --no-print-directory -j2 check" \
    "$(echo $(cat "$m/log"))"
check "the second time" bootstrap check
same "only makes" "make -j2 make -j2 check TESTS= make --no-print-directory \
-j2 check" "$(echo $(cat "$m/log"))"

# One package is missing, and its installation asks for a new configuration.
sed -i '/libcmocka/d' "$m/packages"
check "one is missing" bootstrap check
same "that one is installed" "install -y --no-install-recommends libcmocka-dev" \
    "$(installs | tail -n 1)"
check "and configure looks again" grep -q configure "$m/log"

# What one example needs is no reason to stop.
sed -i '/libglib/d' "$m/packages"
check "GLib is missing" bootstrap check
same "it is installed" "install -y --no-install-recommends libglib2.0-dev" \
    "$(installs)"
check "and configure looks again" grep -q configure "$m/log"
sed -i '/libglib/d' "$m/packages"
FAKE_UID=1000 check "where it cannot be" bootstrap check
check "that is said" grep -q 'going on without libglib2.0-dev' "$m/out"
same "and the rest is done" "make -j2 make -j2 check TESTS= \
make --no-print-directory -j2 check" "$(echo $(cat "$m/log"))"

# A list that is out of date.
sed -i '/liblmdb/d' "$m/packages"
touch "$m/broken"
check "an installation that fails at first" bootstrap
same "is tried once more, with fresh lists" 2 "$(grep -c install "$m/log")"

# Neither root nor sudo.
sed -i '/libev-dev/d' "$m/packages"
FAKE_UID=1000 check_fails "neither root nor sudo" bootstrap
check "says what to run" grep -q '^    apt-get install libev-dev' "$m/out"
fake sudo 'echo "sudo $*" >>"$m/log"; [ "$1" != -n ] || shift; exec "$@"'
FAKE_UID=1000 check "not root, but sudo" bootstrap
check "uses it" grep -q '^sudo .*apt-get.*install.* libev-dev' "$m/log"
check "and says so" grep -q 'through sudo: libev-dev' "$m/out"

# The peers of the benchmarks: Redis's service must not come with it.
check "bench" bootstrap bench
same "installs the peers" "install -y --no-install-recommends redis-server
install -y --no-install-recommends libhiredis-dev python3" "$(installs)"
check "measures" grep -q '^make -s bench' "$m/log"
same "while no service may start" 2 "$(grep -c 'no services' "$m/log")"
check_fails "services may start again" test -e "$m/root/usr/sbin/policy-rc.d"
echo mine >"$m/root/usr/sbin/policy-rc.d"
sed -i '/redis-server/d' "$m/packages"
check "where the administrator has a policy" bootstrap bench
same "it stays" mine "$(cat "$m/root/usr/sbin/policy-rc.d")"

# run: the cookie eater, with the server of the build tree.
mkdir -p "$m/tree/build/examples"
printf '#!/bin/sh\necho "nom $ZP_SERVER"; exit 3\n' \
    >"$m/tree/build/examples/cookie_eater"
chmod +x "$m/tree/build/examples/cookie_eater"
bootstrap run
same "run gives back the program's status" 3 $?
same "and its output" "nom $m/tree/build/tools/zp-server" \
    "$(tail -n 1 "$m/out")"

# Failures come through.
fake make 'echo broken >&2; exit 2'
check_fails "a build that fails" bootstrap check
check "shows why" grep -q '^broken' "$m/out"
check_fails "an unknown command" bootstrap rnu
check "help" bootstrap help

# Where it stands.
fake make ''
for odd in "it's" 'a&b' 'a$b' 'a"b' 'a`b' 'a\b' 'a#b' 'a(b' 'a;b' 'a*b' 'a[b' \
    "a	b" "a
b"; do
    mkdir "$m/$odd"
    mv "$m/tree" "$m/$odd/"
    env -i m="$m" PATH="$m/bin" "$m/$odd/tree/bootstrap" >"$m/out" 2>&1
    same "a path with what tools cannot have is refused: $odd" 1 $? |
        tr '\n\t' '  '
    echo
    tap_n=$((tap_n + 1))
    check "clearly" grep -q 'cannot work in a directory' "$m/out"
    mv "$m/$odd/tree" "$m/tree"
done
for fine in "a b" "ä" "a+b" "a~b,c" "a=b%c@d"; do
    mkdir "$m/$fine"
    mv "$m/tree" "$m/$fine/"
    check "a path like any other: $fine" \
        env -i m="$m" PATH="$m/bin" "$m/$fine/tree/bootstrap"
    mv "$m/$fine/tree" "$m/tree"
done
touch "$m/tree/build/old"
echo "/elsewhere" >"$m/tree/build/bootstrap.place"
check "a tree that was moved" bootstrap
check_fails "starts with an empty build directory" test -e "$m/tree/build/old"
tap_done

# installed.sh - what an installed tree must be able to do: to be sourced by
# the test of the installation and by `make installcheck`.
#
#   check_installed PREFIX LIBDIR INCLUDEDIR SERVER

check_installed() {
    prefix=$1 libdir=$2 includedir=$3 server=$4
    PKG_CONFIG_PATH=$libdir/pkgconfig
    export PKG_CONFIG_PATH
    unset ZP_SERVER

    check "zp.h, zp_ev.h are there" test -f "$includedir/zp.h" -a \
        -f "$includedir/zp_ev.h"
    check "so is zp-server" test -x "$server"
    check "pkg-config knows zp" pkg-config --exists zp
    same "and its version" "$(sed -n \
        's/^AC_INIT(\[zproc\], \[\(.*\)\])$/\1/p' "$top_srcdir/configure.ac")" \
        "$(pkg-config --modversion zp)"
    same "linking needs -lzp alone" "-lzp" \
        "$(pkg-config --libs-only-l zp | tr -d ' ')"

    # Like a user's: outside of the tree, with nothing but pkg-config's flags.
    cat >"$work/user.c" <<'END'
#define _DEFAULT_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zp.h>

static int
changed(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t n = 0;
    (void)watch;
    (void)user;
    zp_get_int(zp_event_snapshot(event), "n", &n);
    printf("changed to %d\n", (int)n);
    return 0;
}

static int
child(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_set_int(zp_ctx_state(ctx), "n", 42);
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    zp_watch_options once = {.size = sizeof(once), .count = 1};
    zp_pong pong;
    char link[64], exe[4096];
    ssize_t n;

    if (zp_ctx_new(&ctx, NULL) < 0 ||
        zp_ping(ctx, &pong, "hi", 2, 5) < 0 ||
        zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("n"), &once,
                            changed, NULL) < 0 ||
        zp_spawn(ctx, NULL, NULL, child, NULL) < 0 || zp_run(ctx) < 0) {
        fprintf(stderr, "%s\n", zp_ctx_error(ctx));
        zp_ctx_free(ctx);
        return 1;
    }
    snprintf(link, sizeof(link), "/proc/%d/exe", pong.server_pid);
    n = readlink(link, exe, sizeof(exe) - 1);
    printf("%.*s\n", n < 0 ? 0 : (int)n, exe);
    zp_ctx_free(ctx);
    return 0;
}
END
    expected="changed to 42
$server"
    # shellcheck disable=SC2046
    check "a program can be built with it" "${CC:-cc}" -std=c99 -Wall -Wextra \
        -pedantic -Werror "$work/user.c" -o "$work/user" \
        $(pkg-config --cflags --libs zp) &&
        same "it runs, with the installed server" "$expected" \
            "$(LD_LIBRARY_PATH=$libdir "$work/user" 2>&1)"
    if [ -f "$libdir/libzp.a" ]; then
        # shellcheck disable=SC2046
        check "another can be built with libzp.a" "${CC:-cc}" -std=c99 \
            "$work/user.c" -o "$work/static" $(pkg-config --cflags zp) \
            $(pkg-config --static --libs zp | sed 's/-lzp\>/-l:libzp.a/') &&
            same "it runs, with the installed server" "$expected" \
                "$("$work/static" 2>&1)" &&
            check_fails "and does without libzp.so" \
                sh -c "ldd '$work/static' | grep libzp"
    fi
    same "nothing is left of them" "" "$(ls -A "$ZP_RUNTIME_DIR" 2>/dev/null)"
}

/*
 * Processes in processes: five levels deep, descriptors and address space stay
 * what they were; a whole group that gets ^C cleans up; an owner that is
 * killed takes its processes and its directory with it.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zp.h>

#include "tests/fault/bells.h"

#define DEPTH 5

/* ---- nesting costs nothing ---- */

typedef struct level {
    int depth;
    int32_t fds[DEPTH + 1]; /* but for bells: */
    int32_t bells[DEPTH + 1];
    int64_t size[DEPTH + 1]; /* kB of address space */
} level;

/* The bell may be faster than the connection for messages: that, with its
 * descriptors, is there when the watch is confirmed. */
static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    zp_ctx *ctx = user;

    (void)event;
    if (zp_watch_confirmed(watch))
        return zp_watch_cancel(watch);
    return zp_increase(zp_ctx_state(ctx), "n", NULL, 1);
}

/* Use everything that opens something: write, read, watch, run. */
static int
use_all(zp_ctx *ctx)
{
    zp_watch_options own = {.size = sizeof own, .flags = ZP_OWN};
    int rc = zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("n"), &own,
                                 on_change, ctx);

    if (rc == 0)
        rc = zp_increase(zp_ctx_state(ctx), "n", NULL, 1);
    return rc == 0 ? zp_run(ctx) : rc;
}

static int
go_deeper(zp_ctx *ctx, void *arg)
{
    level *l = arg;
    zp_proc *proc;
    int rc = use_all(ctx);

    if (rc != 0)
        return zp_fail(ctx, rc, "using the state at level %d", l->depth);
    l->bells[l->depth] = open_bells();
    l->fds[l->depth] = zp_test_open_fds() - l->bells[l->depth];
    l->size[l->depth] = zp_test_vm_size(0);
    if (l->depth < DEPTH) {
        l->depth++;
        rc = zp_spawn(ctx, &proc, NULL, go_deeper, l);
        if (rc == 0)
            rc = zp_wait(proc, NULL, 20);
        if (rc == 0)
            rc = zp_proc_get(proc, "i#i#I#", l->fds, DEPTH + 1, l->bells,
                             DEPTH + 1, l->size, DEPTH + 1);
        if (rc < 0)
            return zp_fail(ctx, rc, "the child of level %d", l->depth - 1);
    }
    return zp_return(ctx, "i#i#I#", l->fds, DEPTH + 1, l->bells, DEPTH + 1,
                     l->size, DEPTH + 1);
}

static void
test_nesting(void **state)
{
    level l = {.depth = 1};
    zp_result result = {.size = sizeof result};
    zp_ctx *ctx;
    zp_proc *proc;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "n", 0), 0);
    assert_int_equal(use_all(ctx), 0);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, go_deeper, &l), 0);
    int rc = zp_wait(proc, &result, 60);
    if (rc != 0)
        print_message("# %s (%s)\n", result.error, result.origin);
    assert_int_equal(rc, 0);
    assert_int_equal(zp_proc_get(proc, "i#i#I#", l.fds, DEPTH + 1, l.bells,
                                 DEPTH + 1, l.size, DEPTH + 1),
                     0);
    zp_ctx_free(ctx);
    for (int i = 1; i <= DEPTH; i++)
        print_message("# level %d: %d descriptors, %d bells, %lld kB\n", i,
                      l.fds[i], l.bells[i], (long long)l.size[i]);
    for (int i = 1; i <= DEPTH; i++) {
        assert_int_equal(l.fds[i], l.fds[1]);
        /* its own, and some of those above that it has rung */
        assert_in_range(l.bells[i], 1, 1 + ZP__RINGS_OTHERS);
        /* LMDB's environment of the level above stays in the heap as 3 MiB
         * that nobody has ever touched: address space, not memory */
        if (!zp_test_instrumented())
            assert_in_range(l.size[i], 0, l.size[1] + 4096 * (i - 1));
    }
}

/* ---- ends ---- */

static int
wait_for_ever(zp_ctx *ctx, void *arg)
{
    zp_proc *proc;
    int *depth = arg;

    if (zp_increase(zp_ctx_state(ctx), "up", NULL, 1) != 0 ||
        zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("never"), NULL,
                            on_change, NULL) != 0)
        return -1;
    if (--*depth > 0 && zp_spawn(ctx, &proc, NULL, wait_for_ever, depth) != 0)
        return -2;
    return zp_run(ctx);
}

typedef struct owner {
    zp_sync ready;
    char name[32];
} owner;

static int
own(void *user)
{
    owner *o = user;
    zp_ctx_options options = {.size = sizeof options, .name = o->name};
    zp_ctx *ctx;
    int64_t up = 0;
    int depth = 3;

    setpgid(0, 0);
    if (zp_ctx_new(&ctx, &options) != 0 ||
        zp_set_int(zp_ctx_state(ctx), "up", 0) != 0 ||
        zp_spawn(ctx, NULL, NULL, wait_for_ever, &depth) != 0 ||
        zp_spawn(ctx, NULL, NULL, wait_for_ever, &depth) != 0)
        return 1;
    while (up < 6)
        if (zp_get_int(zp_ctx_state(ctx), "up", &up) != 0)
            return 2;
    zp_sync_post(&o->ready);
    zp_call_when_change(zp_ctx_state(ctx), NULL, NULL, 0, NULL, on_change,
                        NULL);
    zp_run(ctx);
    return 3;
}

static bool
nothing_left(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 0 &&
           zp_test_entries(zp_test_run_dir()) <= 0;
}

static void
end_by(int signal_number, bool group)
{
    owner o = {.name = "tree"};

    zp_sync_open(&o.ready);
    pid_t pid = zp_test_fork(own, &o);
    zp_sync_wait(&o.ready, 30);
    assert_int_equal(zp_test_descendants(NULL, 0), 9); /* 7, a server and its
                                                          warden */
    kill(group ? -pid : pid, signal_number);
    assert_int_equal(zp_test_wait(pid, 20), -signal_number);
    double ended = zp_test_now();
    assert_true(zp_test_until(nothing_left, NULL, 10));
    double took = zp_test_now() - ended;
    if (took > 2 * zp_test_slow())
        print_message("# it took %.1f s\n", took);
    zp_sync_close(&o.ready);
}

static void
test_interrupt(void **state)
{
    (void)state;
    end_by(SIGINT, true);
}

static void
test_owner_killed(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        end_by(SIGKILL, false);
}

static void
test_owner_terminated(void **state)
{
    (void)state;
    end_by(SIGTERM, false);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_nesting),
        ZP_TEST(test_interrupt),
        ZP_TEST(test_owner_killed),
        ZP_TEST(test_owner_terminated),
    };
    return zp_test_main("tree", tests, sizeof tests / sizeof *tests, 60);
}

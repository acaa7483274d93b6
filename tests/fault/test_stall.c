/*
 * A watcher that is stopped for long (SIGSTOP) while 100,000 changes pass: it
 * gets all of them afterwards, or one overrun if the log is too short for
 * that; the server's memory stays flat, and writers do not notice.
 */
#include <signal.h>
#include <stdlib.h>

#include <zp.h>

#include "tests/support/zp_test.h"

#define CHANGES 100000

static zp_ctx *ctx;

typedef struct watcher {
    const char *address;
    zp_sync ready, done;
    int64_t changes;
} watcher;

typedef struct tally {
    uint64_t revision;
    int64_t events, overruns, value, last;
} tally;

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    tally *t = user;
    uint64_t first, last;

    (void)watch;
    if (zp_event_kind(event) == ZP_OVERRUN) {
        if (zp_event_lost(event, &first, &last) != 0 ||
            first != t->revision + 1 || last < first ||
            zp_event_before(event) != NULL)
            return -10;
        t->overruns++;
    } else if (zp_event_revision(event) <= t->revision) {
        return -11;
    } else {
        t->events++;
    }
    t->revision = zp_event_revision(event);
    if (zp_get_int(zp_event_snapshot(event), "n", &t->value) != 0)
        return -12;
    return t->value == t->last ? zp_watch_cancel(watch) : 0;
}

static int
watch(void *user)
{
    watcher *w = user;
    tally t = {.last = w->changes};
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, w->address, NULL) != 0 ||
        zp_revision(zp_ctx_state(mine), &t.revision) != 0 ||
        zp_call_when_change(zp_ctx_state(mine), NULL, ZP_KEYS("n"), NULL,
                            on_change, &t) != 0)
        return 1;
    zp_sync_post(&w->ready);
    int rc = zp_run(mine);
    zp_sync_send(&w->done, rc);
    zp_sync_send(&w->done, t.events);
    zp_sync_send(&w->done, t.overruns);
    zp_ctx_free(mine);
    return rc == 0 ? 0 : 2;
}

static long
server_rss(void)
{
    zp_stats stats = {.size = sizeof stats};

    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    return zp_test_vm_rss((pid_t)stats.server_pid);
}

static bool
is_stopped(void *user)
{
    return zp_test_process_state(*(pid_t *)user) == 'T';
}

static void
stall(uint64_t log_revisions, int64_t *ret_events, int64_t *ret_overruns)
{
    zp_ctx_options options = {.size = sizeof options,
                              .log_revisions = log_revisions};
    watcher w = {.changes = (int64_t)(CHANGES / zp_test_slow())};

    assert_int_equal(zp_ctx_new(&ctx, &options), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "n", 0), 0);
    w.address = zp_ctx_address(ctx);
    zp_sync_open(&w.ready);
    zp_sync_open(&w.done);
    pid_t pid = zp_test_fork(watch, &w);
    zp_sync_wait(&w.ready, 20);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "n", -1), 0);
    kill(pid, SIGSTOP);
    assert_true(zp_test_until(is_stopped, &pid, 10));
    long before = server_rss();
    for (int64_t i = 0; i < w.changes; i++)
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), "n", i + 1), 0);
    long after = server_rss();
    if (!zp_test_instrumented())
        assert_in_range(after, 0, before + 4096);
    kill(pid, SIGCONT);
    assert_int_equal(zp_sync_receive(&w.done, 60), 0);
    *ret_events = zp_sync_receive(&w.done, 20);
    *ret_overruns = zp_sync_receive(&w.done, 20);
    assert_int_equal(zp_test_wait(pid, 20), 0);
    zp_sync_close(&w.ready);
    zp_sync_close(&w.done);
    ctx = zp_ctx_free(ctx);
}

static void
test_all_of_them(void **state)
{
    int64_t events, overruns;

    (void)state;
    stall(0, &events, &overruns);
    assert_int_equal(events, (int64_t)(CHANGES / zp_test_slow()) + 1);
    assert_int_equal(overruns, 0);
}

static void
test_one_overrun(void **state)
{
    int64_t events, overruns;

    (void)state;
    stall(1024, &events, &overruns);
    assert_int_equal(overruns, 1);
    assert_in_range(events, 0, 1025);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_all_of_them),
        ZP_TEST(test_one_overrun),
    };
    return zp_test_main("stall", tests, sizeof tests / sizeof *tests, 120);
}

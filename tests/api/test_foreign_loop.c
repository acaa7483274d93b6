/*
 * test_foreign_loop.c - a context in a loop that is not libev's: everything
 * that happens wakes up a poll() with the promised timeout, and nothing else
 * does.
 */
#include "tests/api/polling.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>

enum { ROUNDS = 2000, FLOOD = 10000, WATCHES = 8, CONTEXTS = 4 };

/* ----------------------------------------------------------- the calls -- */

static void
test_calls(void **state)
{
    fixture *f = *state;
    double timeout = 7;
    struct epoll_event event = {.events = EPOLLIN};
    fd_set set;
    int fd, own, before = zp_test_open_fds();

    assert_return(zp_ctx_fd(NULL), -EINVAL);
    assert_return(zp_ctx_events(NULL), -EINVAL);
    assert_return(zp_ctx_timeout(NULL, &timeout), -EINVAL);
    assert_return(zp_ctx_timeout(f->ctx, NULL), -EINVAL);
    assert_return(zp_ctx_dispatch(NULL), -EINVAL);
    assert_true(timeout == 7);

    /* nothing is opened until it is asked for; then little, and once */
    assert_ok(zp_ctx_timeout(f->ctx, &timeout));
    assert_ok(zp_ctx_dispatch(f->ctx));
    assert_int_equal(zp_ctx_events(f->ctx), POLLIN);
    assert_int_equal(zp_test_open_fds(), before);
    fd = zp_ctx_fd(f->ctx);
    assert_true(fd >= 0);
    assert_true(zp_test_open_fds() <= before + 2);
    before = zp_test_open_fds();
    assert_int_equal(zp_ctx_fd(f->ctx), fd);
    assert_ok(zp_ctx_dispatch(f->ctx));
    assert_int_equal(zp_ctx_fd(f->ctx), fd);
    assert_int_equal(zp_test_open_fds(), before);

    /* any way of waiting for it will do */
    assert_false(readable(fd, 0));
    FD_ZERO(&set);
    FD_SET(fd, &set);
    assert_int_equal(select(fd + 1, &set, NULL, NULL, &(struct timeval){0, 0}),
                     0);
    own = epoll_create1(EPOLL_CLOEXEC);
    assert_int_equal(epoll_ctl(own, EPOLL_CTL_ADD, fd, &event), 0);
    assert_int_equal(epoll_wait(own, &event, 1, 0), 0);
    close(own);
}

/* No descriptor is left for it: said so, and tried again later. */
static void
test_no_descriptor(void **state)
{
    fixture *f = *state;
    struct rlimit old, none;
    int before = zp_test_open_fds();

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    for (int spare = 0; spare < 2; spare++) {
        int next = dup(0);

        close(next);
        none = old;
        none.rlim_cur = (rlim_t)(next + spare);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        int rc = zp_ctx_fd(f->ctx);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        assert_true(rc == -EMFILE || (spare && rc >= 0)); /* no pidfds */
        if (rc >= 0)
            return;
        assert_true(strlen(zp_ctx_error(f->ctx)) > 10);
        assert_int_equal(zp_test_open_fds(), before);
    }
    assert_true(zp_ctx_fd(f->ctx) >= 0);
}

/* ------------------------------------------------------------ wake-ups -- */

typedef struct duet {
    zp_sync go; /* the watch is there */
    zp_sync ack;
    int n;
} duet;

/* Counts; each number when the one before has been seen. */
static int
counts(zp_ctx *ctx, void *arg)
{
    duet *d = arg;

    zp_sync_wait(&d->go, 60);
    for (int i = 1; i <= d->n; i++) {
        int rc = zp_set_int(zp_ctx_state(ctx), "n", i);

        if (rc < 0)
            return rc;
        if (d->ack.fd[0] >= 0)
            zp_sync_wait(&d->ack, 60);
    }
    return 0;
}

static int
acknowledge(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    zp_sync_post(r->user);
    return 0;
}

/* Make and free another watch: ZeroMQ is called, and may eat what it has to
 * tell us of. */
static void
disturb(zp_state *state, recorder *r)
{
    zp_watch *other = NULL;

    assert_ok(
        zp_call_when_change(state, &other, ZP_KEYS("other"), NULL, record, r));
    zp_watch_free(other);
}

/* Thousands of single changes, each of which has to wake the poll() up, with no
 * more turns than there is reason for. Undisturbed, the promise is "for ever";
 * else there are timers, which must not be what brings an event. */
static void
lockstep(fixture *f, bool disturbed)
{
    duet d = {.n = rounds(ROUNDS)};
    recorder r = {.ctx = f->ctx, .then = acknowledge, .user = &d.ack};
    int turns = 0, late = 0;

    zp_sync_open(&d.go);
    zp_sync_open(&d.ack);
    assert_ok(zp_spawn(f->ctx, NULL, NULL, counts, &d));
    zp_watch *watch = watch_n(&r);
    turn_until_at_rest(f->ctx);
    zp_sync_post(&d.go);
    for (; (int)r.n < d.n; turns++) {
        size_t before = r.n;
        int ms = promised(f->ctx);
        bool woken = readable(zp_ctx_fd(f->ctx), ms);

        assert_ok(zp_ctx_dispatch(f->ctx));
        late += !woken && ms > 1 && r.n > before;
        if (disturbed && r.n % 3 == 0)
            disturb(f->state, &r);
    }
    assert_counted(&r, (size_t)d.n);
    assert_in_range(turns, 1, 5 * d.n + 200);
    assert_in_range(late, 0, 2); /* it may come in that very moment */
    zp_watch_free(watch);
    forget(&r);
    zp_sync_close(&d.go);
    zp_sync_close(&d.ack);
}

static void
test_no_wakeup_is_lost(void **state)
{
    lockstep(*state, false);
}

static void
test_no_wakeup_is_eaten(void **state)
{
    lockstep(*state, true);
}

/* As many as another process can write. */
static void
test_flood(void **state)
{
    fixture *f = *state;
    duet d = {.n = rounds(FLOOD), .ack = {{-1, -1}}};
    recorder r = {.ctx = f->ctx};
    int turns;

    zp_sync_open(&d.go);
    assert_ok(zp_spawn(f->ctx, NULL, NULL, counts, &d));
    zp_watch *watch = watch_n(&r);
    zp_sync_post(&d.go);
    turns = turn_until(&r, (size_t)d.n);
    assert_counted(&r, (size_t)d.n);
    assert_in_range(turns, 1, 3 * d.n + 200);
    zp_watch_free(watch);
    forget(&r);
    zp_sync_close(&d.go);
}

/* Watches from before and after the descriptor was asked for, all of them. */
static void
test_before_and_after(void **state)
{
    fixture *f = *state;
    recorder r[WATCHES] = {0};
    zp_watch *watch[WATCHES];
    char key[16];

    for (int i = 0; i < WATCHES; i++) {
        r[i].ctx = f->ctx;
        if (i == WATCHES / 2)
            assert_true(zp_ctx_fd(f->ctx) >= 0);
        snprintf(key, sizeof key, "k%d", i);
        assert_ok(zp_call_when_change(f->state, &watch[i], ZP_KEYS(key), NULL,
                                      record, &r[i]));
    }
    for (int i = 0; i < WATCHES; i++)
        turn_until_confirmed(f->ctx, watch[i]);
    for (int i = 0; i < WATCHES; i++) {
        snprintf(key, sizeof key, "k%d", i);
        set(f->other, key, i);
        assert_true(turn_until(&r[i], 1) >= 1);
        zp_watch_free(watch[i]);
        forget(&r[i]);
    }
}

/* --------------------------------------------------------------- times -- */

/* Nothing happens: nothing is to be done, and for how long is known. */
static void
test_rest(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    int fd = zp_ctx_fd(f->ctx), turns = 0;
    zp_watch *watch = watch_n(&r);
    double until = zp_test_now() + 0.5;

    while (zp_test_now() < until) {
        int ms = promised(f->ctx);

        readable(fd, ms >= 0 && ms < 100 ? ms : 100);
        assert_ok(zp_ctx_dispatch(f->ctx));
        turns++;
    }
    assert_in_range(turns, 1, 15);
    if (!zp_test_valgrind()) /* where there are no pidfds it looks */
        assert_int_equal(promised(f->ctx), -1);
    assert_false(readable(fd, 0));
    zp_watch_free(watch);
}

/* An unused subscription is kept for a second: the promise is that second, and
 * then there is none. */
static void
test_a_timer_of_ours(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch = watch_n(&r);
    double timeout, begun = zp_test_now();
    int turns = 0;

    zp_watch_free(watch);
    turn_until_at_rest(f->ctx);
    assert_ok(zp_ctx_timeout(f->ctx, &timeout));
    assert_true(timeout > 0 && timeout <= 1);
    for (; timeout >= 0 && timeout <= 1 && turns < 100; turns++) {
        assert_ok(turn(f->ctx));
        assert_ok(zp_ctx_timeout(f->ctx, &timeout));
        if (zp_test_valgrind() && zp_test_now() - begun > 1)
            break;
    }
    assert_true(turns < 20);
    assert_true(zp_test_now() - begun >= 0.99);
    assert_true(zp_test_now() - begun < 1 + 3 * zp_test_slow());
}

static int
kick_oneself(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    return r->n < 500 ? zp_set_int(r->user, "n", (int64_t)r->n + 1) : 0;
}

/* What a callback causes comes without anybody waiting for it. */
static void
test_due_at_once(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = kick_oneself, .user = f->other};
    zp_watch *watch = watch_n(&r);

    set(f->other, "n", 1);
    turn_until(&r, 500);
    assert_counted(&r, 500);
    zp_watch_free(watch);
    forget(&r);
}

/* -------------------------------------------------------- more of them -- */

/* Several contexts in one poll(): each is dispatched for what is its own. */
static void
test_several_contexts(void **state)
{
    recorder r[CONTEXTS] = {0};
    zp_state *writer[CONTEXTS];
    struct pollfd fds[CONTEXTS];
    size_t total = 0;

    (void)state;
    for (int i = 0; i < CONTEXTS; i++) {
        assert_ok(zp_ctx_new(&r[i].ctx, NULL));
        watch_n(&r[i]);
        assert_ok(zp_state_clone(zp_ctx_state(r[i].ctx), &writer[i], NULL));
        fds[i] = (struct pollfd){zp_ctx_fd(r[i].ctx), POLLIN, 0};
    }
    for (int round = 1; round <= 50; round++) {
        int i = round % CONTEXTS;

        set(writer[i], "n", (int64_t)r[i].n + 1);
        total++;
        for (size_t sum = 0; sum < total;) {
            int ms = -1;

            for (int j = 0; j < CONTEXTS; j++) {
                int its = promised(r[j].ctx);

                if (its >= 0 && (ms < 0 || its < ms))
                    ms = its;
            }
            poll(fds, CONTEXTS, ms);
            sum = 0;
            for (int j = 0; j < CONTEXTS; j++) {
                if (fds[j].revents || ms >= 0)
                    assert_ok(zp_ctx_dispatch(r[j].ctx));
                sum += r[j].n;
            }
        }
    }
    for (int i = 0; i < CONTEXTS; i++) {
        assert_counted(&r[i], r[i].n);
        zp_ctx_free(r[i].ctx);
        forget(&r[i]);
    }
}

/* A watch without a callback: its events wake the poll() up as well, and are
 * fetched without waiting. */
static void
test_iterator(void **state)
{
    fixture *f = *state;
    duet d = {.n = rounds(ROUNDS) / 4};
    const zp_event *event;
    zp_watch *watch;
    int64_t fetched = 0;
    int rc, turns = 0;

    zp_sync_open(&d.go);
    zp_sync_open(&d.ack);
    assert_ok(zp_spawn(f->ctx, NULL, NULL, counts, &d));
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("n"), NULL, NULL, NULL));
    turn_until_confirmed(f->ctx, watch);
    zp_sync_post(&d.go);
    for (; fetched < d.n; turns++) {
        assert_ok(turn(f->ctx));
        while ((rc = zp_watch_next(watch, &event, 0)) == 1) {
            assert_int_equal(int_at(zp_event_snapshot(event), "n"), ++fetched);
            zp_sync_post(&d.ack);
        }
        assert_return(rc, -ETIMEDOUT);
    }
    assert_in_range(turns, 1, 5 * d.n + 200);
    zp_watch_free(watch);
    zp_sync_close(&d.go);
    zp_sync_close(&d.ack);
}

static int
note_end(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    *(int *)user = zp_event_kind(event);
    return 0;
}

/* A watch's own time is promised, and kept. */
static void
test_a_watch_times_out(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = sizeof options, .timeout = 0.3};
    zp_watch *watch;
    int kind = 0;
    double timeout, begun = zp_test_now();

    assert_true(zp_ctx_fd(f->ctx) >= 0);
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("n"), &options,
                                  note_end, &kind));
    assert_ok(zp_ctx_timeout(f->ctx, &timeout));
    assert_true(timeout >= 0 && timeout <= 0.301);
    while (!kind)
        assert_ok(turn(f->ctx));
    assert_int_equal(kind, ZP_TIMEDOUT);
    assert_true(zp_test_now() - begun >= 0.3);
    assert_true(zp_test_now() - begun < 0.3 + 3 * zp_test_slow());
    zp_watch_free(watch);
}

/* A call that waits, between turns: what it leaves is not forgotten. */
static void
test_beside_a_wait(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch = watch_n(&r);

    for (int i = 1; i <= 50; i++) {
        zp_watch_options hold = {.size = sizeof hold, .flags = ZP_HOLD};

        set(f->other, "n", i);
        assert_return(
            zp_get_when_equal(f->state, NULL, "n", 0.001, &hold, ZP_I(-1)),
            -ETIMEDOUT);
        assert_int_equal(r.n, i - 1);
        turn_until(&r, (size_t)i);
    }
    assert_counted(&r, 50);
    zp_watch_free(watch);
    forget(&r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_calls, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_no_descriptor, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_no_wakeup_is_lost, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_no_wakeup_is_eaten, watching_setup,
                     watching_teardown),
        ZP_TEST_WITH(test_flood, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_before_and_after, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_rest, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_a_timer_of_ours, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_due_at_once, watching_setup, watching_teardown),
        ZP_TEST(test_several_contexts),
        ZP_TEST_WITH(test_iterator, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_a_watch_times_out, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_beside_a_wait, watching_setup, watching_teardown),
    };

    return zp_test_main("foreign_loop", tests, sizeof tests / sizeof *tests,
                        60);
}

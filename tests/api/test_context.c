/*
 * test_context.c - contexts: made, found, left, and what they leave behind
 * (nothing: the fence around each test looks).
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <zp_ev.h>

static zp_ctx *
new_ctx(const zp_ctx_options *options)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, options);

    if (rc < 0)
        fail_msg("zp_ctx_new: %s: %s", zp_strerror(rc), zp_ctx_error(NULL));
    return ctx;
}

static zp_ctx *
attach(const char *address)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_attach(&ctx, address, NULL);

    if (rc < 0)
        fail_msg("zp_ctx_attach: %s: %s", zp_strerror(rc), zp_ctx_error(NULL));
    return ctx;
}

static int64_t
get_int(zp_ctx *ctx, const char *key)
{
    int64_t value = 0;

    assert_int_equal(zp_get_int(zp_ctx_state(ctx), key, &value), 0);
    return value;
}

/* --------------------------------------------------------------- birth -- */

static void
test_new_and_free(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_stats stats = {.size = sizeof stats};

    (void)state;
    assert_string_equal(zp_ctx_error(ctx), "");
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "a", 1), 0);
    assert_int_equal(get_int(ctx, "a"), 1);
    assert_string_equal(zp_state_ns(zp_ctx_state(ctx)), "default");
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    assert_int_equal(stats.revision, 1);
    assert_int_equal(stats.server_generation, 1);
    assert_true(zp_test_process_state((pid_t)stats.server_pid));
    assert_int_equal(access(zp_ctx_address(ctx), F_OK), 0);
    assert_null(zp_ctx_free(ctx));
    /* when it returns, all is gone */
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
    assert_null(zp_ctx_free(NULL));
}

static void
refused(const zp_ctx_options *options, const char *word)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, options);

    assert_int_equal(rc, -EINVAL);
    assert_null(ctx);
    if (!strstr(zp_ctx_error(NULL), word))
        fail_msg("no \"%s\" in: %s", word, zp_ctx_error(NULL));
}

#define REFUSED(word, ...)                                                     \
    refused(&(zp_ctx_options){.size = sizeof(zp_ctx_options), __VA_ARGS__},    \
            word)

static void
test_bad_options(void **state)
{
    struct {
        zp_ctx_options options;
        int later;
    } larger = {.options.size = sizeof larger};
    zp_ctx *ctx;

    (void)state;
    assert_int_equal(zp_ctx_new(NULL, NULL), -EINVAL);
    refused(&(zp_ctx_options){.size = 0}, "size");
    REFUSED("flags", .flags = 0x80);
    REFUSED("sync", .sync = 7);
    REFUSED("1-32", .ns = "");
    REFUSED("1-32", .ns = "123456789012345678901234567890123");
    REFUSED("lock_timeout", .lock_timeout = NAN);
    REFUSED("grace", .grace = NAN);
    REFUSED("sync_interval", .sync_interval = -1);
    REFUSED("name", .name = "a/b");
    REFUSED("name", .name = ".hidden");
    REFUSED("name", .name = "");
    larger.later = 1;
    refused(&larger.options, "later");
    larger.later = 0; /* an old library serves a new caller */
    ctx = new_ctx(&larger.options);
    zp_ctx_free(ctx);
}

/* The state server cannot be started: the error says so, nothing is left. */
static void
test_no_server_program(void **state)
{
    char *before = getenv("ZP_SERVER") ? strdup(getenv("ZP_SERVER")) : NULL;
    zp_ctx *ctx = NULL;

    (void)state;
    setenv("ZP_SERVER", "/nonexistent/server", 1);
    assert_int_equal(zp_ctx_new(&ctx, NULL), ZP_ENOSERVER);
    assert_non_null(strstr(zp_ctx_error(NULL), "/nonexistent/server"));
    setenv("ZP_SERVER", "/bin/false", 1);
    assert_int_equal(zp_ctx_new(&ctx, NULL), ZP_ENOSERVER);
    assert_null(ctx);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
    if (before)
        setenv("ZP_SERVER", before, 1);
    else
        unsetenv("ZP_SERVER");
    free(before);
}

/* With ever more descriptors, until there are enough: a clear error each time,
 * and nothing left of the attempt. */
static void
test_few_descriptors(void **state)
{
    struct rlimit before, few;
    zp_ctx *ctx = NULL;
    int rc = -1, more, used = zp_test_open_fds(), highest;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    highest = dup(0);
    close(highest);
    few = before;
    for (more = 0; rc < 0 && more < 60; more++) {
        few.rlim_cur = (rlim_t)(highest + more);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        rc = zp_ctx_new(&ctx, NULL);
        if (rc < 0)
            assert_true(zp_ctx_error(NULL)[0]);
        if (rc == 0 && (rc = zp_set_int(zp_ctx_state(ctx), "a", 1)) < 0)
            ctx = zp_ctx_free(ctx);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        if (rc < 0) {
            assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
            assert_int_equal(zp_test_open_fds(), used);
        }
    }
    assert_int_equal(rc, 0);
    assert_true(more > 3);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- attach -- */

static void
test_attach(void **state)
{
    zp_ctx *owner = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .name = "bakery"});
    zp_ctx *by_name, *by_path, *by_env, *other = NULL;

    (void)state;
    assert_int_equal(zp_set_int(zp_ctx_state(owner), "a", 5), 0);
    by_name = attach("bakery");
    by_path = attach(zp_ctx_address(owner));
    assert_int_equal(setenv("ZP_ADDRESS", "bakery", 1), 0);
    by_env = attach(NULL);
    unsetenv("ZP_ADDRESS");
    assert_int_equal(get_int(by_name, "a"), 5);
    assert_int_equal(zp_set_int(zp_ctx_state(by_path), "a", 6), 0);
    assert_int_equal(get_int(by_env, "a"), 6);
    assert_int_equal(
        zp_ctx_new(&other, &(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                             .name = "bakery"}),
        -EADDRINUSE);
    assert_null(other);

    zp_ctx_free(by_name); /* who is not the owner leaves the state alone */
    assert_int_equal(get_int(owner, "a"), 6);
    zp_ctx_free(by_path);
    zp_ctx_free(by_env);
    assert_int_equal(zp_ping(owner, NULL, NULL, 0, 5), 0);
    zp_ctx_free(owner);
}

static void
test_attach_nobody(void **state)
{
    zp_ctx *ctx = NULL;
    double begun = zp_test_now();

    (void)state;
    unsetenv("ZP_ADDRESS");
    assert_int_equal(zp_ctx_attach(&ctx, "nobody", NULL), ZP_ENOSTATE);
    assert_non_null(strstr(zp_ctx_error(NULL), "nobody"));
    assert_int_equal(zp_ctx_attach(&ctx, "/nonexistent/state", NULL),
                     ZP_ENOSTATE);
    assert_int_equal(zp_ctx_attach(&ctx, NULL, NULL), ZP_ENOSTATE);
    assert_non_null(strstr(zp_ctx_error(NULL), "ZP_ADDRESS"));
    assert_int_equal(zp_ctx_attach(&ctx, "", NULL), -EINVAL);
    assert_int_equal(zp_ctx_attach(NULL, "nobody", NULL), -EINVAL);
    assert_null(ctx);
    assert_true(zp_test_now() - begun < 1 * zp_test_slow()); /* at once */
}

/* The owner leaves: whoever is attached is told, in a wait and in a call. */
static void
test_closed(void **state)
{
    zp_ctx *owner = new_ctx(NULL);
    zp_ctx *guest = attach(zp_ctx_address(owner));
    char address[256];

    (void)state;
    snprintf(address, sizeof address, "%s", zp_ctx_address(owner));
    zp_ctx_free(owner);
    assert_int_equal(zp_set_int(zp_ctx_state(guest), "a", 1), ZP_ECLOSED);
    assert_int_equal(zp_run(guest), ZP_ECLOSED);
    assert_int_equal(zp_ping(guest, NULL, NULL, 0, 1), ZP_ECLOSED);
    assert_non_null(strstr(zp_ctx_error(guest), "closed"));
    assert_int_equal(zp_ctx_attach(&owner, address, NULL), ZP_ENOSTATE);
    assert_string_equal(zp_ctx_address(guest), address);
    zp_ctx_free(guest);
}

typedef struct guest {
    zp_sync up; /* it is there */
    zp_sync go; /* the owner may end */
    char address[256];
    int why; /* how the owner ends */
} guest;

static void
on_tick(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)timer;
    (void)events;
}

/* Attach, and run with a reason until the state is closed. */
static int
guest_main(void *user)
{
    guest *g = user;
    zp_ctx *ctx = attach(g->address);
    ev_timer timer;
    int rc;

    ev_timer_init(&timer, on_tick, 1000, 1000);
    ev_timer_start(zp_ev_loop(ctx), &timer);
    zp_sync_post(&g->up);
    rc = zp_run(ctx);
    if (rc != ZP_ECLOSED)
        fail_msg("zp_run: %d: %s", rc, zp_ctx_error(ctx));
    ev_timer_stop(zp_ev_loop(ctx), &timer);
    zp_ctx_free(ctx);
    return 0;
}

static int
owner_main(void *user)
{
    guest *g = user;
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .name = "owned"});
    zp_stats stats = {.size = sizeof stats};

    zp_sync_post(&g->up);
    zp_sync_wait(&g->go, 10);
    if (g->why == 2) {
        assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
        zp_test_kill_server((pid_t)stats.server_pid);
    }
    if (g->why)
        raise(SIGKILL);
    zp_ctx_free(ctx);
    return 0;
}

static bool
all_swept(void *user)
{
    (void)user;
    zp_ctx_free(new_ctx(NULL));
    return zp_test_entries(zp_test_run_dir()) == 0;
}

/* The owner ends by leaving, by SIGKILL, and together with its server and the
 * warden. Nobody
 * is left then who could remove the directory; the next context sweeps it (as
 * soon as the dead have really let go of their locks). */
static void
test_owner_ends(void **state)
{
    guest g = {.address = "owned"};
    pid_t owner, pid;

    (void)state;
    for (g.why = 0; g.why <= 2; g.why++) {
        zp_sync_open(&g.up);
        zp_sync_open(&g.go);
        owner = zp_test_fork(owner_main, &g);
        zp_sync_wait(&g.up, 10);
        pid = zp_test_fork(guest_main, &g);
        zp_sync_wait(&g.up, 10);
        zp_sync_post(&g.go);
        assert_int_equal(zp_test_wait(owner, 10), g.why ? -SIGKILL : 0);
        assert_int_equal(zp_test_wait(pid, 5), 0);
        zp_sync_close(&g.up);
        zp_sync_close(&g.go);
    }
    assert_true(zp_test_until(all_swept, NULL, 5));
}

/* ---------------------------------------------------------------- loop -- */

typedef struct loop_case {
    zp_ctx *ctx;
    int calls;
    int rc;
} loop_case;

static void
on_break(struct ev_loop *loop, ev_timer *timer, int events)
{
    loop_case *c = timer->data;

    (void)loop;
    (void)events;
    c->calls++;
    c->rc = zp_break(c->ctx);
}

static void
on_last(struct ev_loop *loop, ev_timer *timer, int events)
{
    loop_case *c = timer->data;

    (void)loop;
    (void)events;
    c->calls++;
}

static void
start_timer(loop_case *c, ev_timer *timer,
            void (*fn)(struct ev_loop *, ev_timer *, int), double after,
            double again)
{
    ev_timer_init(timer, fn, after, again);
    timer->data = c;
    ev_timer_start(zp_ev_loop(c->ctx), timer);
}

static void
test_run(void **state)
{
    loop_case c = {.ctx = new_ctx(NULL)};
    ev_timer timer;

    (void)state;
    assert_int_equal(zp_run(c.ctx), 0); /* nothing to wait for */
    assert_int_equal(zp_break(c.ctx), -EINVAL);
    start_timer(&c, &timer, on_last, 0.01, 0);
    assert_int_equal(zp_run(c.ctx), 0); /* the application's, until it ends */
    assert_int_equal(c.calls, 1);
    start_timer(&c, &timer, on_break, 0.01, 0.01);
    assert_int_equal(zp_run(c.ctx), 0);
    assert_int_equal(c.rc, 0);
    assert_int_equal(c.calls, 2);
    ev_timer_stop(zp_ev_loop(c.ctx), &timer);
    zp_ctx_free(c.ctx);
    assert_int_equal(zp_run(NULL), -EINVAL);
    assert_null(zp_ev_loop(NULL));
}

static int
waits_in_atomic(zp_state *txn, void *user)
{
    zp_ctx *ctx = zp_state_ctx(txn), *other;

    (void)user;
    assert_int_equal(zp_run(ctx), -EDEADLK);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, 1), -EDEADLK);
    assert_int_equal(zp_ctx_new(&other, NULL), -EDEADLK);
    return 7;
}

static void
test_waiting_in_atomic(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    assert_int_equal(zp_atomic(zp_ctx_state(ctx), waits_in_atomic, NULL), 7);
    zp_ctx_free(ctx);
}

/* On the application's loop all is the same, and nothing stays behind. */
static void
test_foreign_loop(void **state)
{
    struct ev_loop *loop = ev_loop_new(0);
    zp_ctx_options options = {.size = sizeof options, .loop = loop};
    loop_case c = {.ctx = new_ctx(&options)};
    ev_timer timer;

    (void)state;
    assert_ptr_equal(zp_ev_loop(c.ctx), loop);
    assert_int_equal(ev_run(loop, EVRUN_NOWAIT), 0);
    start_timer(&c, &timer, on_last, 1000, 0);
    assert_int_equal(ev_run(loop, EVRUN_NOWAIT), 1);
    zp_ctx_free(c.ctx);
    assert_int_equal(ev_run(loop, EVRUN_NOWAIT), 1);
    ev_timer_stop(loop, &timer);
    assert_int_equal(ev_run(loop, EVRUN_NOWAIT), 0);
    ev_loop_destroy(loop);
}

static void
on_free(struct ev_loop *loop, ev_timer *timer, int events)
{
    loop_case *c = timer->data;

    (void)loop;
    (void)events;
    c->ctx = zp_ctx_free(c->ctx);
}

static void
on_run(struct ev_loop *loop, ev_timer *timer, int events)
{
    loop_case *c = timer->data;

    (void)loop;
    (void)events;
    c->rc = zp_run(c->ctx);
}

/* Freed in a run inside of a run: both end. */
static void
test_freed_inside(void **state)
{
    loop_case c = {.ctx = new_ctx(NULL)};
    ev_timer run, end;

    (void)state;
    start_timer(&c, &run, on_run, 0, 0);
    start_timer(&c, &end, on_free, 0.02, 0);
    assert_int_equal(zp_run(c.ctx), ZP_ECLOSED);
    assert_int_equal(c.rc, ZP_ECLOSED);
    assert_null(c.ctx);
}

static int
free_in_callback(zp_watch *watch, const zp_event *event, void *user)
{
    loop_case *c = user;

    (void)watch;
    (void)event;
    c->calls++;
    assert_null(zp_ctx_free(c->ctx));
    assert_null(zp_ctx_free(c->ctx)); /* it is only marked: once is enough */
    assert_int_equal(zp_set_int(zp_ctx_state(c->ctx), "a", 3), ZP_ECLOSED);
    return 0;
}

/* Freed in a watch's callback: at its end. */
static void
test_freed_in_callback(void **state)
{
    loop_case c = {.ctx = new_ctx(NULL)};

    (void)state;
    assert_int_equal(zp_call_when_change(
                         zp_ctx_state(c.ctx), NULL, ZP_KEYS("a"),
                         &(zp_watch_options){.size = sizeof(zp_watch_options),
                                             .flags = ZP_OWN},
                         free_in_callback, &c),
                     0);
    assert_int_equal(zp_set_int(zp_ctx_state(c.ctx), "a", 1), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(c.ctx), "a", 2), 0);
    assert_int_equal(zp_run(c.ctx), ZP_ECLOSED);
    assert_int_equal(c.calls, 1);
}

static int
free_in_atomic(zp_state *txn, void *user)
{
    (void)user;
    zp_ctx_free(zp_state_ctx(txn));
    return 3;
}

static void
test_freed_in_atomic(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    assert_int_equal(zp_atomic(zp_ctx_state(ctx), free_in_atomic, NULL), 3);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

/* -------------------------------------------------------------- server -- */

static void
test_ping(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_stats stats = {.size = sizeof stats};
    char payload[65536];
    zp_pong pong;

    (void)state;
    memset(payload, 'x', sizeof payload);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "a", 1), 0);
    assert_int_equal(zp_ping(ctx, &pong, payload, sizeof payload, 5), 0);
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    assert_int_equal(pong.server_pid, stats.server_pid);
    assert_true(pong.round_trip > 0 && pong.round_trip < 5);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, -1), 0);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 1, 5), -EINVAL);
    assert_int_equal(zp_ping(ctx, NULL, payload, 65537, 5), -EINVAL);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, NAN), -EINVAL);
    zp_ctx_free(ctx);
}

/* A stopped server is a timeout; a dead one is started again. */
static void
test_ping_without_answer(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_pong pong, again;
    double begun;

    (void)state;
    assert_int_equal(zp_ping(ctx, &pong, "a", 1, 5), 0);
    kill(pong.server_pid, SIGSTOP);
    begun = zp_test_now();
    assert_int_equal(zp_ping(ctx, &again, "a", 1, 0.4), -ETIMEDOUT);
    assert_true(zp_test_now() - begun >= 0.4);
    assert_true(zp_test_now() - begun < 0.4 + 0.4 * zp_test_slow());
    kill(pong.server_pid, SIGCONT);
    assert_int_equal(zp_ping(ctx, &again, "b", 1, 5), 0);
    assert_int_equal(again.server_pid, pong.server_pid);

    kill(pong.server_pid, SIGKILL);
    begun = zp_test_now();
    assert_int_equal(zp_ping(ctx, &again, "c", 1, 5), 0);
    assert_true(zp_test_now() - begun < 1 * zp_test_slow());
    assert_int_not_equal(again.server_pid, pong.server_pid);
    zp_ctx_free(ctx);
}

static int
pings_for_ever(void *user)
{
    zp_ctx *ctx = attach(user);
    int rc = zp_ping(ctx, NULL, "a", 1, -1);

    zp_ctx_free(ctx);
    return rc == ZP_ECLOSED ? 0 : 1;
}

static bool
nothing_left(void *user)
{
    (void)user;
    return zp_test_entries(zp_test_run_dir()) == 0;
}

/* A server that lives but does not answer keeps nobody in a state that has
 * been closed. */
static void
test_ping_closed(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char address[256];
    zp_stats stats = {.size = sizeof stats};
    pid_t pid, server;

    (void)state;
    snprintf(address, sizeof address, "%s", zp_ctx_address(ctx));
    /* not by a ping: no threads before the fork */
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    server = (pid_t)stats.server_pid;
    kill(server, SIGSTOP);
    pid = zp_test_fork(pings_for_ever, address);
    poll(NULL, 0, 300); /* in its ping, most likely: either way it ends */
    zp_ctx_free(ctx);
    assert_int_equal(zp_test_wait(pid, 20 * zp_test_slow()), 0);
    kill(server, SIGCONT);
    assert_true(zp_test_until(nothing_left, NULL, 5));
}

static void
test_attach_revives(void **state)
{
    zp_ctx *owner = new_ctx(NULL), *visitor;
    zp_pong pong;

    (void)state;
    assert_int_equal(zp_ping(owner, &pong, NULL, 0, 5), 0);
    zp_test_kill_server(pong.server_pid);
    visitor = attach(zp_ctx_address(owner));
    assert_int_equal(zp_ping(visitor, &pong, NULL, 0, 5), 0);
    zp_ctx_free(visitor);
    zp_test_kill_server(pong.server_pid); /* the owner cleans up without, too */
    zp_ctx_free(owner);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);

    /* and so it does while a warden starts another one */
    owner = new_ctx(NULL);
    assert_int_equal(zp_ping(owner, &pong, NULL, 0, 5), 0);
    kill(pong.server_pid, SIGKILL);
    zp_ctx_free(owner);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

static void
test_stats(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct {
        zp_stats stats;
        int later;
    } larger = {.stats.size = sizeof larger, .later = 9};
    zp_stats stats = {.size = 0};
    int i;

    (void)state;
    assert_int_equal(zp_ctx_stats(ctx, NULL), -EINVAL);
    assert_int_equal(zp_ctx_stats(ctx, &stats), -EINVAL);
    for (i = 0; i < 10; i++)
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), "a", i), 0);
    assert_int_equal(zp_ctx_stats(ctx, &larger.stats), 0);
    assert_int_equal(larger.later, 0);
    assert_int_equal(larger.stats.size, sizeof larger);
    assert_int_equal(larger.stats.revision, 10);
    assert_true(larger.stats.used_bytes > 0);
    assert_true(larger.stats.max_bytes >= larger.stats.used_bytes);
    stats.size = offsetof(zp_stats, oldest_revision); /* an old caller */
    stats.oldest_revision = 77;
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    assert_int_equal(stats.revision, 10);
    assert_int_equal(stats.oldest_revision, 77);
    zp_ctx_free(ctx);
}

/* Two contexts of one process on one state, and two states. */
static void
test_several(void **state)
{
    zp_ctx *a = new_ctx(NULL), *b = new_ctx(NULL), *visitor;

    (void)state;
    visitor = attach(zp_ctx_address(a));
    assert_int_equal(zp_set_int(zp_ctx_state(a), "k", 1), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(b), "k", 2), 0);
    assert_int_equal(get_int(visitor, "k"), 1);
    assert_int_equal(zp_delete(zp_ctx_state(a), "none"), ZP_ENOKEY);
    assert_non_null(strstr(zp_ctx_error(a), "none"));
    assert_string_equal(zp_ctx_error(b), "");
    zp_ctx_free(a);
    assert_int_equal(get_int(b, "k"), 2);
    zp_ctx_free(b);
    zp_ctx_free(visitor);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_new_and_free),
        ZP_TEST(test_bad_options),
        ZP_TEST(test_no_server_program),
        ZP_TEST(test_few_descriptors),
        ZP_TEST(test_attach),
        ZP_TEST(test_attach_nobody),
        ZP_TEST(test_closed),
        ZP_TEST(test_owner_ends),
        ZP_TEST(test_run),
        ZP_TEST(test_waiting_in_atomic),
        ZP_TEST(test_foreign_loop),
        ZP_TEST(test_freed_inside),
        ZP_TEST(test_freed_in_callback),
        ZP_TEST(test_freed_in_atomic),
        ZP_TEST(test_ping),
        ZP_TEST(test_ping_without_answer),
        ZP_TEST(test_ping_closed),
        ZP_TEST(test_attach_revives),
        ZP_TEST(test_stats),
        ZP_TEST(test_several),
    };

    return zp_test_main("context", tests, sizeof tests / sizeof *tests, 60);
}

/*
 * spawning.h - what the tests of processes share: a context, children, and a
 * copy of what is on record of one.
 */
#ifndef ZP_TESTS_SPAWNING_H
#define ZP_TESTS_SPAWNING_H

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zp_ev.h>

#include "tests/support/zp_test.h"

#define SECONDS (20 * zp_test_slow()) /* for what comes true at all */

/* Options written where they are used. */
#define SPAWN(...)                                                             \
    (&(zp_spawn_options){.size = sizeof(zp_spawn_options), __VA_ARGS__})
#define RETRY(...) (&(zp_retry){.size = sizeof(zp_retry), __VA_ARGS__})

/* RC is what CALL returns, or the test fails with the text. */
#define assert_returns(call, rc)                                               \
    do {                                                                       \
        int got_ = (call);                                                     \
        if (got_ != (rc))                                                      \
            fail_msg("%s: %d (%s: %s), not %d", #call, got_,                   \
                     zp_strerror(got_), zp_ctx_error(NULL), (int)(rc));        \
    } while (0)
#define assert_ok(call) assert_returns(call, 0)

static inline void
assert_has(const char *text, const char *part)
{
    if (!text || !strstr(text, part))
        fail_msg("\"%s\" is not in \"%s\"", part, text ? text : "(NULL)");
}

static inline zp_ctx *
new_ctx(const zp_ctx_options *options)
{
    zp_ctx *ctx = NULL;

    assert_ok(zp_ctx_new(&ctx, options));
    return ctx;
}

static inline zp_proc *
spawn(zp_ctx *ctx, const zp_spawn_options *options, zp_proc_fn *fn, void *arg)
{
    zp_proc *proc = NULL;

    assert_ok(zp_spawn(ctx, &proc, options, fn, arg));
    return proc;
}

/* Wait for PROC, expect RC and return the result. */
static inline zp_result
result_of(zp_proc *proc, int rc)
{
    zp_result result = {.size = sizeof result};
    int got = zp_wait(proc, &result, SECONDS);

    if (got != rc)
        fail_msg("zp_wait: %d (%s: %s), not %d", got, zp_strerror(got),
                 zp_ctx_error(NULL), rc);
    return result;
}

/* How many processes there are below this one that are not of CTX's state
 * itself. */
static inline int
count_processes(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_ctx_stats(ctx, &stats));
    return (int)zp_test_others((pid_t)stats.server_pid);
}

/* ------------------------------------------------------------- children -- */

static inline int
returns_0(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 0;
}

/* Fails, with the int that ARG points to. */
static inline int
returns_code(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    return *(int *)arg;
}

/* Never ends by itself; posts ARG (a zp_sync, or NULL) first. */
static inline int
sleeps(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    if (arg)
        zp_sync_post(arg);
    for (;;)
        pause();
    return 0;
}

/* Prints ARG, a text; that it is flushed is up to others. */
static inline int
prints(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    printf("%s", (const char *)arg);
    return 0;
}

/* Ends when ARG, a zp_sync, is posted. */
static inline int
waits_for_post(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    zp_sync_wait(arg, SECONDS);
    return 0;
}

/* -------------------------------------------------------------- records -- */

typedef struct record {
    zp_process p; /* without its texts, which are here: */
    char name[80], ns[40];
    char error[1024], origin[512], backtrace[8192];
} record;

struct record_look {
    uint64_t id; /* 0: the newest */
    record *ret;
    int n; /* seen in all */
};

static inline int
copy_record(const zp_process *process, void *user)
{
    struct record_look *look = user;
    record *r = look->ret;

    look->n++;
    if (!r || (look->id && process->id != look->id))
        return 0;
    r->p = *process;
    snprintf(r->name, sizeof r->name, "%s", process->name);
    snprintf(r->ns, sizeof r->ns, "%s", process->ns);
    snprintf(r->error, sizeof r->error, "%s", process->error);
    snprintf(r->origin, sizeof r->origin, "%s", process->origin);
    snprintf(r->backtrace, sizeof r->backtrace, "%s", process->backtrace);
    r->p.name = r->p.ns = r->p.error = r->p.origin = r->p.backtrace = NULL;
    return 0;
}

/* The record ID (0: the newest one) into *RET: is there one? */
static inline bool
find_record(zp_ctx *ctx, uint64_t id, record *ret)
{
    struct record_look look = {id, ret, 0};

    memset(ret, 0, sizeof *ret);
    assert_ok(zp_each_process(ctx, copy_record, &look));
    return ret->p.id != 0;
}

/* How many processes are on record. */
static inline int
count_records(zp_ctx *ctx)
{
    struct record_look look = {0, NULL, 0};

    assert_ok(zp_each_process(ctx, copy_record, &look));
    return look.n;
}

struct record_wait {
    zp_ctx *ctx;
    uint64_t id;
    int state;
    unsigned attempts;
    record *ret;
};

static inline bool
record_is(void *user)
{
    struct record_wait *w = user;

    assert_true(zp_ctx_dispatch(w->ctx) >= 0);
    return find_record(w->ctx, w->id, w->ret) && w->ret->p.state == w->state &&
           w->ret->p.attempts >= w->attempts;
}

/* The record ID once it is in STATE after ATTEMPTS; the loop goes on
 * meanwhile. */
static inline record
record_in(zp_ctx *ctx, uint64_t id, int state, unsigned attempts)
{
    record r;
    struct record_wait w = {ctx, id, state, attempts, &r};

    if (!zp_test_until(record_is, &w, 20))
        fail_msg("the record %d is in state %d after %u attempts", (int)id,
                 r.p.state, r.p.attempts);
    return r;
}

/* --------------------------------------------------------------- timers -- */

/* FN once, after SECONDS, from the loop of a context, as the application's. */
typedef struct later {
    ev_timer timer;
    void (*fn)(void *user);
    void *user;
    int ran;
} later;

static inline void
on_later(struct ev_loop *loop, ev_timer *timer, int events)
{
    later *l = timer->data;

    (void)events;
    ev_timer_stop(loop, timer);
    l->ran++;
    l->fn(l->user);
}

static inline void
do_later(later *l, zp_ctx *ctx, double seconds, void (*fn)(void *user),
         void *user)
{
    *l = (later){.fn = fn, .user = user};
    ev_timer_init(&l->timer, on_later, seconds, 0);
    l->timer.data = l;
    ev_now_update(zp_ev_loop(ctx));
    ev_timer_start(zp_ev_loop(ctx), &l->timer);
}

#endif

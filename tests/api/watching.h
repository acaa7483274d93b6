/*
 * watching.h - what the tests of watches share: a context with two handles of
 * its namespace, a recorder of events, and ways to run until they have come.
 */
#ifndef ZP_TESTS_WATCHING_H
#define ZP_TESTS_WATCHING_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zp_ev.h>

#include "tests/support/zp_test.h"

#define KEYS_MAX 8       /* remembered per event */
#define ABSENT INT64_MIN /* no int at that key */

#define assert_ok(call) assert_return(call, 0)
#define assert_return(call, rc)                                                \
    do {                                                                       \
        int got_ = (call);                                                     \
        if (got_ != (rc))                                                      \
            fail_msg("%s: %d (%s: %s), not %d", #call, got_,                   \
                     zp_strerror(got_), zp_ctx_error(NULL), (int)(rc));        \
    } while (0)

typedef struct seen {
    int kind;
    uint64_t revision;
    int writer;
    size_t length;
    char key[KEYS_MAX][32];
    unsigned flags[KEYS_MAX];
    int64_t value;        /* of the first key, in the snapshot */
    int64_t before;       /* and in the one before it */
    uint64_t first, last; /* of an overrun */
} seen;

typedef struct recorder {
    zp_ctx *ctx;
    seen *events;
    size_t n, room;
    size_t want; /* breaks the run at so many */
    int rc;      /* what the callback returns */
    /* called for each event, if set, after it was recorded */
    int (*then)(struct recorder *recorder, zp_watch *watch,
                const zp_event *event);
    void *user;
} recorder;

typedef struct fixture {
    zp_ctx *ctx;
    zp_state *state; /* to watch */
    zp_state *other; /* to write: another handle of the same namespace */
} fixture;

static inline int
watching_setup_with(void **state, const zp_ctx_options *options)
{
    fixture *f = calloc(1, sizeof *f);
    int rc = zp_ctx_new(&f->ctx, options);

    if (rc < 0) {
        print_error("zp_ctx_new: %s\n", zp_ctx_error(NULL));
        free(f);
        return rc;
    }
    f->state = zp_ctx_state(f->ctx);
    *state = f;
    return zp_state_clone(f->state, &f->other, NULL);
}

static inline int
watching_setup(void **state)
{
    return watching_setup_with(state, NULL);
}

/* A log of 64 revisions. */
static inline int
watching_setup_short(void **state)
{
    zp_ctx_options options = {.size = sizeof options, .log_revisions = 64};

    return watching_setup_with(state, &options);
}

static inline int
watching_teardown(void **state)
{
    fixture *f = *state;

    zp_ctx_free(f->ctx);
    free(f);
    return 0;
}

static inline int64_t
int_at(zp_state *state, const char *key)
{
    int64_t value;

    return state && zp_get_int(state, key, &value) == 0 ? value : ABSENT;
}

static inline void
set(zp_state *state, const char *key, int64_t value)
{
    assert_ok(zp_set_int(state, key, value));
}

static inline uint64_t
head_of(zp_state *state)
{
    uint64_t revision;

    assert_ok(zp_revision(state, &revision));
    return revision;
}

static inline void
remember(seen *e, const zp_event *event)
{
    zp_change change;

    memset(e, 0, sizeof *e);
    e->kind = zp_event_kind(event);
    e->revision = zp_event_revision(event);
    e->writer = zp_event_writer(event);
    e->length = zp_event_length(event);
    for (size_t i = 0; i < e->length && i < KEYS_MAX; i++) {
        assert_ok(zp_event_change(event, &change, i));
        snprintf(e->key[i], sizeof e->key[i], "%s", change.key);
        e->flags[i] = change.flags;
    }
    assert_return(zp_event_change(event, &change, e->length), -ERANGE);
    if (e->kind == ZP_OVERRUN) {
        assert_ok(zp_event_lost(event, &e->first, &e->last));
        assert_null(zp_event_before(event));
        return;
    }
    e->value = int_at(zp_event_snapshot(event), e->key[0]);
    e->before = int_at(zp_event_before(event), e->key[0]);
}

static inline int
record(zp_watch *watch, const zp_event *event, void *user)
{
    recorder *r = user;

    if (r->n == r->room) {
        r->room = r->room ? r->room * 2 : 64;
        r->events = realloc(r->events, r->room * sizeof *r->events);
        assert_non_null(r->events);
    }
    remember(&r->events[r->n++], event);
    if (r->n == r->want)
        assert_ok(zp_break(r->ctx));
    if (r->then)
        return r->then(r, watch, event);
    return r->rc;
}

static inline void
forget(recorder *r)
{
    free(r->events);
    r->events = NULL;
    r->n = r->room = 0;
}

/* Run until R has N events. */
static inline void
run_until(recorder *r, size_t n)
{
    r->want = n;
    if (r->n < n)
        assert_ok(zp_run(r->ctx));
    assert_true(r->n >= n);
    r->want = 0;
}

/* How often, under valgrind and the like less. */
static inline int
rounds(int n)
{
    int slow = (int)(n / zp_test_slow());

    return zp_test_instrumented() && slow > n / 4 ? n / 4 : slow;
}

static inline void
on_time(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)events;
    ev_timer_stop(loop, timer);
    *(bool *)timer->data = true;
}

/* Run the loop for SECONDS. */
static inline void
run_for(zp_ctx *ctx, double seconds)
{
    bool over = false;
    ev_timer timer;

    ev_timer_init(&timer, on_time, seconds, 0);
    timer.data = &over;
    ev_now_update(zp_ev_loop(ctx));
    ev_timer_start(zp_ev_loop(ctx), &timer);
    while (!over)
        ev_run(zp_ev_loop(ctx), EVRUN_ONCE);
}

static inline int
note(zp_watch *watch, const zp_event *event, void *user)
{
    zp_ctx *ctx = zp_state_ctx(zp_event_snapshot(event));

    (void)watch;
    *(bool *)user = true;
    assert_ok(zp_break(ctx));
    return 0;
}

/* Run until all that was written up to now has been delivered to the buffered
 * watches in line: a mark goes through the log behind it. */
static inline void
settle(fixture *f)
{
    zp_watch_options once = {.size = sizeof once, .count = 1};
    bool done = false;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("~mark"), &once, note,
                                  &done));
    set(f->other, "~mark", (int64_t)head_of(f->state));
    while (!done)
        assert_ok(zp_run(f->ctx));
}

/* What R must have seen: N events of ints of KEY. */
static inline void
assert_values(const recorder *r, const char *key, size_t n,
              const int64_t *values)
{
    assert_int_equal(r->n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(r->events[i].kind, ZP_CHANGED);
        assert_string_equal(r->events[i].key[0], key);
        assert_int_equal(r->events[i].value, values[i]);
    }
}
#define VALUES(...)                                                            \
    sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                  \
        (const int64_t[])                                                      \
    {                                                                          \
        __VA_ARGS__                                                            \
    }

#endif

/*
 * Several contexts in several threads: of one state, of two, and made and
 * freed while others work. Each context belongs to one thread; what they share
 * inside (the store of the process, the lock, the registry) must bear it.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <zp.h>

#include "tests/support/zp_test.h"

#define THREADS 4

static int rounds;
static char address[300];
static uint64_t prepared; /* the revision before the threads */

typedef struct worker {
    pthread_t thread;
    int which;
    int rc; /* of the first call that failed */
    int line;
    int64_t got; /* events */
} worker;

#define TRY(w, call)                                                           \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0 && (w)->rc == 0) {                                         \
            (w)->rc = rc_;                                                     \
            (w)->line = __LINE__;                                              \
        }                                                                      \
    } while (0)

static void
name_key(char *key, int which)
{
    snprintf(key, 16, "thread-%d", which % THREADS);
}

static int
on_event(zp_watch *watch, const zp_event *event, void *user)
{
    worker *w = user;
    char key[16];
    int64_t value;

    name_key(key, w->which + 1);
    TRY(w, zp_get_int(zp_event_snapshot(event), key, &value));
    if (value != ++w->got && w->rc == 0)
        w->rc = -1000;
    return w->got == rounds ? zp_watch_cancel(watch) : 0;
}

static int
add_two(zp_state *txn, void *user)
{
    worker *w = user;
    char key[16];

    name_key(key, w->which);
    int rc = zp_increase(txn, key, NULL, 1);
    return rc < 0 ? rc : zp_increase(txn, "sum", NULL, 1);
}

/* Write one's own key, watch the next one's. */
static void *
work_together(void *user)
{
    worker *w = user;
    zp_watch_options options = {
        .size = sizeof options, .flags = ZP_SINCE, .since = prepared};
    zp_ctx *ctx;
    char key[16];
    const char *keys[] = {key};

    TRY(w, zp_ctx_attach(&ctx, address, NULL));
    if (w->rc != 0)
        return NULL;
    zp_state *s = zp_ctx_state(ctx);
    name_key(key, w->which + 1);
    TRY(w, zp_call_when_change(s, NULL, keys, 1, &options, on_event, w));
    for (int i = 0; i < rounds; i++)
        TRY(w, zp_atomic(s, add_two, w));
    TRY(w, zp_run(ctx));
    TRY(w, zp_ping(ctx, NULL, "hello", 5, 20));
    zp_ctx_free(ctx);
    return NULL;
}

static void
run_all(void *(*fn)(void *))
{
    worker workers[THREADS];

    memset(workers, 0, sizeof workers);
    for (int i = 0; i < THREADS; i++) {
        workers[i].which = i;
        assert_int_equal(
            pthread_create(&workers[i].thread, NULL, fn, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        if (workers[i].rc != 0)
            fail_msg("thread %d, line %d: %s", i, workers[i].line,
                     zp_strerror(workers[i].rc));
}

static void
test_one_state(void **state)
{
    zp_ctx *ctx;
    int64_t sum;
    char key[16];

    (void)state;
    rounds = (int)(1000 / zp_test_slow());
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    strcpy(address, zp_ctx_address(ctx));
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "sum", 0), 0);
    for (int i = 0; i < THREADS; i++) {
        name_key(key, i);
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), key, 0), 0);
    }
    assert_int_equal(zp_revision(zp_ctx_state(ctx), &prepared), 0);
    run_all(work_together);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "sum", &sum), 0);
    assert_int_equal(sum, THREADS * rounds);
    zp_ctx_free(ctx);
}

/* A state of one's own, again and again. */
static void *
work_alone(void *user)
{
    worker *w = user;
    int64_t value = 0;
    zp_ctx *ctx;

    for (int i = 0; i < 5 && w->rc == 0; i++) {
        TRY(w, zp_ctx_new(&ctx, NULL));
        if (w->rc != 0)
            break;
        TRY(w, zp_set_int(zp_ctx_state(ctx), "n", 0));
        for (int n = 0; n < 100; n++)
            TRY(w, zp_increase(zp_ctx_state(ctx), "n", &value, 1));
        if (value != 100 && w->rc == 0)
            w->rc = -1001;
        zp_ctx_free(ctx);
    }
    return NULL;
}

static void
test_own_states(void **state)
{
    (void)state;
    run_all(work_alone);
}

/* Attach and leave while others do. */
static void *
come_and_go(void *user)
{
    worker *w = user;
    zp_ctx *ctx;
    zp_state *snapshot;

    for (int i = 0; i < 100 && w->rc == 0; i++) {
        TRY(w, zp_ctx_attach(&ctx, address, NULL));
        if (w->rc != 0)
            break;
        TRY(w, zp_increase(zp_ctx_state(ctx), "n", NULL, 1));
        TRY(w, zp_snapshot(zp_ctx_state(ctx), &snapshot));
        zp_state_free(snapshot);
        zp_ctx_free(ctx);
    }
    return NULL;
}

static void
test_come_and_go(void **state)
{
    zp_ctx *ctx;
    int64_t n;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    strcpy(address, zp_ctx_address(ctx));
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "n", 0), 0);
    run_all(come_and_go);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "n", &n), 0);
    assert_int_equal(n, THREADS * 100);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_one_state),
        ZP_TEST(test_own_states),
        ZP_TEST(test_come_and_go),
    };
    return zp_test_main("threads", tests, sizeof tests / sizeof *tests, 60);
}

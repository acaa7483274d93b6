/*
 * Races: a change right after the registration, and many writers before one
 * watch. Nothing may be missed, repeated or out of order.
 */
#include <stdio.h>
#include <stdlib.h>

#include <zp.h>

#include "tests/support/zp_test.h"

#define ROUNDS 10000
#define FRESH 200
#define WRITERS 8
#define EACH 10000

static zp_ctx *ctx;

static int
open_ctx(void **state)
{
    (void)state;
    return zp_ctx_new(&ctx, NULL);
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

/* ---- subscribe, then set ---- */

typedef struct pair {
    const char *address;
    zp_sync go; /* the round's number */
    int rounds;
} pair;

static int
set_when_told(void *user)
{
    pair *p = user;
    zp_ctx *mine;
    char key[32];

    if (zp_ctx_attach(&mine, p->address, NULL) != 0)
        return 1;
    for (int i = 0; i < p->rounds; i++) {
        int64_t round = zp_sync_receive(&p->go, 60);
        snprintf(key, sizeof key, "key-%lld", (long long)round);
        if (zp_set_int(zp_ctx_state(mine), key, round) != 0)
            return 2;
    }
    zp_ctx_free(mine);
    return 0;
}

static int
on_set(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t *got = user;
    zp_change change;

    (void)watch;
    if (zp_event_change(event, &change, 0) != 0)
        return -1;
    return zp_get_int(zp_event_snapshot(event), change.key, got);
}

static void
one_round(zp_ctx *mine, pair *p, int64_t round)
{
    zp_watch_options once = {.size = sizeof once, .count = 1};
    int64_t got = -1;
    char key[32];
    const char *keys[] = {key};

    snprintf(key, sizeof key, "key-%lld", (long long)round);
    assert_int_equal(zp_call_when_change(zp_ctx_state(mine), NULL, keys, 1,
                                         &once, on_set, &got),
                     0);
    zp_sync_send(&p->go, round);
    assert_int_equal(zp_run(mine), 0);
    assert_int_equal(got, round);
}

/* A new key each time, so that each registration subscribes anew. */
static void
test_subscribe_then_set(void **state)
{
    pair p = {.address = zp_ctx_address(ctx)};

    (void)state;
    p.rounds = (int)(ROUNDS / zp_test_slow());
    zp_sync_open(&p.go);
    pid_t pid = zp_test_fork(set_when_told, &p);
    for (int i = 0; i < p.rounds; i++)
        one_round(ctx, &p, i);
    assert_int_equal(zp_test_wait(pid, 60), 0);
    zp_sync_close(&p.go);
}

/* The same with a new connection each time. */
static void
test_connect_subscribe_then_set(void **state)
{
    pair p = {.address = zp_ctx_address(ctx)};
    zp_ctx *mine;

    (void)state;
    p.rounds = (int)(FRESH / zp_test_slow());
    zp_sync_open(&p.go);
    pid_t pid = zp_test_fork(set_when_told, &p);
    for (int i = 0; i < p.rounds; i++) {
        assert_int_equal(zp_ctx_attach(&mine, p.address, NULL), 0);
        one_round(mine, &p, i);
        zp_ctx_free(mine);
    }
    assert_int_equal(zp_test_wait(pid, 60), 0);
    zp_sync_close(&p.go);
}

/* ---- every revision once, in order ---- */

typedef struct counting {
    uint64_t revision;
    int64_t value;
    int64_t last;
} counting;

static int
on_increment(zp_watch *watch, const zp_event *event, void *user)
{
    counting *c = user;
    int64_t value;

    (void)watch;
    if (zp_event_kind(event) != ZP_CHANGED ||
        zp_event_revision(event) != c->revision + 1)
        return -1;
    c->revision++;
    if (zp_get_int(zp_event_snapshot(event), "count", &value) != 0 ||
        value != c->value + 1)
        return -2;
    c->value++;
    if (zp_get_int(zp_event_before(event), "count", &value) != 0 ||
        value != c->value - 1)
        return -3;
    return c->value == c->last ? zp_watch_cancel(watch) : 0;
}

static int
count_up(void *user)
{
    zp_ctx *mine;
    int each = (int)(EACH / zp_test_slow());

    if (zp_ctx_attach(&mine, user, NULL) != 0)
        return 1;
    for (int i = 0; i < each; i++)
        if (zp_increase(zp_ctx_state(mine), "count", NULL, 1) != 0)
            return 2;
    zp_ctx_free(mine);
    return 0;
}

static void
test_every_revision(void **state)
{
    pid_t pids[WRITERS];
    counting c = {0, 0, WRITERS * (int)(EACH / zp_test_slow())};

    (void)state;
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "count", 0), 0);
    assert_int_equal(zp_revision(zp_ctx_state(ctx), &c.revision), 0);
    assert_int_equal(zp_call_when_change(zp_ctx_state(ctx), NULL,
                                         ZP_KEYS("count"), NULL, on_increment,
                                         &c),
                     0);
    for (int i = 0; i < WRITERS; i++)
        pids[i] = zp_test_fork(count_up, (void *)zp_ctx_address(ctx));
    assert_int_equal(zp_run(ctx), 0);
    assert_int_equal(c.value, c.last);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(zp_test_wait(pids[i], 60), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_subscribe_then_set, open_ctx, close_ctx),
        ZP_TEST_WITH(test_connect_subscribe_then_set, open_ctx, close_ctx),
        ZP_TEST_WITH(test_every_revision, open_ctx, close_ctx),
    };
    return zp_test_main("race", tests, sizeof tests / sizeof *tests, 90);
}

/*
 * test_map_functions.c - what an item's function may do: wait, fork, spawn,
 * map, end its worker, never end; and how it is stopped.
 */
#include "tests/api/mapping.h"

#include <sys/wait.h>

/* ------------------------------------------------------- waiting functions --
 */

/* Waits for the state; nothing else may be begun meanwhile. */
static int
waits_for_go(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    static int depth;
    int rc;

    if (depth++)
        return zp_fail(ctx, -EDEADLK, "inside of another item");
    rc = zp_increase(zp_ctx_state(ctx), "waiting", NULL, 1);
    if (rc == 0)
        rc = zp_get_when_equal(zp_ctx_state(ctx), NULL, "go", SECONDS, NULL,
                               ZP_I(1));
    depth--;
    return rc < 0 ? rc : square(ctx, item, common);
}

static void
test_functions_that_wait(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 200};
    zp_mapping *map;

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "waiting", 0));
    map = map_numbers(ctx, MAP(.count = 3), waits_for_go, &from);
    assert_ok(zp_get_when_equal(zp_ctx_state(ctx), NULL, "waiting", SECONDS,
                                NULL, ZP_I(3)));
    assert_int_equal(progress_of(map).running, 3);
    assert_ok(zp_set_int(zp_ctx_state(ctx), "go", 1));
    expect_squares(map, 0, 200, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* zp_run() and zp_break() in an item are the item's own. */
static int
break_soon(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    return zp_break(user);
}

static int
runs_the_loop(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    zp_watch *watch = NULL;
    int rc = zp_run(ctx); /* nothing to be waited for */

    if (rc == 0)
        rc = zp_call_when_not_none(zp_ctx_state(ctx), &watch, "there", NULL,
                                   break_soon, ctx);
    if (rc == 0)
        rc = zp_run(ctx);
    zp_watch_free(watch);
    if (rc == 0)
        (void)zp_break(ctx);
    return rc < 0 ? rc : square(ctx, item, common);
}

static void
test_functions_that_run_the_loop(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 60};
    zp_mapping *map;

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "there", 1));
    map = map_numbers(ctx, MAP(.count = 2), runs_the_loop, &from);
    expect_squares(map, 0, 60, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* What an item has left on the loop goes on when the worker idles. */
static int
answer_ping(zp_watch *watch, const zp_event *event, void *user)
{
    zp_ctx *ctx = user;

    (void)watch;
    (void)event;
    return zp_increase(zp_ctx_state(ctx), "pong", NULL, 1);
}

static int
leaves_a_watch(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    static const char *const keys[] = {"ping"};

    (void)item;
    (void)common;
    return zp_call_when_change(zp_ctx_state(ctx), NULL, keys, 1, NULL,
                               answer_ping, ctx);
}

static void
test_a_watch_that_is_left(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 1), leaves_a_watch);

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "pong", 0));
    assert_ok(zp_map_add(map, ZP_I(1)));
    assert_int_equal(next_of(map).code, 0);
    for (int i = 1; i <= 3; i++) {
        assert_ok(zp_set_int(zp_ctx_state(ctx), "ping", i));
        assert_ok(zp_get_when_equal(zp_ctx_state(ctx), NULL, "pong", SECONDS,
                                    NULL, ZP_I(i)));
    }
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------- functions that fork --
 */

/* The fork's child returns from the function, as if it were the worker. */
static int
forks(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0)
        return int_of(item) % 2 ? 0 : -EIO;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -errno;
    if (!WIFEXITED(status))
        return zp_fail(ctx, -EPROTO, "status 0x%x", (unsigned)status);
    return square(ctx, item, common);
}

static void
test_functions_that_fork(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 40};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 2), forks, &from);

    (void)state;
    expect_squares(map, 0, 40, 0);
    assert_int_equal(progress_of(map).again, 0);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static int
child_square(zp_ctx *ctx, void *arg)
{
    int64_t n = *(int64_t *)arg;

    n *= n;
    return zp_return(ctx, "I", &n);
}

/* One child that it waits for, and one that it leaves alone. */
static int
spawns(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n = int_of(item);
    zp_proc *proc = NULL;
    int rc = zp_spawn(ctx, &proc, NULL, child_square, &n);

    (void)common;
    if (rc == 0 && n % 10 == 0)
        rc = zp_spawn(ctx, NULL, NULL, sleeps, NULL);
    if (rc == 0)
        rc = zp_wait(proc, NULL, SECONDS);
    if (rc == 0)
        rc = zp_proc_get(proc, "I", &n);
    zp_proc_free(proc);
    return rc < 0 ? rc : zp_return(ctx, "I", &n);
}

static void
test_functions_that_spawn(void **state)
{
    numbers from = {.end = 30};
    zp_mapping *map;
    zp_ctx *ctx;

    (void)state;
    if (zp_test_tsan())
        skip(); /* threads in a grandchild: luck */
    ctx = new_ctx(NULL);
    map = map_numbers(ctx, MAP(.count = 2), spawns, &from);
    expect_squares(map, 0, 30, 0);
    zp_map_free(map);
    expect_processes(ctx, 0); /* those that it left end with it */
    zp_ctx_free(ctx);
}

/* A map in a map. */
static int
maps(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    numbers from = {.end = int_of(item)};
    int64_t sum = 0, got;
    zp_mapping *map;
    int rc;

    (void)common;
    rc = zp_map(ctx, &map, MAP(.count = 2), square, give_numbers, &from);
    if (rc < 0)
        return rc;
    while ((rc = zp_map_get(map, SECONDS, "I", &got)) == 1)
        sum += got;
    zp_map_free(map);
    return rc < 0 ? rc : zp_return(ctx, "I", &sum);
}

static void
test_a_map_in_a_map(void **state)
{
    numbers from = {.end = 12};
    int64_t got, sum = 0;
    zp_mapping *map;
    zp_ctx *ctx;

    (void)state;
    if (zp_test_tsan())
        skip(); /* likewise */
    ctx = new_ctx(NULL);
    map = map_numbers(ctx, MAP(.count = 2), maps, &from);
    for (int64_t i = 0; i < 12; i++) {
        assert_returns(zp_map_get(map, SECONDS, "I", &got), 1);
        assert_int_equal(got, sum);
        sum += i * i;
    }
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* -------------------------------------------- functions that end the worker --
 */

/* Items 10 .. 16 end it, each in a way of its own. */
static int
ends_in_ways(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    switch (int_of(item)) {
    case 10:
        exit(0);
    case 11:
        _exit(3);
    case 12:
        zp_exit(ctx, 0);
        break;
    case 13:
        zp_exit(ctx, 4);
        break;
    case 14:
        abort();
    case 15:
        raise(SIGKILL);
        break;
    case 16:
        raise(SIGTERM);
        break;
    default:
        break;
    }
    return square(ctx, item, common);
}

static void
expect_ways(unsigned flags, unsigned tries, int code)
{
    static const char *const how[] = {"exited",      "exited with", "exited",
                                      "exited with", "signal",      "signal",
                                      "signal"};
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 40};
    zp_mapping *map =
        map_numbers(ctx,
                    MAP(.count = 2, .tries = tries, .flags = flags,
                        .name = "ways", .chunk = 1),
                    ends_in_ways, &from);
    char times[20];
    uint64_t lost = 0;

    snprintf(times, sizeof times, "%u times", tries);
    for (int64_t i = 0; i < 40; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(result.index, i);
        if ((i < 10 || i > 16) && result.code == ZP_ELOST && code == ZP_ELOST) {
            lost++; /* done, and the worker ended before it was heard of */
            continue;
        }
        if (i < 10 || i > 16) {
            assert_int_equal(result.code, 0);
            assert_int_equal(int_of(result.value), i * i);
            continue;
        }
        assert_int_equal(result.code, code);
        assert_null(result.value);
        assert_has(result.error, "ways-"); /* which worker */
        assert_has(result.error, how[i - 10]);
        if (code == ZP_EPOISON)
            assert_has(result.error, times);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    assert_int_equal(progress_of(map).failed, 7 + lost);
    assert_true(progress_of(map).again >= 7 * tries);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void
test_functions_that_end_the_worker(void **state)
{
    (void)state;
    expect_ways(0, 1, ZP_EPOISON);
    expect_ways(0, 3, ZP_EPOISON);
}

static void
test_once(void **state)
{
    (void)state;
    expect_ways(ZP_ONCE, 1, ZP_ELOST);
}

/* ------------------------------------------------------------------ cancel --
 */

static int
stops_itself(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    raise(SIGSTOP);
    return never_ends(ctx, item, common);
}

/* Waits on the loop, where TERM is heard in another way than by default. */
static int
waits_for_ever(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)item;
    (void)common;
    return zp_get_when_equal(zp_ctx_state(ctx), NULL, "never", -1, NULL,
                             ZP_I(1));
}

struct run_wait {
    zp_ctx *ctx;
    zp_mapping *map;
    uint64_t running;
};

static bool
are_running(void *user)
{
    struct run_wait *w = user;

    assert_true(zp_ctx_dispatch(w->ctx) >= 0);
    return progress_of(w->map).running == w->running;
}

static void
cancel_while(zp_map_fn *fn, bool give_back)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 50};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 2), fn, &from);
    struct run_wait w = {ctx, map, 2};
    double began;
    int64_t n = 0;

    assert_true(zp_test_until(are_running, &w, 20));
    began = zp_test_now();
    if (give_back) {
        map = zp_map_free(map);
    } else {
        assert_ok(zp_map_cancel(map));
        assert_ok(zp_map_cancel(map));
        assert_returns(zp_map_next(map, NULL, SECONDS), -ECANCELED);
        assert_returns(zp_map_get(map, 0, "I", &n), -ECANCELED);
        assert_returns(zp_map_wait(map, SECONDS), -ECANCELED);
        assert_returns(zp_map_add(map, "I", &n), -ECANCELED);
        assert_ok(zp_map_end(map));
        assert_int_equal(progress_of(map).ended, 1);
        assert_int_equal(progress_of(map).code, -ECANCELED);
    }
    expect_processes(ctx, 0);
    /* Promised is about a second; the machine may be busy. */
    assert_true(zp_test_now() - began < 4 * zp_test_slow());
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_cancel(void **state)
{
    (void)state;
    cancel_while(never_ends, false);
    cancel_while(never_ends, true);
}

static void
test_cancel_what_ignores_term(void **state)
{
    (void)state;
    cancel_while(ignores_term, false);
    cancel_while(ignores_term, true);
}

static void
test_cancel_what_is_stopped(void **state)
{
    (void)state;
    cancel_while(stops_itself, false);
}

static void
test_cancel_what_waits(void **state)
{
    (void)state;
    cancel_while(waits_for_ever, false);
}

static void
test_cancel_after_the_end(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 10};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 1), square, &from);

    (void)state;
    expect_squares(map, 0, 10, 0);
    assert_ok(zp_map_cancel(map));
    assert_int_equal(progress_of(map).code, 0);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    map = map_numbers(ctx, MAP(.count = 1), square, &from); /* empty */
    assert_ok(zp_map_cancel(map)); /* before anything was done */
    assert_returns(zp_map_next(map, NULL, SECONDS), -ECANCELED);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_functions_that_wait),
        ZP_TEST(test_functions_that_run_the_loop),
        ZP_TEST(test_a_watch_that_is_left),
        ZP_TEST(test_functions_that_fork),
        ZP_TEST(test_functions_that_spawn),
        ZP_TEST(test_a_map_in_a_map),
        ZP_TEST(test_functions_that_end_the_worker),
        ZP_TEST(test_once),
        ZP_TEST(test_cancel),
        ZP_TEST(test_cancel_what_ignores_term),
        ZP_TEST(test_cancel_what_is_stopped),
        ZP_TEST(test_cancel_what_waits),
        ZP_TEST(test_cancel_after_the_end),
    };

    return zp_test_main("map_functions", tests, sizeof tests / sizeof *tests,
                        60);
}

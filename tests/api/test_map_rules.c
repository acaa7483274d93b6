/*
 * test_map_rules.c - single sentences of the contract of maps and swarms, each
 * of which was once not so: waits, callbacks that are held back, what is given
 * back at a bad moment, workers that cannot be started again.
 */
#include <math.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <ev.h>

#include "tests/api/mapping.h"

/* Words that this process and the workers share. */
static _Atomic int *shared;

static int
share_words(void **state)
{
    (void)state;
    shared = mmap(NULL, 64 * sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? -1 : 0;
}

static int
unshare_words(void **state)
{
    (void)state;
    return munmap((void *)shared, 64 * sizeof *shared);
}

/* ---------------------------------------------------------------- waiting --
 */

static void
test_a_timeout_that_is_no_number(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 1), square);
    int64_t n = 3;

    (void)state;
    assert_ok(zp_map_add(map, "I", &n));
    assert_ok(zp_map_end(map));
    assert_returns(zp_map_next(map, NULL, (double)NAN), -EINVAL);
    assert_returns(zp_map_get(map, (double)NAN, "I", &n), -EINVAL);
    assert_returns(zp_map_wait(map, (double)NAN), -EINVAL);
    assert_int_equal(int_of(next_of(map).value), 9);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* Item 4 kills its worker, the first time. */
static int
fourth_kills(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    if (int_of(item) == 4 && atomic_fetch_add(shared, 1) == 0)
        raise(SIGKILL);
    return square(ctx, item, common);
}

/* A window is full of results when there is one of each of its items, not when
 * there is nobody for a moment who works on the others. */
static void
test_a_window_is_not_full_while_a_worker_is_dead(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1000};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 1, .chunk = 1, .window = 8),
                                  fourth_kills, &from);

    (void)state;
    assert_returns(zp_map_wait(map, SECONDS), -EAGAIN);
    assert_int_equal(progress_of(map).done, 8);
    assert_true(progress_of(map).again > 0);
    for (int64_t i = 0; i < 8; i++)
        assert_int_equal(int_of(next_of(map).value), i * i);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------ callbacks held back --
 */

/* In the loop, during a wait with ZP_HOLD. */
typedef struct intruder {
    ev_timer timer;
    zp_ctx *ctx;
    zp_mapping *map; /* is waited for; or NULL */
} intruder;

static void
intrude(struct ev_loop *ev, ev_timer *timer, int events)
{
    intruder *me = timer->data;

    (void)ev;
    (void)events;
    if (me->map)
        assert_ok(zp_map_wait(me->map, SECONDS));
    assert_ok(zp_set_int(zp_ctx_state(me->ctx), "go", 1));
}

/* Wait with ZP_HOLD; MAP is waited for inside of that. */
static void
hold(zp_ctx *ctx, zp_mapping *map)
{
    intruder me = {.ctx = ctx, .map = map};

    assert_ok(zp_set_int(zp_ctx_state(ctx), "go", 0));
    ev_timer_init(&me.timer, intrude, 0., 0.);
    me.timer.data = &me;
    ev_timer_start(zp_ev_loop(ctx), &me.timer);
    assert_ok(zp_get_when_equal(zp_ctx_state(ctx), NULL, "go", SECONDS,
                                ZP_WATCH(.flags = ZP_HOLD), ZP_I(1)));
}

static int
count_result(zp_mapping *map, const zp_map_result *result, void *user)
{
    (void)map;
    ++((int *)user)[result ? 0 : 1];
    return 0;
}

static int
count_progress(zp_mapping *map, void *user)
{
    (void)map;
    ++*(int *)user;
    return 0;
}

/* Who waits for a map inside of a wait that holds callbacks back waits for what
 * its callbacks do, too. */
static void
test_a_map_that_is_waited_for_is_not_held_back(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int seen[2] = {0, 0};
    numbers from = {.end = 20}, others = {.end = 5};
    zp_mapping *map = map_numbers(
        ctx,
        MAP(.count = 1, .window = 4, .result_fn = count_result, .user = seen),
        square, &from);
    zp_mapping *other = map_numbers(ctx, MAP(.count = 1), square, &others);

    (void)state;
    hold(ctx, map);
    assert_in_range(seen[0], 16, 20); /* but for the last window */
    assert_int_equal(others.calls, 0);
    assert_ok(zp_run(ctx));
    assert_int_equal(seen[0], 20);
    assert_int_equal(seen[1], 1);
    expect_squares(other, 0, 5, 0);
    zp_map_free(map);
    zp_map_free(other);
    zp_ctx_free(ctx);
}

/* The end is told once, whatever was held back later. */
static void
test_progress_ends_once(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 10};
    int calls = 0;
    zp_mapping *map = map_numbers(
        ctx, MAP(.count = 1, .progress_fn = count_progress, .user = &calls),
        square, &from);
    int before;

    (void)state;
    assert_ok(zp_run(ctx));
    before = calls;
    hold(ctx, NULL);
    expect_squares(map, 0, 10, 0);
    assert_true(zp_ctx_dispatch(ctx) >= 0);
    assert_int_equal(calls, before);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- given back --
 */

struct files_wait {
    zp_ctx *ctx;
    int files;
};

static bool
as_few_files(void *user)
{
    struct files_wait *w = user;

    assert_true(zp_ctx_dispatch(w->ctx) >= 0);
    return zp_test_entries(zp_ctx_address(w->ctx)) <= w->files;
}

/* In the loop: it frees a map, and waits for another one. */
typedef struct freeing {
    ev_timer timer;
    zp_mapping *map, *other;
} freeing;

static void
free_and_wait(struct ev_loop *ev, ev_timer *timer, int events)
{
    freeing *me = timer->data;

    (void)ev;
    (void)events;
    zp_map_free(me->map);
    expect_squares(me->other, 0, 1, 0);
}

/* A map that is given back while it is waited for goes, with its swarm. */
static void
test_given_back_while_it_is_waited_for(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1}, one = {.end = 1};
    struct files_wait w = {.ctx = ctx};
    freeing me;

    (void)state;
    me.other = map_numbers(ctx, MAP(.count = 1), square, &from);
    w.files = zp_test_entries(zp_ctx_address(ctx));
    me.map = map_numbers(ctx, MAP(.count = 1), square, &one);
    ev_timer_init(&me.timer, free_and_wait, 0., 0.);
    me.timer.data = &me;
    ev_timer_start(zp_ev_loop(ctx), &me.timer);
    assert_returns(zp_map_wait(me.map, SECONDS), -ECANCELED);
    if (!zp_test_until(as_few_files, &w, 5))
        fail_msg("%d files, not %d", zp_test_entries(zp_ctx_address(ctx)),
                 w.files);
    zp_map_free(me.other);
    zp_ctx_free(ctx);
}

/* A thread of libzmq removes some. */
static bool
as_few_without_the_loop(void *user)
{
    struct files_wait *w = user;

    return zp_test_entries(zp_ctx_address(w->ctx)) <= w->files;
}

/* A swarm that cannot be made leaves nothing, though the loop is never run. */
static void
test_a_swarm_that_fails_is_gone_at_once(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct files_wait w = {.ctx = ctx};
    struct rlimit before, few;
    zp_mapping *map = NULL;
    int failures = 0, rc = -1;

    (void)state;
    w.files = zp_test_entries(zp_ctx_address(ctx));
    zp_swarm_free(new_swarm(ctx, 1));
    assert_true(zp_test_until(as_few_files, &w, 20));
    assert_ok(getrlimit(RLIMIT_NOFILE, &before));
    few = before;
    few.rlim_cur = (rlim_t)dup(0);
    close((int)few.rlim_cur);
    for (; rc < 0 && failures < 500; few.rlim_cur++, failures += rc < 0) {
        assert_ok(setrlimit(RLIMIT_NOFILE, &few));
        rc = zp_map(ctx, &map, MAP(.count = 1), square, NULL, NULL);
        assert_ok(setrlimit(RLIMIT_NOFILE, &before));
        if (rc < 0)
            assert_true(zp_test_until(as_few_without_the_loop, &w, 5));
        usleep(2000); /* libzmq's threads close the descriptors */
    }
    assert_ok(rc);
    assert_true(failures > 3);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ workers --
 */

static int
tell_shared_pid(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    atomic_store(shared, getpid());
    return square(ctx, item, common);
}

typedef struct killing_source {
    zp_ctx *ctx;
    zp_proc *sleeper;
    numbers from;
} killing_source;

/* Before its fourth item the worker dies, and that is seen in here. */
static int
kill_and_wait(zp_mapping *map, void *user)
{
    killing_source *s = user;
    zp_result result = {.size = sizeof result};
    int pid = atomic_load(shared);

    if (s->from.next == 3 && pid && kill(pid, SIGKILL) == 0)
        while (kill(pid, 0) == 0)
            assert_returns(zp_wait(s->sleeper, &result, 0.01), -ETIMEDOUT);
    return give_numbers(map, &s->from);
}

static void
test_a_worker_dies_while_the_source_waits(void **state)
{
    killing_source s = {.from = {.end = 10}};
    zp_mapping *map = NULL;

    (void)state;
    atomic_store(shared, 0);
    s.ctx = new_ctx(NULL);
    s.sleeper = spawn(s.ctx, NULL, sleeps, NULL);
    assert_ok(zp_map(s.ctx, &map, MAP(.count = 1, .window = 1), tell_shared_pid,
                     kill_and_wait, &s));
    expect_squares(map, 0, 10, 0);
    zp_map_free(map);
    zp_ctx_free(s.ctx);
}

struct attempts_wait {
    zp_ctx *ctx;
    unsigned attempts; /* of "map-0" */
};

static int
see_attempts(const zp_process *process, void *user)
{
    struct attempts_wait *w = user;

    if (strcmp(process->name, "map-0") == 0)
        w->attempts = process->attempts;
    return 0;
}

static bool
some_attempts(void *user)
{
    struct attempts_wait *w = user;

    assert_true(zp_ctx_dispatch(w->ctx) >= 0);
    assert_true(zp_each_process(w->ctx, see_attempts, w) >= 0);
    return w->attempts >= 4;
}

/* Take all descriptors that there are. */
static int
take_descriptors(int *fds, int room)
{
    int n = 0;

    while (n < room && (fds[n] = dup(0)) >= 0)
        n++;
    assert_true(n < room);
    return n;
}

/* libzmq aborts a process that has no descriptor for who connects: a worker is
 * not started again before there are some. */
static void
test_no_descriptors_to_start_again_with(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 10};
    zp_mapping *map = NULL;
    struct attempts_wait w = {.ctx = ctx};
    struct rlimit before, few;
    int fds[256], n;

    (void)state;
    atomic_store(shared, 0);
    map =
        map_numbers(ctx, MAP(.count = 1, .window = 1), tell_shared_pid, &from);
    assert_int_equal(int_of(next_of(map).value), 0);
    assert_ok(getrlimit(RLIMIT_NOFILE, &before));
    few = before;
    few.rlim_cur = 200;
    assert_ok(setrlimit(RLIMIT_NOFILE, &few));
    n = take_descriptors(fds, 256);
    assert_ok(kill(atomic_load(shared), SIGKILL));
    if (!zp_test_until(some_attempts, &w, 20))
        fail_msg("%u attempts", w.attempts);
    assert_int_equal(progress_of(map).ended, 0);
    while (n)
        close(fds[--n]);
    assert_ok(setrlimit(RLIMIT_NOFILE, &before));
    expect_squares(map, 1, 10, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------------- ends --
 */

/* Items 0 - 8 are done when item 9, of the same task, kills the worker: nobody
 * has heard of them. */
static int
ninth_kills(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    if (int_of(item) == 9)
        raise(SIGKILL);
    return square(ctx, item, common);
}

static void
test_once_loses_what_is_unheard(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 12, .each = 12};
    zp_mapping *map =
        map_numbers(ctx, MAP(.count = 1, .chunk = 10, .flags = ZP_ONCE),
                    ninth_kills, &from);
    int lost = 0;

    (void)state;
    for (int i = 0; i < 12; i++) {
        zp_map_result result = next_of(map);

        assert_true(result.code == 0 || (i < 10 && result.code == ZP_ELOST));
        assert_true(result.code == 0 || result.error[0]);
        lost += result.code == ZP_ELOST;
        if (i == 9)
            assert_int_equal(result.code, ZP_ELOST);
    }
    assert_in_range(lost, 1, 10);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* A map that nobody has ended is, by the end of its swarm. */
static void
test_a_stop_ends_what_nobody_has_ended(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    zp_mapping *map = NULL;

    (void)state;
    assert_ok(zp_swarm_map(swarm, &map, NULL, square, NULL, NULL));
    for (int64_t i = 0; i < 10; i++)
        assert_ok(zp_map_add(map, "I", &i));
    assert_ok(zp_swarm_stop(swarm, 0));
    for (int64_t i = 0; i < 10; i++)
        assert_int_equal(int_of(next_of(map).value), i * i);
    assert_returns(zp_map_next(map, NULL, SECONDS), -ECANCELED);
    assert_returns(zp_map_wait(map, SECONDS), -ECANCELED);
    assert_int_equal(progress_of(map).code, -ECANCELED);
    zp_map_free(map);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

/* What other maps have in a worker that is ended for one that was cancelled is
 * done elsewhere, or afterwards, with ZP_ONCE, too. */
static void
test_cancelling_costs_no_other_map(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 1);
    numbers one = {.end = 1}, others = {.end = 50, .each = 50};
    zp_mapping *map, *other;

    (void)state;
    map = swarm_numbers(swarm, NULL, never_ends, &one);
    other = swarm_numbers(swarm, MAP(.flags = ZP_ONCE, .chunk = 5), square,
                          &others);
    while (progress_of(map).running == 0)
        assert_true(zp_ctx_dispatch(ctx) >= 0);
    assert_ok(zp_map_cancel(map));
    expect_squares(other, 0, 50, 0);
    zp_map_free(map);
    zp_map_free(other);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------- another process --
 */

/* Attached to ADDRESS, with a swarm, until it is killed. */
static _Noreturn void
keep_a_swarm(const char *address, const zp_sync *sync)
{
    zp_ctx *ctx = NULL;
    zp_swarm *swarm;

    if (zp_ctx_attach(&ctx, address, NULL) < 0 ||
        zp_swarm_new(ctx, &swarm, SWARM(.count = 2)) < 0 ||
        zp_ctx_dispatch(ctx) < 0)
        _exit(1);
    zp_sync_post(sync);
    for (;;)
        pause();
}

/* A swarm whose process was killed leaves no socket in a state that goes on. */
static void
test_a_killed_owner_leaves_nothing(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    const char *address = zp_ctx_address(ctx);
    struct files_wait w = {.ctx = ctx};
    zp_sync sync;
    pid_t pid;

    (void)state;
    zp_sync_open(&sync);
    w.files = zp_test_entries(zp_ctx_address(ctx));
    pid = fork();
    if (pid == 0)
        keep_a_swarm(address, &sync);
    zp_sync_wait(&sync, SECONDS);
    assert_true(zp_test_entries(zp_ctx_address(ctx)) > w.files);
    assert_ok(kill(pid, SIGKILL));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    if (!zp_test_until(as_few_files, &w, 20))
        fail_msg("%d files, not %d", zp_test_entries(zp_ctx_address(ctx)),
                 w.files);
    zp_sync_close(&sync);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_a_timeout_that_is_no_number),
        ZP_TEST_WITH(test_a_window_is_not_full_while_a_worker_is_dead,
                     share_words, unshare_words),
        ZP_TEST(test_a_map_that_is_waited_for_is_not_held_back),
        ZP_TEST(test_progress_ends_once),
        ZP_TEST(test_given_back_while_it_is_waited_for),
        ZP_TEST(test_a_swarm_that_fails_is_gone_at_once),
        ZP_TEST_WITH(test_a_worker_dies_while_the_source_waits, share_words,
                     unshare_words),
        ZP_TEST_WITH(test_no_descriptors_to_start_again_with, share_words,
                     unshare_words),
        ZP_TEST(test_once_loses_what_is_unheard),
        ZP_TEST(test_a_stop_ends_what_nobody_has_ended),
        ZP_TEST(test_cancelling_costs_no_other_map),
        ZP_TEST(test_a_killed_owner_leaves_nothing),
    };

    return zp_test_main("map_rules", tests, sizeof tests / sizeof *tests, 60);
}

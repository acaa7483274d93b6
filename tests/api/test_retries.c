/*
 * test_retries.c - processes that are started again: how often, why, with
 * what, and when it is over. (When exactly, by a clock of its own:
 * tests/unit/test_retry.c.)
 *
 * What a child does depends on the number of its attempt, which it counts in
 * the state. Attempts are started by the parent's loop alone: so what happens
 * between two of them is in the hands of the test.
 */
#include "tests/api/spawning.h"

#include <limits.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* -------------------------------------------------------------- children -- */

/* What an attempt does: a number to return, or one of these. */
#define DIES(number) (10000 + (number))
#define EXITS(status) (20000 + (status))
#define STAYS 30000

typedef struct plan {
    const char *key;    /* counts the attempts; NULL: "n" */
    const int *actions; /* of each attempt; the last one's goes on */
    int n;
    zp_sync up; /* posted by who stays */
} plan;

static int
count_attempt(zp_ctx *ctx, const char *key)
{
    zp_state *state = zp_ctx_state(ctx);
    int64_t n = 0;

    key = key ? key : "n";
    if (!zp_contains(state, key) && zp_set_int(state, key, 0) < 0)
        return -1;
    return zp_increase(state, key, &n, 1) < 0 ? -1 : (int)n;
}

static int64_t
attempts_counted(zp_ctx *ctx)
{
    int64_t n = 0;

    (void)zp_get_int(zp_ctx_state(ctx), "n", &n);
    return n;
}

static void
die(int number)
{
    struct rlimit none = {0, 0};

    setrlimit(RLIMIT_CORE, &none);
    raise(number);
}

static int
acts(zp_ctx *ctx, void *arg)
{
    const plan *p = arg;
    int attempt = count_attempt(ctx, p->key), action;

    if (attempt < 1)
        return zp_fail(ctx, -EBADMSG, "cannot count: %s", zp_ctx_error(ctx));
    action = p->actions[(attempt < p->n ? attempt : p->n) - 1];
    if (action == STAYS)
        sleeps(ctx, (void *)&p->up);
    if (action >= EXITS(0))
        exit(action - EXITS(0));
    if (action >= DIES(0))
        die(action - DIES(0));
    if (action < 0)
        return zp_fail(ctx, action, "attempt %d failed", attempt);
    return action;
}

#define PLAN(...)                                                              \
    {                                                                          \
        .actions = (const int[]){__VA_ARGS__},                                 \
        .n = sizeof((int[]){__VA_ARGS__}) / sizeof(int)                        \
    }

/* Run P with RETRY: how it ended, after ATTEMPTS of them. */
static zp_result
run_plan(zp_ctx *ctx, plan *p, const zp_retry *retry, unsigned attempts)
{
    zp_proc *proc;
    zp_result result = {.size = sizeof result};
    record r;
    int rc;

    assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0));
    proc = spawn(ctx, SPAWN(.retry = retry), acts, p);
    rc = zp_wait(proc, &result, SECONDS);
    assert_int_equal(rc, result.code < 0 ? ZP_EFAILED : 0);
    if (result.attempts != attempts)
        fail_msg("%u attempts, not %u: %d, \"%s\"", result.attempts, attempts,
                 result.code, result.error);
    assert_int_equal(attempts_counted(ctx), attempts);
    assert_true(find_record(ctx, zp_proc_id(proc), &r));
    assert_int_equal(r.p.state, ZP_PROC_ENDED);
    assert_int_equal(r.p.attempts, attempts);
    assert_int_equal(r.p.code, result.code);
    assert_int_equal(r.p.signal, result.signal);
    assert_int_equal(r.p.status, result.status);
    assert_string_equal(r.error, result.error);
    return result;
}

/* Wait until the process PID has ended, and leave it to be reaped. */
static void
await_end(pid_t pid)
{
    siginfo_t info;

    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0)
        assert_int_equal(errno, EINTR);
}

/* ----------------------------------------------------------------- counts --
 */

static void
test_counts(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan fails = PLAN(-EIO), recovers = PLAN(-EIO, -EPIPE, 7), works = PLAN(0);
    zp_result result;

    (void)state;
    result = run_plan(ctx, &works, RETRY(.retries = 5, .delay = -1), 1);
    assert_int_equal(result.code, 0);
    result = run_plan(ctx, &fails, RETRY(.retries = 0, .delay = -1), 1);
    assert_int_equal(result.code, -EIO);
    result = run_plan(ctx, &fails, RETRY(.retries = 1, .delay = -1), 2);
    assert_string_equal(result.error, "attempt 2 failed");
    result = run_plan(ctx, &fails, RETRY(.retries = 6, .delay = -1), 7);
    assert_string_equal(result.error, "attempt 7 failed");
    assert_has(result.origin, "test_retries.c:");
    result = run_plan(ctx, &recovers, RETRY(.retries = 2, .delay = -1), 3);
    assert_int_equal(result.code, 7);
    assert_string_equal(result.error, "");
    assert_string_equal(result.origin, "");
    result = run_plan(ctx, &recovers, RETRY(.retries = 1, .delay = -1), 2);
    assert_int_equal(result.code, -EPIPE);
    result = run_plan(ctx, &recovers, RETRY(.retries = -1, .delay = -1), 3);
    assert_int_equal(result.code, 7);
    result = run_plan(ctx, &recovers, NULL, 1);
    assert_int_equal(result.code, -EIO);
    zp_ctx_free(ctx);
}

/* Whatever makes it fail. */
static void
test_all_failures(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(DIES(SIGSEGV), EXITS(3), DIES(SIGKILL), -EIO, EXITS(0));
    zp_result result;

    (void)state;
    result = run_plan(ctx, &p, RETRY(.retries = 4, .delay = -1), 5);
    assert_int_equal(result.code, 0);
    assert_int_equal(result.signal, 0);
    assert_string_equal(result.backtrace, "");
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ lists --
 */

static void
test_codes(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int codes[] = {-EIO, ZP_EFAILED};
    zp_retry retry = {.size = sizeof retry,
                      .flags = ZP_RETRY_CODES,
                      .retries = 9,
                      .delay = -1,
                      .codes = codes,
                      .n_codes = 2};
    plan listed = PLAN(-EIO, EXITS(4), -EIO, -EPIPE, 0);
    plan any_signal = PLAN(DIES(SIGTERM), -EPIPE);
    zp_result result;

    (void)state;
    result = run_plan(ctx, &listed, &retry, 4);
    assert_int_equal(result.code, -EPIPE);
    retry.n_codes = 0; /* never after such a failure; but after signals */
    retry.codes = NULL;
    result = run_plan(ctx, &listed, &retry, 1);
    assert_int_equal(result.code, -EIO);
    result = run_plan(ctx, &any_signal, &retry, 2);
    assert_int_equal(result.code, -EPIPE);
    zp_ctx_free(ctx);
}

static void
test_signals(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int signals[] = {SIGUSR1, SIGKILL};
    zp_retry retry = {.size = sizeof retry,
                      .flags = ZP_RETRY_SIGNALS,
                      .retries = 9,
                      .delay = -1,
                      .signals = signals,
                      .n_signals = 2};
    plan listed = PLAN(DIES(SIGUSR1), DIES(SIGKILL), DIES(SIGTERM), 0);
    plan any_code = PLAN(-EIO, EXITS(2), DIES(SIGTERM), 0);
    zp_result result;

    (void)state;
    result = run_plan(ctx, &listed, &retry, 3);
    assert_int_equal(result.signal, SIGTERM);
    result = run_plan(ctx, &any_code, &retry, 3);
    assert_int_equal(result.signal, SIGTERM);
    retry.signals = NULL;
    retry.n_signals = 0;
    result = run_plan(ctx, &listed, &retry, 1);
    assert_int_equal(result.signal, SIGUSR1);
    retry.flags |= ZP_RETRY_CODES; /* for nothing at all */
    result = run_plan(ctx, &any_code, &retry, 1);
    assert_int_equal(result.code, -EIO);
    zp_ctx_free(ctx);
}

/* The caller's lists may go when the call is over. */
static void
test_lists_are_copied(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int codes[] = {-EIO}, signals[] = {SIGUSR1};
    zp_retry retry = {.size = sizeof retry,
                      .flags = ZP_RETRY_CODES | ZP_RETRY_SIGNALS,
                      .retries = 9,
                      .delay = -1,
                      .codes = codes,
                      .n_codes = 1,
                      .signals = signals,
                      .n_signals = 1};
    plan p = PLAN(-EIO, DIES(SIGUSR1), 5);
    zp_proc *proc = spawn(ctx, SPAWN(.retry = &retry), acts, &p);

    (void)state;
    codes[0] = -EPIPE;
    signals[0] = SIGKILL;
    memset(&retry, 0, sizeof retry);
    assert_int_equal(result_of(proc, 0).code, 5);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- arguments --
 */

static int
wants_again(zp_ctx *ctx, void *arg)
{
    if (count_attempt(ctx, NULL) == 1)
        return arg && strcmp(arg, "first") == 0 ? -EAGAIN : -EBADMSG;
    return arg && strcmp(arg, "again") == 0 ? 0 : -EBADMSG;
}

static int
wants_null(zp_ctx *ctx, void *arg)
{
    return count_attempt(ctx, NULL) == 1 ? arg ? -EAGAIN : -EBADMSG
           : arg                         ? -EBADMSG
                                         : 0;
}

static int
wants_the_same(zp_ctx *ctx, void *arg)
{
    if (!arg || strcmp(arg, "first"))
        return -EBADMSG;
    return count_attempt(ctx, NULL) < 3 ? -EAGAIN : 0;
}

static void
retried_with(zp_ctx *ctx, zp_proc_fn *fn, void *arg, size_t arg_size,
             zp_retry *retry, char *spoil)
{
    zp_proc *proc;

    retry->size = sizeof *retry;
    retry->retries = 2;
    retry->delay = -1;
    retry->flags |= ZP_RETRY_CODES;
    retry->codes = &(int){-EAGAIN};
    retry->n_codes = 1;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0));
    proc = spawn(ctx, SPAWN(.retry = retry, .arg_size = arg_size), fn, arg);
    if (spoil)
        memset(spoil, 'x', 12);
    result_of(proc, 0);
}

static void
test_arguments(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char first[] = "first", again[] = "again", both[12];
    zp_retry pointer = {.flags = ZP_RETRY_ARG, .arg = again};
    zp_retry null = {.flags = ZP_RETRY_ARG}, same = {0};
    zp_retry bytes = {.flags = ZP_RETRY_ARG, .arg_size = 6};

    (void)state;
    retried_with(ctx, wants_again, first, 0, &pointer, NULL);
    retried_with(ctx, wants_null, first, 0, &null, NULL);
    retried_with(ctx, wants_the_same, first, 0, &same, NULL);
    memcpy(both, "first\0again\0", 12);
    bytes.arg = both + 6;
    retried_with(ctx, wants_again, both, 6, &bytes, both);
    memcpy(both, "first\0again\0", 12);
    retried_with(ctx, wants_again, first, 0, &bytes, both);
    memcpy(both, "first\0again\0", 12);
    retried_with(ctx, wants_the_same, both, 6, &same, both);
    zp_ctx_free(ctx);
}

/* Those of the context's defaults are copies, too. */
static void
test_default_argument(void **state)
{
    char again[12] = "again";
    zp_retry retry = {.size = sizeof retry,
                      .flags = ZP_RETRY_ARG,
                      .retries = 1,
                      .delay = -1,
                      .arg = again,
                      .arg_size = 6};
    zp_ctx *ctx = new_ctx(&(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                            .spawn = SPAWN(.retry = &retry)});

    (void)state;
    memset(again, 'x', sizeof again);
    memset(&retry, 0, sizeof retry);
    result_of(spawn(ctx, NULL, wants_again, (void *)"first"), 0);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------------------- results --
 */

static int
leaves_results(zp_ctx *ctx, void *arg)
{
    int attempt = count_attempt(ctx, NULL), first = *(int *)arg;

    if ((attempt == 1) == first && zp_return(ctx, "i", &attempt) < 0)
        return -EBADMSG;
    return attempt == 1 ? -EAGAIN : 0;
}

/* What an attempt left that failed is not the result of the next one. */
static void
test_results(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int first, value = 0;

    (void)state;
    for (first = 0; first < 2; first++) {
        zp_proc *proc;

        assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0));
        proc = spawn(ctx, SPAWN(.retry = RETRY(.retries = 1, .delay = -1)),
                     leaves_results, &first);
        result_of(proc, 0);
        assert_int_equal(zp_proc_get(proc, "i", &value), first ? ZP_ENOKEY : 0);
        assert_int_equal(zp_process_get(ctx, zp_proc_id(proc), "i", &value),
                         first ? ZP_ENOKEY : 0);
    }
    assert_int_equal(value, 2);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------------------- delays --
 */

/* Notes when it began and ended. */
static int
notes_times(zp_ctx *ctx, void *arg)
{
    int attempt = count_attempt(ctx, NULL);
    char key[16];

    (void)arg;
    snprintf(key, sizeof key, "t%d", attempt);
    if (zp_set_double(zp_ctx_state(ctx), key, zp_test_now()) < 0)
        return -EBADMSG;
    return attempt < 4 ? -EAGAIN : 0;
}

static double
noted(zp_ctx *ctx, int attempt)
{
    double t = 0;
    char key[16];

    snprintf(key, sizeof key, "t%d", attempt);
    assert_ok(zp_get_double(zp_ctx_state(ctx), key, &t));
    return t;
}

/* Not before the delay is over, which grows, but not for ever. */
static void
test_delays(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_retry retry = {.size = sizeof retry,
                      .retries = 3,
                      .delay = 0.04,
                      .backoff = 2,
                      .max_delay = 0.06};
    zp_proc *proc = spawn(ctx, SPAWN(.retry = &retry), notes_times, NULL);

    (void)state;
    assert_int_equal(result_of(proc, 0).attempts, 4);
    assert_true(noted(ctx, 2) - noted(ctx, 1) >= 0.04);
    assert_true(noted(ctx, 3) - noted(ctx, 2) >= 0.06);
    assert_true(noted(ctx, 4) - noted(ctx, 3) >= 0.06);
    zp_ctx_free(ctx);
}

/* The delay begins when the parent notices the end, also when its loop has
 * stood still since long. */
static void
test_delay_after_a_pause(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_retry retry = {.size = sizeof retry, .retries = 3, .delay = 0.15};
    zp_proc *proc;
    double noticed;

    (void)state;
    assert_true(zp_ctx_dispatch(ctx) >= 0);
    proc = spawn(ctx, SPAWN(.retry = &retry), notes_times, NULL);
    await_end(zp_proc_pid(proc));
    while (zp_test_now() - noted(ctx, 1) < 0.2)
        usleep(10000);
    noticed = zp_test_now();
    assert_int_equal(zp_proc_alive(proc), 1); /* reaps it, outside the loop */
    assert_int_equal(zp_proc_pid(proc), 0);
    assert_int_equal(result_of(proc, 0).attempts, 4);
    assert_true(noted(ctx, 2) - noticed >= 0.15);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------------------- between --
 */

static bool
has_no_pid(void *user)
{
    zp_proc *proc = user;

    return zp_proc_alive(proc) && zp_proc_pid(proc) == 0;
}

/* A process whose first attempt has failed, and whose second is far away. */
static zp_proc *
waiting_proc(zp_ctx *ctx, plan *p)
{
    zp_retry retry = {
        .size = sizeof retry, .retries = -1, .delay = 1000, .max_delay = 1000};
    zp_proc *proc =
        spawn(ctx, SPAWN(.name = "again", .retry = &retry), acts, p);

    assert_true(zp_test_until(has_no_pid, proc, 20));
    record_in(ctx, zp_proc_id(proc), ZP_PROC_WAITING, 1);
    return proc;
}

static void
test_between(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(-EIO);
    zp_proc *proc = waiting_proc(ctx, &p);
    zp_result result = {.size = sizeof result};
    record r;
    int value;

    (void)state;
    assert_int_equal(zp_proc_pid(proc), 0);
    assert_int_equal(zp_proc_alive(proc), 1);
    assert_returns(zp_wait(proc, &result, 0), -ETIMEDOUT);
    assert_returns(zp_wait(proc, &result, 0.02), -ETIMEDOUT);
    assert_returns(zp_wait_ready(proc, 0.02), -ETIMEDOUT);
    assert_returns(zp_start(proc), -EALREADY);
    assert_returns(zp_proc_get(proc, "i", &value), -EBUSY);
    assert_returns(zp_ctx_wait(ctx, &result, 1, ZP_SAFE, 0), -ETIMEDOUT);
    assert_int_equal(result.code, -EBUSY);
    assert_int_equal(result.attempts, 1);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_WAITING, 1);
    assert_int_equal(r.p.attempts, 1);
    assert_int_equal(r.p.code, -EIO); /* why it waits */
    assert_string_equal(r.error, "attempt 1 failed");
    assert_int_equal(r.p.has_result, 0);
    assert_int_equal(zp_process_get(ctx, r.p.id, "i", &value), -EBUSY);

    assert_returns(zp_stop(proc, &result), ZP_EFAILED);
    assert_int_equal(result.code, -EIO); /* of the last attempt */
    assert_int_equal(result.status, 1);
    assert_int_equal(result.attempts, 1);
    assert_string_equal(result.error, "attempt 1 failed");
    assert_int_equal(zp_proc_alive(proc), 0);
    assert_int_equal(zp_proc_pid(proc), result.pid);
    assert_true(result.pid > 0);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_ENDED, 1);
    assert_int_equal(r.p.code, -EIO);
    assert_int_equal(r.p.pid, result.pid);
    assert_returns(zp_stop(proc, &result), ZP_EFAILED);
    assert_returns(zp_wait(proc, &result, 0), ZP_EFAILED);
    zp_ctx_free(ctx);
}

/* Stopped while an attempt runs: there is no other one. */
static void
test_stopped(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(-EIO, STAYS);
    zp_result result = {.size = sizeof result};
    zp_proc *proc;
    int i;

    (void)state;
    zp_sync_open(&p.up);
    proc =
        spawn(ctx, SPAWN(.retry = RETRY(.retries = -1, .delay = -1)), acts, &p);
    record_in(ctx, zp_proc_id(proc), ZP_PROC_RUNNING, 2);
    zp_sync_wait(&p.up, 20);
    assert_returns(zp_stop(proc, &result), ZP_EFAILED);
    assert_int_equal(result.signal, SIGTERM);
    assert_int_equal(result.attempts, 2);
    for (i = 0; i < 5; i++)
        assert_true(zp_ctx_dispatch(ctx) >= 0);
    assert_int_equal(attempts_counted(ctx), 2);
    assert_int_equal(
        record_in(ctx, zp_proc_id(proc), ZP_PROC_ENDED, 2).p.attempts, 2);
    zp_sync_close(&p.up);
    zp_ctx_free(ctx);
}

/* All of a context: one that waits, one that runs, one not started. */
static void
test_all_stopped(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan fails = PLAN(-EIO), stays = PLAN(STAYS);
    zp_proc *waiting = waiting_proc(ctx, &fails);
    zp_result results[2];
    zp_proc *running, *deferred;
    int i;

    (void)state;
    zp_sync_open(&stays.up);
    stays.key = "other";
    for (i = 0; i < 2; i++)
        results[i].size = sizeof results[i];
    running = spawn(ctx, SPAWN(.retry = RETRY(.retries = -1, .delay = -1)),
                    acts, &stays);
    deferred = spawn(ctx, SPAWN(.flags = ZP_DEFERRED), returns_0, NULL);
    zp_sync_wait(&stays.up, 20);
    assert_ok(zp_ctx_stop(ctx, results, 2));
    assert_int_equal(results[0].code, -EIO);
    assert_int_equal(results[1].signal, SIGTERM);
    assert_int_equal(zp_proc_alive(waiting), 0);
    assert_int_equal(zp_proc_alive(running), 0);
    assert_int_equal(zp_proc_alive(deferred), 0);
    assert_int_equal(attempts_counted(ctx), 1);
    zp_sync_close(&stays.up);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ crash loops --
 */

static void
test_crash_loop(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_retry retry = {.size = sizeof retry,
                      .retries = -1,
                      .delay = -1,
                      .crash_count = 3,
                      .crash_time = 1000};
    plan fails = PLAN(-EIO), dies = PLAN(-EIO, -EIO, DIES(SIGABRT));
    zp_result result;

    (void)state;
    result = run_plan(ctx, &fails, &retry, 3);
    assert_int_equal(result.code, ZP_ECRASHLOOP);
    assert_int_equal(result.status, 1);
    assert_has(result.error, "crash loop");
    assert_has(result.error, "3 attempts");
    assert_has(result.error, "attempt 3 failed");
    assert_has(result.origin, "test_retries.c");
    assert_has(zp_ctx_error(ctx), "crash loop");

    result = run_plan(ctx, &dies, &retry, 3);
    assert_int_equal(result.code, ZP_ECRASHLOOP);
    assert_int_equal(result.status, -1);
    assert_int_equal(result.signal, SIGABRT);
    assert_has(result.error, "killed by signal");
    assert_true(result.backtrace[0]);

    retry.retries = 1; /* over before it is a loop */
    assert_int_equal(run_plan(ctx, &fails, &retry, 2).code, -EIO);
    retry.retries = -1;
    retry.crash_time = 1e-9; /* none in so short a time */
    dies = (plan)PLAN(-EIO, -EIO, -EIO, -EIO, 0);
    assert_int_equal(run_plan(ctx, &dies, &retry, 5).code, 0);
    zp_ctx_free(ctx);
}

static int
runs_a_while(zp_ctx *ctx, void *arg)
{
    double until = zp_test_now() + *(double *)arg;
    int attempt = count_attempt(ctx, NULL);

    while (zp_test_now() < until)
        usleep(1000);
    return attempt < 4 ? -EAGAIN : 0;
}

/* An attempt that ran long enough: the count begins anew. */
static void
test_stable(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_retry retry = {.size = sizeof retry, .retries = 1, .delay = -1};
    double seconds = 0.03;

    (void)state;
    assert_int_equal(
        result_of(spawn(ctx, SPAWN(.retry = &retry), runs_a_while, &seconds),
                  ZP_EFAILED)
            .attempts,
        2);
    assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0));
    retry.stable = seconds;
    assert_int_equal(
        result_of(spawn(ctx, SPAWN(.retry = &retry), runs_a_while, &seconds), 0)
            .attempts,
        4);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- final end --
 */

typedef struct calls {
    int n;
    unsigned attempts;
    int code;
} calls;

static int
on_exit_count(zp_proc *proc, const zp_result *result, void *user)
{
    calls *c = user;

    (void)proc;
    c->n++;
    c->attempts = result->attempts;
    c->code = result->code;
    return 0;
}

/* Whoever waits or is called hears of the last attempt alone. */
static void
test_final_end(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(-EIO, DIES(SIGKILL), 9);
    const zp_retry *retry = RETRY(.retries = 5, .delay = 0.001);
    zp_result result = {.size = sizeof result};
    calls c = {0};
    zp_proc *proc;

    (void)state;
    proc = spawn(
        ctx, SPAWN(.retry = retry, .exit_fn = on_exit_count, .exit_user = &c),
        acts, &p);
    assert_ok(zp_run(ctx)); /* goes on until it was called */
    assert_int_equal(c.n, 1);
    assert_int_equal(c.attempts, 3);
    assert_int_equal(c.code, 9);
    assert_int_equal(zp_proc_alive(proc), 0);
    zp_proc_free(proc);

    assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0));
    proc = spawn(ctx, SPAWN(.retry = retry), acts, &p);
    assert_ok(zp_ctx_wait(ctx, &result, 1, 0, SECONDS)); /* no failure yet */
    assert_int_equal(result.attempts, 3);
    zp_proc_free(proc);

    assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0)); /* nobody asks */
    assert_ok(zp_spawn(ctx, NULL, SPAWN(.retry = retry), acts, &p));
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, SECONDS), 0);
    assert_int_equal(attempts_counted(ctx), 3);

    assert_ok(zp_set_int(zp_ctx_state(ctx), "n", 0)); /* not any more */
    c.n = 0;
    proc = spawn(
        ctx, SPAWN(.retry = retry, .exit_fn = on_exit_count, .exit_user = &c),
        acts, &p);
    zp_proc_free(proc);
    assert_ok(zp_run(ctx));
    assert_int_equal(c.n, 1);
    assert_int_equal(attempts_counted(ctx), 3);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------- no more descriptors --
 */

static struct rlimit roomy;

/* As many descriptors as there are, and no more. */
static void
no_descriptors(bool none)
{
    struct rlimit tight = roomy;
    int highest = dup(0);

    assert_true(highest >= 0);
    close(highest);
    tight.rlim_cur = (rlim_t)highest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, none ? &tight : &roomy), 0);
}

/* An attempt that cannot be started is a failure like others, and the next one
 * is tried. */
static void
test_cannot_start(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(DIES(SIGSEGV), 3);
    zp_proc *proc;
    zp_result result;
    record r;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &roomy), 0);
    proc = spawn(ctx, SPAWN(.retry = RETRY(.retries = -1, .delay = 0.01)), acts,
                 &p);
    await_end(zp_proc_pid(proc));
    no_descriptors(true);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_WAITING, 3);
    assert_int_equal(r.p.code, -EMFILE);
    assert_has(r.error, "could not be started again");
    assert_int_equal(r.p.signal, 0);
    assert_int_equal(attempts_counted(ctx), 1);
    no_descriptors(false);
    result = result_of(proc, 0);
    assert_int_equal(result.code, 3);
    assert_true(result.attempts > 3);
    assert_int_equal(attempts_counted(ctx), 2);
    zp_ctx_free(ctx);
}

/* The last one could not either: that is how it ended; of the crash before
 * nothing is told. */
static void
test_never_started_again(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(DIES(SIGSEGV), 3);
    zp_result result;
    zp_proc *proc;
    record r;
    int fds = zp_test_open_fds();

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &roomy), 0);
    proc = spawn(ctx, SPAWN(.retry = RETRY(.retries = 3, .delay = 0.001)), acts,
                 &p);
    await_end(zp_proc_pid(proc));
    no_descriptors(true);
    result = result_of(proc, ZP_EFAILED);
    no_descriptors(false);
    assert_int_equal(result.code, -EMFILE);
    assert_int_equal(result.status, -1);
    assert_int_equal(result.signal, 0);
    assert_int_equal(result.attempts, 4);
    assert_has(result.error, "could not be started again");
    assert_string_equal(result.backtrace, "");
    assert_true(result.ended >= result.started - 0.001);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_ENDED, 4);
    assert_int_equal(r.p.code, -EMFILE);
    assert_string_equal(r.error, result.error);
    assert_string_equal(r.backtrace, "");
    assert_true(r.p.ended >= r.p.started - 0.001);
    assert_true(zp_test_open_fds() <= fds + 1); /* of the loop's */
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------- freed meanwhile --
 */

/* The context goes while one waits for its next attempt, and one runs: nothing
 * is started any more, nothing is called. */
static void
test_freed(void **state)
{
    zp_ctx *owner = new_ctx(NULL), *ctx;
    plan fails = PLAN(-EIO), stays = PLAN(STAYS);
    uint64_t waiting, running;
    calls c = {0};
    record r;

    (void)state;
    zp_sync_open(&stays.up);
    stays.key = "other";
    assert_ok(zp_ctx_attach(&ctx, zp_ctx_address(owner), NULL));
    waiting = zp_proc_id(waiting_proc(ctx, &fails));
    running = zp_proc_id(spawn(ctx,
                               SPAWN(.retry = RETRY(.retries = -1, .delay = -1),
                                     .exit_fn = on_exit_count, .exit_user = &c),
                               acts, &stays));
    zp_sync_wait(&stays.up, 20);
    zp_ctx_free(ctx);
    r = record_in(owner, waiting, ZP_PROC_ENDED, 1);
    assert_int_equal(r.p.code, -EIO);
    assert_int_equal(r.p.attempts, 1);
    r = record_in(owner, running, ZP_PROC_ENDED, 1);
    assert_int_equal(r.p.signal, SIGTERM);
    assert_int_equal(r.p.attempts, 1);
    assert_int_equal(c.n, 0);
    assert_int_equal(attempts_counted(owner), 1);
    zp_sync_close(&stays.up);
    zp_ctx_free(owner);
}

/* ----------------------------------------------------------------- nested --
 */

/* Spawns one that fails twice, and once for good; tells how many attempts it
 * took. */
static int
retries_below(zp_ctx *ctx, void *arg)
{
    zp_result result = {.size = sizeof result};
    zp_proc *proc;
    int rc = zp_spawn(
        ctx, &proc,
        SPAWN(.name = "below", .retry = RETRY(.retries = 4, .delay = -1)), acts,
        arg);

    if (rc < 0)
        return rc;
    rc = zp_wait(proc, &result, SECONDS);
    return rc < 0 ? rc : (int)result.attempts;
}

static void
test_nested(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    plan p = PLAN(-EIO, DIES(SIGKILL), 0);
    zp_proc *proc;
    record r;

    (void)state;
    proc = spawn(ctx, SPAWN(.name = "middle"), retries_below, &p);
    assert_int_equal(result_of(proc, 0).code, 3);
    assert_true(find_record(ctx, 0, &r));
    assert_string_equal(r.name, "below");
    assert_int_equal(r.p.attempts, 3);
    assert_int_equal(r.p.depth, 2);
    assert_true(r.p.parent_id == zp_proc_id(proc));
    assert_int_equal(r.p.state, ZP_PROC_ENDED);
    zp_ctx_free(ctx);
}

typedef struct below {
    plan p;
    zp_sync up, go;
} below;

/* Has one below that fails, and will not be started for long; ends when it is
 * told. */
static int
leaves_one_waiting(zp_ctx *ctx, void *arg)
{
    below *b = arg;
    zp_retry retry = {
        .size = sizeof retry, .retries = -1, .delay = 1000, .max_delay = 1000};
    zp_proc *proc;
    int rc = zp_spawn(ctx, &proc, SPAWN(.name = "below", .retry = &retry), acts,
                      &b->p);

    while (rc == 0 && zp_proc_pid(proc))
        rc = zp_wait(proc, NULL, 0.01) == -ETIMEDOUT ? 0 : -1;
    if (rc < 0)
        return rc;
    zp_sync_post(&b->up);
    zp_sync_wait(&b->go, 20);
    return 0;
}

/* Its parent returns, or is killed: it has ended, and is on record so. */
static void
test_parent_ends(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    below b = {.p = PLAN(-EIO)};
    int killed;

    (void)state;
    zp_sync_open(&b.up);
    zp_sync_open(&b.go);
    for (killed = 0; killed < 2; killed++) {
        zp_proc *middle = spawn(ctx, NULL, leaves_one_waiting, &b);
        record r;

        zp_sync_wait(&b.up, 20);
        assert_true(find_record(ctx, 0, &r));
        assert_string_equal(r.name, "below");
        assert_int_equal(r.p.state, ZP_PROC_WAITING);
        if (killed)
            kill(zp_proc_pid(middle), SIGKILL);
        else
            zp_sync_post(&b.go);
        result_of(middle, killed ? ZP_EFAILED : 0);
        r = record_in(ctx, r.p.id, ZP_PROC_ENDED, 1);
        assert_int_equal(r.p.code, killed ? ZP_EFAILED : -EIO);
        if (killed)
            assert_has(r.error, "was not started again");
        assert_int_equal(r.p.attempts, 1);
    }
    zp_sync_close(&b.up);
    zp_sync_close(&b.go);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ bad options --
 */

static void
test_bad_options(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int codes[] = {-EIO, 3}, signals[] = {SIGTERM, 65};
    static const double nan = 0.0 / 0.0;
    const struct {
        const char *part;
        zp_retry retry;
    } bad[] = {
        {"size", {.retries = 1}},
        {"flags", {.size = sizeof(zp_retry), .flags = 1u << 20}},
        {"delay", {.size = sizeof(zp_retry), .delay = nan}},
        {"backoff", {.size = sizeof(zp_retry), .backoff = 0.5}},
        {"max_delay", {.size = sizeof(zp_retry), .max_delay = -1}},
        {"jitter", {.size = sizeof(zp_retry), .jitter = 1.5}},
        {"stable", {.size = sizeof(zp_retry), .stable = -1}},
        {"crash_count", {.size = sizeof(zp_retry), .crash_count = 2}},
        {"crash_time", {.size = sizeof(zp_retry), .crash_time = 2}},
        {"crash_count",
         {.size = sizeof(zp_retry), .crash_count = 1, .crash_time = 1}},
        {"codes", {.size = sizeof(zp_retry), .codes = codes, .n_codes = 1}},
        {"codes",
         {.size = sizeof(zp_retry), .flags = ZP_RETRY_CODES, .n_codes = 1}},
        {"codes[1]",
         {.size = sizeof(zp_retry),
          .flags = ZP_RETRY_CODES,
          .codes = codes,
          .n_codes = 2}},
        {"signals[1]",
         {.size = sizeof(zp_retry),
          .flags = ZP_RETRY_SIGNALS,
          .signals = signals,
          .n_signals = 2}},
        {"arg", {.size = sizeof(zp_retry), .arg = codes}},
        {"arg",
         {.size = sizeof(zp_retry), .flags = ZP_RETRY_ARG, .arg_size = 3}},
    };
    int fds = zp_test_open_fds();
    size_t i;

    (void)state;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(
            zp_spawn(ctx, NULL, SPAWN(.retry = &bad[i].retry), returns_0, NULL),
            -EINVAL);
        assert_has(zp_ctx_error(ctx), bad[i].part);
    }
    assert_int_equal(count_records(ctx), 0);
    assert_int_equal(zp_test_open_fds(), fds);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_counts),
        ZP_TEST(test_all_failures),
        ZP_TEST(test_codes),
        ZP_TEST(test_signals),
        ZP_TEST(test_lists_are_copied),
        ZP_TEST(test_arguments),
        ZP_TEST(test_default_argument),
        ZP_TEST(test_results),
        ZP_TEST(test_delays),
        ZP_TEST(test_delay_after_a_pause),
        ZP_TEST(test_between),
        ZP_TEST(test_stopped),
        ZP_TEST(test_all_stopped),
        ZP_TEST(test_crash_loop),
        ZP_TEST(test_stable),
        ZP_TEST(test_final_end),
        ZP_TEST(test_cannot_start),
        ZP_TEST(test_never_started_again),
        ZP_TEST(test_freed),
        ZP_TEST(test_nested),
        ZP_TEST(test_parent_ends),
        ZP_TEST(test_bad_options),
    };

    return zp_test_main("retries", tests, sizeof tests / sizeof *tests, 60);
}

/*
 * test_retry.c - policies of starting again, by a clock of the test's own.
 *
 * Each rule has a case of its own; then random policies with random failures
 * are asked, and compared with an oracle that keeps everything and computes
 * each answer from the beginning.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/retry.h"

#define NOT_ASKED (-1)

/* ------------------------------------------------------------- the clock -- */

typedef struct bench {
    zp__retry *retry;
    double now;
    double delay, span; /* as told last */
} bench;

static zp__retry *
policy_of(zp_retry given)
{
    zp__retry *retry = NULL;

    given.size = sizeof given;
    assert_int_equal(zp__retry_new(&retry, &given), 0);
    return retry;
}

/* An attempt that runs SECONDS and fails; the next one starts after the
 * delay. */
static int
fail_with(bench *b, double seconds, int code, int signal)
{
    zp__attempt attempt = {.code = code,
                           .signal = signal,
                           .started = b->now,
                           .ended = b->now + seconds,
                           .random = 0.5};
    int verdict;

    b->delay = b->span = NOT_ASKED;
    verdict = zp__retry_ask(b->retry, &attempt, &b->delay, &b->span);
    assert_true((b->delay != NOT_ASKED) == (verdict == ZP__RETRY_AFTER));
    assert_true((b->span != NOT_ASKED) == (verdict == ZP__RETRY_LOOP));
    b->now += seconds;
    if (verdict == ZP__RETRY_AFTER)
        b->now += b->delay;
    return verdict;
}

static int
fail_after(bench *b, double seconds)
{
    return fail_with(b, seconds, ZP_EFAILED, 0);
}

/* The next failures have these delays; N of them. */
static void
delays_are(bench *b, const double *delays, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        assert_int_equal(fail_after(b, 1), ZP__RETRY_AFTER);
        assert_true(fabs(b->delay - delays[i]) <= 1e-9 * delays[i]);
    }
}

#define DELAYS_ARE(b, ...)                                                     \
    delays_are(b, (double[]){__VA_ARGS__},                                     \
               sizeof(double[]){__VA_ARGS__} / sizeof(double))

/* --------------------------------------------------------------- the rules --
 */

static void
test_nothing_asked_for_is_no_policy(void **state)
{
    (void)state;
    zp__retry *retry = (zp__retry *)state;
    assert_int_equal(zp__retry_new(&retry, NULL), 0);
    assert_null(retry);
    assert_null(policy_of((zp_retry){.delay = 1}));
    assert_null(policy_of(
        (zp_retry){.retries = 3, .flags = ZP_RETRY_CODES | ZP_RETRY_SIGNALS}));
    assert_null(zp__retry_free(NULL));
}

static void
test_the_default_is_5_seconds_each(void **state)
{
    (void)state;
    bench b = {.retry = policy_of((zp_retry){.retries = 3})};
    DELAYS_ARE(&b, 5, 5, 5);
    assert_int_equal(fail_after(&b, 1000), ZP__RETRY_OVER);
    assert_int_equal(fail_after(&b, 1000), ZP__RETRY_OVER);
    zp__retry_free(b.retry);
}

static void
test_a_negative_delay_is_none(void **state)
{
    (void)state;
    bench b = {.retry = policy_of(
                   (zp_retry){.retries = 3, .delay = -1, .backoff = 2})};
    DELAYS_ARE(&b, 0, 0, 0);
    zp__retry_free(b.retry);
}

static void
test_delays_grow_to_their_limit(void **state)
{
    (void)state;
    bench b = {.retry = policy_of(
                   (zp_retry){.retries = -1, .delay = 1, .backoff = 2})};
    DELAYS_ARE(&b, 1, 2, 4, 8, 16, 32, 60, 60, 60);
    zp__retry_free(b.retry);
    b.retry = policy_of(
        (zp_retry){.retries = -1, .delay = 1, .backoff = 1.5, .max_delay = 3});
    DELAYS_ARE(&b, 1, 1.5, 2.25, 3, 3);
    zp__retry_free(b.retry);
    b.retry = policy_of((zp_retry){.retries = -1, .max_delay = 2});
    DELAYS_ARE(&b, 2, 2);
    zp__retry_free(b.retry);
}

static void
test_no_delay_overflows(void **state)
{
    (void)state;
    bench b = {.retry = policy_of((zp_retry){.retries = -1,
                                             .delay = 1e200,
                                             .backoff = 1e300,
                                             .max_delay = 1e250})};
    zp__attempt attempt = {.code = ZP_EFAILED, .random = 0.5};
    double delay = 0, span;
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(zp__retry_ask(b.retry, &attempt, &delay, &span),
                         ZP__RETRY_AFTER);
        assert_true(delay == (i ? 1e250 : 1e200));
    }
    zp__retry_free(b.retry);
}

static void
test_jitter_spreads_and_does_not_add_up(void **state)
{
    (void)state;
    zp__retry *retry = policy_of(
        (zp_retry){.retries = -1, .delay = 8, .backoff = 2, .jitter = 0.25});
    const double random[] = {0, 1, 0.5, 0.25};
    const double delays[] = {6, 20, 32, 52.5};
    double delay, span;
    for (int i = 0; i < 4; i++) {
        zp__attempt attempt = {.code = -EIO, .random = random[i]};
        assert_int_equal(zp__retry_ask(retry, &attempt, &delay, &span),
                         ZP__RETRY_AFTER);
        assert_true(delay == delays[i]);
    }
    zp__retry_free(retry);
}

static void
test_a_stable_run_begins_anew(void **state)
{
    (void)state;
    bench b = {.retry = policy_of((zp_retry){
                   .retries = 3, .delay = 1, .backoff = 2, .stable = 10})};
    DELAYS_ARE(&b, 1, 2, 4);
    assert_int_equal(fail_after(&b, 10), ZP__RETRY_AFTER);
    assert_true(b.delay == 1);
    DELAYS_ARE(&b, 2, 4);
    assert_int_equal(fail_after(&b, 9.75), ZP__RETRY_OVER);
    zp__retry_free(b.retry);
}

static void
test_what_is_forgiven_begins_anew(void **state)
{
    (void)state;
    bench b = {
        .retry = policy_of((zp_retry){.retries = 3, .delay = 1, .backoff = 2})};
    DELAYS_ARE(&b, 1, 2, 4);
    assert_true(zp__retry_forgive(b.retry) == 1);
    assert_true(zp__retry_forgive(b.retry) == 1);
    DELAYS_ARE(&b, 1, 2, 4);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_OVER);
    zp__retry_free(b.retry);
}

static void
test_a_loop_is_found_before_the_retries_end(void **state)
{
    (void)state;
    zp_retry given = {
        .retries = -1, .delay = 1, .crash_count = 3, .crash_time = 4};
    bench b = {.retry = policy_of(given)};
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_AFTER);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_AFTER);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_LOOP);
    assert_true(b.span == 4);
    zp__retry_free(b.retry);

    given.retries = 2; /* the third failure is both */
    b.retry = policy_of(given);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_AFTER);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_AFTER);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_LOOP);
    zp__retry_free(b.retry);
}

static void
test_failures_far_apart_are_no_loop(void **state)
{
    (void)state;
    bench b = {
        .retry = policy_of((zp_retry){
            .retries = -1, .delay = 1, .crash_count = 3, .crash_time = 4})};
    for (int i = 0; i < 20; i++)
        assert_int_equal(fail_after(&b, 1.25), ZP__RETRY_AFTER);
    assert_int_equal(fail_after(&b, 0.5), ZP__RETRY_LOOP);
    assert_true(b.span == 3.75);
    zp__retry_free(b.retry);
}

/* Stable as it may be called: failures are failures. */
static void
test_stable_runs_can_make_a_loop(void **state)
{
    (void)state;
    bench b = {.retry = policy_of((zp_retry){.retries = 1,
                                             .delay = -1,
                                             .stable = 1,
                                             .crash_count = 4,
                                             .crash_time = 3})};
    for (int i = 0; i < 3; i++)
        assert_int_equal(fail_after(&b, 1), ZP__RETRY_AFTER);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_LOOP);
    zp__retry_free(b.retry);
}

static void
test_only_the_listed_codes(void **state)
{
    (void)state;
    const int codes[] = {-EAGAIN, ZP_EFAILED};
    bench b = {.retry = policy_of((zp_retry){.retries = -1,
                                             .flags = ZP_RETRY_CODES,
                                             .codes = codes,
                                             .n_codes = 2})};
    assert_int_equal(fail_with(&b, 1, -EAGAIN, 0), ZP__RETRY_AFTER);
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, 0), ZP__RETRY_AFTER);
    assert_int_equal(fail_with(&b, 1, -EIO, 0), ZP__RETRY_NOT);
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, SIGKILL), ZP__RETRY_AFTER);
    zp__retry_free(b.retry);
    b.retry = policy_of((zp_retry){.retries = -1, .flags = ZP_RETRY_CODES});
    assert_int_equal(fail_with(&b, 1, -EAGAIN, 0), ZP__RETRY_NOT);
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, SIGKILL), ZP__RETRY_AFTER);
    zp__retry_free(b.retry);
}

static void
test_only_the_listed_signals(void **state)
{
    (void)state;
    const int signals[] = {1, SIGSEGV, 64};
    bench b = {.retry = policy_of((zp_retry){.retries = -1,
                                             .flags = ZP_RETRY_SIGNALS,
                                             .signals = signals,
                                             .n_signals = 3})};
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, SIGSEGV), ZP__RETRY_AFTER);
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, 64), ZP__RETRY_AFTER);
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, SIGKILL), ZP__RETRY_NOT);
    assert_int_equal(fail_with(&b, 1, -EIO, 0), ZP__RETRY_AFTER);
    zp__retry_free(b.retry);
    b.retry = policy_of((zp_retry){.retries = -1, .flags = ZP_RETRY_SIGNALS});
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, SIGSEGV), ZP__RETRY_NOT);
    assert_int_equal(fail_with(&b, 1, -EIO, 0), ZP__RETRY_AFTER);
    zp__retry_free(b.retry);
}

static void
test_the_lists_are_copied(void **state)
{
    (void)state;
    int codes[] = {-EIO}, signals[] = {SIGBUS};
    bench b = {.retry = policy_of(
                   (zp_retry){.retries = -1,
                              .flags = ZP_RETRY_CODES | ZP_RETRY_SIGNALS,
                              .codes = codes,
                              .n_codes = 1,
                              .signals = signals,
                              .n_signals = 1})};
    codes[0] = -EPERM;
    signals[0] = SIGHUP;
    assert_int_equal(fail_with(&b, 1, -EIO, 0), ZP__RETRY_AFTER);
    assert_int_equal(fail_with(&b, 1, ZP_EFAILED, SIGBUS), ZP__RETRY_AFTER);
    zp__retry_free(b.retry);
}

/* ------------------------------------------------------------- what is wrong
 * -- */

static void
refused(const zp_retry *given, const char *field)
{
    zp__retry *retry = NULL;

    zp__fail(-EIO, "something else");
    assert_int_equal(zp__retry_new(&retry, given), -EINVAL);
    assert_null(retry);
    if (!strstr(zp__fail_text(), field))
        fail_msg("\"%s\" does not name %s", zp__fail_text(), field);
}

/* One field of a policy that is in order otherwise. */
#define REFUSED(field, ...)                                                    \
    do {                                                                       \
        zp_retry given = {.size = sizeof given, __VA_ARGS__};                  \
        refused(&given, #field);                                               \
    } while (0)

static void
test_wrong_numbers_are_refused(void **state)
{
    (void)state;
    REFUSED(flags, .flags = 8);
    REFUSED(flags, .flags = 1u << 31);
    REFUSED(delay, .delay = NAN);
    REFUSED(delay, .delay = INFINITY);
    REFUSED(delay, .delay = -INFINITY);
    REFUSED(backoff, .backoff = 0.99);
    REFUSED(backoff, .backoff = -2);
    REFUSED(backoff, .backoff = NAN);
    REFUSED(backoff, .backoff = INFINITY);
    REFUSED(max_delay, .max_delay = -1);
    REFUSED(max_delay, .max_delay = NAN);
    REFUSED(jitter, .jitter = -0.1);
    REFUSED(jitter, .jitter = 1.1);
    REFUSED(jitter, .jitter = NAN);
    REFUSED(stable, .stable = -1);
    REFUSED(stable, .stable = NAN);
    REFUSED(crash_time, .crash_count = 3);
    REFUSED(crash_count, .crash_time = 3);
    REFUSED(crash_time, .crash_count = 3, .crash_time = -1);
    REFUSED(crash_time, .crash_count = 3, .crash_time = NAN);
    REFUSED(crash_count, .crash_count = 1, .crash_time = 3);
    REFUSED(crash_count, .crash_count = UINT_MAX, .crash_time = 3);
}

static void
test_wrong_lists_are_refused(void **state)
{
    (void)state;
    int codes[] = {-EIO, 0}, signals[] = {SIGHUP, 0};
    char arg;
    REFUSED(codes, .flags = ZP_RETRY_CODES, .n_codes = 1);
    REFUSED(codes, .codes = codes, .n_codes = 1);
    REFUSED(codes[1], .flags = ZP_RETRY_CODES, .codes = codes, .n_codes = 2);
    REFUSED(signals, .flags = ZP_RETRY_SIGNALS, .n_signals = 1);
    REFUSED(signals, .signals = signals, .n_signals = 1);
    for (int i = 0; i < 3; i++) {
        signals[1] = (const int[]){0, -1, 65}[i];
        REFUSED(signals[1], .flags = ZP_RETRY_SIGNALS, .signals = signals,
                .n_signals = 2);
    }
    REFUSED(arg, .flags = ZP_RETRY_ARG, .arg_size = 1);
    REFUSED(arg, .arg_size = 1);
    REFUSED(arg, .arg = &arg);
    /* the others are looked at though there is to be no retry */
    REFUSED(jitter, .retries = 3, .jitter = 2);
}

static void
test_other_sizes_are_other_versions(void **state)
{
    (void)state;
    struct {
        zp_retry now;
        char later[16];
    } given = {.now = {.retries = 1, .crash_count = 9}};
    bench b = {0};
    given.now.size = offsetof(zp_retry, crash_count);
    assert_int_equal(zp__retry_new(&b.retry, &given.now), 0);
    assert_int_equal(fail_after(&b, 1), ZP__RETRY_AFTER);
    zp__retry_free(b.retry);
    given.now.crash_count = 0;
    given.now.size = sizeof given;
    assert_int_equal(zp__retry_new(&b.retry, &given.now), 0);
    zp__retry_free(b.retry);
    given.later[15] = 1;
    refused(&given.now, "later version");
    given.now.size = 7;
    refused(&given.now, "size");
    given.now.size = 4097;
    refused(&given.now, "size");
}

/* ----------------------------------------------------------------- oracle --
 */

#define POLICIES 10000
#define ATTEMPTS 60

static unsigned
dice(unsigned n)
{
    static uint64_t seed = 0x9e3779b97f4a7c15;

    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

/* Numbers in quarters: sums are exact, limits are met. */
static double
quarters(unsigned n)
{
    return dice(n) / 4.0;
}

static const int some_codes[] = {-EIO, -EAGAIN, ZP_EFAILED, ZP_ENOKEY};
static const int some_signals[] = {SIGSEGV, SIGKILL, SIGTERM};

static void
invent(zp_retry *given)
{
    memset(given, 0, sizeof *given);
    given->size = sizeof *given;
    given->retries = (int)dice(20) - 1;
    given->delay = (int)dice(12) - 2;
    given->backoff = dice(3) ? 1 + quarters(9) : 0;
    given->max_delay = quarters(400);
    given->jitter = dice(2) ? quarters(5) : 0;
    given->stable = dice(2) ? quarters(40) : 0;
    if (dice(2)) {
        given->crash_count = 2 + dice(9);
        given->crash_time = 0.25 + quarters(400);
    }
    if (dice(3) == 0) {
        given->flags |= ZP_RETRY_CODES;
        given->n_codes = dice(5);
        given->codes = some_codes;
    }
    if (dice(3) == 0) {
        given->flags |= ZP_RETRY_SIGNALS;
        given->n_signals = dice(4);
        given->signals = some_signals;
    }
}

static bool
listed(const int *list, size_t n, int number)
{
    while (n--)
        if (list[n] == number)
            return true;
    return false;
}

/* What is to come of the last of N failures. */
static int
foretell(const zp_retry *given, const zp__attempt *all, int n,
         double *ret_delay, double *ret_span)
{
    const zp__attempt *last = &all[n - 1];
    int i, used = 0, count = (int)given->crash_count;
    long double delay = given->delay == 0 ? 5 : given->delay;
    double max = given->max_delay == 0 ? 60 : given->max_delay;

    if (last->signal
            ? (given->flags & ZP_RETRY_SIGNALS) &&
                  !listed(given->signals, given->n_signals, last->signal)
            : (given->flags & ZP_RETRY_CODES) &&
                  !listed(given->codes, given->n_codes, last->code))
        return ZP__RETRY_NOT;
    if (count && n >= count &&
        last->ended - all[n - count].ended <= given->crash_time) {
        *ret_span = last->ended - all[n - count].ended;
        return ZP__RETRY_LOOP;
    }
    for (i = 1; i < n; i++)
        used++;
    for (i = 0; i < n; i++)
        if (given->stable > 0 && all[i].ended - all[i].started >= given->stable)
            used = n - 1 - i;
    if (given->retries >= 0 && used >= given->retries)
        return ZP__RETRY_OVER;
    if (delay < 0)
        delay = 0;
    for (i = 0; i < used && given->backoff > 0; i++)
        delay *= given->backoff;
    if (delay > max)
        delay = max;
    delay *= 1 - given->jitter + 2 * given->jitter * last->random;
    *ret_delay = (double)delay;
    return ZP__RETRY_AFTER;
}

/* One policy until it ends or ATTEMPTS have failed: its last verdict. */
static int
compare(const zp_retry *given, zp__retry *retry)
{
    zp__attempt all[ATTEMPTS];
    double now = 1000 + quarters(1000);
    int n, verdict = NOT_ASKED;

    for (n = 1; n <= ATTEMPTS; n++) {
        zp__attempt *last = &all[n - 1];
        double delay = NOT_ASKED, span = NOT_ASKED;
        double told_delay = NOT_ASKED, told_span = NOT_ASKED;

        memset(last, 0, sizeof *last);
        last->code = some_codes[dice(dice(8) ? 3 : 4)];
        if (dice(3) == 0)
            last->signal = some_signals[dice(dice(8) ? 2 : 3)];
        last->random = quarters(5);
        last->started = now;
        last->ended = now + quarters(dice(2) ? 8 : 60);
        verdict = foretell(given, all, n, &delay, &span);
        assert_int_equal(zp__retry_ask(retry, last, &told_delay, &told_span),
                         verdict);
        assert_true(told_span == span);
        assert_true(fabs(told_delay - delay) <= 1e-12 * fabs(delay));
        if (verdict != ZP__RETRY_AFTER)
            return verdict;
        now = last->ended + floor(told_delay * 4) / 4;
    }
    return verdict;
}

static void
test_random_policies_do_as_the_oracle_says(void **state)
{
    (void)state;
    int i, met[4] = {0}, none = 0;
    for (i = 0; i < POLICIES; i++) {
        zp_retry given;
        zp__retry *retry = NULL;
        invent(&given);
        assert_int_equal(zp__retry_new(&retry, &given), 0);
        if (retry)
            met[compare(&given, retry)]++;
        else
            none++;
        zp__retry_free(retry);
    }
    for (i = 0; i < 4; i++)
        assert_true(met[i] > POLICIES / 50);
    assert_true(none > POLICIES / 100);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_nothing_asked_for_is_no_policy),
        ZP_TEST(test_the_default_is_5_seconds_each),
        ZP_TEST(test_a_negative_delay_is_none),
        ZP_TEST(test_delays_grow_to_their_limit),
        ZP_TEST(test_no_delay_overflows),
        ZP_TEST(test_jitter_spreads_and_does_not_add_up),
        ZP_TEST(test_a_stable_run_begins_anew),
        ZP_TEST(test_what_is_forgiven_begins_anew),
        ZP_TEST(test_a_loop_is_found_before_the_retries_end),
        ZP_TEST(test_failures_far_apart_are_no_loop),
        ZP_TEST(test_stable_runs_can_make_a_loop),
        ZP_TEST(test_only_the_listed_codes),
        ZP_TEST(test_only_the_listed_signals),
        ZP_TEST(test_the_lists_are_copied),
        ZP_TEST(test_wrong_numbers_are_refused),
        ZP_TEST(test_wrong_lists_are_refused),
        ZP_TEST(test_other_sizes_are_other_versions),
        ZP_TEST(test_random_policies_do_as_the_oracle_says),
    };

    return zp_test_main("retry", tests, sizeof tests / sizeof *tests, 30);
}

/*
 * retry.c - whether a failed process is to be started again, and when.
 *
 * The questions, in this order, of which the first one answered ends it:
 *
 *     is it for this failure?       the lists of codes and signals
 *     is it a crash loop?           the ring of the last failures' times
 *     are there retries left?       the count, which a stable run sets back
 *     how long to wait?             the delay, which grows with each retry
 *
 * The ring has room for crash_count times, and only the one that the newest
 * takes the place of is ever looked at: with it crash_count failures are seen,
 * without it fewer. A stable run leaves it alone; it is the clock that makes
 * failures old.
 *
 * The delay that was last given is kept, never longer than max_delay, and
 * multiplied: it cannot overflow, however many retries there are. Jitter is
 * put on what is handed out only, so that it does not add up.
 */
#include "core/retry.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define FLAGS ((unsigned)(ZP_RETRY_CODES | ZP_RETRY_SIGNALS | ZP_RETRY_ARG))
#define DELAY 5.0
#define MAX_DELAY 60.0
#define SIGNAL_MAX 64
#define CRASH_COUNT_MAX 1000000 /* 8 MB */

struct zp__retry {
    zp_retry policy;   /* the lists are copies */
    unsigned used;     /* retries since the beginning, or since a stable run */
    double delay;      /* the last one's; used > 0 */
    double *ends;      /* ring of crash_count times */
    unsigned failures; /* in the ring: at most crash_count */
    unsigned next;     /* where the next one goes */
};

/* ---------------------------------------------------- what is asked for -- */

/* What a caller of a later version set and we do not know. */
static int
check_tail(const zp_retry *given)
{
    const unsigned char *bytes = (const unsigned char *)given;
    size_t i;

    for (i = sizeof *given; i < given->size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL,
                            "an option of a later version is set "
                            "(retry, byte %zu)",
                            i);
    return 0;
}

/* 0 or more, and not infinite. */
static int
check_number(double number, const char *what)
{
    if (isfinite(number) && number >= 0)
        return 0;
    return zp__fail(-EINVAL, "retry.%s is %g", what, number);
}

/* DELAY may be negative; 0 is the default of all three. */
static int
take_delays(zp_retry *taken)
{
    int rc;

    if (!isfinite(taken->delay))
        return zp__fail(-EINVAL, "retry.delay is %g", taken->delay);
    if (!isfinite(taken->backoff) ||
        (taken->backoff < 1 && taken->backoff != 0))
        return zp__fail(-EINVAL, "retry.backoff is %g, less than 1",
                        taken->backoff);
    if (!(taken->jitter >= 0 && taken->jitter <= 1))
        return zp__fail(-EINVAL, "retry.jitter is %g, not 0-1", taken->jitter);
    rc = check_number(taken->max_delay, "max_delay");
    if (rc < 0)
        return rc;
    if (taken->delay == 0)
        taken->delay = DELAY;
    if (taken->delay < 0)
        taken->delay = 0;
    if (taken->backoff == 0)
        taken->backoff = 1;
    if (taken->max_delay == 0)
        taken->max_delay = MAX_DELAY;
    return check_number(taken->stable, "stable");
}

static int
check_crashes(const zp_retry *taken)
{
    int rc = check_number(taken->crash_time, "crash_time");

    if (rc < 0)
        return rc;
    if (taken->crash_count && taken->crash_time == 0)
        return zp__fail(-EINVAL, "retry.crash_count without crash_time");
    if (!taken->crash_count && taken->crash_time > 0)
        return zp__fail(-EINVAL, "retry.crash_time without crash_count");
    if (taken->crash_count == 1 || taken->crash_count > CRASH_COUNT_MAX)
        return zp__fail(-EINVAL, "retry.crash_count is %u, not 2-%d",
                        taken->crash_count, CRASH_COUNT_MAX);
    return 0;
}

/* A list is there, and only there, where its flag is. */
static int
check_list(const zp_retry *taken, unsigned flag, const int *list, size_t n,
           const char *what)
{
    if (n && !list)
        return zp__fail(-EINVAL, "retry.%s is NULL, n_%s is %zu", what, what,
                        n);
    if (n && !(taken->flags & flag))
        return zp__fail(-EINVAL, "retry.%s without its flag", what);
    return 0;
}

static int
check_lists(const zp_retry *taken)
{
    int rc = check_list(taken, ZP_RETRY_CODES, taken->codes, taken->n_codes,
                        "codes");
    size_t i;

    if (rc == 0)
        rc = check_list(taken, ZP_RETRY_SIGNALS, taken->signals,
                        taken->n_signals, "signals");
    if (rc < 0)
        return rc;
    for (i = 0; i < taken->n_codes; i++)
        if (taken->codes[i] >= 0)
            return zp__fail(-EINVAL,
                            "retry.codes[%zu] is %d: no failure has "
                            "this code",
                            i, taken->codes[i]);
    for (i = 0; i < taken->n_signals; i++)
        if (taken->signals[i] < 1 || taken->signals[i] > SIGNAL_MAX)
            return zp__fail(-EINVAL, "retry.signals[%zu] is %d, not 1-%d", i,
                            taken->signals[i], SIGNAL_MAX);
    return 0;
}

static int
check_arg(const zp_retry *taken)
{
    if (taken->arg_size && !taken->arg)
        return zp__fail(-EINVAL, "retry.arg is NULL, arg_size is %zu",
                        taken->arg_size);
    if (taken->arg && !(taken->flags & ZP_RETRY_ARG))
        return zp__fail(-EINVAL, "retry.arg without its flag");
    return 0;
}

/* Check GIVEN; with all defaults into RET. The lists are still GIVEN's. */
static int
take(zp_retry *ret, const zp_retry *given)
{
    int rc;

    if (given->size < sizeof given->size || given->size > 4096)
        return zp__fail(-EINVAL, "retry.size is %zu", given->size);
    rc = check_tail(given);
    if (rc < 0)
        return rc;
    memset(ret, 0, sizeof *ret);
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    if (ret->flags & ~FLAGS)
        return zp__fail(-EINVAL, "retry.flags has unknown ones: 0x%x",
                        ret->flags & ~FLAGS);
    if ((rc = take_delays(ret)) < 0 || (rc = check_crashes(ret)) < 0 ||
        (rc = check_lists(ret)) < 0)
        return rc;
    return check_arg(ret);
}

static bool
never(const zp_retry *policy)
{
    unsigned both = ZP_RETRY_CODES | ZP_RETRY_SIGNALS;

    return policy->retries == 0 || ((policy->flags & both) == both &&
                                    !policy->n_codes && !policy->n_signals);
}

/* --------------------------------------------------------- birth, death -- */

static bool
copy_list(const int **list, size_t n)
{
    int *copy = n ? calloc(n, sizeof *copy) : NULL;

    if (copy)
        memcpy(copy, *list, n * sizeof *copy);
    *list = copy;
    return copy || !n;
}

static int
keep(zp__retry *retry)
{
    zp_retry *policy = &retry->policy;
    bool kept;

    kept = copy_list(&policy->codes, policy->n_codes);
    kept = copy_list(&policy->signals, policy->n_signals) && kept;
    policy->arg = NULL;
    policy->arg_size = 0;
    if (policy->crash_count)
        retry->ends = calloc(policy->crash_count, sizeof *retry->ends);
    if (!kept || (policy->crash_count && !retry->ends))
        return -ENOMEM;
    return 0;
}

int
zp__retry_new(zp__retry **ret, const zp_retry *given)
{
    zp__retry *retry;
    zp_retry policy;
    int rc = given ? take(&policy, given) : 0;

    if (rc < 0)
        return rc;
    if (!given || never(&policy)) {
        *ret = NULL;
        return 0;
    }
    retry = calloc(1, sizeof *retry);
    if (retry) {
        retry->policy = policy;
        rc = keep(retry);
    }
    if (!retry || rc < 0) {
        zp__retry_free(retry);
        return zp__fail(-ENOMEM, "no memory for a retry policy");
    }
    *ret = retry;
    return 0;
}

zp__retry *
zp__retry_free(zp__retry *retry)
{
    if (retry) {
        free((void *)retry->policy.codes);
        free((void *)retry->policy.signals);
        free(retry->ends);
        free(retry);
    }
    return NULL;
}

/* ----------------------------------------------------------- the answer -- */

static bool
has(const int *list, size_t n, int number)
{
    size_t i;

    for (i = 0; i < n; i++)
        if (list[i] == number)
            return true;
    return false;
}

static bool
concerned(const zp_retry *policy, const zp__attempt *attempt)
{
    if (attempt->signal)
        return !(policy->flags & ZP_RETRY_SIGNALS) ||
               has(policy->signals, policy->n_signals, attempt->signal);
    return !(policy->flags & ZP_RETRY_CODES) ||
           has(policy->codes, policy->n_codes, attempt->code);
}

/* Does this failure make a loop of the last ones? */
static bool
loops(zp__retry *retry, double ended, double *ret_span)
{
    unsigned count = retry->policy.crash_count, oldest;

    if (!count)
        return false;
    retry->ends[retry->next] = ended;
    retry->next = (retry->next + 1) % count;
    if (retry->failures < count)
        retry->failures++;
    oldest = retry->next;
    if (retry->failures < count ||
        ended - retry->ends[oldest] > retry->policy.crash_time)
        return false;
    *ret_span = ended - retry->ends[oldest];
    return true;
}

/* The length of the next delay, without jitter. */
static double
grow(const zp__retry *retry)
{
    const zp_retry *policy = &retry->policy;
    double delay = retry->used ? retry->delay * policy->backoff : policy->delay;

    return delay < policy->max_delay ? delay : policy->max_delay;
}

int
zp__retry_ask(zp__retry *retry, const zp__attempt *attempt, double *ret_delay,
              double *ret_span)
{
    const zp_retry *policy = &retry->policy;

    if (!concerned(policy, attempt))
        return ZP__RETRY_NOT;
    if (loops(retry, attempt->ended, ret_span))
        return ZP__RETRY_LOOP;
    if (policy->stable > 0 &&
        attempt->ended - attempt->started >= policy->stable)
        retry->used = 0;
    if (policy->retries >= 0 && retry->used >= (unsigned)policy->retries)
        return ZP__RETRY_OVER;
    retry->delay = grow(retry);
    if (retry->used < INT_MAX)
        retry->used++;
    *ret_delay = retry->delay *
                 (1 - policy->jitter + 2 * policy->jitter * attempt->random);
    return ZP__RETRY_AFTER;
}

double
zp__retry_forgive(zp__retry *retry)
{
    retry->used = 0;
    return grow(retry);
}

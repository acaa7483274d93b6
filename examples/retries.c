/*
 * retries.c - processes that fail are started again, or not.
 *
 *     a flaky worker       succeeds the third time: each delay is twice as long
 *                          as the one before
 *     another argument     what did not work is tried in another way
 *     the wrong failure    of some it is known that trying again is in vain
 *     a crash loop         who fails again and again is given up
 *
 * However often it is started, it is one process: one zp_proc, one zp_wait().
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [flaky] */
/* It works the third time only. Each attempt is a new process, with the
 * argument as it was: what is to outlive an attempt belongs into the state. */
static int
flaky(zp_ctx *ctx, void *arg)
{
    int64_t tries;

    (void)arg;
    TRY(zp_increase(zp_ctx_state(ctx), "tries", &tries, 1));
    if (tries < 3)
        return zp_fail(ctx, -EAGAIN, "not yet");
    return 0;
}

static int
run_flaky(zp_ctx *ctx, zp_proc **ret_proc)
{
    zp_retry retry = {
        .size = sizeof(retry),
        .retries = 5,   /* six attempts at most */
        .delay = 0.01,  /* seconds, and then ... */
        .backoff = 2,   /* ... 0.02, 0.04, ... */
        .max_delay = 1, /* ... but no longer than this */
        .jitter = 0.1,  /* each up to a tenth shorter or longer */
    };
    zp_spawn_options options = {
        .size = sizeof(options), .name = "flaky", .retry = &retry};

    TRY(zp_set_int(zp_ctx_state(ctx), "tries", 0));
    return zp_spawn(ctx, ret_proc, &options, flaky, NULL);
}
/* [/flaky] */

/* [argument] */
static int
fetch(zp_ctx *ctx, void *arg)
{
    const char *from = arg;

    if (from[0] == 'n')
        return zp_fail(ctx, -EHOSTUNREACH, "the %s does not answer", from);
    return zp_return(ctx, "s", &from);
}

/* Once near by, then far away. */
static int
run_fetch(zp_ctx *ctx, zp_proc **ret_proc)
{
    static char nearby[] = "near server", distant[] = "far server";
    zp_retry retry = {
        .size = sizeof(retry),
        .flags = ZP_RETRY_ARG,
        .retries = 3,
        .delay = -1, /* at once */
        .arg = distant,
    };
    zp_spawn_options options = {
        .size = sizeof(options), .name = "fetch", .retry = &retry};

    return zp_spawn(ctx, ret_proc, &options, fetch, nearby);
}
/* [/argument] */

/* [codes] */
static int
forbidden(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_fail(ctx, -EACCES, "nobody may do that");
}

/* Again only if it was too busy, or if anything has killed it. */
static int
run_forbidden(zp_ctx *ctx, zp_proc **ret_proc)
{
    static const int codes[] = {-EAGAIN, -EBUSY};
    zp_retry retry = {
        .size = sizeof(retry),
        .flags = ZP_RETRY_CODES,
        .retries = -1, /* for ever */
        .codes = codes,
        .n_codes = 2,
    };
    zp_spawn_options options = {
        .size = sizeof(options), .name = "forbidden", .retry = &retry};

    return zp_spawn(ctx, ret_proc, &options, forbidden, NULL);
}
/* [/codes] */

/* [loop] */
static int
broken(zp_ctx *ctx, void *arg)
{
    (void)arg;
    zp_exit(ctx, 1);
    return -EINVAL; /* not reached */
}

/* For ever, unless it fails four times within a minute. */
static int
run_broken(zp_ctx *ctx, zp_proc **ret_proc)
{
    zp_retry retry = {
        .size = sizeof(retry),
        .retries = -1,
        .delay = -1,
        .crash_count = 4,
        .crash_time = 60,
    };
    zp_spawn_options options = {
        .size = sizeof(options), .name = "broken", .retry = &retry};

    return zp_spawn(ctx, ret_proc, &options, broken, NULL);
}
/* [/loop] */

/* [tell] */
/* The parent's loop starts the attempts: here, in zp_wait(). */
static int
tell(zp_proc *proc)
{
    zp_result result = {.size = sizeof(result)};
    int rc = zp_wait(proc, &result, -1);

    if (rc < 0 && rc != ZP_EFAILED)
        return rc;
    printf("%s: %u attempts, %s%s%s\n", zp_proc_name(proc), result.attempts,
           rc == 0 ? "done" : zp_strerror(result.code),
           *result.origin ? ": " : "", *result.origin ? result.error : "");
    return 0;
}
/* [/tell] */

static int
try_again(zp_ctx *ctx)
{
    int (*const runs[])(zp_ctx *, zp_proc **) = {run_flaky, run_fetch,
                                                 run_forbidden, run_broken};
    zp_proc *procs[4];

    for (int i = 0; i < 4; i++)
        TRY(runs[i](ctx, &procs[i]));
    for (int i = 0; i < 4; i++) /* meanwhile the others are tried again, too */
        TRY(tell(procs[i]));
    return 0;
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = try_again(ctx);
    if (rc < 0)
        fprintf(stderr, "retries: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

/*
 * remote_errors.c - what becomes of a failure in another process.
 *
 * Four processes are started. One finds that something is missing and says so,
 * one crashes, one ends itself from deep inside with an exit status, and one
 * has nothing to complain about. Who waits for them learns it all: what was
 * wrong, where, and what there is of a result.
 */
#include <errno.h>
#include <stdio.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [children] */
/* It fails: with a code, a text, and the line where this stands. */
static int
look_for(zp_ctx *ctx, void *arg)
{
    return zp_fail(ctx, -ENOENT, "there is no %s in the house",
                   (const char *)arg);
}

/* It crashes. (Nothing is there, but the compiler must not know.) */
static int *volatile nowhere = (int *)0x10;

static int
crash(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return *nowhere;
}

/* It ends its process, from however deep inside. What was left counts. */
static void
give_up(zp_ctx *ctx, int so_far)
{
    zp_return(ctx, "i", &so_far);
    zp_exit(ctx, 3);
}

static int
count(zp_ctx *ctx, void *arg)
{
    (void)arg;
    for (int i = 1; i <= 100; i++)
        if (i == 17)
            give_up(ctx, i);
    return 0; /* not reached */
}

static int
succeed(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 7;
}
/* [/children] */

/* [one] */
static int
spawn_named(zp_ctx *ctx, zp_proc **ret_proc, const char *name, zp_proc_fn *fn,
            char *arg)
{
    zp_spawn_options options = {.size = sizeof(options), .name = name};

    return zp_spawn(ctx, ret_proc, &options, fn, arg);
}

/* How a process ended is a result like any other: not an error of ours. */
static int
tell(zp_proc *proc)
{
    zp_result result = {.size = sizeof(result)};
    int rc = zp_wait(proc, &result, -1), left;

    if (rc < 0 && rc != ZP_EFAILED)
        return rc; /* the waiting failed */
    printf("%s: code %d, status %d, signal %d\n", zp_proc_name(proc),
           result.code, result.status, result.signal);
    if (rc == ZP_EFAILED)
        printf("  %s\n", result.error);
    if (zp_proc_get(proc, "i", &left) >= 0)
        printf("  it has left %d\n", left);
    return 0;
}
/* [/one] */

/* [all] */
/* All of it in words, on a screen; what a program writes to its log. */
static int
wait_for_all(zp_ctx *ctx, zp_proc *procs[], int n)
{
    int failed = zp_ctx_wait(ctx, NULL, 0, ZP_SAFE, -1);

    TRY(failed);
    printf("%d of %d have failed:\n", failed, n);
    for (int i = 0; i < n; i++)
        if (zp_wait(procs[i], NULL, 0) == ZP_EFAILED)
            TRY(zp_proc_report(procs[i], stdout));
    return 0;
}
/* [/all] */

static int
fail_remotely(zp_ctx *ctx)
{
    static char teapot[] = "teapot";
    zp_proc *procs[4];

    TRY(spawn_named(ctx, &procs[0], "looker", look_for, teapot));
    TRY(spawn_named(ctx, &procs[1], "crasher", crash, NULL));
    TRY(spawn_named(ctx, &procs[2], "counter", count, NULL));
    TRY(spawn_named(ctx, &procs[3], "winner", succeed, NULL));
    for (int i = 0; i < 4; i++)
        TRY(tell(procs[i]));
    return wait_for_all(ctx, procs, 4);
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = fail_remotely(ctx);
    if (rc < 0)
        fprintf(stderr, "remote_errors: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

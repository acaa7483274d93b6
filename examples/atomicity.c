/*
 * atomicity.c - ten processes count together, and none of them miscounts.
 *
 * Each reads the number, takes its time, and writes one more. Done with plain
 * calls, two of them would read the same number; as an atomic operation it is
 * one step for everybody else, however long it takes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <zp.h>

enum { PROCESSES = 10 };

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [count] */
static int
count_one(zp_state *txn, void *user)
{
    int64_t count;
    struct timespec pause = {.tv_nsec = rand() % 20 * 1000000L};
    (void)user;

    TRY(zp_get_int(txn, "count", &count));
    nanosleep(&pause, NULL);
    TRY(zp_set_int(txn, "count", count + 1));
    printf("%" PRId64 "\n", count + 1);
    return fflush(stdout);
}
/* [/count] */

static int
child(zp_ctx *ctx, void *arg)
{
    (void)arg;
    srand((unsigned)getpid());
    return zp_atomic(zp_ctx_state(ctx), count_one, NULL);
}

static int
count_together(zp_ctx *ctx)
{
    zp_proc *procs[PROCESSES];
    TRY(zp_set_int(zp_ctx_state(ctx), "count", 0));
    for (int i = 0; i < PROCESSES; i++)
        TRY(zp_spawn(ctx, &procs[i], NULL, child, NULL));
    for (int i = 0; i < PROCESSES; i++)
        TRY(zp_wait(procs[i], NULL, -1));
    return 0;
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = count_together(ctx);
    if (rc < 0)
        fprintf(stderr, "atomicity: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

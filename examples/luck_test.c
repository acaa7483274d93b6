/*
 * luck_test.c - three processes draw numbers until all three are the same.
 *
 * Each dial is a process that sets a key of its own, again and again. main()
 * waits for a condition on the state as a whole. It need not look at the right
 * moment: the condition is looked at after each single draw, and the snapshot
 * that main() gets is that of the lucky one, although the dials go on turning
 * until they are told.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [dial] */
/* Draw a number each millisecond, until somebody says stop: a wait for that
 * with a timeout is the pause between two draws as well. */
static int
dial(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);
    const char *key = arg;
    int rc;

    srand((unsigned)getpid());
    do {
        TRY(zp_set_int(state, key, rand() % 10));
        rc = zp_get_when_available(state, NULL, "stop", 0.001, NULL);
    } while (rc == -ETIMEDOUT);
    return rc;
}
/* [/dial] */

/* [condition] */
/* The condition: all three are there, and are equal. */
static int
lucky(zp_state *snapshot, void *user)
{
    int64_t left, middle, right;

    (void)user;
    return zp_get_int(snapshot, "left", &left) == 0 &&
           zp_get_int(snapshot, "middle", &middle) == 0 &&
           zp_get_int(snapshot, "right", &right) == 0 && left == middle &&
           middle == right;
}
/* [/condition] */

/* [main] */
static int
try_your_luck(zp_ctx *ctx)
{
    static char keys[3][8] = {"left", "middle", "right"};
    zp_state *state = zp_ctx_state(ctx), *then;
    zp_proc *dials[3];
    int64_t number;

    for (int i = 0; i < 3; i++)
        TRY(zp_spawn(ctx, &dials[i], NULL, dial, keys[i]));
    TRY(zp_get_when(state, &then, ZP_KEYS("left", "middle", "right"), -1, NULL,
                    lucky, NULL));
    TRY(zp_set_bool(state, "stop", 1));

    TRY(zp_get_int(then, "left", &number));
    printf("luck: %" PRId64, number);
    TRY(zp_get_int(then, "middle", &number));
    printf(" %" PRId64, number);
    TRY(zp_get_int(then, "right", &number));
    printf(" %" PRId64 "\n", number);
    zp_state_free(then);

    for (int i = 0; i < 3; i++)
        TRY(zp_wait(dials[i], NULL, -1));
    return 0;
}
/* [/main] */

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = try_your_luck(ctx);
    if (rc < 0)
        fprintf(stderr, "luck_test: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

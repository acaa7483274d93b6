/*
 * chain_reaction.c - one change causes the next one, across three processes.
 *
 * main() sets `foo`. The first child waits for any change of it, and then sets
 * it to "bar"; the second one waits for just that. Nobody knows of anybody
 * else: they know what they wait for.
 *
 * Each says what it does before it does it, so the lines come in the order of
 * cause and effect.
 */
#include <stdio.h>
#include <stdlib.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [first] */
/* Wait for a change of foo. Any change behind revision *ARG will do: should
 * main() be faster than this process could start, it has not missed it. */
static int
child1(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx), *then;
    const uint64_t *since = arg;
    char *foo;

    TRY(zp_get_when_change(state, &then, ZP_KEYS("foo"), -1,
                           ZP_WATCH(.flags = ZP_SINCE, .since = *since)));
    TRY(zp_get_string(then, "foo", &foo)); /* as that change left it */
    zp_state_free(then);
    printf("child1: foo has become %s, so I wake\n", foo);
    free(foo);

    printf("child1: I set foo to bar\n");
    return zp_set_string(state, "foo", "bar");
}
/* [/first] */

/* [second] */
/* Wait until foo is "bar". If it is already, there is nothing to wait for. */
static int
child2(zp_ctx *ctx, void *arg)
{
    (void)arg;
    zp_state *state = zp_ctx_state(ctx);

    TRY(zp_get_when_equal(state, NULL, "foo", -1, NULL, ZP_S("bar")));
    printf("child2: foo is bar, so I wake\n");
    return 0;
}
/* [/second] */

/* [main] */
static int
react(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_proc *first, *second;
    uint64_t since;

    TRY(zp_revision(state, &since));
    TRY(zp_spawn(ctx, &first, NULL, child1, &since));
    TRY(zp_spawn(ctx, &second, NULL, child2, NULL));

    printf("main: I set foo to foobar\n");
    TRY(zp_set_string(state, "foo", "foobar"));

    TRY(zp_wait(first, NULL, -1));
    TRY(zp_wait(second, NULL, -1));
    printf("main: both are done\n");
    return 0;
}
/* [/main] */

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc;

    setvbuf(stdout, NULL, _IOLBF, 0); /* each line at once, from everyone */
    rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = react(ctx);
    if (rc < 0)
        fprintf(stderr, "chain_reaction: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

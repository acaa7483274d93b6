/*
 * hello.c - a child process reads what its parent wrote, and answers.
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

/* Print the message. What is read out of the state is a copy, and ours. */
static int
print_message(zp_state *state, const char *who)
{
    char *text;
    TRY(zp_get_string(state, "message", &text));
    printf("%s: %s\n", who, text);
    fflush(stdout);
    free(text);
    return 0;
}

/* The child: it has a context of its own on the same state. */
static int
child(zp_ctx *ctx, void *arg)
{
    (void)arg;
    zp_state *state = zp_ctx_state(ctx);
    TRY(print_message(state, "child"));
    return zp_set_string(state, "message", "bye!");
}

static int
hello(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_proc *proc;
    TRY(zp_set_string(state, "message", "hello!"));
    TRY(zp_spawn(ctx, &proc, NULL, child, NULL));
    TRY(zp_wait(proc, NULL, -1));
    return print_message(state, "parent");
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = hello(ctx);
    if (rc < 0)
        fprintf(stderr, "hello: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

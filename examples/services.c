/*
 * services.c - a service, and a program that uses it.
 *
 * The service is a function in a process of its own. It says when it is ready,
 * so that nobody has to guess how long to sleep; if it fails it is started
 * again. The customer is a program: this one, run anew with the argument
 * "customer". It finds the state by its environment, asks the service what it
 * reads on its standard input, and writes the answers to its standard output;
 * both are pipes. When a process ends, a function is called.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [service] */
/* A question was asked: answer it. */
static int
answer(zp_watch *watch, const zp_event *event, void *user)
{
    zp_state *state = user;
    int64_t number;

    (void)watch;
    TRY(zp_get_int(zp_event_snapshot(event), "question", &number));
    return zp_set_int(state, "answer", number * number);
}

/* The service: it gets everything in place, says so, and works until it is
 * stopped. */
static int
serve(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    (void)arg;
    TRY(zp_call_when_change(state, NULL, ZP_KEYS("question"), NULL, answer,
                            state));
    TRY(zp_ready(ctx));
    return zp_run(ctx);
}
/* [/service] */

/* [exit] */
/* A process has ended for good. When it is the customer, USER is the service,
 * which nobody needs any more. */
static int
on_end(zp_proc *proc, const zp_result *result, void *user)
{
    zp_proc *service = user;

    printf("the %s has ended: %s\n", zp_proc_name(proc),
           result->code < 0 ? result->error : "all is well");
    if (service)
        zp_stop(service, NULL); /* ZP_EFAILED: it was ended by a signal */
    return 0;
}
/* [/exit] */

/* [start] */
/* Start the service, and return when it is there. */
static int
start_service(zp_ctx *ctx, zp_proc **ret_proc)
{
    zp_retry retry = {.size = sizeof(retry), .retries = 3, .delay = 0.1};
    zp_spawn_options options = {
        .size = sizeof(options),
        .name = "service",
        .flags = ZP_SAYS_READY, /* it is, when it has called zp_ready() */
        .retry = &retry,
        .exit_fn = on_end,
    };

    TRY(zp_spawn(ctx, ret_proc, &options, serve, NULL));
    return zp_wait_ready(*ret_proc, 60);
}
/* [/start] */

/* [program] */
/* Run this program as a customer, between two pipes. */
static int
start_customer(zp_ctx *ctx, zp_proc **ret_proc, char *program, zp_proc *service)
{
    const char *argv[] = {program, "customer", NULL};
    zp_spawn_options options = {
        .size = sizeof(options),
        .name = "customer",
        .in = {.kind = ZP_STREAM_PIPE},
        .out = {.kind = ZP_STREAM_PIPE},
        .exit_fn = on_end,
        .exit_user = service,
    };

    return zp_spawn_exec(ctx, ret_proc, &options, argv, NULL);
}

/* [/program] */

/* [pipes] */
/* Our end of the pipe to its stream WHICH, for stdio. */
static int
open_stream(zp_proc *proc, FILE **ret_file, int which)
{
    int fd = zp_proc_stream(proc, which);

    TRY(fd);
    *ret_file = fdopen(fd, which == 0 ? "w" : "r");
    if (*ret_file)
        return 0;
    close(fd);
    return -ENOMEM;
}

static int
talk(zp_proc *customer)
{
    FILE *to, *from;
    char line[80];

    TRY(open_stream(customer, &to, 0));
    fprintf(to, "3\n5\n12\n");
    fclose(to); /* which is the end of its input */
    TRY(open_stream(customer, &from, 1));
    while (fgets(line, sizeof(line), from))
        printf("it says: %s", line);
    fclose(from);
    return 0;
}
/* [/pipes] */

/* [customer] */
/* The program, in its own main(): $ZP_ADDRESS says where the state is. */
static int
ask(zp_ctx *ctx, int64_t number)
{
    zp_state *state = zp_ctx_state(ctx);
    int64_t square;
    uint64_t since;

    TRY(zp_revision(state, &since));
    TRY(zp_set_int(state, "question", number));
    TRY(zp_get_when_change(state, NULL, ZP_KEYS("answer"), 60,
                           ZP_WATCH(.flags = ZP_SINCE, .since = since)));
    TRY(zp_get_int(state, "answer", &square));
    printf("%" PRId64 " times %" PRId64 " is %" PRId64 "\n", number, number,
           square);
    return 0;
}

static int
be_a_customer(void)
{
    char line[80];
    zp_ctx *ctx;
    int rc = zp_ctx_attach(&ctx, NULL, NULL);

    while (rc >= 0 && fgets(line, sizeof(line), stdin))
        rc = ask(ctx, strtoll(line, NULL, 10));
    if (rc < 0)
        fprintf(stderr, "customer: %s\n", zp_ctx_error(NULL));
    zp_ctx_free(ctx);
    return rc < 0;
}
/* [/customer] */

/* [main] */
static int
do_business(zp_ctx *ctx, char *program)
{
    zp_proc *service, *customer;

    TRY(start_service(ctx, &service));
    printf("the service is ready\n");
    TRY(start_customer(ctx, &customer, program, service));
    TRY(talk(customer));
    return zp_run(ctx); /* until on_end() was called for both */
}
/* [/main] */

int
main(int argc, char **argv)
{
    zp_ctx *ctx = NULL;
    int rc;

    if (argc == 2 && strcmp(argv[1], "customer") == 0)
        return be_a_customer();
    rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = do_business(ctx, argv[0]);
    if (rc < 0)
        fprintf(stderr, "services: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

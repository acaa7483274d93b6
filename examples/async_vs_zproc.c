/*
 * async_vs_zproc.c - waiting for many things: one after the other, or at once.
 *
 *     async_vs_zproc [HOW-MANY [SECONDS]]     default: 20 0.1
 *
 * A number of things each take a while, during which nothing is computed: an
 * answer is waited for, of a server far away, say; here it is a sleep. They are
 * waited for in three ways, and all get the same answers:
 *
 *     in one thread      an ordinary call for each; one waits, then the next
 *     fork and pipe      a child for each, all at once, with nothing but the
 *                        system's calls: what it costs to do that by hand
 *     zp_spawn_map       the same with zproc: a child for each, too
 *
 * What is compared is how long it takes from the first question to the last
 * answer. The first way takes HOW-MANY times as long as one answer, whatever
 * one does; the other two as long as one answer, and what the processes cost.
 * That of zp_spawn_map() contains all that it does beyond the second way:
 * each process has a context of its own on the shared state, is on record, and
 * says how it failed, if it does. The state itself is made before the clock is
 * started.
 *
 * An ordinary call that waits is all that the function for an item consists of:
 * nothing in it has to be written in another way for being waited for at once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

#define MOST 1000

struct job {
    int64_t many;
    double seconds;
};

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* [ask] */
/* The slow call: it takes its time to answer, and no processor's. */
static int64_t
ask(int64_t question, double seconds)
{
    struct timespec time = {(time_t)seconds,
                            (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&time, &time) < 0 && errno == EINTR)
        ;
    return question * question;
}
/* [/ask] */

static int
one_after_the_other(const struct job *job, int64_t *ret_sum)
{
    *ret_sum = 0;
    for (int64_t i = 1; i <= job->many; i++)
        *ret_sum += ask(i, job->seconds);
    return 0;
}

/* ------------------------------------------------------------ by hand -- */

/* A child that asks, and writes the answer into the pipe. Returns its pid. */
static pid_t
fork_one(const struct job *job, int64_t question, int to)
{
    int64_t answer;
    pid_t pid = fork();

    if (pid)
        return pid < 0 ? -errno : pid;
    answer = ask(question, job->seconds);
    _exit(write(to, &answer, sizeof(answer)) != sizeof(answer));
}

static int
fork_and_pipe(const struct job *job, int64_t *ret_sum)
{
    int ends[2], rc = 0, status;
    pid_t pids[MOST];
    int64_t answer, n = 0;

    *ret_sum = 0;
    if (pipe(ends) < 0)
        return -errno;
    for (; n < job->many && rc >= 0; n += rc >= 0)
        rc = pids[n] = fork_one(job, n + 1, ends[1]);
    close(ends[1]);
    /* so few bytes come whole, or not at all */
    while (read(ends[0], &answer, sizeof(answer)) == sizeof(answer))
        *ret_sum += answer;
    close(ends[0]);
    while (n--)
        if (waitpid(pids[n], &status, 0) < 0 || status != 0)
            rc = -EIO;
    return rc < 0 ? rc : 0;
}

/* ---------------------------------------------------------- with zproc -- */

/* [item] */
static int
ask_in_a_process(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t question, answer;
    double seconds;

    TRY(zp_value_get(item, "I", &question));
    TRY(zp_value_get(common, "f", &seconds));
    answer = ask(question, seconds);
    return zp_return(ctx, "I", &answer);
}
/* [/item] */

/* [map] */
struct questions {
    int64_t next, last;
};

static int
next_question(zp_mapping *map, void *user)
{
    struct questions *questions = user;

    if (questions->next > questions->last)
        return 0;
    TRY(zp_map_add(map, "I", &questions->next));
    questions->next++;
    return 1;
}

static int
zproc(zp_ctx *ctx, const struct job *job, int64_t *ret_sum)
{
    struct questions questions = {1, job->many};
    zp_map_options options = {
        .size = sizeof(options),
        .flags = ZP_UNORDERED,      /* whoever answers first comes first */
        .count = (size_t)job->many, /* processes at a time: all */
    };
    zp_value *seconds;
    zp_mapping *map;
    int64_t answer;
    int rc;

    *ret_sum = 0;
    TRY(zp_value_new(&seconds, ZP_F(job->seconds)));
    options.common = seconds;
    rc = zp_spawn_map(ctx, &map, &options, ask_in_a_process, next_question,
                      &questions);
    zp_value_free(seconds);
    TRY(rc);
    while ((rc = zp_map_get(map, -1, "I", &answer)) > 0)
        *ret_sum += answer;
    zp_map_free(map);
    return rc;
}
/* [/map] */

/* --------------------------------------------------------------- both -- */

static void
tell(const char *how, double seconds, int64_t sum)
{
    printf("%-16s %7.3f s   (the answers' sum: %" PRId64 ")\n", how, seconds,
           sum);
    fflush(stdout);
}

static int
compare(zp_ctx *ctx, const struct job *job)
{
    double began = now();
    int64_t sum;

    TRY(one_after_the_other(job, &sum));
    tell("in one thread", now() - began, sum);
    began = now();
    TRY(fork_and_pipe(job, &sum));
    tell("fork and pipe", now() - began, sum);
    began = now();
    TRY(zproc(ctx, job, &sum));
    tell("zp_spawn_map", now() - began, sum);
    return 0;
}

int
main(int argc, char **argv)
{
    struct job job = {argc > 1 ? strtol(argv[1], NULL, 10) : 20,
                      argc > 2 ? strtod(argv[2], NULL) : 0.1};
    zp_ctx *ctx = NULL;
    int rc;

    if (argc > 3 || job.many < 1 || job.many > MOST ||
        !(job.seconds >= 0 && job.seconds < 1000)) {
        fprintf(stderr, "usage: async_vs_zproc [1-%d [SECONDS]]\n", MOST);
        return 2;
    }
    rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = compare(ctx, &job);
    if (rc < 0)
        fprintf(stderr, "async_vs_zproc: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

/*
 * starting.h - all ways to start processes, for tests in which none can be
 * started; and what must be as it was before.
 */
#ifndef ZP_TESTS_STARTING_H
#define ZP_TESTS_STARTING_H

#include "tests/api/spawning.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* --------------------------------------------------------- what is left -- */

static atomic_int *runs; /* shared: how many functions have run */

static inline int
counts(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    atomic_fetch_add(runs, 1);
    return 0;
}

/* All that must be as it was. */
typedef struct tally {
    int fds, processes, records, runs;
} tally;

static inline int
count_unended(const zp_process *process, void *user)
{
    *(int *)user += process->state != ZP_PROC_ENDED;
    return 0;
}

static inline bool
has_zombie(void)
{
    siginfo_t info = {0};

    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

static inline tally
count_all(zp_ctx *ctx)
{
    tally t = {zp_test_open_fds(), count_processes(ctx), count_records(ctx),
               atomic_load(runs)};
    int unended = 0;

    assert_ok(zp_each_process(ctx, count_unended, &unended));
    assert_int_equal(unended, t.processes);
    assert_false(has_zombie());
    return t;
}

static inline void
nothing_is_left(zp_ctx *ctx, const tally *before)
{
    tally now = count_all(ctx);

    assert_int_equal(now.fds, before->fds);
    assert_int_equal(now.processes, before->processes);
    assert_int_equal(now.records, before->records);
    assert_int_equal(now.runs, before->runs);
}

/* A start works, and costs a record and nothing else. */
static inline void
works(zp_ctx *ctx)
{
    tally before = count_all(ctx);
    zp_proc *proc = spawn(ctx, NULL, counts, NULL);

    result_of(proc, 0);
    zp_proc_free(proc);
    before.records++;
    before.runs++;
    nothing_is_left(ctx, &before);
}

/* For main() to begin with. */
static inline void
starting_init(void)
{
    runs = mmap(NULL, sizeof *runs, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* -------------------------------------------------------- ways to start -- */

enum { MOST = 4 };

static const zp_spawn_options rich = {.size = sizeof rich,
                                      .dir = "/",
                                      .in = {.kind = ZP_STREAM_NULL},
                                      .out = {.kind = ZP_STREAM_PIPE},
                                      .err = {.kind = ZP_STREAM_PIPE}};

static inline int
start_one(zp_ctx *ctx, zp_proc **procs)
{
    return zp_spawn(ctx, procs, &rich, counts, NULL);
}

static inline int
start_program(zp_ctx *ctx, zp_proc **procs)
{
    const char *argv[] = {"true", NULL};

    return zp_spawn_exec(ctx, procs, &rich, argv, NULL);
}

static inline int
start_many(zp_ctx *ctx, zp_proc **procs)
{
    zp_proc_fn *const fns[] = {counts, counts};

    return zp_spawn_many(ctx, procs, &rich, fns, 2, MOST / 2, NULL);
}

static inline void
defer(zp_ctx *ctx, zp_proc **procs, int n)
{
    zp_spawn_options options = rich;
    int i;

    options.flags = ZP_DEFERRED;
    for (i = 0; i < n; i++)
        procs[i] = spawn(ctx, &options, counts, NULL);
}

static inline void
defer_one(zp_ctx *ctx, zp_proc **procs)
{
    defer(ctx, procs, 1);
}

static inline void
defer_all(zp_ctx *ctx, zp_proc **procs)
{
    defer(ctx, procs, MOST);
}

static inline int
start_deferred(zp_ctx *ctx, zp_proc **procs)
{
    (void)ctx;
    return zp_start(procs[0]);
}

static inline int
start_all(zp_ctx *ctx, zp_proc **procs)
{
    (void)procs;
    return zp_ctx_start(ctx);
}

typedef struct way {
    const char *name;
    int n, runs; /* processes, and how many of them are functions */
    void (*prepare)(zp_ctx *ctx, zp_proc **procs);
    int (*start)(zp_ctx *ctx, zp_proc **procs);
} way;

static const way ways[] = {
    {"zp_spawn", 1, 1, NULL, start_one},
    {"zp_spawn_exec", 1, 0, NULL, start_program},
    {"zp_spawn_many", MOST, MOST, NULL, start_many},
    {"zp_start", 1, 1, defer_one, start_deferred},
    {"zp_ctx_start", MOST, MOST, defer_all, start_all},
};
enum { WAYS = sizeof ways / sizeof *ways };

/* Those that were deferred still can be started; all end, and are no more. */
static inline void
finish(zp_ctx *ctx, const way *w, zp_proc **procs, bool started)
{
    int i;

    if (!started && w->prepare) {
        for (i = 0; i < w->n; i++) {
            assert_int_equal(zp_proc_pid(procs[i]), 0);
            assert_int_equal(zp_proc_alive(procs[i]), 0);
            assert_returns(zp_proc_stream(procs[i], 1), -EBADF);
        }
        assert_ok(w->start(ctx, procs));
        started = true;
    }
    for (i = 0; started && i < w->n; i++) {
        assert_int_equal(result_of(procs[i], 0).attempts, 1);
        close(zp_proc_stream(procs[i], 1));
        zp_proc_free(procs[i]);
    }
}

#endif

/*
 * test_model.c - watches of every kind and mode against a model, at random: see
 * model.h.
 *
 *     ZP_MODEL_CASES=10000 ZP_MODEL_SEED=1 tests/api/test_model
 *
 * The first case has the seed given, each other the next number. A failure
 * tells the seed of its case; how the processes meet is up to the scheduler, so
 * it may need some tries:
 *
 *     ZP_MODEL_REPEAT=1 ZP_MODEL_CASES=1000 ZP_MODEL_SEED=4711 ...
 *
 * With ZP_MODEL_STOP the worker that finds a watch wrong stops, for a debugger.
 *
 * The workers are forked before there is any context or thread, and play many
 * cases: a case is two fresh namespaces in the states that there are. Now and
 * then the states are made anew.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/api/model.h"
#include "tests/support/zp_test.h"

#define CASES 400
#define STATES 250 /* cases in one pair of states */
#define SECONDS 60 /* for a case, at most */

typedef struct pool {
    model_shared *shared;
    pid_t pids[WORKERS];
    int commands[WORKERS], answers[WORKERS]; /* my ends */
} pool;

static uint64_t
setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text && text[0] ? strtoull(text, NULL, 10) : otherwise;
}

static uint64_t
n_cases(void)
{
    uint64_t n = (uint64_t)(CASES / zp_test_slow());

    return setting("ZP_MODEL_CASES", zp_test_valgrind() ? n / 4 : n);
}

/* ------------------------------------------------------------------ pool -- */

static void
make_shared(pool *p)
{
    pthread_rwlockattr_t attr;

    p->shared = mmap(NULL, sizeof *p->shared, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p->shared, MAP_FAILED);
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    assert_int_equal(pthread_rwlock_init(&p->shared->lock, &attr), 0);
    pthread_rwlockattr_destroy(&attr);
}

typedef struct start {
    pool *pool;
    int id;
    int commands[2], answers[2];
} start;

/* In a worker: whoever keeps another's pipe keeps it from seeing its end. */
static int
be_worker(void *user)
{
    start *s = user;

    close(s->commands[1]);
    close(s->answers[0]);
    for (int i = 0; i < s->id; i++) {
        close(s->pool->commands[i]);
        close(s->pool->answers[i]);
    }
    return model_serve(s->pool->shared, s->id, s->commands[0], s->answers[1]);
}

static void
start_workers(pool *p)
{
    for (int i = 0; i < WORKERS; i++) {
        start s = {.pool = p, .id = i};

        assert_int_equal(pipe(s.commands), 0);
        assert_int_equal(pipe(s.answers), 0);
        p->pids[i] = zp_test_fork(be_worker, &s);
        close(s.commands[0]);
        close(s.answers[1]);
        p->commands[i] = s.commands[1];
        p->answers[i] = s.answers[0];
    }
}

static void
command(pool *p, int worker, char what, uint64_t seed, unsigned number)
{
    model_command c;

    memset(&c, 0, sizeof c); /* what lies between its fields is written, too */
    c.what = what;
    c.number = number;
    c.seed = seed;
    assert_int_equal(write(p->commands[worker], &c, sizeof c), sizeof c);
}

/* Before a failure is told. */
static void
kill_all(pool *p)
{
    for (int i = 0; i < WORKERS; i++) {
        kill(p->pids[i], SIGKILL);
        close(p->commands[i]);
        close(p->answers[i]);
    }
}

static void
answer(pool *p, int worker, uint64_t seed)
{
    struct pollfd poll_for = {.fd = p->answers[worker], .events = POLLIN};
    int timeout = (int)(SECONDS * 1e3 * zp_test_slow());
    char byte;
    int n;

    do
        n = poll(&poll_for, 1, timeout);
    while (n < 0 && errno == EINTR);
    if (n == 1 && read(p->answers[worker], &byte, 1) == 1)
        return;
    kill_all(p);
    fail_msg("seed %llu: worker %d %s\n%s", (unsigned long long)seed, worker,
             n == 1 ? "has ended" : "hangs", p->shared->report);
}

static void
check_report(pool *p)
{
    if (!__atomic_load_n(&p->shared->failed, __ATOMIC_ACQUIRE))
        return;
    kill_all(p);
    fail_msg("%s", p->shared->report);
}

static void
stop_workers(pool *p)
{
    for (int i = WORKERS - 1; i >= 0; i--) { /* the owner is the last */
        close(p->commands[i]);
        assert_int_equal(zp_test_wait(p->pids[i], 20), 0);
        close(p->answers[i]);
    }
    pthread_rwlock_destroy(&p->shared->lock);
    munmap(p->shared, sizeof *p->shared);
}

/* ----------------------------------------------------------------- cases -- */

/* New states: worker 0 is their owner. */
static void
make_states(pool *p)
{
    for (int i = WORKERS - 1; i >= 0; i--) {
        command(p, i, 'f', 0, 0);
        answer(p, i, 0);
    }
    for (int i = 0; i < WORKERS; i++) {
        command(p, i, i == 0 ? 'n' : 'a', 0, 0);
        answer(p, i, 0);
    }
    check_report(p);
}

static void
play(pool *p, uint64_t seed, unsigned number)
{
    __atomic_store_n(&p->shared->n, 0, __ATOMIC_RELEASE);
    memset(p->shared->idle, 0, sizeof p->shared->idle);
    for (int i = 0; i < WORKERS; i++)
        command(p, i, 'c', seed, number);
    for (int i = 0; i < WORKERS; i++)
        answer(p, i, seed);
    check_report(p);
}

/* Goal: whatever happens, each watch sees what it must see by the journal. */
static void
test_watches_against_the_model(void **state)
{
    uint64_t n = n_cases(), seed = setting("ZP_MODEL_SEED", 1);
    bool repeat = setting("ZP_MODEL_REPEAT", 0);
    pool p = {.shared = NULL};

    (void)state;
    make_shared(&p);
    start_workers(&p);
    for (uint64_t i = 0; i < n; i++) {
        if (i % STATES == 0)
            make_states(&p);
        play(&p, seed, (unsigned)i);
        seed += !repeat;
    }
    print_message("# %llu cases: %lu events, %lu waits, %lu overruns\n",
                  (unsigned long long)n, p.shared->events, p.shared->waits,
                  p.shared->overruns);
    stop_workers(&p);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_watches_against_the_model),
    };
    return zp_test_main("model", tests, 1, 60 + (unsigned)(n_cases() / 5));
}

/*
 * test_process_hostile.c - processes where it hurts: waiters that block, ends
 * that cross, locks that are held, descriptors that run out, callbacks that
 * free and fork.
 */
#include "tests/api/spawning.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int
fails(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_fail(ctx, -EIO, "as asked");
}

/* --------------------------------------------------------------- pipes -- */

static char text_printed[] = "text";

/* Who reads to the end of the output before it looks at the process need not
 * run the loop for that end to come. */
static void
test_output_ends_by_itself(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_spawn_options options = {.size = sizeof options,
                                .out = {.kind = ZP_STREAM_PIPE}};
    zp_proc *proc = spawn(ctx, &options, prints, text_printed);
    int fd = zp_proc_stream(proc, 1);
    char text[16] = "";
    size_t n = 0;
    ssize_t got;

    (void)state;
    assert_true(fd >= 0);
    while ((got = read(fd, text + n, sizeof text - n)) > 0)
        n += (size_t)got;
    assert_int_equal(got, 0);
    assert_int_equal(n, 4);
    assert_memory_equal(text, "text", 4);
    close(fd);
    assert_int_equal(zp_wait(proc, NULL, 20 * zp_test_slow()), 0);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- stdio -- */

struct reader { /* a thread that waits for standard input, as it were */
    zp_sync reads, done;
    double patience;
    bool in_vain; /* nobody told it to go on */
};

static void *
waits_for_input(void *user)
{
    struct reader *reader = user;
    struct pollfd one = {reader->done.fd[0], POLLIN, 0};

    flockfile(stdin);
    zp_sync_post(&reader->reads);
    reader->in_vain = poll(&one, 1, (int)(reader->patience * 1000)) <= 0;
    funlockfile(stdin);
    return NULL;
}

static pthread_t
start_reader(struct reader *reader, double patience)
{
    pthread_t thread;

    reader->patience = patience;
    zp_sync_open(&reader->reads);
    zp_sync_open(&reader->done);
    assert_int_equal(pthread_create(&thread, NULL, waits_for_input, reader), 0);
    zp_sync_wait(&reader->reads, 20);
    return thread;
}

static int
returns_while_reading(zp_ctx *ctx, void *arg)
{
    static struct reader reader;

    (void)ctx;
    (void)arg;
    start_reader(&reader, -1);
    printf("text");
    return 0;
}

/* Neither the end of a process nor its start waits for a line to be typed. */
static void
test_end_while_reading(void **state)
{
    if (zp_test_tsan())
        skip();

    zp_spawn_options options = {.size = sizeof options,
                                .out = {.kind = ZP_STREAM_PIPE}};
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = spawn(ctx, &options, returns_while_reading, NULL);
    int fd = zp_proc_stream(proc, 1);
    char text[5] = "";

    (void)state;
    assert_int_equal(zp_wait(proc, NULL, 20 * zp_test_slow()), 0);
    assert_int_equal(read(fd, text, sizeof text), 4);
    assert_string_equal(text, "text");
    close(fd);
    zp_ctx_free(ctx);
}

static void
test_reader_of_input(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct reader reader;
    pthread_t thread = start_reader(&reader, 10 * zp_test_slow());
    zp_proc *proc = spawn(ctx, NULL, returns_0, NULL);

    (void)state;
    zp_sync_post(&reader.done);
    pthread_join(thread, NULL);
    zp_sync_close(&reader.reads);
    zp_sync_close(&reader.done);
    assert_false(reader.in_vain);
    assert_int_equal(zp_wait(proc, NULL, 20 * zp_test_slow()), 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------- records -- */

struct seen {
    uint64_t id;
    int found, state, depth;
    uint64_t parent_id;
    double ended, started;
};

static int
see(const zp_process *process, void *user)
{
    struct seen *seen = user;

    if (process->id != seen->id)
        return 0;
    seen->found = 1;
    seen->state = process->state;
    seen->depth = (int)process->depth;
    seen->parent_id = process->parent_id;
    seen->started = process->started;
    seen->ended = process->ended;
    return 0;
}

static struct seen
record_of(zp_ctx *ctx, uint64_t id)
{
    struct seen seen = {.id = id};

    assert_int_equal(zp_each_process(ctx, see, &seen), 0);
    return seen;
}

/* Its child is still there when it returns. */
static int
leaves_child(zp_ctx *ctx, void *arg)
{
    zp_proc *proc;
    int rc = zp_spawn(ctx, &proc, NULL, sleeps, NULL);

    (void)arg;
    if (rc == 0)
        rc = zp_set_int(zp_ctx_state(ctx), "grandchild",
                        (int64_t)zp_proc_id(proc));
    return rc;
}

static void
test_ended_with_parent_record(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = spawn(ctx, NULL, leaves_child, NULL);
    struct seen seen;
    int64_t id = 0;

    (void)state;
    assert_int_equal(zp_wait(proc, NULL, 20 * zp_test_slow()), 0);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "grandchild", &id), 0);
    seen = record_of(ctx, (uint64_t)id);
    assert_int_equal(seen.found, 1);
    assert_int_equal(seen.state, ZP_PROC_ENDED);
    assert_int_equal(seen.depth, 2);
    assert_int_equal(seen.parent_id, zp_proc_id(proc));
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ deferred -- */

static void
test_stop_all_deferred(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_spawn_options options = {.size = sizeof options, .flags = ZP_DEFERRED};
    zp_result results[2] = {{.size = sizeof *results},
                            {.size = sizeof *results}};
    zp_proc *procs[2];

    (void)state;
    procs[0] = spawn(ctx, &options, sleeps, NULL);
    procs[1] = spawn(ctx, NULL, sleeps, NULL);
    assert_int_equal(zp_ctx_stop(ctx, results, 2), 0);
    assert_int_equal(results[0].code, -ECANCELED);
    assert_int_equal(results[0].attempts, 0);
    assert_int_equal(results[1].signal, SIGTERM);
    assert_int_equal(zp_start(procs[0]), -EALREADY);
    assert_int_equal(zp_ctx_start(ctx), 0);
    assert_int_equal(zp_proc_alive(procs[0]), 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------- options -- */

static void
test_program_has_no_other_argument(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int arg = 1;
    zp_retry retry = {.size = sizeof retry,
                      .flags = ZP_RETRY_ARG,
                      .retries = 1,
                      .arg = &arg,
                      .arg_size = sizeof arg};
    zp_spawn_options options = {.size = sizeof options, .retry = &retry};
    const char *const argv[] = {"true", NULL};

    (void)state;
    assert_int_equal(zp_spawn_exec(ctx, NULL, &options, argv, NULL), -EINVAL);
    zp_ctx_free(ctx);
}

static void
test_results_of_one_size(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result results[3] = {
        {.size = sizeof *results}, {.size = 16}, {.size = sizeof *results}};

    (void)state;
    spawn(ctx, NULL, returns_0, NULL);
    assert_int_equal(zp_ctx_wait(ctx, results, 3, 0, 20), -EINVAL);
    results[1].size = sizeof *results;
    assert_int_equal(zp_ctx_wait(ctx, results, 3, 0, 20 * zp_test_slow()), 0);
    zp_ctx_free(ctx);
}

/* A caller of an earlier version, and one of a later one. */
static void
test_other_versions(void **state)
{
    struct {
        zp_result result;
        char later[64];
    } large = {.result = {.size = sizeof large}};
    zp_ctx *ctx = new_ctx(NULL);
    zp_result small;
    zp_proc *proc = spawn(ctx, NULL, fails, NULL);

    (void)state;
    memset(&small, 0x55, sizeof small);
    small.size = offsetof(zp_result, error);
    assert_int_equal(zp_wait(proc, &small, 20 * zp_test_slow()), ZP_EFAILED);
    assert_int_equal(small.code, -EIO);
    assert_int_equal(((unsigned char *)&small)[small.size], 0x55);
    memset(large.later, 0x55, sizeof large.later);
    assert_int_equal(zp_wait(proc, &large.result, 0), ZP_EFAILED);
    assert_string_equal(large.result.error, "as asked");
    assert_int_equal(large.result.size, sizeof large);
    assert_int_equal(large.later[63], 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------- not once more -- */

static void
test_no_second_start(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_retry retry = {.size = sizeof retry, .retries = 1, .delay = -1};
    char dir[512];
    zp_spawn_options options = {
        .size = sizeof options, .dir = dir, .retry = &retry};
    zp_result result = {.size = sizeof result};
    struct seen seen;
    zp_proc *proc;

    (void)state;
    snprintf(dir, sizeof dir, "%s", zp_test_path("gone"));
    assert_int_equal(mkdir(dir, 0700), 0);
    proc = spawn(ctx, &options, fails, NULL);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(zp_wait(proc, &result, 20 * zp_test_slow()), ZP_EFAILED);
    assert_int_equal(result.code, -ENOENT);
    assert_int_equal(result.attempts, 2);
    assert_true(result.ended >= result.started);
    seen = record_of(ctx, zp_proc_id(proc));
    assert_int_equal(seen.state, ZP_PROC_ENDED);
    assert_true(seen.ended >= seen.started);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------------- forgetting -- */

static int
returns_and_fails(zp_ctx *ctx, void *arg)
{
    (void)arg;
    (void)zp_return(ctx, "i", &(int){7});
    return -EIO;
}

static int
returns_much(zp_ctx *ctx, void *arg)
{
    zp_bin bin = {calloc(1, *(size_t *)arg), (uint32_t) * (size_t *)arg};
    int rc = zp_return(ctx, "B", &bin);

    free(bin.addr);
    return rc;
}

/* Its child has written how it ended, and that was forgotten: it stays so. */
static void
test_forgotten_stays_forgotten(void **state)
{
    zp_ctx_options with = {.size = sizeof with, .max_bytes = 4 << 20};
    zp_ctx *ctx = new_ctx(&with);
    zp_proc *first = spawn(ctx, NULL, fails, NULL), *next;
    size_t size = 400000;
    int i;

    (void)state;
    while (zp_test_process_state(zp_proc_pid(first)) != 'Z')
        poll(NULL, 0, 1);
    for (i = 0; record_of(ctx, zp_proc_id(first)).found; i++) {
        assert_true(i < 20);
        next = spawn(ctx, NULL, returns_much, &size);
        while (zp_test_process_state(zp_proc_pid(next)) != 'Z')
            poll(NULL, 0, 1);
    }
    assert_int_equal(zp_wait(first, NULL, 0), ZP_EFAILED);
    assert_int_equal(record_of(ctx, zp_proc_id(first)).found, 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------ a held lock -- */

static int
holds_lock(zp_state *state, void *user)
{
    (void)state;
    zp_sync_post(user);
    raise(SIGSTOP);
    return 0;
}

static int
stops_inside(zp_ctx *ctx, void *arg)
{
    return zp_atomic(zp_ctx_state(ctx), holds_lock, arg);
}

#define KILLED 100

static int
many_killed(zp_ctx *ctx, void *arg)
{
    zp_sync *syncs = arg;
    zp_proc *procs[KILLED], *holder;
    zp_proc_fn *fn = sleeps;
    int i, rc = zp_spawn_many(ctx, procs, NULL, &fn, 1, KILLED, NULL);

    if (rc == 0)
        rc = zp_spawn(ctx, &holder, NULL, stops_inside, syncs);
    if (rc < 0)
        return rc;
    zp_sync_wait(&syncs[0], 20);
    while (zp_test_process_state(zp_proc_pid(holder)) != 'T')
        poll(NULL, 0, 1);
    for (i = 0; i < KILLED; i++)
        kill(zp_proc_pid(procs[i]), SIGKILL);
    zp_sync_post(&syncs[1]);
    rc = zp_ctx_wait(ctx, NULL, 0, ZP_SAFE, 2);
    zp_sync_post(&syncs[2]);
    kill(zp_proc_pid(holder), SIGKILL); /* for our own record */
    return rc == -ETIMEDOUT ? 0 : -EPROTO;
}

/* Who cannot write records must not wait for the lock once for each. */
static void
test_lock_held(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_sync syncs[3];
    zp_proc *proc;
    int i;

    (void)state;
    for (i = 0; i < 3; i++)
        zp_sync_open(&syncs[i]);
    proc = spawn(ctx, NULL, many_killed, syncs);
    zp_sync_wait(&syncs[1], 20 * zp_test_slow());
    zp_sync_wait(&syncs[2], 10); /* not KILLED times 0.2 */
    assert_int_equal(zp_wait(proc, NULL, 20 * zp_test_slow()), 0);
    for (i = 0; i < 3; i++)
        zp_sync_close(&syncs[i]);
    zp_ctx_free(ctx);
}

/* The lock is taken before the last one of many is forked. */
static struct {
    unsigned forks; /* to come before that; 0: it is not to be taken */
    zp_sync take, taken;
} late;

static void
before_fork(void)
{
    if (late.forks == 0 || --late.forks > 0)
        return;
    zp_sync_post(&late.take);
    zp_sync_wait(&late.taken, 20);
}

static int
stops_inside_later(zp_ctx *ctx, void *arg)
{
    zp_sync_wait(&late.take, 20 * zp_test_slow());
    return stops_inside(ctx, arg);
}

#define UNDONE 20

static int
many_undone(void *user)
{
    const zp_ctx_options options = {.size = sizeof options, .lock_timeout = 1};
    zp_ctx *ctx = new_ctx(&options);
    zp_proc *holder = spawn(ctx, NULL, stops_inside_later, &late.taken);
    zp_proc_fn *fn = sleeps;
    int rc;

    assert_int_equal(pthread_atfork(before_fork, NULL, NULL), 0);
    late.forks = UNDONE;
    rc = zp_spawn_many(ctx, NULL, NULL, &fn, 1, UNDONE, NULL);
    zp_sync_post(user);
    kill(zp_proc_pid(holder), SIGKILL);
    zp_ctx_free(ctx);
    return rc == -ETIMEDOUT ? 0 : 1;
}

/* Nor for each of those whose start is taken back. */
static void
test_lock_held_while_undone(void **state)
{
    zp_sync told;
    pid_t pid;

    (void)state;
    zp_sync_open(&late.take);
    zp_sync_open(&late.taken);
    zp_sync_open(&told);
    pid = zp_test_fork(many_undone, &told);
    zp_sync_wait(&told, 10 * zp_test_slow()); /* not UNDONE times 1 */
    assert_int_equal(zp_test_wait(pid, 20), 0);
    zp_sync_close(&late.take);
    zp_sync_close(&late.taken);
    zp_sync_close(&told);
}

/* ------------------------------------------------------------- forking -- */

struct forker {
    zp_ctx *ctx;
    zp_sync sync;
    pid_t pid;
};

static int
free_and_fork(zp_proc *proc, const zp_result *result, void *user)
{
    struct forker *forker = user;

    (void)proc;
    (void)result;
    zp_ctx_free(forker->ctx);
    forker->pid = fork();
    if (forker->pid) /* not before the other one has left the callback */
        zp_sync_wait(&forker->sync, 20);
    return 0;
}

/* The context is freed by the process that it belongs to, not by one that was
 * forked in the callback and comes out of it, too. */
static void
test_fork_after_free_in_callback(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct forker forker = {.ctx = ctx};
    zp_proc *proc = spawn(ctx, NULL, sleeps, NULL);
    int rc, pid = zp_proc_pid(proc), alive;

    (void)state;
    zp_sync_open(&forker.sync);
    proc = spawn(ctx, NULL, returns_0, NULL);
    assert_int_equal(zp_call_when_exit(proc, free_and_fork, &forker), 0);
    rc = zp_run(ctx);
    if (forker.pid == 0) { /* what was the parent's runs on */
        alive = zp_test_process_state(pid);
        zp_sync_post(&forker.sync);
        _exit(rc == ZP_EFORK && alive && alive != 'Z' ? 0 : 1);
    }
    assert_int_equal(rc, ZP_ECLOSED);
    assert_int_equal(zp_test_wait(forker.pid, 20), 0);
    zp_sync_close(&forker.sync);
}

/* ----------------------------------------------------------- crashing -- */

static int
crashes_after_vfork(zp_ctx *ctx, void *arg)
{
    pid_t pid;

    (void)ctx;
    (void)arg;
    signal(SIGCHLD, SIG_DFL);
    pid = vfork(); /* shares the memory, and the handlers' notes in it */
    if (pid == 0) {
        raise(SIGSEGV);
        _exit(1);
    }
    waitpid(pid, NULL, 0);
    raise(SIGBUS);
    return 0;
}

static void
test_crash_after_vfork(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = spawn(ctx, NULL, crashes_after_vfork, NULL);
    zp_result result = {.size = sizeof result};

    (void)state;
    assert_int_equal(zp_wait(proc, &result, 20 * zp_test_slow()), ZP_EFAILED);
    assert_int_equal(result.signal, SIGBUS);
    assert_non_null(strstr(result.backtrace, "#0"));
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------- at the limit -- */

/* No descriptor for a pidfd: the child that is there already goes, and nothing
 * is left open. */
static void
test_no_descriptors(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct rlimit before, tight;
    zp_spawn_options options = {.size = sizeof options,
                                .dir = "/",
                                .in = {.kind = ZP_STREAM_NULL},
                                .out = {.kind = ZP_STREAM_PIPE},
                                .err = {.kind = ZP_STREAM_PIPE}};
    const char *const argv[] = {"true", NULL};
    zp_proc *proc;
    int i, rc, fds = zp_test_open_fds(), highest = dup(0), failed = 0;

    (void)state;
    close(highest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (i = 0; i < 24; i++) {
        int program;

        for (program = 0; program < 2; program++) {
            tight = before;
            tight.rlim_cur = (rlim_t)(highest + i);
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
            proc = NULL;
            rc = program ? zp_spawn_exec(ctx, &proc, &options, argv, NULL)
                         : zp_spawn(ctx, &proc, &options, returns_0, NULL);
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
            if (rc < 0) {
                failed++;
                assert_null(proc);
                assert_int_equal(zp_test_open_fds(), fds);
                continue;
            }
            (void)zp_stop(proc, NULL);
            for (int j = 0; j < 3; j++) {
                int fd = zp_proc_stream(proc, j);

                if (fd >= 0)
                    close(fd);
            }
            zp_proc_free(proc);
            assert_int_equal(zp_test_open_fds(), fds);
        }
    }
    assert_true(failed > 4);
    zp_ctx_free(ctx);
}

static bool stops_at_birth;

static void
at_birth(void)
{
    if (stops_at_birth)
        raise(SIGSTOP);
}

/* It cannot be watched, and does not hear that it is not to run. */
static void
test_no_descriptor_for_a_stopped_one(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct rlimit before, tight;
    int lowest, rc;

    (void)state;
    spawn(ctx, NULL, sleeps, NULL); /* what the first one needs is there now */
    assert_int_equal(pthread_atfork(NULL, NULL, at_birth), 0);
    lowest = dup(0);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = (rlim_t)lowest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    stops_at_birth = true;
    rc = zp_spawn(ctx, NULL, NULL, returns_0, NULL);
    stops_at_birth = false;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    if (!zp_test_valgrind())
        assert_int_equal(rc, -EMFILE);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------- inside of a write -- */

static int
look_inside(zp_state *state, void *user)
{
    zp_proc **procs = user;

    (void)state;
    while (zp_proc_alive(procs[0]) == 1 || zp_proc_alive(procs[1]) == 1 ||
           zp_proc_alive(procs[2]) == 1)
        poll(NULL, 0, 1);
    if (zp_wait(procs[0], NULL, 0) != -EDEADLK ||
        zp_stop(procs[0], NULL) != -EDEADLK)
        return -EPROTO;
    zp_proc_free(procs[2]);
    return zp_set_int(state, "k", 1);
}

static void
test_ends_inside_of_a_write(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *procs[3];
    struct seen seen;
    int seven = 0;
    uint64_t id;

    (void)state;
    procs[0] = spawn(ctx, NULL, returns_and_fails, NULL);
    procs[1] = spawn(ctx, NULL, sleeps, NULL);
    procs[2] = spawn(ctx, NULL, sleeps, NULL);
    id = zp_proc_id(procs[2]);
    /* the first one needs the lock for its end */
    while (zp_test_process_state(zp_proc_pid(procs[0])) != 'Z')
        poll(NULL, 0, 1);
    kill(zp_proc_pid(procs[1]), SIGKILL);
    kill(zp_proc_pid(procs[2]), SIGKILL);
    assert_int_equal(zp_atomic(zp_ctx_state(ctx), look_inside, procs), 0);
    assert_int_equal(zp_wait(procs[0], NULL, 0), ZP_EFAILED);
    assert_int_equal(zp_proc_get(procs[0], "i", &seven), 0);
    assert_int_equal(seven, 7);
    assert_int_equal(zp_wait(procs[1], NULL, 0), ZP_EFAILED);
    seen = record_of(ctx, zp_proc_id(procs[1]));
    assert_int_equal(seen.state, ZP_PROC_ENDED);
    do { /* the third is owed, and the timer tells */
        zp_ctx_dispatch(ctx);
        seen = record_of(ctx, id);
    } while (seen.state != ZP_PROC_ENDED);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_output_ends_by_itself),
        ZP_TEST(test_end_while_reading),
        ZP_TEST(test_reader_of_input),
        ZP_TEST(test_ended_with_parent_record),
        ZP_TEST(test_stop_all_deferred),
        ZP_TEST(test_program_has_no_other_argument),
        ZP_TEST(test_results_of_one_size),
        ZP_TEST(test_other_versions),
        ZP_TEST(test_no_second_start),
        ZP_TEST(test_forgotten_stays_forgotten),
        ZP_TEST(test_lock_held),
        ZP_TEST(test_lock_held_while_undone),
        ZP_TEST(test_fork_after_free_in_callback),
        ZP_TEST(test_crash_after_vfork),
        ZP_TEST(test_no_descriptors),
        ZP_TEST(test_no_descriptor_for_a_stopped_one),
        ZP_TEST(test_ends_inside_of_a_write),
    };
    return zp_test_main("process_hostile", tests, sizeof tests / sizeof *tests,
                        60);
}

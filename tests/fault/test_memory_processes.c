/*
 * test_memory_processes.c - out of memory while processes are started, waited
 * for, started again and ended; in the parent or in the child. A failure is
 * told once, as -ENOMEM, and nothing is half-started: afterwards no process,
 * zombie or descriptor is left, each record is of a process that was started
 * and tells of its end, and the context goes on working.
 */
#include "tests/api/spawning.h"
#include "tests/fault/no_memory.h"

#include <sys/wait.h>

static zp_ctx *ctx;
static int started; /* how many records there must be */
static bool told;   /* the failure, to this run of a scenario */

/* ------------------------------------------------------------------ after --
 */

static int
check_ended(const zp_process *process, void *user)
{
    ++*(int *)user;
    if (process->state != ZP_PROC_ENDED)
        fail_msg("the process %d \"%s\" is in state %d", process->pid,
                 process->name, process->state);
    return 0;
}

static void
nothing_is_left(void)
{
    siginfo_t zombie = {0};
    int n = 0;

    assert_int_equal(count_processes(ctx), 0);
    assert_int_equal(waitid(P_ALL, 0, &zombie, WEXITED | WNOHANG | WNOWAIT), 0);
    assert_int_equal(zombie.si_pid, 0);
    assert_ok(zp_each_process(ctx, check_ended, &n));
    assert_int_equal(n, started);
}

static void
after(int rc)
{
    zp_proc *proc;

    nothing_is_left();
    if (rc < 0) { /* the next one is not hurt */
        proc = spawn(ctx, NULL, returns_0, NULL);
        started++;
        result_of(proc, 0);
        zp_proc_free(proc);
    }
    told = false;
}

static int
open_ctx(void **state)
{
    (void)state;
    started = 0;
    told = false;
    return zp_ctx_new(&ctx, NULL);
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

/* Is RC the failure, told for the first time? Then it may be tried again. */
static bool
is_told(int rc)
{
    if (rc != -ENOMEM)
        return false;
    assert_false(told);
    return told = true;
}

/* What a scenario gives back. */
static int
verdict(int rc)
{
    return told && rc >= 0 ? -ENOMEM : rc;
}

/* ------------------------------------------------------------------- ends --
 */

static int exits;

static int
on_exit_count(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    (void)user;
    exits++;
    return 0;
}

/* How PROC ended: 0, or -ENOMEM if it was the one that had no memory. The wait
 * itself may fail first. */
static int
end_of(zp_proc *proc)
{
    zp_result result = {.size = sizeof result};
    int rc = zp_wait(proc, &result, SECONDS);

    if (is_told(rc))
        rc = zp_wait(proc, &result, SECONDS);
    if (rc != ZP_EFAILED)
        return rc;
    assert_true(result.error[0]);
    (void)is_told(result.code);
    return result.code;
}

/* The exit callback comes, once, whatever fails. */
static void
run_to_exit(void)
{
    int rc = zp_run(ctx);

    if (is_told(rc))
        rc = zp_run(ctx);
    assert_int_equal(rc, 0);
    assert_int_equal(exits, 1);
}

/* -------------------------------------------------------------- scenarios --
 */

static int
gives_seven(zp_ctx *mine, void *arg)
{
    int seven = 7;
    int c = getchar();

    return c == 'x' && strcmp(arg, "argument") == 0
               ? zp_return(mine, "i", &seven)
               : -EBADMSG;
}

/* With all that can be asked for. */
static int
one(void)
{
    const char *in = zp_test_path("in");
    zp_spawn_options options = {.size = sizeof options,
                                .name = "name",
                                .ns = "other",
                                .dir = "/",
                                .arg_size = 9,
                                .in = {ZP_STREAM_FILE, 0, in},
                                .out = {ZP_STREAM_PIPE, 0, NULL},
                                .err = {ZP_STREAM_STDOUT, 0, NULL},
                                .exit_fn = on_exit_count};
    zp_proc *proc = NULL;
    int seven = 0, rc;

    exits = 0;
    rc = zp_spawn(ctx, &proc, &options, gives_seven, (void *)"argument");
    if (rc < 0)
        return rc;
    started++;
    rc = end_of(proc);
    run_to_exit();
    close(zp_proc_stream(proc, 1));
    if (rc == 0) {
        rc = zp_proc_get(proc, "i", &seven);
        if (is_told(rc))
            rc = zp_proc_get(proc, "i", &seven);
        assert_int_equal(rc, 0);
        assert_int_equal(seven, 7);
    }
    zp_proc_free(proc);
    return verdict(rc);
}

static int
program(void)
{
    const char *argv[] = {"sh", "-c", "exit $STATUS", NULL};
    const char *env[] = {"STATUS=0", NULL};
    zp_proc *proc = NULL;
    int rc = zp_spawn_exec(ctx, &proc, SPAWN(.err = {ZP_STREAM_PIPE, 0, NULL}),
                           argv, env);

    if (rc < 0)
        return rc;
    started++;
    rc = end_of(proc);
    zp_proc_free(proc);
    return verdict(rc);
}

enum { MANY = 4 };

/* Its parent has to write its record. */
static int
kills_itself(zp_ctx *mine, void *arg)
{
    (void)mine;
    (void)arg;
    return raise(SIGKILL);
}

/* All of them, or none; every second one fails in any case. */
static int
many(void)
{
    zp_proc_fn *const fns[] = {returns_0, kills_itself};
    zp_result results[MANY];
    zp_proc *procs[MANY];
    int i, rc = zp_spawn_many(ctx, procs, NULL, fns, 2, MANY / 2, NULL);

    if (rc < 0)
        return rc;
    started += MANY;
    for (i = 0; i < MANY; i++)
        results[i] = (zp_result){.size = sizeof results[i], .code = -1};
    rc = zp_ctx_wait(ctx, results, MANY, ZP_SAFE, SECONDS);
    if (is_told(rc))
        rc = zp_ctx_wait(ctx, results, MANY, ZP_SAFE, SECONDS);
    assert_true(rc == MANY / 2 || rc == MANY / 2 + 1);
    for (i = 0; i < MANY; i++) {
        if (!is_told(results[i].code)) {
            assert_int_equal(results[i].code, i % 2 ? ZP_EFAILED : 0);
            assert_int_equal(results[i].signal, i % 2 ? SIGKILL : 0);
        }
        zp_proc_free(procs[i]);
    }
    return verdict(0);
}

/* What could not be started can be started still. */
static int
deferred(void)
{
    zp_proc *procs[2] = {NULL, NULL};
    int i, rc;

    for (i = 0; i < 2; i++) {
        const zp_spawn_options *options =
            SPAWN(.flags = ZP_DEFERRED, .out = {ZP_STREAM_PIPE, 0, NULL});

        rc = zp_spawn(ctx, &procs[i], options, returns_0, NULL);
        if (is_told(rc))
            rc = zp_spawn(ctx, &procs[i], options, returns_0, NULL);
        assert_int_equal(rc, 0);
    }
    rc = zp_start(procs[0]);
    if (is_told(rc))
        rc = zp_start(procs[0]);
    assert_int_equal(rc, 0);
    rc = zp_ctx_start(ctx);
    if (is_told(rc))
        rc = zp_ctx_start(ctx);
    assert_int_equal(rc, 0);
    started += 2;
    for (i = 0; i < 2; i++) {
        rc = end_of(procs[i]);
        assert_true(rc == 0 || rc == -ENOMEM);
        zp_proc_free(procs[i]);
    }
    return verdict(0);
}

static int
fails_at_first(zp_ctx *mine, void *arg)
{
    (void)mine;
    return arg ? 0 : -EIO;
}

/* An attempt that has no memory, or cannot be started for want of it, has
 * failed; one more is made. */
static int
retried(void)
{
    static const int codes[] = {-EIO, -ENOMEM};
    const zp_retry *retry =
        RETRY(.flags = ZP_RETRY_CODES | ZP_RETRY_ARG, .retries = 3, .delay = -1,
              .codes = codes, .n_codes = 2, .arg = (void *)"again",
              .arg_size = 6);
    zp_result result = {.size = sizeof result};
    zp_proc *proc = NULL;
    int rc = zp_spawn(ctx, &proc, SPAWN(.retry = retry), fails_at_first, NULL);

    if (rc < 0)
        return rc;
    started++;
    rc = zp_wait(proc, &result, SECONDS);
    if (is_told(rc))
        rc = zp_wait(proc, &result, SECONDS);
    assert_int_equal(rc, 0);
    assert_true(result.attempts == 2 || result.attempts == 3);
    told |= result.attempts == 3;
    zp_proc_free(proc);
    return verdict(rc);
}

/* One that sleeps is ended; the child may have had no memory before. */
static void
ended_by_term(const zp_result *result)
{
    if (result->code == -ENOMEM)
        assert_true(is_told(-ENOMEM));
    else
        assert_int_equal(result->signal, SIGTERM);
}

static int
sleeps_now(zp_ctx *mine, void *arg)
{
    (void)zp_ready(mine);
    return sleeps(mine, arg);
}

/* They are there when this returns, unless one has failed before. */
static void
spawn_sleepers(zp_proc **procs, int n)
{
    int i, rc;

    for (i = 0; i < n; i++) {
        rc = zp_spawn(ctx, &procs[i], NULL, sleeps_now, NULL);
        if (is_told(rc))
            rc = zp_spawn(ctx, &procs[i], NULL, sleeps_now, NULL);
        assert_int_equal(rc, 0);
        started++;
        rc = zp_wait_ready(procs[i], SECONDS);
        if (is_told(rc))
            rc = zp_wait_ready(procs[i], SECONDS);
        assert_true(rc == 0 || rc == ZP_EFAILED);
    }
}

static int
stopped(void)
{
    zp_result result = {.size = sizeof result};
    zp_proc *proc;
    int rc;

    spawn_sleepers(&proc, 1);
    rc = zp_stop(proc, &result);
    if (is_told(rc))
        rc = zp_stop(proc, &result);
    assert_int_equal(rc, ZP_EFAILED);
    ended_by_term(&result);
    zp_proc_free(proc);
    return verdict(0);
}

static int
all_stopped(void)
{
    zp_result results[2];
    zp_proc *procs[2];
    int i, rc;

    spawn_sleepers(procs, 2);
    for (i = 0; i < 2; i++)
        results[i].size = sizeof results[i];
    rc = zp_ctx_stop(ctx, results, 2);
    if (is_told(rc))
        rc = zp_ctx_stop(ctx, results, 2);
    assert_int_equal(rc, 0);
    for (i = 0; i < 2; i++) {
        ended_by_term(&results[i]);
        zp_proc_free(procs[i]);
    }
    return verdict(0);
}

/* Registered before the end and after it. */
static int
called(void)
{
    zp_proc *procs[2];
    int i, rc, failures = 0;

    for (i = 0; i < 2; i++) {
        rc = zp_spawn(ctx, &procs[i], NULL, returns_0, NULL);
        if (is_told(rc))
            rc = zp_spawn(ctx, &procs[i], NULL, returns_0, NULL);
        assert_int_equal(rc, 0);
        started++;
    }
    for (i = 0; i < 2; i++) {
        exits = 0;
        if (i == 1)
            failures += end_of(procs[i]) < 0;
        rc = zp_call_when_exit(procs[i], on_exit_count, NULL);
        if (is_told(rc))
            rc = zp_call_when_exit(procs[i], on_exit_count, NULL);
        assert_int_equal(rc, 0);
        run_to_exit();
        if (i == 0)
            failures += end_of(procs[i]) < 0;
        zp_proc_free(procs[i]);
    }
    assert_true(failures <= 1);
    return verdict(0);
}

/* What a context gives all of its own; on record for others. */
static int
defaults(void)
{
    static const int codes[] = {-EIO};
    zp_spawn_options given = {.size = sizeof given,
                              .name = "default",
                              .dir = "/",
                              .ns = "other",
                              .out = {ZP_STREAM_FILE, 0, zp_test_path("out")},
                              .retry =
                                  RETRY(.flags = ZP_RETRY_CODES, .retries = 1,
                                        .codes = codes, .n_codes = 1)};
    zp_ctx_options options = {.size = sizeof options, .spawn = &given};
    zp_ctx *mine = NULL;
    zp_proc *proc;
    int rc = zp_ctx_attach(&mine, zp_ctx_address(ctx), &options);

    if (rc < 0)
        return rc;
    rc = zp_spawn(mine, &proc, NULL, returns_0, NULL);
    if (rc == 0) {
        started++;
        rc = end_of(proc);
    }
    zp_ctx_free(mine);
    return verdict(rc);
}

static int
find_id(const zp_process *process, void *user)
{
    return process->id == *(uint64_t *)user;
}

static int
gives_text(zp_ctx *mine, void *arg)
{
    const char *text = "a text";

    (void)arg;
    return zp_return(mine, "s", &text);
}

/* Results, records, reports. */
static int
looked_at(void)
{
    FILE *file = fopen("/dev/null", "we");
    zp_value *value = NULL;
    zp_proc *proc = NULL;
    char *text = NULL;
    uint64_t id;
    int rc = zp_spawn(ctx, &proc, NULL, gives_text, NULL);

    if (rc == 0) {
        started++;
        rc = end_of(proc);
    }
    id = proc ? zp_proc_id(proc) : 0;
    TRY(zp_proc_report(proc, file));
    TRY(zp_proc_get_value(proc, &value));
    zp_value_free(value);
    TRY(zp_process_get(ctx, id, "s", &text));
    free(text);
    TRY(zp_process_get_value(ctx, id, &value));
    if (rc == 0)
        zp_value_free(value);
    TRY(zp_each_process(ctx, find_id, &id) == 1 ? 0 : -ENOMEM);
    zp_proc_free(proc);
    fclose(file);
    return rc;
}

/* ------------------------------------------------------------------ tests --
 */

#define TEST(name)                                                             \
    static void test_##name(void **state)                                      \
    {                                                                          \
        (void)state;                                                           \
        with_failures(name, after);                                            \
    }

static void
test_one(void **state)
{
    FILE *in = fopen(zp_test_path("in"), "we");

    (void)state;
    fputc('x', in);
    fclose(in);
    with_failures(one, after);
}
TEST(program)
TEST(many)
TEST(deferred)
TEST(retried)
TEST(stopped)
TEST(all_stopped)
TEST(called)
TEST(defaults)
TEST(looked_at)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_one, open_ctx, close_ctx),
        ZP_TEST_WITH(test_program, open_ctx, close_ctx),
        ZP_TEST_WITH(test_many, open_ctx, close_ctx),
        ZP_TEST_WITH(test_deferred, open_ctx, close_ctx),
        ZP_TEST_WITH(test_retried, open_ctx, close_ctx),
        ZP_TEST_WITH(test_stopped, open_ctx, close_ctx),
        ZP_TEST_WITH(test_all_stopped, open_ctx, close_ctx),
        ZP_TEST_WITH(test_called, open_ctx, close_ctx),
        ZP_TEST_WITH(test_defaults, open_ctx, close_ctx),
        ZP_TEST_WITH(test_looked_at, open_ctx, close_ctx),
    };

    no_memory_init();
    return zp_test_main("memory_processes", tests, sizeof tests / sizeof *tests,
                        60);
}

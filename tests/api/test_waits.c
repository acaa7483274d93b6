/*
 * test_waits.c - waiting for processes, ending them, being called when they
 * end; in every order, and from inside of each other.
 */
#include "tests/api/spawning.h"

#include <math.h>
#include <pthread.h>
#include <sys/wait.h>

static void
stop_later(later *l, zp_ctx *ctx)
{
    ev_timer_stop(zp_ev_loop(ctx), &l->timer);
}

static void
post_twice(void *user)
{
    zp_sync_post(user);
    zp_sync_post(user);
}

static int
fails_at_post(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    zp_sync_wait(arg, SECONDS);
    return -EIO;
}

static void
sizes(zp_result *results, size_t n)
{
    size_t i;

    memset(results, 0, n * sizeof *results);
    for (i = 0; i < n; i++)
        results[i].size = sizeof *results;
}

/* ----------------------------------------------------------- zp_ctx_wait() --
 */

/* Results come in the order of spawning, whatever the order of the ends; those
 * that nobody has asked for are waited for, but have none. (When they end
 * before the call they may be gone by then.) */
static void
test_all_in_order(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int codes[] = {3, 5, -EPIPE};
    zp_result results[6];
    zp_sync go;
    later l;

    (void)state;
    zp_sync_open(&go);
    sizes(results, 6);
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, 0), 0); /* of none */
    spawn(ctx, NULL, waits_for_post, &go);
    spawn(ctx, NULL, returns_code, &codes[0]);
    assert_ok(zp_spawn(ctx, NULL, NULL, fails_at_post, &go));
    spawn(ctx, NULL, returns_code, &codes[2]);
    spawn(ctx, NULL, returns_code, &codes[1]);
    do_later(&l, ctx, 0.02, post_twice, &go);
    assert_returns(zp_ctx_wait(ctx, results, 6, ZP_SAFE, SECONDS), 2);
    assert_int_equal(l.ran, 1);
    assert_int_equal(results[0].code, 0);
    assert_int_equal(results[1].code, 3);
    assert_int_equal(results[2].code, -EPIPE);
    assert_int_equal(results[3].code, 5);
    assert_null(results[4].error); /* untouched */
    assert_null(results[5].error);
    sizes(results, 6);
    assert_true(zp_ctx_wait(ctx, results, 2, ZP_SAFE, 0) > 0); /* again */
    assert_int_equal(results[1].code, 3);
    assert_null(results[2].error); /* no room for it */
    zp_sync_close(&go);
    zp_ctx_free(ctx);
}

/* The first failure ends it, the others run on; a later call goes on. */
static void
test_all_fail_fast(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int code = -EIO;
    zp_result results[3];
    zp_proc *slow;
    zp_sync go;

    (void)state;
    zp_sync_open(&go);
    sizes(results, 3);
    slow = spawn(ctx, NULL, waits_for_post, &go);
    spawn(ctx, SPAWN(.name = "culprit"), returns_code, &code);
    spawn(ctx, NULL, waits_for_post, &go);
    assert_returns(zp_ctx_wait(ctx, results, 3, 0, SECONDS), ZP_EFAILED);
    assert_has(zp_ctx_error(ctx), "culprit");
    assert_int_equal(results[0].code, -EBUSY);
    assert_int_equal(results[0].pid, zp_proc_pid(slow));
    assert_int_equal(results[0].attempts, 1);
    assert_int_equal(results[0].status, -1);
    assert_string_equal(results[0].error, "");
    assert_int_equal(results[1].code, -EIO);
    assert_int_equal(results[2].code, -EBUSY);
    assert_int_equal(zp_proc_alive(slow), 1);
    zp_sync_post(&go);
    zp_sync_post(&go);
    assert_returns(zp_ctx_wait(ctx, results, 3, ZP_SAFE, SECONDS), 1);
    assert_returns(zp_ctx_wait(ctx, results, 3, 0, 0), ZP_EFAILED);
    assert_int_equal(results[0].code, 0);
    zp_sync_close(&go);
    zp_ctx_free(ctx);
}

/* One budget for all, and who has not ended in it is busy. */
static void
test_all_timeout(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result results[3];
    double begun;
    int i;

    (void)state;
    sizes(results, 3);
    for (i = 0; i < 3; i++)
        spawn(ctx, NULL, i == 1 ? returns_0 : sleeps, NULL);
    while (zp_ctx_wait(ctx, results, 3, ZP_SAFE, 0) == -ETIMEDOUT &&
           results[1].code == -EBUSY)
        continue;
    begun = zp_test_now();
    assert_returns(zp_ctx_wait(ctx, results, 3, ZP_SAFE, 0.1), -ETIMEDOUT);
    assert_true(zp_test_now() - begun >= 0.1);
    assert_has(zp_ctx_error(ctx), "2 of 3");
    assert_int_equal(results[0].code, -EBUSY);
    assert_int_equal(results[1].code, 0);
    assert_int_equal(results[2].code, -EBUSY);
    assert_returns(zp_ctx_wait(ctx, NULL, 0, 0, 0.01), -ETIMEDOUT);
    zp_ctx_free(ctx);
}

static int
wait_inside(zp_state *txn, void *user)
{
    (void)txn;
    assert_int_equal(zp_ctx_wait(user, NULL, 0, 0, 0), -EDEADLK);
    assert_int_equal(zp_ctx_stop(user, NULL, 0), -EDEADLK);
    assert_int_equal(zp_ctx_start(user), -EDEADLK);
    return 0;
}

static void
test_all_bad_calls(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result results[2];

    (void)state;
    sizes(results, 2);
    results[1].size = 3;
    assert_returns(zp_ctx_wait(ctx, results, 2, 0, 0), -EINVAL);
    assert_returns(zp_ctx_stop(ctx, results, 2), -EINVAL);
    assert_returns(zp_ctx_wait(ctx, NULL, 2, 0, 0), -EINVAL);
    assert_returns(zp_ctx_wait(ctx, NULL, 0, 1u << 9, 0), -EINVAL);
    assert_returns(zp_ctx_wait(ctx, NULL, 0, 0, NAN), -EINVAL);
    assert_returns(zp_ctx_wait(NULL, NULL, 0, 0, 0), -EINVAL);
    assert_returns(zp_ctx_stop(NULL, NULL, 0), -EINVAL);
    assert_ok(zp_atomic(zp_ctx_state(ctx), wait_inside, ctx));
    zp_ctx_free(ctx);
}

static void
break_it(void *user)
{
    assert_ok(zp_break(user));
}

static void
free_it(void *user)
{
    zp_ctx_free(user);
}

/* A break, a context freed in the midst, and one spawned meanwhile. */
static void
test_all_ended_early(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result results[2];
    later l;

    (void)state;
    sizes(results, 2);
    spawn(ctx, NULL, sleeps, NULL);
    assert_ok(zp_spawn(ctx, NULL, NULL, sleeps, NULL));
    do_later(&l, ctx, 0.02, break_it, ctx);
    assert_returns(zp_ctx_wait(ctx, results, 2, 0, -1), ZP_EBREAK);
    assert_int_equal(results[0].code, -EBUSY);
    do_later(&l, ctx, 0.02, free_it, ctx);
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, -1), ZP_ECLOSED);
}

/* ----------------------------------------------------------------- stopping --
 */

static void
on_signal(int number)
{
    (void)number;
}

static int
ignores_term(zp_ctx *ctx, void *arg)
{
    signal(SIGTERM, SIG_IGN);
    return sleeps(ctx, arg);
}

/* Ends at a TERM, in its own way. */
static int
ends_at_term(zp_ctx *ctx, void *arg)
{
    sigset_t term, before;

    (void)ctx;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &before);
    signal(SIGTERM, on_signal);
    zp_sync_post(arg);
    sigsuspend(&before);
    return 8;
}

static zp_proc *
spawn_up(zp_ctx *ctx, const zp_spawn_options *options, zp_proc_fn *fn)
{
    zp_proc *proc;
    zp_sync up;

    zp_sync_open(&up);
    proc = spawn(ctx, options, fn, &up);
    zp_sync_wait(&up, 20);
    zp_sync_close(&up);
    return proc;
}

/* The grace: the process's own, the context's. (What has none at all is ended
 * by somebody else, or the test.) */
static void
test_grace(void **state)
{
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .grace = 0.1});
    zp_result result = {.size = sizeof result};
    double begun;
    zp_proc *proc;
    later l;

    (void)state;
    proc = spawn_up(ctx, NULL, ignores_term);
    begun = zp_test_now();
    assert_returns(zp_stop(proc, &result), ZP_EFAILED);
    assert_true(zp_test_now() - begun >= 0.1);
    assert_int_equal(result.signal, SIGKILL);

    proc = spawn_up(ctx, SPAWN(.grace = 0.3), ignores_term);
    begun = zp_test_now();
    assert_returns(zp_stop(proc, &result), ZP_EFAILED);
    assert_true(zp_test_now() - begun >= 0.3);
    assert_int_equal(result.signal, SIGKILL);

    proc = spawn_up(ctx, SPAWN(.grace = -1), ignores_term);
    do_later(&l, ctx, 0.3, break_it, ctx);
    assert_returns(zp_stop(proc, &result), ZP_EBREAK); /* and no KILL */
    assert_int_equal(zp_proc_alive(proc), 1);
    kill(zp_proc_pid(proc), SIGINT);
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(result.signal, SIGINT);

    proc = spawn_up(ctx, SPAWN(.grace = 1000), ends_at_term);
    assert_returns(zp_stop(proc, &result), 0);
    assert_int_equal(result.code, 8);
    zp_ctx_free(ctx);
}

static void
stop_process(void *user)
{
    kill(*(pid_t *)user, SIGSTOP);
}

/* A process that is stopped hears of the TERM; also one that is stopped while
 * it is being ended: then the KILL comes. */
static void
test_stop_of_stopped(void **state)
{
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .grace = 1000});
    zp_result result = {.size = sizeof result};
    zp_proc *proc = spawn_up(ctx, NULL, ends_at_term);
    pid_t pid = zp_proc_pid(proc);
    later l;

    (void)state;
    kill(pid, SIGSTOP);
    while (zp_test_process_state(pid) != 'T')
        usleep(1000);
    assert_returns(zp_stop(proc, &result), 0);
    assert_int_equal(result.code, 8);

    proc = spawn_up(ctx, SPAWN(.grace = 0.2), ignores_term);
    pid = zp_proc_pid(proc);
    do_later(&l, ctx, 0.02, stop_process, &pid);
    assert_returns(zp_stop(proc, &result), ZP_EFAILED);
    assert_int_equal(result.signal, SIGKILL);
    zp_ctx_free(ctx);
}

/* All together: in one grace, with results. */
static void
test_stop_all(void **state)
{
    zp_ctx *ctx = new_ctx(&(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                            .grace = 0.5 * zp_test_slow()});
    zp_result results[5];
    int code = -EIO;
    zp_proc *proc;

    (void)state;
    sizes(results, 5);
    assert_ok(zp_ctx_stop(ctx, NULL, 0)); /* of none */
    proc = spawn_up(ctx, NULL, ends_at_term);
    spawn_up(ctx, NULL, ignores_term);
    spawn(ctx, SPAWN(.flags = ZP_DEFERRED), returns_0, NULL);
    result_of(spawn(ctx, NULL, returns_code, &code), ZP_EFAILED);
    assert_ok(zp_spawn(ctx, NULL, NULL, sleeps, NULL));
    spawn_up(ctx, NULL, sleeps);
    assert_ok(zp_ctx_stop(ctx, results, 5));
    assert_int_equal(results[0].code, 8);
    assert_int_equal(results[1].signal, SIGKILL);
    assert_int_equal(zp_proc_alive(proc), 0);
    assert_int_equal(count_processes(ctx), 0);
    assert_ok(zp_ctx_stop(ctx, NULL, 0));
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------------- inside of calls --
 */

typedef struct inside {
    zp_ctx *ctx;
    zp_proc *proc, *other;
    zp_sync go;
    int calls, rc;
    zp_result result;
} inside;

static int
wait_in_watch(zp_watch *watch, const zp_event *event, void *user)
{
    inside *c = user;

    (void)watch;
    (void)event;
    c->calls++;
    c->result.size = sizeof c->result;
    c->rc = zp_wait(c->proc, &c->result, SECONDS);
    return 0;
}

static int
stop_in_watch(zp_watch *watch, const zp_event *event, void *user)
{
    inside *c = user;

    (void)watch;
    (void)event;
    c->calls++;
    c->result.size = sizeof c->result;
    c->rc = zp_stop(c->proc, &c->result);
    return zp_break(c->ctx);
}

/* Waiting and stopping in a watch's callback, which runs inside of a wait for
 * the very same process. */
static void
test_inside_watch(void **state)
{
    inside c = {.ctx = new_ctx(NULL)};
    zp_watch_options own = {.size = sizeof own, .flags = ZP_OWN, .count = 1};
    zp_state *s = zp_ctx_state(c.ctx);

    (void)state;
    c.proc = spawn(c.ctx, NULL, returns_0, NULL);
    assert_ok(
        zp_call_when_change(s, NULL, ZP_KEYS("wait"), &own, wait_in_watch, &c));
    assert_ok(zp_set_int(s, "wait", 1));
    assert_ok(zp_run(c.ctx));
    assert_int_equal(c.calls, 1);
    assert_int_equal(c.rc, 0);

    c.proc = spawn_up(c.ctx, NULL, sleeps);
    assert_ok(
        zp_call_when_change(s, NULL, ZP_KEYS("stop"), &own, stop_in_watch, &c));
    assert_ok(zp_set_int(s, "stop", 1));
    assert_returns(zp_wait(c.proc, &c.result, SECONDS), ZP_EFAILED);
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.rc, ZP_EFAILED);
    assert_int_equal(c.result.signal, SIGTERM);
    zp_ctx_free(c.ctx);
}

static int
wait_in_exit(zp_proc *proc, const zp_result *result, void *user)
{
    inside *c = user;

    assert_int_equal(result->code, 0);
    assert_int_equal(zp_wait(proc, NULL, 0), 0);
    c->calls++;
    c->rc = zp_wait(c->other, NULL, SECONDS);
    return 0;
}

static int
stop_in_exit(zp_proc *proc, const zp_result *result, void *user)
{
    inside *c = user;

    (void)proc;
    (void)result;
    c->calls++;
    c->rc = zp_stop(c->other, NULL);
    return 0;
}

static int
spawn_in_exit(zp_proc *proc, const zp_result *result, void *user)
{
    inside *c = user;

    (void)proc;
    (void)result;
    if (++c->calls < 5)
        assert_ok(zp_spawn(c->ctx, NULL,
                           SPAWN(.exit_fn = spawn_in_exit, .exit_user = user),
                           returns_0, NULL));
    return 0;
}

static void
test_inside_exit(void **state)
{
    inside c = {.ctx = new_ctx(NULL), .rc = 1};

    (void)state;
    c.other = spawn(c.ctx, NULL, returns_0, NULL);
    spawn(c.ctx, SPAWN(.exit_fn = wait_in_exit, .exit_user = &c), returns_0,
          NULL);
    assert_ok(zp_run(c.ctx));
    assert_int_equal(c.calls, 1);
    assert_int_equal(c.rc, 0);
    c.other = spawn_up(c.ctx, NULL, sleeps);
    spawn(c.ctx, SPAWN(.exit_fn = stop_in_exit, .exit_user = &c), returns_0,
          NULL);
    assert_ok(zp_run(c.ctx));
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.rc, ZP_EFAILED);
    c.calls = 0;
    spawn(c.ctx, SPAWN(.exit_fn = spawn_in_exit, .exit_user = &c), returns_0,
          NULL);
    assert_ok(zp_run(c.ctx)); /* to the last of them */
    assert_int_equal(c.calls, 5);
    zp_ctx_free(c.ctx);
}

/* ----------------------------------------------------------- exit callbacks --
 */

typedef struct journal {
    zp_ctx *ctx;
    zp_proc *procs[8];
    int order[8], n;
    int rc;
    bool free_proc, free_ctx;
} journal;

static int
on_exit_note(zp_proc *proc, const zp_result *result, void *user)
{
    journal *j = user;
    int i;

    for (i = 0; i < 8 && j->procs[i] != proc; i++)
        continue;
    j->order[j->n++] = result->code;
    if (j->free_proc)
        zp_proc_free(proc);
    if (j->free_ctx)
        zp_ctx_free(j->ctx);
    return j->rc;
}

static int
on_exit_fail_test(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    (void)user;
    fail_msg("this callback was taken away");
    return 0;
}

/* Called once each; registered after the end, replaced, cancelled. */
static void
test_exit_callbacks(void **state)
{
    journal j = {.ctx = new_ctx(NULL)};
    int codes[] = {1, 2, 3, 4};
    int i;

    (void)state;
    for (i = 0; i < 4; i++)
        j.procs[i] = spawn(j.ctx, NULL, returns_code, &codes[i]);
    assert_ok(zp_run(j.ctx)); /* no callback: nothing to wait for */
    assert_ok(zp_call_when_exit(j.procs[1], on_exit_fail_test, NULL));
    assert_ok(zp_call_when_exit(j.procs[1], on_exit_note, &j)); /* replaced */
    assert_ok(zp_call_when_exit(j.procs[2], on_exit_fail_test, NULL));
    assert_ok(zp_call_when_exit(j.procs[2], NULL, NULL)); /* cancelled */
    assert_ok(zp_call_when_exit(j.procs[2], NULL, NULL)); /* again: fine */
    assert_int_equal(zp_ctx_wait(j.ctx, NULL, 0, 0, SECONDS), 0);
    assert_ok(zp_run(j.ctx)); /* the callback may still be due */
    assert_int_equal(j.n, 1);
    assert_int_equal(j.order[0], 2);

    assert_ok(zp_call_when_exit(j.procs[0], on_exit_note, &j));
    assert_int_equal(j.n, 1); /* not from within the call */
    assert_ok(zp_run(j.ctx));
    assert_int_equal(j.n, 2);
    assert_int_equal(j.order[1], 1);
    assert_ok(zp_call_when_exit(j.procs[0], on_exit_note, &j)); /* once more */
    assert_ok(zp_call_when_exit(j.procs[0], NULL, NULL)); /* though it is due */
    assert_ok(zp_call_when_exit(j.procs[3], on_exit_note, &j));
    assert_ok(zp_run(j.ctx));
    assert_int_equal(j.n, 3);
    assert_int_equal(j.order[2], 4);
    assert_ok(zp_run(j.ctx));
    assert_returns(zp_call_when_exit(NULL, on_exit_note, &j), -EINVAL);
    zp_ctx_free(j.ctx);
}

/* In the order of the ends. */
static void
test_exit_order(void **state)
{
    journal j = {.ctx = new_ctx(NULL)};
    zp_sync go[4];
    int i, order[] = {2, 0, 3, 1};
    zp_proc *procs[4];

    (void)state;
    for (i = 0; i < 4; i++) {
        zp_sync_open(&go[i]);
        procs[i] = spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j),
                         waits_for_post, &go[i]);
    }
    for (i = 0; i < 4; i++) {
        zp_sync_post(&go[order[i]]);
        result_of(procs[order[i]], 0);
        while (j.n <= i)
            assert_true(zp_ctx_dispatch(j.ctx) >= 0);
        assert_int_equal(j.n, i + 1);
    }
    for (i = 0; i < 4; i++)
        zp_sync_close(&go[i]);
    assert_ok(zp_run(j.ctx));
    assert_int_equal(j.n, 4);
    zp_ctx_free(j.ctx);
}

/* What it returns, when it is negative, ends the run, or the wait. */
static void
test_exit_fails(void **state)
{
    journal j = {.ctx = new_ctx(NULL), .rc = -EXDEV};
    zp_proc *slow = spawn_up(j.ctx, NULL, sleeps);
    int code = 5;

    (void)state;
    spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j), returns_code,
          &code);
    assert_int_equal(zp_run(j.ctx), -EXDEV);
    spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j), returns_code,
          &code);
    assert_int_equal(zp_wait(slow, NULL, SECONDS), -EXDEV);
    spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j), returns_code,
          &code);
    assert_int_equal(zp_stop(slow, NULL) == -EXDEV || zp_run(j.ctx) == -EXDEV,
                     1);
    assert_int_equal(j.n, 3);
    zp_ctx_free(j.ctx);
}

/* Freeing its process, or its context, in it. */
static void
test_exit_frees(void **state)
{
    journal j = {.ctx = new_ctx(NULL), .free_proc = true};
    int code = 5;

    (void)state;
    spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j), returns_code,
          &code);
    assert_ok(zp_run(j.ctx));
    assert_int_equal(j.n, 1);
    j.free_ctx = true;
    spawn(j.ctx, NULL, sleeps, NULL);
    spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j), returns_code,
          &code);
    assert_int_equal(zp_run(j.ctx), ZP_ECLOSED);
    assert_int_equal(j.n, 2);
}

static void
free_proc_it(void *user)
{
    zp_proc_free(user);
}

/* A wait that holds callbacks back holds these, too; they come after it. */
static void
test_exit_held_back(void **state)
{
    journal j = {.ctx = new_ctx(NULL)};
    zp_watch_options hold = {.size = sizeof hold, .flags = ZP_HOLD};
    int code = 6;
    zp_proc *proc =
        spawn(j.ctx, SPAWN(.exit_fn = on_exit_note, .exit_user = &j),
              returns_code, &code);

    (void)state;
    while (zp_proc_alive(proc))
        assert_int_equal(zp_get_when_change(zp_ctx_state(j.ctx), NULL,
                                            ZP_KEYS("never"), 0.01, &hold),
                         -ETIMEDOUT);
    assert_int_equal(zp_get_when_change(zp_ctx_state(j.ctx), NULL,
                                        ZP_KEYS("never"), 0.01, &hold),
                     -ETIMEDOUT);
    assert_int_equal(j.n, 0);
    assert_ok(zp_run(j.ctx));
    assert_int_equal(j.n, 1);
    assert_int_equal(j.order[0], 6);
    zp_ctx_free(j.ctx);
}

/* ------------------------------------------------------------------ freeing --
 */

/* In every state: not started, running, ended; and while it is waited for. */
static void
test_given_back(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    uint64_t id;
    zp_proc *proc;
    zp_sync go;
    later l;

    (void)state;
    zp_sync_open(&go);
    assert_null(zp_proc_free(NULL));
    proc = spawn(ctx, SPAWN(.flags = ZP_DEFERRED), returns_0, NULL);
    assert_null(zp_proc_free(proc));
    proc = spawn(ctx, NULL, returns_0, NULL);
    result_of(proc, 0);
    assert_null(zp_proc_free(proc));

    proc = spawn(ctx, NULL, waits_for_post, &go); /* goes on */
    id = zp_proc_id(proc);
    assert_null(zp_proc_free(proc));
    zp_sync_post(&go);
    record_in(ctx, id, ZP_PROC_ENDED, 1);

    proc = spawn(ctx, NULL, waits_for_post, &go);
    do_later(&l, ctx, 0.01, free_proc_it, proc);
    /* The wait goes on to its end, and has nobody to tell it of. */
    assert_true(zp_wait(proc, NULL, 0.2) < 0);
    assert_int_equal(l.ran, 1);
    zp_sync_post(&go);
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, SECONDS), 0);
    assert_ok(zp_ctx_start(ctx)); /* the one that was deferred */
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, SECONDS), 0);
    stop_later(&l, ctx);
    zp_sync_close(&go);
    zp_ctx_free(ctx);
}

typedef struct given {
    zp_proc *proc;
    zp_sync *go;
} given;

static void
free_and_post(void *user)
{
    given *g = user;

    zp_proc_free(g->proc);
    zp_sync_post(g->go);
}

/* Given back while it is waited for: the wait ends as cancelled. */
static void
test_free_while_waited_for(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    given g;
    zp_sync go;
    later l;

    (void)state;
    zp_sync_open(&go);
    g.go = &go;
    g.proc = spawn(ctx, NULL, waits_for_post, &go);
    do_later(&l, ctx, 0.01, free_and_post, &g);
    assert_returns(zp_wait(g.proc, NULL, SECONDS), -ECANCELED);
    g.proc = spawn(ctx, SPAWN(.flags = ZP_SAYS_READY), waits_for_post, &go);
    do_later(&l, ctx, 0.01, free_and_post, &g);
    assert_returns(zp_wait_ready(g.proc, SECONDS), -ECANCELED);
    g.proc = spawn_up(ctx, SPAWN(.grace = -1), ignores_term);
    do_later(&l, ctx, 0.01, free_and_post, &g);
    kill(zp_proc_pid(g.proc), SIGSTOP);
    kill(zp_proc_pid(g.proc), SIGKILL);
    (void)zp_stop(g.proc, NULL); /* it may have ended before the timer */
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, ZP_SAFE, SECONDS) >= 0, 1);
    stop_later(&l, ctx);
    zp_sync_close(&go);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------- many of them --
 */

enum { EACH = 200 };

static int
adds_one(zp_ctx *ctx, void *arg)
{
    return zp_increase(zp_ctx_state(ctx), arg, NULL, 1);
}

static const char *
spawn_and_wait(zp_ctx *ctx)
{
    zp_proc *proc;

    if (zp_spawn(ctx, &proc, NULL, adds_one, (void *)"sum") < 0)
        return "zp_spawn()";
    if (zp_wait(proc, NULL, SECONDS) < 0)
        return "zp_wait()";
    zp_proc_free(proc);
    return NULL;
}

/* The children have the other thread's, too, and not its stack. */
static struct crew {
    const char *address;
    zp_ctx *ctx;
} crews[2];
static pthread_barrier_t both_done;

/* Returns what failed, or NULL. (TSan calls a thread that has ended and was not
 * joined a leak of each child that is forked then: none ends before.) */
static void *
spawn_many_times(void *user)
{
    int i, n = zp_test_instrumented() ? EACH / 10 : EACH;
    const char *failed = NULL;
    struct crew *crew = user;

    if (zp_ctx_attach(&crew->ctx, crew->address, NULL) < 0)
        failed = "zp_ctx_attach()";
    for (i = 0; !failed && i < n; i++)
        failed = spawn_and_wait(crew->ctx);
    crew->ctx = zp_ctx_free(crew->ctx);
    pthread_barrier_wait(&both_done);
    return (void *)failed;
}

/* Two contexts in two threads. */
static void
test_threads(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    pthread_t threads[2];
    int64_t sum;
    int i;

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "sum", 0));
    assert_int_equal(pthread_barrier_init(&both_done, NULL, 2), 0);
    for (i = 0; i < 2; i++) {
        crews[i].address = zp_ctx_address(ctx);
        assert_int_equal(
            pthread_create(&threads[i], NULL, spawn_many_times, &crews[i]), 0);
    }
    for (i = 0; i < 2; i++) {
        void *what;

        assert_int_equal(pthread_join(threads[i], &what), 0);
        if (what)
            fail_msg("%s failed in a thread", (char *)what);
    }
    pthread_barrier_destroy(&both_done);
    assert_ok(zp_get_int(zp_ctx_state(ctx), "sum", &sum));
    assert_int_equal(sum, 2 * (zp_test_instrumented() ? EACH / 10 : EACH));
    zp_ctx_free(ctx);
}

/* Neither descriptors nor zombies pile up. */
static void
test_nothing_is_left(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int i, fds, n = zp_test_instrumented() ? 50 : 500;
    journal j = {.ctx = ctx};
    siginfo_t zombie = {0};

    (void)state;
    assert_int_equal(result_of(spawn(ctx, NULL, returns_0, NULL), 0).code, 0);
    fds = zp_test_open_fds();
    for (i = 0; i < n; i++) {
        if (i % 2) {
            zp_proc *proc = spawn(ctx, NULL, returns_0, NULL);

            result_of(proc, 0);
            if (i % 4 == 1)
                zp_proc_free(proc);
        } else {
            j.n = 0;
            assert_ok(zp_spawn(ctx, NULL,
                               SPAWN(.exit_fn = on_exit_note, .exit_user = &j),
                               returns_0, NULL));
            assert_ok(zp_run(ctx));
            assert_int_equal(j.n, 1);
        }
    }
    assert_int_equal(zp_test_open_fds(), fds);
    assert_int_equal(count_records(ctx), n + 1);
    assert_int_equal(waitid(P_ALL, 0, &zombie, WEXITED | WNOHANG | WNOWAIT), 0);
    assert_int_equal(zombie.si_pid, 0);
    assert_int_equal(count_processes(ctx), 0);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_all_in_order),
        ZP_TEST(test_all_fail_fast),
        ZP_TEST(test_all_timeout),
        ZP_TEST(test_all_bad_calls),
        ZP_TEST(test_all_ended_early),
        ZP_TEST(test_grace),
        ZP_TEST(test_stop_of_stopped),
        ZP_TEST(test_stop_all),
        ZP_TEST(test_inside_watch),
        ZP_TEST(test_inside_exit),
        ZP_TEST(test_exit_callbacks),
        ZP_TEST(test_exit_order),
        ZP_TEST(test_exit_fails),
        ZP_TEST(test_exit_frees),
        ZP_TEST(test_exit_held_back),
        ZP_TEST(test_given_back),
        ZP_TEST(test_free_while_waited_for),
        ZP_TEST(test_threads),
        ZP_TEST(test_nothing_is_left),
    };

    return zp_test_main("waits", tests, sizeof tests / sizeof *tests, 60);
}

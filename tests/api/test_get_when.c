/*
 * test_get_when.c - each call that waits, and each way in which it can end.
 */
#include <math.h>

#include "tests/api/waiting.h"

#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* A wait on its way: what ends it, and what is used for that. */
typedef struct trial {
    fixture *f;
    const waiter *w;
    zp_ctx *ctx;     /* the one that waits */
    zp_state *state; /* waited on */
    uint64_t met;    /* the revision at which it came true */
    int pid;
    int calls;
} trial;

/* Call ONE for each wait, with what it waits for not true. */
static void
each(fixture *f, void (*one)(trial *t))
{
    for (size_t i = 0; i < WAITERS; i++) {
        trial t = {.f = f, .w = &waiters[i], .ctx = f->ctx, .state = f->state};

        assert_wait(t.w, t.w->spoil(f->other), 0);
        one(&t);
    }
}

static void
meet(void *user)
{
    trial *t = user;

    assert_wait(t->w, t->w->meet(t->f->other), 0);
    t->met = head_of(t->f->other);
}

/* Wait, for as long as it takes; the snapshot is that of the revision. */
static void
wait_met(trial *t)
{
    zp_state *snapshot = NULL;

    assert_wait(t->w, t->w->wait(t->state, &snapshot, -1, NULL), 0);
    assert_non_null(snapshot);
    assert_true(t->met > 0);
    assert_int_equal(head_of(snapshot), t->met);
    zp_state_free(snapshot);
}

/* ---------------------------------------------------- it holds at once -- */

static int
count_call(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    ++*(int *)user;
    return 0;
}

static void
count_timer(void *user)
{
    ++*(int *)user;
}

static void
holds_at_once(trial *t)
{
    later l;

    if (!t->w->looks)
        return;
    meet(t);
    set(t->f->other, "pending", (int64_t)t->met); /* of the watch below */
    t->met++;
    do_later(&l, t->ctx, 0, count_timer, &t->calls);
    wait_met(t);
    assert_wait(t->w, t->w->wait(t->state, NULL, 0, NULL), 0);
    assert_wait(t->w, t->w->wait(t->state, NULL, 1, NULL), 0);
    assert_int_equal(t->calls, 0);
    not_later(&l);
}

/* Goal: what holds already is returned at once: nothing is called, and no
 * server is needed. */
static void
test_holds_at_once(void **state)
{
    fixture *f = *state;
    int calls = 0, pid = server_of(f->ctx);
    zp_watch *watch;

    kill(pid, SIGSTOP);
    each(f, holds_at_once);
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("pending"), NULL,
                                  count_call, &calls));
    each(f, holds_at_once);
    assert_int_equal(calls, 0);
    kill(pid, SIGCONT);
    while (calls < 10)
        assert_return(
            zp_get_when_change(f->state, NULL, ZP_KEYS("nothing"), 0.01, NULL),
            -ETIMEDOUT);
    zp_watch_free(watch);
}

/* --------------------------------------------------- it becomes true -- */

struct helper {
    zp_sync go;
};

/* Another process: make come true what one is told, when told. */
static int
meet_when_told(zp_ctx *ctx, void *arg)
{
    struct helper *helper = arg;
    int64_t i;

    while ((i = zp_sync_receive(&helper->go, 30 * zp_test_slow())) >= 0)
        TRY(waiters[i].meet(zp_ctx_state(ctx)));
    return 0;
}

struct telling {
    struct helper *helper;
    int64_t i;
};

static void
tell(void *user)
{
    struct telling *telling = user;

    zp_sync_send(&telling->helper->go, telling->i);
}

/* Goal: another process makes it true, after the wait has begun. */
static void
test_other_process(void **state)
{
    fixture *f = *state;
    struct helper helper;
    zp_proc *proc;

    zp_sync_open(&helper.go);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, meet_when_told, &helper));
    for (size_t i = 0; i < WAITERS; i++) {
        struct telling telling = {&helper, (int64_t)i};
        zp_state *snapshot;
        later l;

        assert_ok(waiters[i].spoil(f->other));
        do_later(&l, f->ctx, 0, tell, &telling);
        assert_wait(&waiters[i], waiters[i].wait(f->state, &snapshot, -1, NULL),
                    0);
        assert_true(l.ran);
        assert_int_equal(head_of(snapshot), head_of(f->state));
        zp_state_free(snapshot);
    }
    zp_sync_send(&helper.go, -1);
    assert_ok(zp_wait(proc, NULL, 20));
    zp_sync_close(&helper.go);
}

static int
meet_in_callback(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    meet(user);
    return 0;
}

static void
from_callback(trial *t)
{
    zp_watch *watch;

    assert_ok(zp_call_when_available(t->f->state, &watch, "go", NULL,
                                     meet_in_callback, t));
    set(t->f->other, "go", 1);
    wait_met(t);
    zp_watch_free(watch);
    assert_ok(zp_delete(t->f->other, "go"));
}

/* Goal: a callback of the same process makes it true, which runs in the wait.
 */
static void
test_from_callback(void **state)
{
    each(*state, from_callback);
}

static int
wait_in_callback(zp_watch *watch, const zp_event *event, void *user)
{
    trial *t = user;
    later l;

    (void)watch;
    (void)event;
    do_later(&l, t->ctx, 0, meet, t);
    wait_met(t);
    t->calls++;
    return zp_break(t->ctx);
}

static void
inside_callback(trial *t)
{
    zp_watch *watch;

    assert_ok(zp_call_when_available(t->state, &watch, "go", NULL,
                                     wait_in_callback, t));
    set(t->f->other, "go", 1);
    assert_ok(zp_run(t->ctx));
    assert_int_equal(t->calls, 1);
    zp_watch_free(watch);
    assert_ok(zp_delete(t->f->other, "go"));
}

/* Goal: waits inside of a callback. */
static void
test_in_callback(void **state)
{
    each(*state, inside_callback);
}

static int
wait_for_all(zp_ctx *ctx, void *arg)
{
    zp_sync *go = arg;

    for (size_t i = 0; i < WAITERS; i++) {
        later l;
        struct telling telling = {(struct helper *)go, (int64_t)i};
        zp_state *snapshot;

        TRY(waiters[i].spoil(zp_ctx_state(ctx)));
        do_later(&l, ctx, 0, tell, &telling);
        TRY(waiters[i].wait(zp_ctx_state(ctx), &snapshot, -1, NULL));
        zp_state_free(snapshot);
        if (!l.ran)
            return zp_fail(ctx, -EINVAL, "%s: at once", waiters[i].name);
    }
    return 0;
}

/* Goal: waits in a child, which its parent makes true. */
static void
test_in_child(void **state)
{
    fixture *f = *state;
    struct helper helper;
    zp_result result = {.size = sizeof result};
    zp_proc *proc;

    zp_sync_open(&helper.go);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, wait_for_all, &helper.go));
    for (size_t i = 0; i < WAITERS; i++) {
        assert_int_equal(zp_sync_receive(&helper.go, 20 * zp_test_slow()), i);
        assert_ok(waiters[i].meet(f->other));
    }
    if (zp_wait(proc, &result, 20 * zp_test_slow()) < 0)
        fail_msg("%s", result.error);
    zp_sync_close(&helper.go);
}

/* -------------------------------------------------------------- timeouts -- */

static void
time_out(trial *t)
{
    static const double times[] = {0, 0.01, 0.04};
    uint64_t head = head_of(t->state);

    for (size_t i = 0; i < 3; i++) {
        double began = zp_test_now(), took;
        zp_state *snapshot = (zp_state *)t; /* not written */

        assert_wait(t->w, t->w->wait(t->state, &snapshot, times[i], NULL),
                    -ETIMEDOUT);
        took = zp_test_now() - began;
        assert_ptr_equal(snapshot, t);
        if (took < times[i] || took > times[i] + 5 * zp_test_slow())
            fail_msg("%s: %g s took %g s", t->w->name, times[i], took);
    }
    assert_int_equal(head_of(t->state), head);
}

/* Goal: t takes t seconds; 0 looks and is back. */
static void
test_timeout(void **state)
{
    each(*state, time_out);
}

static void
no_number(trial *t)
{
    static const double times[] = {INFINITY, -INFINITY, -0.5, 1e300};

    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        later l;

        do_later(&l, t->ctx, 0.002, break_it, t->ctx);
        assert_wait(t->w, t->w->wait(t->state, NULL, times[i], NULL),
                    ZP_EBREAK);
        assert_true(l.ran);
    }
    assert_wait(t->w, t->w->wait(t->state, NULL, -0.0, NULL), -ETIMEDOUT);
    assert_wait(t->w, t->w->wait(t->state, NULL, NAN, NULL), -EINVAL);
}

/* Goal: what is negative or too large is for ever; -0 is 0; what is no number
 * is an error. */
static void
test_odd_timeouts(void **state)
{
    each(*state, no_number);
}

static void
look_once(trial *t)
{
    zp_watch_options options = {.size = sizeof options};
    uint64_t cursor = head_of(t->f->other) + 1; /* has seen all there is */
    int rc;

    if (strncmp(t->w->name, "next", 4) == 0) {
        options.flags = ZP_SINCE;
        options.since = cursor - 1;
    } else {
        options.cursor = &cursor;
    }
    for (int i = 0; i < rounds(9000); i++)
        set(t->f->other, "x", i);
    rc = t->w->wait(t->state, NULL, 0, &options);
    assert_wait(t->w, rc, -ETIMEDOUT);
    meet(t);
    assert_wait(t->w, t->w->wait(t->state, NULL, 0, &options), 0);
    if (options.cursor)
        assert_int_equal(cursor, t->met + 1);
}

/* Goal: without waiting, all that is in the log is looked at. */
static void
test_look_at_backlog(void **state)
{
    fixture *f = *state;

    each(f, look_once); /* some 100,000 rows for all of them */
}

/* ---------------------------------------------------------- given up -- */

static void
broken(trial *t)
{
    later l;

    do_later(&l, t->ctx, 0.001, break_it, t->ctx);
    assert_wait(t->w, t->w->wait(t->state, NULL, -1, NULL), ZP_EBREAK);
    do_later(&l, t->ctx, 0.001, break_it, t->ctx);
    assert_wait(t->w, t->w->wait(t->state, NULL, 20, NULL), ZP_EBREAK);
}

/* Goal: zp_break() by a timer of the application. */
static void
test_break_by_timer(void **state)
{
    each(*state, broken);
}

static int
call_it(zp_watch *watch, const zp_event *event, void *user)
{
    trial *t = user;

    (void)watch;
    (void)event;
    if (++t->calls == 1)
        return zp_break(t->ctx);
    return -ECHILD;
}

static void
callback_ends(trial *t)
{
    zp_watch *watch;

    assert_ok(
        zp_call_when_available(t->f->state, &watch, "go", NULL, call_it, t));
    set(t->f->other, "go", 1);
    assert_wait(t->w, t->w->wait(t->state, NULL, -1, NULL), ZP_EBREAK);
    set(t->f->other, "go", 2);
    assert_wait(t->w, t->w->wait(t->state, NULL, -1, NULL), -ECHILD);
    assert_int_equal(t->calls, 2);
    zp_watch_free(watch);
    assert_ok(zp_delete(t->f->other, "go"));
}

/* Goal: zp_break() and negative values by callbacks. */
static void
test_ended_by_callback(void **state)
{
    each(*state, callback_ends);
}

static int
free_state(zp_watch *watch, const zp_event *event, void *user)
{
    trial *t = user;

    (void)watch;
    (void)event;
    t->state = zp_state_free(t->state);
    return 0;
}

static void
free_state_later(void *user)
{
    free_state(NULL, NULL, user);
}

static void
state_freed(trial *t)
{
    zp_watch *watch;
    later l;

    assert_ok(zp_state_clone(t->f->state, &t->state, NULL));
    assert_ok(
        zp_call_when_available(t->f->state, &watch, "go", NULL, free_state, t));
    set(t->f->other, "go", 1);
    assert_wait(t->w, t->w->wait(t->state, NULL, -1, NULL), -ECANCELED);
    assert_null(t->state);
    zp_watch_free(watch);
    assert_ok(zp_delete(t->f->other, "go"));

    assert_ok(zp_state_clone(t->f->state, &t->state, NULL));
    do_later(&l, t->ctx, 0.001, free_state_later, t);
    assert_wait(t->w, t->w->wait(t->state, NULL, 20, NULL), -ECANCELED);
    assert_null(t->state);
}

/* Goal: the handle that is waited on is freed, by a callback and by a timer. */
static void
test_state_freed(void **state)
{
    each(*state, state_freed);
}

static int
free_ctx(zp_watch *watch, const zp_event *event, void *user)
{
    trial *t = user;

    (void)watch;
    (void)event;
    t->ctx = zp_ctx_free(t->ctx);
    return 0;
}

static void
free_ctx_later(void *user)
{
    free_ctx(NULL, NULL, user);
}

static void
ctx_freed(trial *t)
{
    const char *address = zp_ctx_address(t->f->ctx);
    later l;

    assert_ok(zp_ctx_attach(&t->ctx, address, NULL));
    t->state = zp_ctx_state(t->ctx);
    assert_ok(zp_call_when_available(t->state, NULL, "go", NULL, free_ctx, t));
    set(t->f->other, "go", 1);
    assert_wait(t->w, t->w->wait(t->state, NULL, -1, NULL), ZP_ECLOSED);
    assert_null(t->ctx);
    assert_ok(zp_delete(t->f->other, "go"));

    assert_ok(zp_ctx_attach(&t->ctx, address, NULL));
    t->state = zp_ctx_state(t->ctx);
    do_later(&l, t->ctx, 0.001, free_ctx_later, t);
    assert_wait(t->w, t->w->wait(t->state, NULL, 20, NULL), ZP_ECLOSED);
    assert_null(t->ctx);
}

/* Goal: the context is freed, by a callback and by a timer. */
static void
test_context_freed(void **state)
{
    each(*state, ctx_freed);
}

struct closing {
    const char *address;
    const waiter *w;
    char ns[16]; /* one for each wait */
    zp_sync ready;
};

static void
say_ready(void *user)
{
    zp_sync_post(user);
}

static int
wait_until_closed(void *user)
{
    struct closing *c = user;
    zp_ctx_options options = {.size = sizeof options, .ns = c->ns};
    zp_ctx *ctx;
    later l;
    int rc;

    if (zp_ctx_attach(&ctx, c->address, &options) < 0 ||
        c->w->spoil(zp_ctx_state(ctx)) < 0)
        return 1;
    do_later(&l, ctx, 0, say_ready, &c->ready);
    rc = c->w->wait(zp_ctx_state(ctx), NULL, -1, NULL);
    if (rc != ZP_ECLOSED ||
        c->w->wait(zp_ctx_state(ctx), NULL, 0, NULL) != ZP_ECLOSED)
        return 2;
    zp_ctx_free(ctx);
    return 0;
}

/* Goal: the owner closes the state, other processes wait in each way. */
static void
test_owner_closes(void **state)
{
    fixture *f = *state;
    struct closing c = {.address = zp_ctx_address(f->ctx)};
    pid_t pids[WAITERS];

    zp_sync_open(&c.ready);
    for (size_t i = 0; i < WAITERS; i++) {
        c.w = &waiters[i];
        snprintf(c.ns, sizeof c.ns, "ns%zu", i);
        pids[i] = zp_test_fork(wait_until_closed, &c);
        zp_sync_wait(&c.ready, 20 * zp_test_slow());
    }
    f->ctx = zp_ctx_free(f->ctx);
    for (size_t i = 0; i < WAITERS; i++)
        if (zp_test_wait(pids[i], 20 * zp_test_slow()) != 0)
            fail_msg("%s: not ZP_ECLOSED", waiters[i].name);
    zp_sync_close(&c.ready);
}

/* ------------------------------------------------------------ the server -- */

static void
kill_and_meet(void *user)
{
    trial *t = user;

    kill(server_of(t->f->ctx), SIGKILL);
    meet(t);
}

/* Let the server that runs now be one that answers. */
static void
have_server(trial *t)
{
    assert_ok(zp_ping(t->f->ctx, NULL, NULL, 0, 20 * zp_test_slow()));
}

static void
server_killed(trial *t)
{
    later l;

    /* before */
    have_server(t);
    kill(server_of(t->f->ctx), SIGKILL);
    do_later(&l, t->ctx, 0, meet, t);
    wait_met(t);
    /* with the change itself: the news of it are lost */
    have_server(t);
    assert_ok(t->w->spoil(t->f->other));
    do_later(&l, t->ctx, 0.001, kill_and_meet, t);
    wait_met(t);
    /* and nothing comes */
    have_server(t);
    assert_ok(t->w->spoil(t->f->other));
    kill(server_of(t->f->ctx), SIGKILL);
    assert_wait(t->w, t->w->wait(t->state, NULL, 0.01, NULL), -ETIMEDOUT);
}

/* Goal: the server is killed before and during the wait. */
static void
test_server_killed(void **state)
{
    each(*state, server_killed);
}

static void
go_on(void *user)
{
    trial *t = user;

    kill(t->pid, SIGCONT);
}

static void
server_stopped(trial *t)
{
    later first, second;

    t->pid = server_of(t->f->ctx);
    kill(t->pid, SIGSTOP);
    assert_wait(t->w, t->w->wait(t->state, NULL, 0.01, NULL), -ETIMEDOUT);
    do_later(&first, t->ctx, 0.001, meet, t);
    do_later(&second, t->ctx, 0.02, go_on, t);
    wait_met(t); /* before or after the server goes on */
    not_later(&second);
    kill(t->pid, SIGCONT);
}

/* Goal: a server that is stopped delays, and loses nothing. */
static void
test_server_stopped(void **state)
{
    each(*state, server_stopped);
}

/* ------------------------------------------------------------- not here -- */

static int
wait_in_atomic(zp_state *txn, void *user)
{
    trial *t = user;
    int rc = t->w->wait(t->state, NULL, 1, NULL);

    (void)txn;
    if (rc != -EDEADLK)
        return rc < 0 ? rc : -EINVAL;
    if (!strstr(zp_ctx_error(t->ctx), "atomic"))
        return -EBADMSG;
    rc = t->w->wait(txn, NULL, 1, NULL);
    if (rc != -EROFS && rc != -EDEADLK)
        return rc < 0 ? rc : -EINVAL;
    t->calls++;
    return 0;
}

static void
inside_atomic(trial *t)
{
    assert_wait(t->w, zp_atomic(t->f->other, wait_in_atomic, t), 0);
    if (t->w->looks) { /* also what would not wait */
        meet(t);
        assert_wait(t->w, zp_atomic(t->f->other, wait_in_atomic, t), 0);
        assert_int_equal(t->calls, 2);
    }
}

/* Goal: no wait inside an atomic operation. */
static void
test_inside_atomic(void **state)
{
    each(*state, inside_atomic);
}

static int
wait_on_inherited(void *user)
{
    trial *t = user;

    return t->w->wait(t->state, NULL, -1, NULL) != ZP_EFORK;
}

static void
after_fork(trial *t)
{
    pid_t pid = zp_test_fork(wait_on_inherited, t);

    if (zp_test_wait(pid, 20) != 0)
        fail_msg("%s: not ZP_EFORK", t->w->name);
}

/* Goal: a handle of before a fork. */
static void
test_after_fork(void **state)
{
    each(*state, after_fork);
}

static void
on_snapshot(trial *t)
{
    zp_state *snapshot, *at;

    meet(t);
    assert_ok(zp_snapshot(t->state, &snapshot));
    assert_wait(t->w, t->w->wait(snapshot, &at, 0, NULL), -EROFS);
    assert_wait(t->w, t->w->wait(NULL, &at, 0, NULL), -EINVAL);
    zp_state_free(snapshot);
}

/* Goal: what is no live state does not change. */
static void
test_on_snapshot(void **state)
{
    each(*state, on_snapshot);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_holds_at_once),  T(test_other_process),
        T(test_from_callback),  T(test_in_callback),
        T(test_in_child),       T(test_timeout),
        T(test_odd_timeouts),   T(test_look_at_backlog),
        T(test_break_by_timer), T(test_ended_by_callback),
        T(test_state_freed),    T(test_context_freed),
        T(test_owner_closes),   T(test_server_killed),
        T(test_server_stopped), T(test_inside_atomic),
        T(test_after_fork),     T(test_on_snapshot),
    };
    return zp_test_main("get_when", tests, sizeof tests / sizeof *tests, 30);
}

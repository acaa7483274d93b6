/*
 * test_loop.c - the loop: descriptors, timers, sockets, kicks; runs inside of
 * runs; freeing anything anywhere; the application's loop left as it was.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "core/loop.h"

/* What most tests need: a loop, a counter, and things to free. */
typedef struct fixture {
    zp__loop *loop;
    zp__handle *handle;
    zp__handle *other;
    int calls;
    int rc;
    bool done;
    int fd[2];
    void *zmq, *in, *out;
} fixture;

static void
count(void *user)
{
    ((fixture *)user)->calls++;
}

static void
finish(void *user)
{
    fixture *f = user;

    f->calls++;
    f->done = true;
}

static void
open_pipe(fixture *f)
{
    assert_int_equal(pipe2(f->fd, O_CLOEXEC | O_NONBLOCK), 0);
}

static void
close_pipe(fixture *f)
{
    close(f->fd[0]);
    close(f->fd[1]);
}

static int
run_until_done(fixture *f, double timeout)
{
    return zp__loop_run(f->loop, &f->done, timeout);
}

/* ---------------------------------------------------------- descriptors -- */

static void
read_one(void *user)
{
    fixture *f = user;
    char byte;

    assert_int_equal(read(f->fd[0], &byte, 1), 1);
    f->calls++;
    f->done = f->calls == 3;
}

/* A descriptor that stays readable is told again and again. */
static void
test_fd_is_a_level(void **state)
{
    fixture f = {0};

    (void)state;
    open_pipe(&f);
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_fd(f.loop, &f.handle, f.fd[0], read_one, &f), 0);
    assert_int_equal(run_until_done(&f, 0), -ETIMEDOUT);
    assert_int_equal(write(f.fd[1], "abc", 3), 3);
    assert_int_equal(run_until_done(&f, 5), 0);
    assert_int_equal(f.calls, 3);
    zp__handle_free(f.handle);
    assert_null(zp__loop_free(f.loop));
    close_pipe(&f);
}

static void
free_both(void *user)
{
    fixture *f = user;

    f->calls++;
    f->handle = zp__handle_free(f->handle);
    f->other = zp__handle_free(f->other);
}

/* Two are ready in one iteration; whichever comes first frees both. */
static void
test_freed_while_pending(void **state)
{
    fixture f = {0};
    int again;

    (void)state;
    open_pipe(&f);
    assert_int_equal(write(f.fd[1], "a", 1), 1);
    again = dup(f.fd[0]);
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_fd(f.loop, &f.handle, f.fd[0], free_both, &f), 0);
    assert_int_equal(zp__loop_fd(f.loop, &f.other, again, free_both, &f), 0);
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    assert_int_equal(f.calls, 1);
    zp__loop_free(f.loop);
    close(again);
    close_pipe(&f);
}

/* --------------------------------------------------------------- timers -- */

static void
test_timer_takes_its_time(void **state)
{
    fixture f = {0};
    double begun;

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, finish, &f), 0);
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT); /* not started */
    begun = zp__now();
    zp__timer_set(f.handle, 100);
    zp__timer_set(f.handle, 0.05); /* the last one counts */
    assert_int_equal(run_until_done(&f, 5), 0);
    assert_true(zp__now() - begun >= 0.05);
    assert_true(zp__now() - begun < 0.05 + 0.5 * zp_test_slow());
    f.done = false;
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT); /* only once */
    zp__timer_set(f.handle, 0);
    zp__timer_set(f.handle, -1);
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT); /* stopped */
    assert_int_equal(f.calls, 1);
    zp__handle_free(f.handle);
    zp__loop_free(f.loop);
}

static void
busy_then_arm(void *user)
{
    fixture *f = user;
    double until = zp__now() + 0.1;

    while (zp__now() < until)
        continue;
    zp__timer_set(f->other, 0.05);
    f->calls = 0;
}

/* libev's idea of now is as old as the callback: a timer that is armed at its
 * end must not come early. */
static void
test_timer_after_a_long_callback(void **state)
{
    fixture f = {0};
    double begun;

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, busy_then_arm, &f), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.other, finish, &f), 0);
    zp__timer_set(f.handle, 0);
    begun = zp__now();
    assert_int_equal(run_until_done(&f, 5), 0);
    assert_true(zp__now() - begun >= 0.15);
    zp__loop_free(f.loop); /* frees the handles, too */
}

/* A wait of t takes t, neither less nor much more. */
static void
test_timeout_takes_its_time(void **state)
{
    fixture f = {0};
    double begun;
    int i;

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    for (i = 0; i < 20; i++) {
        begun = zp__now();
        assert_int_equal(run_until_done(&f, 0.0107), -ETIMEDOUT);
        assert_true(zp__now() - begun >= 0.0107);
        assert_true(zp__now() - begun < 0.0107 + 0.3 * zp_test_slow());
    }
    zp__loop_free(f.loop);
}

/* --------------------------------------------------------------- sockets -- */

static void
open_sockets(fixture *f)
{
    int none = 0;

    f->zmq = zmq_ctx_new();
    f->in = zmq_socket(f->zmq, ZMQ_PAIR);
    f->out = zmq_socket(f->zmq, ZMQ_PAIR);
    zmq_setsockopt(f->in, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(f->out, ZMQ_LINGER, &none, sizeof none);
    assert_int_equal(zmq_bind(f->in, "inproc://test"), 0);
    assert_int_equal(zmq_connect(f->out, "inproc://test"), 0);
    assert_int_equal(zp__loop_new(&f->loop, NULL), 0);
}

static void
close_sockets(fixture *f)
{
    zp__handle_free(f->handle);
    zp__loop_free(f->loop);
    zmq_close(f->in);
    zmq_close(f->out);
    zmq_ctx_term(f->zmq);
}

static void
send_some(fixture *f, int n)
{
    while (n--)
        assert_int_equal(zmq_send(f->out, "x", 1, 0), 1);
}

static void
receive_one(void *user)
{
    fixture *f = user;
    char byte;

    assert_int_equal(zmq_recv(f->in, &byte, 1, ZMQ_DONTWAIT), 1);
    f->calls++;
    f->done = f->calls % 10 == 0;
}

/* Who reads one message of ten is called ten times; what eats the edge in
 * between does not matter; nor does what was there before we looked. */
static void
test_zmq_is_a_level(void **state)
{
    fixture f = {0};
    int events;
    size_t size = sizeof events;

    (void)state;
    open_sockets(&f);
    send_some(&f, 10);
    assert_int_equal(zp__loop_zmq(f.loop, &f.handle, f.in, receive_one, &f), 0);
    assert_int_equal(run_until_done(&f, 5), 0);
    assert_int_equal(f.calls, 10);
    f.done = false;
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT);

    send_some(&f, 10);
    zmq_getsockopt(f.in, ZMQ_EVENTS, &events, &size); /* eats the edge */
    zp__loop_touched(f.handle);
    assert_int_equal(run_until_done(&f, 5), 0);
    assert_int_equal(f.calls, 20);
    close_sockets(&f);
}

static void
receive_nested(void *user)
{
    fixture *f = user;
    bool inner = f->rc == 0;

    receive_one(user);
    f->done = false;
    if (inner) { /* the other nine come inside of this call */
        f->rc = 1;
        assert_int_equal(zp__loop_depth(f->loop), 1);
        while (f->calls < 10)
            assert_int_equal(zp__loop_run(f->loop, NULL, 0), 0);
    }
    f->done = true;
}

/* A nested run inside of a socket's function gets the socket's messages: it is
 * not called from prepare, where that would hang or crash. */
static void
test_zmq_nested(void **state)
{
    fixture f = {0};

    (void)state;
    open_sockets(&f);
    send_some(&f, 10);
    assert_int_equal(zp__loop_zmq(f.loop, &f.handle, f.in, receive_nested, &f),
                     0);
    assert_int_equal(run_until_done(&f, 5), 0);
    assert_int_equal(f.calls, 10);
    close_sockets(&f);
}

static void
free_handle(void *user)
{
    fixture *f = user;

    f->calls++;
    f->handle = zp__handle_free(f->handle);
    f->done = true;
}

static void
test_zmq_freed_inside(void **state)
{
    fixture f = {0};

    (void)state;
    open_sockets(&f);
    send_some(&f, 3);
    assert_int_equal(zp__loop_zmq(f.loop, &f.handle, f.in, free_handle, &f), 0);
    assert_int_equal(run_until_done(&f, 5), 0);
    f.done = false;
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT);
    assert_int_equal(f.calls, 1);
    close_sockets(&f);
}

/* A watched, silent socket costs no turns of the loop. */
static void
test_zmq_sleeps(void **state)
{
    fixture f = {0};
    unsigned before;

    (void)state;
    open_sockets(&f);
    assert_int_equal(zp__loop_zmq(f.loop, &f.handle, f.in, count, &f), 0);
    assert_int_equal(run_until_done(&f, 0.05), -ETIMEDOUT);
    before = ev_iteration(zp__loop_ev(f.loop));
    assert_int_equal(run_until_done(&f, 0.1), -ETIMEDOUT);
    assert_true(ev_iteration(zp__loop_ev(f.loop)) - before < 20);
    assert_int_equal(f.calls, 0);
    close_sockets(&f);
}

/* ----------------------------------------------------------------- kicks -- */

static void
kick_again(void *user)
{
    fixture *f = user;

    f->calls++;
    if (f->calls < 1000)
        zp__kick(f->handle);
    else
        f->done = true;
}

static void
test_kick(void **state)
{
    fixture f = {0};
    double begun;

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_kick(f.loop, &f.handle, count, &f), 0);
    zp__kick(f.handle);
    zp__kick(f.handle);
    assert_int_equal(f.calls, 0); /* never at once */
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT);
    assert_int_equal(f.calls, 1);
    zp__kick(f.handle);
    zp__handle_free(f.handle);
    assert_int_equal(run_until_done(&f, 0.02), -ETIMEDOUT);
    assert_int_equal(f.calls, 1);

    /* "soon" is not a millisecond */
    f.calls = 0;
    assert_int_equal(zp__loop_kick(f.loop, &f.handle, kick_again, &f), 0);
    zp__kick(f.handle);
    begun = zp__now();
    assert_int_equal(run_until_done(&f, 10), 0);
    assert_true(zp__now() - begun < 0.5 * zp_test_slow());
    zp__loop_free(f.loop);
}

/* Who kicks itself for ever does not starve a descriptor. */
static void
kick_for_ever(void *user)
{
    zp__kick(((fixture *)user)->handle);
}

static void
test_kicks_do_not_starve(void **state)
{
    fixture f = {0};

    (void)state;
    open_pipe(&f);
    assert_int_equal(write(f.fd[1], "a", 1), 1);
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_kick(f.loop, &f.handle, kick_for_ever, &f), 0);
    assert_int_equal(zp__loop_fd(f.loop, &f.other, f.fd[0], finish, &f), 0);
    zp__kick(f.handle);
    assert_int_equal(run_until_done(&f, 5), 0);
    zp__loop_free(f.loop);
    close_pipe(&f);
}

/* ------------------------------------------------------------------ runs -- */

/* Without anything to wait for a run ends; with a reason it does not. */
static void
test_run_ends_alone(void **state)
{
    fixture f = {0};

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, count, &f), 0);
    zp__timer_set(f.handle, 10); /* ours do not count */
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    zp__loop_hold(f.loop);
    zp__loop_hold(f.loop);
    zp__loop_release(f.loop);
    assert_int_equal(zp__loop_run(f.loop, NULL, 0.02), -ETIMEDOUT);
    zp__loop_release(f.loop);
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    zp__loop_release(f.loop); /* once too often: ignored */
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    zp__loop_free(f.loop);
}

static void
break_run(void *user)
{
    fixture *f = user;

    f->rc = zp__loop_break(f->loop);
}

static void
test_break(void **state)
{
    fixture f = {0};

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_break(f.loop), -EINVAL);
    zp__loop_stop(f.loop, -EIO); /* nothing runs: ignored */
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, break_run, &f), 0);
    zp__timer_set(f.handle, 0);
    assert_int_equal(run_until_done(&f, 5), ZP_EBREAK);
    assert_int_equal(f.rc, 0);
    zp__loop_hold(f.loop);
    zp__timer_set(f.handle, 0);
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    assert_int_equal(zp__loop_break(f.loop), -EINVAL);
    zp__loop_free(f.loop);
}

static void
stop_run(void *user)
{
    fixture *f = user;

    zp__loop_stop(f->loop, -EPIPE);
    zp__loop_stop(f->loop, -EIO); /* the first one counts */
    f->done = true;               /* and is not lost over success */
}

static void
test_stop(void **state)
{
    fixture f = {0};

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, stop_run, &f), 0);
    zp__timer_set(f.handle, 0);
    assert_false(zp__loop_ending(f.loop));
    assert_int_equal(run_until_done(&f, 5), -EPIPE);
    assert_int_equal(run_until_done(&f, 5), 0);
    zp__loop_free(f.loop);
}

static void
inner_wait(void *user)
{
    fixture *f = user;
    bool never = false;

    f->calls++;
    assert_int_equal(zp__loop_depth(f->loop), 1);
    zp__timer_set(f->other, 0.02); /* makes the outer one true meanwhile */
    assert_int_equal(zp__loop_run(f->loop, &never, 0.1), -ETIMEDOUT);
    assert_true(f->done);
    assert_int_equal(zp__loop_depth(f->loop), 1);
}

/* The outer wait comes true in the inner one, and returns right after it. */
static void
test_nested(void **state)
{
    fixture f = {0};
    double begun = zp__now();

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, inner_wait, &f), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.other, finish, &f), 0);
    zp__timer_set(f.handle, 0);
    assert_int_equal(run_until_done(&f, 0.05), 0);
    assert_true(zp__now() - begun >= 0.1);
    assert_int_equal(zp__loop_depth(f.loop), 0);
    assert_int_equal(f.calls, 2);
    zp__loop_free(f.loop);
}

static void
inner_run(void *user)
{
    fixture *f = user;
    unsigned before = ev_iteration(zp__loop_ev(f->loop));

    /* the outer wait is no reason for this one to go on */
    assert_int_equal(zp__loop_run(f->loop, NULL, -1), 0);
    /* nor is its deadline, which has passed, one to spin */
    zp__loop_hold(f->loop);
    assert_int_equal(zp__loop_run(f->loop, NULL, 0.2), -ETIMEDOUT);
    zp__loop_release(f->loop);
    assert_true(ev_iteration(zp__loop_ev(f->loop)) - before < 50);
    f->calls++;
}

static void
test_run_inside_a_wait(void **state)
{
    fixture f = {0};

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, inner_run, &f), 0);
    zp__timer_set(f.handle, 0);
    assert_int_equal(run_until_done(&f, 0.05), -ETIMEDOUT);
    assert_int_equal(f.calls, 1);
    assert_int_equal(ev_run(zp__loop_ev(f.loop), EVRUN_NOWAIT), 0);
    zp__loop_free(f.loop);
}

static void
deeper(void *user)
{
    fixture *f = user;
    bool never = false;
    int rc;

    f->calls++;
    zp__kick(f->handle);
    rc = zp__loop_run(f->loop, &never, 0.05);
    if (rc != -ETIMEDOUT && f->rc == 0)
        f->rc = rc;
}

/* Runs without end inside of each other: an error, not a crash. */
static void
test_too_deep(void **state)
{
    fixture f = {0};

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    assert_int_equal(zp__loop_kick(f.loop, &f.handle, deeper, &f), 0);
    zp__kick(f.handle);
    assert_int_equal(run_until_done(&f, 0.05), -ETIMEDOUT);
    assert_int_equal(f.rc, -ELOOP);
    assert_true(f.calls >= 200);
    zp__loop_free(f.loop);
}

/* ----------------------------------------------- the application's loop -- */

static void
count_timer(struct ev_loop *ev, ev_timer *timer, int events)
{
    (void)ev;
    (void)events;
    (*(int *)timer->data)++;
}

/* Our watchers do not keep the application's ev_run() going, its own keep ours
 * going, and what we leave behind is what we found. */
static void
test_foreign_loop(void **state)
{
    fixture f = {0};
    struct ev_loop *ev = ev_loop_new(0);
    ev_timer timer;
    int ticks = 0;

    (void)state;
    open_pipe(&f);
    open_sockets(&f);
    zp__loop_free(f.loop);
    ev_timer_init(&timer, count_timer, 0.03, 0);
    timer.data = &ticks;
    assert_int_equal(zp__loop_new(&f.loop, ev), 0);
    assert_ptr_equal(zp__loop_ev(f.loop), ev);
    assert_int_equal(zp__loop_fd(f.loop, &f.other, f.fd[0], count, &f), 0);
    assert_int_equal(zp__loop_zmq(f.loop, &f.handle, f.in, count, &f), 0);
    assert_int_equal(zp__loop_timer(f.loop, &f.handle, count, &f), 0);
    zp__timer_set(f.handle, 100);
    assert_int_equal(zp__loop_kick(f.loop, &f.handle, count, &f), 0);
    assert_int_equal(ev_run(ev, 0), 0);
    ev_timer_start(ev, &timer);
    assert_int_equal(zp__loop_run(f.loop, NULL, -1), 0);
    assert_int_equal(ticks, 1);
    zp__kick(f.handle);
    zp__loop_hold(f.loop);
    assert_int_equal(ev_run(ev, EVRUN_NOWAIT), 1);

    ev_timer_set(&timer, 100, 0);
    ev_timer_start(ev, &timer);
    f.loop = zp__loop_free(f.loop); /* with all that is still there */
    f.handle = NULL;
    assert_int_equal(ev_run(ev, EVRUN_NOWAIT), 1);
    ev_timer_stop(ev, &timer);
    assert_int_equal(ev_run(ev, EVRUN_NOWAIT), 0);
    ev_loop_destroy(ev);
    close_sockets(&f);
    close_pipe(&f);
}

static void
wait_inside(struct ev_loop *ev, ev_timer *timer, int events)
{
    fixture *f = timer->data;

    (void)ev;
    (void)events;
    f->calls++;
    if (f->calls == 1) { /* ended by a break, the next time this is called */
        assert_int_equal(run_until_done(f, 5), ZP_EBREAK);
    } else if (f->calls == 2) {
        assert_int_equal(zp__loop_break(f->loop), 0);
    } else if (f->calls == 5) {
        ev_timer_stop(ev, timer);
    }
}

/* The application's own ev_run() around ours goes on after a break of ours. */
static void
test_break_inside_ev_run(void **state)
{
    fixture f = {0};
    struct ev_loop *ev = ev_loop_new(0);
    ev_timer timer;

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, ev), 0);
    ev_timer_init(&timer, wait_inside, 0.005, 0.005);
    timer.data = &f;
    ev_timer_start(ev, &timer);
    assert_int_equal(ev_run(ev, 0), 0);
    assert_int_equal(f.calls, 5);
    zp__loop_free(f.loop);
    ev_loop_destroy(ev);
}

/* --------------------------------------------------------------- freeing -- */

static void
free_loop(void *user)
{
    fixture *f = user;

    f->calls++;
    f->loop = zp__loop_free(f->loop);
}

static void
wait_and_free(void *user)
{
    fixture *f = user;
    bool never = false;

    zp__kick(f->other);
    f->rc = zp__loop_run(f->loop, &never, -1);
}

/* The loop freed in a run in a run: both return, and say why. */
static void
test_loop_freed_inside(void **state)
{
    fixture f = {0};
    struct ev_loop *ev;
    int i;

    (void)state;
    for (i = 0; i < 2; i++) { /* our own loop, and another's */
        ev = i ? ev_loop_new(0) : NULL;
        assert_int_equal(zp__loop_new(&f.loop, ev), 0);
        assert_int_equal(zp__loop_kick(f.loop, &f.handle, wait_and_free, &f),
                         0);
        assert_int_equal(zp__loop_kick(f.loop, &f.other, free_loop, &f), 0);
        zp__kick(f.handle);
        zp__loop_hold(f.loop);
        assert_int_equal(run_until_done(&f, -1), ZP_ECLOSED);
        assert_int_equal(f.rc, ZP_ECLOSED);
        assert_null(f.loop);
        if (ev) {
            assert_int_equal(ev_run(ev, EVRUN_NOWAIT), 0);
            ev_loop_destroy(ev);
        }
    }
    assert_int_equal(f.calls, 2);
}

/* Our own loop freed in an ev_run() of the application's on it: it cannot be
 * destroyed there, and is not leaked either (the fence counts descriptors). */
static void
test_loop_freed_in_ev_run(void **state)
{
    fixture f = {0};
    struct ev_loop *ev;

    (void)state;
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0);
    ev = zp__loop_ev(f.loop);
    assert_int_equal(zp__loop_kick(f.loop, &f.handle, free_loop, &f), 0);
    zp__kick(f.handle);
    zp__loop_hold(f.loop);
    ev_run(ev, 0);
    assert_null(f.loop);
    assert_int_equal(zp__loop_new(&f.loop, NULL), 0); /* buries it */
    zp__loop_free(f.loop);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_fd_is_a_level),
        ZP_TEST(test_freed_while_pending),
        ZP_TEST(test_timer_takes_its_time),
        ZP_TEST(test_timer_after_a_long_callback),
        ZP_TEST(test_timeout_takes_its_time),
        ZP_TEST(test_zmq_is_a_level),
        ZP_TEST(test_zmq_nested),
        ZP_TEST(test_zmq_freed_inside),
        ZP_TEST(test_zmq_sleeps),
        ZP_TEST(test_kick),
        ZP_TEST(test_kicks_do_not_starve),
        ZP_TEST(test_run_ends_alone),
        ZP_TEST(test_break),
        ZP_TEST(test_stop),
        ZP_TEST(test_nested),
        ZP_TEST(test_run_inside_a_wait),
        ZP_TEST(test_too_deep),
        ZP_TEST(test_foreign_loop),
        ZP_TEST(test_break_inside_ev_run),
        ZP_TEST(test_loop_freed_inside),
        ZP_TEST(test_loop_freed_in_ev_run),
    };

    return zp_test_main("loop", tests, sizeof tests / sizeof *tests, 30);
}

/*
 * test_loop_foreign.c - what other loops poll: readable while one of the
 * handles' descriptors is, whenever those came and went; and a time for all
 * that no descriptor tells.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#include "core/fork.h"
#include "core/loop.h"

typedef struct fixture {
    zp__loop *loop;
    zp__handle *handle, *other;
    int calls;
    double timeout; /* seen in a call */
    int fd[2];
    void *zmq, *in, *out;
} fixture;

static int
set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);

    *state = f;
    if (!f || pipe2(f->fd, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    return zp__loop_new(&f->loop, NULL);
}

static int
tear_down(void **state)
{
    fixture *f = *state;

    zp__loop_free(f->loop);
    close(f->fd[0]);
    close(f->fd[1]);
    free(f);
    return 0;
}

static void
count(void *user)
{
    ((fixture *)user)->calls++;
}

static void
read_one(void *user)
{
    fixture *f = user;
    char byte;

    f->calls++;
    assert_int_equal(read(f->fd[0], &byte, 1), 1);
}

static void
write_one(fixture *f)
{
    assert_int_equal(write(f->fd[1], "x", 1), 1);
}

/* Is the descriptor readable? */
static bool
told(fixture *f)
{
    struct pollfd one = {zp__loop_poll_fd(f->loop), POLLIN, 0};

    assert_true(one.fd >= 0);
    return poll(&one, 1, 0) == 1;
}

static void
look(fixture *f)
{
    assert_int_equal(zp__loop_run(f->loop, NULL, 0), 0);
}

/* ----------------------------------------------------------- descriptors -- */

/* Nothing is opened before it is asked for, and then one. */
static void
test_made_when_asked_for(void **state)
{
    fixture *f = *state;
    int before = zp_test_open_fds(), fd;

    assert_int_equal(zp__loop_fd(f->loop, &f->handle, f->fd[0], count, f), 0);
    assert_true(zp__loop_poll_timeout(f->loop) < 0);
    look(f);
    assert_int_equal(zp_test_open_fds(), before);
    fd = zp__loop_poll_fd(f->loop);
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(zp__loop_poll_fd(f->loop), fd);
    assert_int_equal(zp_test_open_fds(), before + 1);
}

/* Handles from before and from after. */
static void
test_follows_the_handles(void **state)
{
    fixture *f = *state;

    for (int i = 0; i < 2; i++) { /* the second time the set is there */
        write_one(f);
        assert_int_equal(
            zp__loop_fd(f->loop, &f->handle, f->fd[0], read_one, f), 0);
        assert_true(told(f));
        assert_true(told(f)); /* a level */
        look(f);
        assert_int_equal(f->calls, i + 1);
        assert_false(told(f));
        write_one(f);
        assert_true(told(f));
        f->handle = zp__handle_free(f->handle);
        assert_false(told(f));
        assert_int_equal(read(f->fd[0], &(char){0}, 1), 1);
    }
}

/* Two that share a descriptor, one of which goes; a descriptor that is closed
 * before its handle is freed; a number that is another's then. */
static void
test_shared_and_closed(void **state)
{
    fixture *f = *state;
    int copy;

    assert_false(told(f));
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, f->fd[0], count, f), 0);
    assert_int_equal(zp__loop_fd(f->loop, &f->other, f->fd[0], read_one, f), 0);
    zp__handle_free(f->handle);
    write_one(f);
    assert_true(told(f));
    look(f);
    assert_int_equal(f->calls, 1);
    zp__handle_free(f->other);

    copy = dup(f->fd[0]);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, copy, count, f), 0);
    close(copy);
    zp__handle_free(f->handle);
    write_one(f);
    assert_int_equal(dup(f->fd[0]), copy);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, copy, read_one, f), 0);
    assert_true(told(f));
    look(f);
    assert_int_equal(f->calls, 2);
    assert_false(told(f));
    zp__handle_free(f->handle);
    close(copy);
}

/* No descriptor is left: an error, and nothing else; later there is one. */
static void
test_no_descriptor(void **state)
{
    fixture *f = *state;
    struct rlimit old, none;
    int next = dup(0);

    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = (rlim_t)next;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(zp__loop_poll_fd(f->loop), -EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, f->fd[0], count, f), 0);
    write_one(f);
    assert_true(told(f));
}

/* What cannot be polled is said at once, and leaves the rest as it was. */
static void
test_cannot_be_polled(void **state)
{
    fixture *f = *state;
    int file = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = f->fd[0];

    assert_true(zp__loop_poll_fd(f->loop) >= 0);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, file, count, f), -EPERM);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, -1, count, f), -EBADF);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, fd, read_one, f), 0);
    write_one(f);
    look(f);
    assert_int_equal(f->calls, 1);
    close(file);
}

static int
forget_all(void *user)
{
    fixture *f = user;
    int fd = zp__loop_poll_fd(f->loop);

    zp__fork_prepare();
    zp__fork_child(NULL);
    return fcntl(fd, F_GETFD) < 0 && errno == EBADF ? 0 : 1;
}

static int
free_handle(void *user)
{
    zp__handle_free(((fixture *)user)->handle);
    return 0;
}

/* It is one of ours, which a child closes; what a child frees stays in the
 * parent's set, which they share. */
static void
test_fork(void **state)
{
    fixture *f = *state;

    assert_int_equal(zp__loop_fd(f->loop, &f->handle, f->fd[0], count, f), 0);
    assert_false(told(f));
    assert_int_equal(zp_test_wait(zp_test_fork(forget_all, f), 10), 0);
    assert_int_equal(zp_test_wait(zp_test_fork(free_handle, f), 10), 0);
    write_one(f);
    assert_true(told(f));
}

/* ---------------------------------------------------------------- times -- */

static void
test_timers(void **state)
{
    fixture *f = *state;
    double left;

    assert_true(zp__loop_poll_timeout(f->loop) < 0);
    assert_int_equal(zp__loop_timer(f->loop, &f->handle, count, f), 0);
    assert_int_equal(zp__loop_timer(f->loop, &f->other, count, f), 0);
    assert_true(zp__loop_poll_timeout(f->loop) < 0); /* not started */
    zp__timer_set(f->handle, 1e9);
    left = zp__loop_poll_timeout(f->loop);
    assert_true(left > 1000 && left * 1000 < INT_MAX); /* fits in an int */
    zp__timer_set(f->other, 100);
    left = zp__loop_poll_timeout(f->loop);
    assert_true(left > 50 && left <= 100.001);
    zp__timer_set(f->handle, 0.02); /* the nearest */
    left = zp__loop_poll_timeout(f->loop);
    assert_true(left <= 0.021);
    while ((left = zp__loop_poll_timeout(f->loop)) > 0)
        poll(NULL, 0, (int)(left * 1000 + 0.999));
    assert_int_equal(f->calls, 0);
    look(f);
    assert_int_equal(f->calls, 1);
    assert_true(zp__loop_poll_timeout(f->loop) > 50);
    zp__timer_set(f->other, -1);
    assert_true(zp__loop_poll_timeout(f->loop) < 0);
}

static void
test_kicks(void **state)
{
    fixture *f = *state;

    assert_int_equal(zp__loop_kick(f->loop, &f->handle, count, f), 0);
    assert_true(zp__loop_poll_timeout(f->loop) < 0);
    zp__kick(f->handle);
    assert_true(zp__loop_poll_timeout(f->loop) == 0);
    look(f);
    assert_int_equal(f->calls, 1);
    assert_true(zp__loop_poll_timeout(f->loop) < 0);
}

static void
receive_one(void *user)
{
    fixture *f = user;
    char byte;

    f->calls++;
    assert_int_equal(zmq_recv(f->in, &byte, 1, ZMQ_DONTWAIT), 1);
}

static bool
to_do(fixture *f)
{
    return zp__loop_poll_timeout(f->loop) == 0 || told(f);
}

static void
send_some(fixture *f, int n)
{
    while (n--)
        assert_int_equal(zmq_send(f->out, "x", 1, 0), 1);
}

/* Messages are told by the descriptor, or by the time when something has eaten
 * ZMQ_FD's edge; one function call after the other, until there are none. */
static void
test_messages(void **state)
{
    fixture *f = *state;
    int turns = 0, events;
    size_t size = sizeof events;

    f->zmq = zmq_ctx_new();
    f->in = zmq_socket(f->zmq, ZMQ_PAIR);
    f->out = zmq_socket(f->zmq, ZMQ_PAIR);
    assert_int_equal(zmq_bind(f->in, "inproc://test"), 0);
    assert_int_equal(zmq_connect(f->out, "inproc://test"), 0);
    send_some(f, 10); /* before it is watched */
    assert_int_equal(zp__loop_zmq(f->loop, &f->handle, f->in, receive_one, f),
                     0);
    for (int i = 1; i <= 100; i++) {
        for (turns = 0; to_do(f); turns++)
            look(f);
        assert_int_equal(f->calls, 10 * i);
        assert_in_range(turns, 1, 15);
        send_some(f, i % 2 ? 1 : 10);
        if (i % 2) { /* one eats the edges of the others */
            if (i % 4 == 1) {
                zmq_getsockopt(f->in, ZMQ_EVENTS, &events, &size);
                zp__loop_touched(f->handle);
            }
            send_some(f, 9);
        }
    }
    zp__handle_free(f->handle);
    zmq_close(f->in);
    zmq_close(f->out);
    zmq_ctx_term(f->zmq);
}

static void
ask_and_look(void *user)
{
    fixture *f = user;

    if (f->calls++ > 0)
        return;
    f->timeout = zp__loop_poll_timeout(f->loop);
    look(f); /* the other one */
    assert_int_equal(f->calls, 2);
}

/* Asked in a function while libev is about to call another, whose time is over
 * but which no descriptor tells of. */
static void
test_pending(void **state)
{
    fixture *f = *state;

    assert_int_equal(zp__loop_timer(f->loop, &f->handle, ask_and_look, f), 0);
    assert_int_equal(zp__loop_timer(f->loop, &f->other, ask_and_look, f), 0);
    zp__timer_set(f->handle, 0);
    zp__timer_set(f->other, 0);
    poll(NULL, 0, 1); /* both are over */
    look(f);
    assert_true(f->timeout == 0);
    assert_int_equal(f->calls, 2);
    assert_true(zp__loop_poll_timeout(f->loop) < 0);
}

/* On the application's loop, whose watchers are not ours to tell of. */
static void
test_on_another_loop(void **state)
{
    fixture *f = *state;
    struct ev_loop *ev = ev_loop_new(0);

    zp__loop_free(f->loop);
    assert_int_equal(zp__loop_new(&f->loop, ev), 0);
    assert_int_equal(zp__loop_fd(f->loop, &f->handle, f->fd[0], read_one, f),
                     0);
    write_one(f);
    assert_true(told(f));
    look(f);
    assert_int_equal(f->calls, 1);
    assert_false(told(f));
    f->loop = zp__loop_free(f->loop);
    ev_loop_destroy(ev);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_made_when_asked_for, set_up, tear_down),
        ZP_TEST_WITH(test_follows_the_handles, set_up, tear_down),
        ZP_TEST_WITH(test_shared_and_closed, set_up, tear_down),
        ZP_TEST_WITH(test_no_descriptor, set_up, tear_down),
        ZP_TEST_WITH(test_cannot_be_polled, set_up, tear_down),
        ZP_TEST_WITH(test_fork, set_up, tear_down),
        ZP_TEST_WITH(test_timers, set_up, tear_down),
        ZP_TEST_WITH(test_kicks, set_up, tear_down),
        ZP_TEST_WITH(test_messages, set_up, tear_down),
        ZP_TEST_WITH(test_pending, set_up, tear_down),
        ZP_TEST_WITH(test_on_another_loop, set_up, tear_down),
    };

    return zp_test_main("loop_foreign", tests, sizeof tests / sizeof *tests,
                        30);
}

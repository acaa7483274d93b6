/*
 * loop.c - libev with ZeroMQ in it. (Runs inside of runs are loop_run.c; what
 * other loops poll is loop_foreign.c.)
 *
 * Counting. libev runs while its count of active watchers is above zero. Ours
 * must not count, or an application's ev_run() and our own zp_run() would
 * never end: each start of a watcher is followed by ev_unref(), each stop is
 * preceded by ev_ref(), and `lent` says how many a handle has out. libev stops
 * a one-shot timer by itself before it calls back, which would leave the count
 * wrong in between: ours repeat (once in a very long while) and are stopped by
 * hand. What should keep a run going is counted apart, by zp__loop_hold().
 *
 * ZeroMQ. ZMQ_FD tells edges, and every call on the socket may eat one. So
 * ZMQ_EVENTS is looked at before each poll, in a prepare watcher, if the socket
 * was used since the last look that found nothing:
 *
 *     prepare: something ready? -> start idle    (nothing is called from here:
 *     poll     (returns at once while an idle     a nested ev_run() inside of
 *     io, idle: still ready? -> FN                prepare is forbidden)
 *
 * An idle watcher of the highest priority is how one says "soon" in libev: the
 * poll does not block and it is invoked at the normal stage. (A timer of zero
 * seconds may cost a millisecond, the least that the epoll backend waits.)
 *
 * Freeing. A handle may be freed in any callback: ev_TYPE_stop() takes back a
 * pending event, and nothing here touches a handle after its FN. A loop may be
 * freed in any callback, too: its memory stays until the last frame has left,
 * and libev's loop, which must not be destroyed while ev_run() is on the
 * stack, is buried until a later call finds it at rest.
 *
 * Cost: one getsockopt (two system calls) per zmq socket and iteration in which
 * it was used; nothing in the others.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/loop_inside.h"
#include "core/zmq_call.h"

#define REPEAT 1e9 /* seconds: never */

/* ------------------------------------------------------------ libev's -- */

/* A loop of ours whose ev_run() was on the stack when it was freed. */
struct grave {
    struct grave *next;
    struct ev_loop *ev;
    zp__owned *owned;
    uint64_t token;
};

static _Thread_local struct grave *graves;

/* Destroy what has come to rest. What was inherited over a fork is left. */
static void
clear_graves(void)
{
    struct grave **at = &graves, *grave;

    while ((grave = *at)) {
        bool ours = grave->token == zp__token();

        if (ours && ev_depth(grave->ev) > 0) {
            at = &grave->next;
            continue;
        }
        *at = grave->next;
        if (ours) {
            ev_loop_destroy(grave->ev);
            zp__own_forget(grave->owned);
        }
        free(grave);
    }
}

/* End EV, or bury it while it runs. Without memory for that it is leaked. */
static void
end_ev(struct ev_loop *ev, zp__owned *owned)
{
    struct grave *grave;

    clear_graves();
    if (ev_depth(ev) == 0) {
        ev_loop_destroy(ev);
        zp__own_forget(owned);
        return;
    }
    grave = malloc(sizeof *grave);
    if (!grave)
        return;
    grave->next = graves;
    grave->ev = ev;
    grave->owned = owned;
    grave->token = zp__token();
    graves = grave;
}

static int
start_ev(zp__loop *loop)
{
    int errnum;

    zp__own_begin();
    errno = 0;
    loop->ev = ev_loop_new(EVFLAG_AUTO);
    errnum = errno;
    loop->owned = zp__own_end(NULL);
    if (!loop->ev)
        return zp__fail_errno(errnum ? errnum : ENOMEM,
                              "cannot make an event loop");
    if (!loop->owned) {
        ev_loop_destroy(loop->ev);
        return zp__fail(-ENOMEM, "no memory for an event loop");
    }
    return 0;
}

int
zp__loop_new(zp__loop **ret, struct ev_loop *ev)
{
    zp__loop *loop;
    int rc;

    clear_graves();
    loop = calloc(1, sizeof *loop);
    if (!loop)
        return zp__fail(-ENOMEM, "no memory for an event loop");
    loop->token = zp__token();
    loop->poll_fd = -1;
    loop->ev = ev;
    loop->foreign = ev != NULL;
    if (!ev) {
        rc = start_ev(loop);
        if (rc < 0) {
            free(loop);
            return rc;
        }
    }
    *ret = loop;
    return 0;
}

void
zp__loop_bury(zp__loop *loop)
{
    if (!loop->foreign)
        end_ev(loop->ev, loop->owned);
    free(loop);
}

zp__loop *
zp__loop_free(zp__loop *loop)
{
    if (!loop)
        return NULL;
    zp__poll_end(loop);
    while (loop->handles)
        zp__handle_free(loop->handles);
    while (loop->held)
        zp__loop_release(loop);
    if (loop->top)
        loop->dead = true; /* the outermost run buries it */
    else
        zp__loop_bury(loop);
    return NULL;
}

struct ev_loop *
zp__loop_ev(zp__loop *loop)
{
    return loop->ev;
}

void
zp__loop_hold(zp__loop *loop)
{
    loop->held++;
    ev_ref(loop->ev);
}

void
zp__loop_release(zp__loop *loop)
{
    if (loop->held) {
        loop->held--;
        ev_unref(loop->ev);
    }
}

/* ------------------------------------------------------------ handles -- */

static void
lend(zp__handle *handle)
{
    handle->lent++;
    ev_unref(handle->loop->ev);
}

static void
give_back(zp__handle *handle)
{
    if (handle->lent) {
        handle->lent--;
        ev_ref(handle->loop->ev);
    }
}

static int
handle_new(zp__loop *loop, zp__handle **ret, zp__loop_fn *fn, void *user)
{
    zp__handle *handle = calloc(1, sizeof *handle);

    if (!handle)
        return zp__fail(-ENOMEM, "no memory for a watcher");
    handle->loop = loop;
    handle->fd = -1;
    handle->fn = fn;
    handle->user = user;
    handle->next = loop->handles;
    if (handle->next)
        handle->next->prev = handle;
    loop->handles = handle;
    *ret = handle;
    return 0;
}

zp__handle *
zp__handle_free(zp__handle *handle)
{
    struct ev_loop *ev;

    if (!handle)
        return NULL;
    ev = handle->loop->ev;
    zp__poll_remove(handle);
    while (handle->lent)
        give_back(handle);
    ev_io_stop(ev, &handle->io); /* nothing if it is not started */
    ev_prepare_stop(ev, &handle->prepare);
    ev_idle_stop(ev, &handle->idle);
    ev_timer_stop(ev, &handle->timer);

    if (handle->next)
        handle->next->prev = handle->prev;
    if (handle->prev)
        handle->prev->next = handle->next;
    else
        handle->loop->handles = handle->next;
    free(handle);
    return NULL;
}

/* One with a descriptor, which other loops are to see, too. */
static int
fd_handle_new(zp__loop *loop, zp__handle **ret, int fd, zp__loop_fn *fn,
              void *user)
{
    zp__handle *handle = NULL;
    int rc = handle_new(loop, &handle, fn, user);

    if (rc < 0)
        return rc;
    rc = zp__poll_add(loop, fd);
    if (rc < 0) {
        zp__handle_free(handle);
        return rc;
    }
    handle->fd = fd;
    *ret = handle;
    return 0;
}

/* libev has stopped a watcher whose descriptor is bad (EV_ERROR): its
 * reference is gone, so ours is given back. FN will meet the error itself. */
static void
check_error(zp__handle *handle, int events)
{
    if (events & EV_ERROR)
        give_back(handle);
}

static void
on_fd(struct ev_loop *ev, ev_io *io, int events)
{
    zp__handle *handle = io->data;

    (void)ev;
    if (zp__loop_forked(handle->loop))
        return;
    check_error(handle, events);
    handle->fn(handle->user);
}

int
zp__loop_fd(zp__loop *loop, zp__handle **ret, int fd, zp__loop_fn *fn,
            void *user)
{
    zp__handle *handle = NULL;
    int rc = fd_handle_new(loop, &handle, fd, fn, user);

    if (rc < 0)
        return rc;
    ev_io_init(&handle->io, on_fd, fd, EV_READ);
    handle->io.data = handle;
    ev_io_start(loop->ev, &handle->io);
    lend(handle);
    *ret = handle;
    return 0;
}

static void
on_timer(struct ev_loop *ev, ev_timer *timer, int events)
{
    zp__handle *handle = timer->data;

    (void)events;
    give_back(handle);
    ev_timer_stop(ev, timer);
    if (zp__loop_forked(handle->loop))
        return;
    handle->fn(handle->user);
}

int
zp__loop_timer(zp__loop *loop, zp__handle **ret, zp__loop_fn *fn, void *user)
{
    int rc = handle_new(loop, ret, fn, user);

    if (rc < 0)
        return rc;
    ev_init(&(*ret)->timer, on_timer);
    (*ret)->timer.data = *ret;
    return 0;
}

void
zp__timer_set(zp__handle *handle, double seconds)
{
    struct ev_loop *ev = handle->loop->ev;

    give_back(handle);
    ev_timer_stop(ev, &handle->timer);
    if (!(seconds >= 0))
        return;
    ev_now_update(ev); /* it is as old as the callback that we are in */
    ev_timer_set(&handle->timer,
                 seconds < ZP__TIMEOUT_MAX ? seconds : ZP__TIMEOUT_MAX, REPEAT);
    ev_timer_start(ev, &handle->timer);
    lend(handle);
}

static void
on_kick(struct ev_loop *ev, ev_idle *idle, int events)
{
    zp__handle *handle = idle->data;

    (void)events;
    give_back(handle);
    ev_idle_stop(ev, idle);
    if (zp__loop_forked(handle->loop))
        return;
    handle->fn(handle->user);
}

int
zp__loop_kick(zp__loop *loop, zp__handle **ret, zp__loop_fn *fn, void *user)
{
    int rc = handle_new(loop, ret, fn, user);

    if (rc < 0)
        return rc;
    ev_idle_init(&(*ret)->idle, on_kick);
    ev_set_priority(&(*ret)->idle, EV_MAXPRI);
    (*ret)->idle.data = *ret;
    return 0;
}

void
zp__kick(zp__handle *handle)
{
    if (ev_is_active(&handle->idle))
        return;
    ev_idle_start(handle->loop->ev, &handle->idle);
    lend(handle);
}

/* ------------------------------------------------------------- sockets -- */

bool
zp__socket_ready(zp__handle *handle)
{
    int events;

    if (zp__loop_forked(handle->loop)) /* zmq would say EINTR for ever */
        return false;
    events = zp__zmq_events(handle->socket);
    handle->touched = events > 0 && (events & ZMQ_POLLIN);
    return handle->touched;
}

void
zp__loop_touched(zp__handle *handle)
{
    if (handle)
        handle->touched = true;
}

static void
on_socket_prepare(struct ev_loop *ev, ev_prepare *prepare, int events)
{
    zp__handle *handle = prepare->data;
    bool ready = handle->touched && zp__socket_ready(handle);

    (void)events;
    if (ready && !ev_is_active(&handle->idle)) {
        ev_idle_start(ev, &handle->idle);
        lend(handle);
    } else if (!ready && ev_is_active(&handle->idle)) {
        give_back(handle);
        ev_idle_stop(ev, &handle->idle);
    }
}

/* The descriptor and the idle watcher may both come in one iteration: asked
 * again, so that FN is not called for what it has read already. */
static void
on_socket(zp__handle *handle)
{
    if (zp__socket_ready(handle))
        handle->fn(handle->user);
}

static void
on_socket_io(struct ev_loop *ev, ev_io *io, int events)
{
    (void)ev;
    check_error(io->data, events);
    on_socket(io->data);
}

static void
on_socket_idle(struct ev_loop *ev, ev_idle *idle, int events)
{
    (void)ev;
    (void)events;
    on_socket(idle->data);
}

static void
start_socket(zp__handle *handle)
{
    struct ev_loop *ev = handle->loop->ev;

    ev_io_init(&handle->io, on_socket_io, handle->fd, EV_READ);
    ev_prepare_init(&handle->prepare, on_socket_prepare);
    ev_idle_init(&handle->idle, on_socket_idle);
    ev_set_priority(&handle->idle, EV_MAXPRI);
    handle->io.data = handle->prepare.data = handle->idle.data = handle;
    ev_io_start(ev, &handle->io);
    lend(handle);
    ev_prepare_start(ev, &handle->prepare);
    lend(handle);
}

int
zp__loop_zmq(zp__loop *loop, zp__handle **ret, void *socket, zp__loop_fn *fn,
             void *user)
{
    zp__handle *handle = NULL;
    int fd, rc;

    fd = zp__zmq_get(socket, ZMQ_FD);
    if (fd < 0)
        return zp__fail_errno(-fd, "cannot watch a zmq socket");
    rc = fd_handle_new(loop, &handle, fd, fn, user);
    if (rc < 0)
        return rc;
    handle->socket = socket;
    handle->touched = true;
    start_socket(handle);
    *ret = handle;
    return 0;
}

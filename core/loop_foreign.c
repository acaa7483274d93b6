/*
 * loop_foreign.c - our handles as another loop sees them: one descriptor, and a
 * time.
 *
 * libev has a descriptor of its own below, an epoll set, but shows it to
 * nobody, and tells it what it has to wait for only inside of ev_run(). So
 * there is a second set here, which holds what our handles wait for; it is a
 * descriptor itself, readable while one of those in it is:
 *
 *     pidfd of the server  --+
 *     ZMQ_FD of a socket   --+--> poll_fd --> the application's poll()
 *     pidfd of a child     --+
 *
 * It is kept in step where handles with descriptors are made and freed. A
 * handle's own descriptor is a level: it stays readable until its function has
 * done something about it, and one iteration of libev calls that function. So
 * what wakes up the other loop is always gone after its dispatch, or has been
 * seen by somebody who wants to see it again.
 *
 * What no descriptor tells is in the timeout: timers; kicks; functions that
 * libev is about to call (asked inside of another one); and messages in zmq's
 * sockets, whose descriptor only tells that something has changed: whoever
 * called zmq last may have eaten that, but then ZMQ_EVENTS knows.
 *
 * Cost: nothing until somebody asks for the descriptor; then a system call per
 * handle that comes or goes. The timeout: 0.1 us per handle.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/error.h"
#include "core/loop_inside.h"

#define TIMEOUT_MOST 1e6 /* seconds: as milliseconds it still is an int */

static int
add(int poll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST)
        return 0;
    return zp__fail_errno(errno, "cannot poll one more descriptor");
}

int
zp__poll_add(zp__loop *loop, int fd)
{
    return loop->poll_fd < 0 ? 0 : add(loop->poll_fd, fd);
}

/* Two handles may share a descriptor: the last one takes it along. After a fork
 * the set is still the parent's. */
void
zp__poll_remove(const zp__handle *handle)
{
    const zp__loop *loop = handle->loop;
    const zp__handle *other;

    if (loop->poll_fd < 0 || handle->fd < 0 || zp__loop_forked(loop))
        return;
    for (other = loop->handles; other; other = other->next)
        if (other != handle && other->fd == handle->fd)
            return;
    epoll_ctl(loop->poll_fd, EPOLL_CTL_DEL, handle->fd, NULL);
}

void
zp__poll_end(zp__loop *loop)
{
    if (loop->poll_fd < 0)
        return;
    zp__own_forget(loop->poll_owned);
    close(loop->poll_fd);
    loop->poll_owned = NULL;
    loop->poll_fd = -1;
}

static int
add_all(zp__loop *loop)
{
    const zp__handle *handle;
    int rc = 0;

    for (handle = loop->handles; handle && rc == 0; handle = handle->next)
        if (handle->fd >= 0)
            rc = add(loop->poll_fd, handle->fd);
    return rc;
}

int
zp__loop_poll_fd(zp__loop *loop)
{
    int rc;

    if (loop->poll_fd >= 0)
        return loop->poll_fd;
    loop->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->poll_fd < 0)
        return zp__fail_errno(errno, "cannot make a descriptor to poll");
    loop->poll_owned = zp__own_fd(loop->poll_fd);
    rc = loop->poll_owned
             ? add_all(loop)
             : zp__fail(-ENOMEM, "no memory for a descriptor to poll");
    if (rc < 0) {
        zp__poll_end(loop);
        return rc;
    }
    return loop->poll_fd;
}

/* When HANDLE wants to be called, whatever its descriptor says: in how many
 * seconds; negative: never. */
static double
due(zp__handle *handle)
{
    struct ev_loop *ev = handle->loop->ev;
    double left;

    if (ev_is_active(&handle->idle))
        return 0;
    if (handle->touched && zp__socket_ready(handle))
        return 0;
    if (!ev_is_active(&handle->timer))
        return -1;
    left = ev_timer_remaining(ev, (ev_timer *)&handle->timer);
    return left > 0 ? left : 0;
}

double
zp__loop_poll_timeout(zp__loop *loop)
{
    zp__handle *handle;
    double soonest = -1, left;

    if (ev_pending_count(loop->ev) > 0)
        return 0;
    ev_now_update(loop->ev);
    for (handle = loop->handles; handle; handle = handle->next) {
        left = due(handle);
        if (left >= 0 && (soonest < 0 || left < soonest))
            soonest = left;
    }
    return soonest < TIMEOUT_MOST ? soonest : TIMEOUT_MOST;
}

/*
 * loop_inside.h - what loop.c, loop_run.c and loop_foreign.c share of a loop.
 * Nobody else includes this.
 */
#ifndef ZP_CORE_LOOP_INSIDE_H
#define ZP_CORE_LOOP_INSIDE_H

#include <ev.h>

#include "core/fork.h"
#include "core/loop.h"

#define ZP__TIMEOUT_MAX 1e8 /* seconds: what is longer is for ever */

/* A run on the stack. */
struct zp__frame {
    struct zp__frame *outer;
    const bool *done;
    double deadline; /* negative: none */
    unsigned around; /* libev's runs that this one is inside of */
    bool once;       /* a timeout of 0: one look */
    ev_timer timer;
    bool broken;
    bool stopped;
    int code; /* when stopped */
};

struct zp__handle {
    zp__loop *loop;
    zp__handle *next, *prev;
    zp__loop_fn *fn;
    void *user;
    int fd;             /* of a descriptor, of a socket; else -1 */
    void *socket;       /* zmq's */
    bool touched;       /* its descriptor may say nothing of what is there */
    int lent;           /* references taken from the loop's count */
    ev_io io;           /* of a descriptor, of a socket */
    ev_prepare prepare; /* of a socket */
    ev_idle idle;       /* of a socket, of a kick */
    ev_timer timer;
};

struct zp__loop {
    uint64_t token; /* zp__token() of its process */
    struct ev_loop *ev;
    zp__owned *owned; /* what libev opened; NULL on the application's loop */
    zp__handle *handles;
    struct zp__frame *top;
    unsigned depth;
    unsigned held;
    int poll_fd; /* our own epoll set for others to poll; -1: nobody asked */
    zp__owned *poll_owned;
    bool foreign;
    bool was_stopped; /* the last run, by zp__loop_stop() */
    bool dead;        /* freed, with frames on the stack */
};

/* Was LOOP inherited? A callback may fork and return in the child, too: then
 * nothing of it must be touched there, the epoll set is the parent's. */
static inline bool
zp__loop_forked(const zp__loop *loop)
{
    return loop->token != zp__token();
}

/* Is there something to be received from HANDLE's socket? Eats ZMQ_FD's edge.
 */
bool zp__socket_ready(zp__handle *handle);

/* Keep the epoll set, if there is one: HANDLE's descriptor has come, goes; the
 * loop ends. Adding: -ENOMEM, -ENOSPC. */
int zp__poll_add(zp__loop *loop, int fd);
void zp__poll_remove(const zp__handle *handle);
void zp__poll_end(zp__loop *loop);

/* End a loop that was freed: its frames have left. */
void zp__loop_bury(zp__loop *loop);

#endif

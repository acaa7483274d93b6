/*
 * loop_inside.h - what loop.c and loop_run.c share of a loop. Nobody else
 * includes this.
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
    ev_timer timer;
    bool broken;
    bool stopped;
    int code; /* when stopped */
};

struct zp__loop {
    uint64_t token; /* zp__token() of its process */
    struct ev_loop *ev;
    zp__owned *owned; /* what libev opened; NULL on the application's loop */
    zp__handle *handles;
    struct zp__frame *top;
    unsigned depth;
    unsigned held;
    bool foreign;
    bool dead; /* freed, with frames on the stack */
};

/* Was LOOP inherited? A callback may fork and return in the child, too: then
 * nothing of it must be touched there, the epoll set is the parent's. */
static inline bool
zp__loop_forked(const zp__loop *loop)
{
    return loop->token != zp__token();
}

/* End a loop that was freed: its frames have left. */
void zp__loop_bury(zp__loop *loop);

#endif

/*
 * zp_ev.h - zproc and libev: a context's loop for the application's watchers.
 */
#ifndef ZP_EV_H
#define ZP_EV_H

#include <ev.h>
#include <zp.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The loop that CTX runs on: its own, or the one given in its options.
 * Borrowed from CTX. The application's watchers on it are run by zp_run() and
 * by every call that waits; an active one keeps zp_run() running. NULL after
 * fork. */
ZP_API struct ev_loop *zp_ev_loop(zp_ctx *ctx);

#ifdef __cplusplus
}
#endif
#endif

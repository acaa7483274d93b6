/*
 * loop.h - a libev loop, as the rest of the library uses it: readable
 * descriptors, timers, ZeroMQ sockets, deferred calls, nested runs.
 *
 * All of these watchers are invisible to the loop's own count of what is
 * active (ev_unref); what should keep zp_run() running says so with
 * zp__loop_hold(). Functions are called at the normal stage of the loop, never
 * from prepare or check; each may free any of these objects, itself included.
 */
#ifndef ZP_CORE_LOOP_H
#define ZP_CORE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <zp.h>

typedef struct zp__loop zp__loop;
typedef struct zp__handle zp__handle; /* one fd, timer, socket or kick */
typedef void zp__loop_fn(void *user);

/* On the application's LOOP, or one of its own (NULL). -EMFILE, -ENOMEM. */
int zp__loop_new(zp__loop **ret, struct ev_loop *loop);
zp__loop *zp__loop_free(zp__loop *loop);
struct ev_loop *zp__loop_ev(zp__loop *loop);

/* FN while FD is readable. */
int zp__loop_fd(zp__loop *loop, zp__handle **ret, int fd, zp__loop_fn *fn,
                void *user);

/* A stopped timer; start it to fire once after SECONDS (negative: stop). */
int zp__loop_timer(zp__loop *loop, zp__handle **ret, zp__loop_fn *fn,
                   void *user);
void zp__timer_set(zp__handle *timer, double seconds);

/* FN while the zmq SOCKET is readable: ZMQ_FD's edges are turned into levels
 * (ZMQ_EVENTS looked at before each poll), FN need not read it dry. Whoever
 * uses the socket outside of FN, in whatever way, says so (NULL is fine). */
int zp__loop_zmq(zp__loop *loop, zp__handle **ret, void *socket,
                 zp__loop_fn *fn, void *user);
void zp__loop_touched(zp__handle *socket);

/* FN soon, once per zp__kick(), from the loop. */
int zp__loop_kick(zp__loop *loop, zp__handle **ret, zp__loop_fn *fn,
                  void *user);
void zp__kick(zp__handle *kick);

zp__handle *zp__handle_free(zp__handle *handle);

/* For a loop that is not libev's: a descriptor that is readable while one of
 * the handles' is (made by the first call, then the same; the loop's), and
 * after how many seconds there is something to do nevertheless (0: now;
 * negative: never). What a run with TIMEOUT 0 then does. -EMFILE, -ENFILE,
 * -ENOMEM, -ENOSPC. */
int zp__loop_poll_fd(zp__loop *loop);
double zp__loop_poll_timeout(zp__loop *loop);

/* One more, one less reason for zp_run() to go on. */
void zp__loop_hold(zp__loop *loop);
void zp__loop_release(zp__loop *loop);

/* Run the loop, nested or not, until *DONE (may be NULL), TIMEOUT (0: one look
 * at what is ready), zp__loop_break() or zp__loop_stop() for this run, or -
 * when DONE is NULL - nothing is left to wait for. Returns 0, -ETIMEDOUT,
 * ZP_EBREAK (0 when DONE is NULL), or the code of zp__loop_stop(). With DONE
 * NULL one look is no failure, but 0. An outer run cannot return before an
 * inner one. In a child that a callback forked: ZP_EFORK; the loop and its
 * context are the parent's. */
int zp__loop_run(zp__loop *loop, const bool *done, double timeout);

/* End the innermost run: as a break (-EINVAL: none runs), or with a negative
 * code (ignored when none runs). */
int zp__loop_break(zp__loop *loop);
void zp__loop_stop(zp__loop *loop, int code);

/* Was it zp__loop_stop() that ended the last run? A callback's own code may be
 * any, -ETIMEDOUT for one. */
bool zp__loop_was_stopped(const zp__loop *loop);

/* Has the innermost run come to its end (asked to, or what it waits for is
 * true)? For who calls back many times in one iteration. */
bool zp__loop_ending(const zp__loop *loop);

/* How many runs are on the stack. */
unsigned zp__loop_depth(const zp__loop *loop);

/* CLOCK_MONOTONIC in seconds; the wall clock in ns. */
double zp__now(void);
int64_t zp__wall_ns(void);

/* The same to some milliseconds (a tick of the kernel), for a fifth of the
 * time: compared only with another of its kind. */
int64_t zp__tick(void);

#endif

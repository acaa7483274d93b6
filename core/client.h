/*
 * client.h - what a process does with the state server: start it, notice its
 * death, start it again, ask it. (The server itself is server.c; launch.c
 * starts it, client.c asks it.)
 *
 * The server is started with posix_spawn() of the program zp-server (found at
 * $ZP_SERVER, else in libexecdir), never by a fork of the application. It
 * detaches itself (its launcher reaps the intermediate process), tells through
 * a pipe that it serves or why it cannot, and holds an flock on the state.
 * Who wants to start one takes the flock on `start` first, so that of fifty
 * processes that notice a death one acts and the others wait for the board's
 * generation to change.
 */
#ifndef ZP_CORE_CLIENT_H
#define ZP_CORE_CLIENT_H

#include <zp.h>

#include "core/board.h"
#include "core/place.h"

/* Milliseconds until DEADLINE (negative: for ever) as poll() wants them:
 * rounded up. */
int zp__ms_left(double deadline);

typedef struct zp__client zp__client;

/* See to it that a server serves PLACE: 0 when one does (it answers for its
 * flock and pid; not pinged), after starting one if need be and if the owner
 * lives (else ZP_ECLOSED). Waits at most TIMEOUT seconds. ZP_ENOSERVER with a
 * text that says why. */
int zp__server_ensure(const zp__place *place, zp__board *board, double timeout);

/* Does the server that the board names run? One cheap system call or two. */
bool zp__server_alive(const zp__board *board);

/* The owner's farewell: mark the state closed for all, wake the server, and
 * wait at most TIMEOUT seconds until it has ended the tree and removed the run
 * directory. One that was killed is replaced for that; if there can be none the
 * directory is removed here. Callable again.
 * 0, or -ETIMEDOUT (the server still works on it; nothing is left to do). */
int zp__server_close(const zp__place *place, zp__board *board, double timeout);

/* Requests (a DEALER on ctl). The zmq context in it serves the feed, too. */
int zp__client_new(zp__client **ret, const zp__place *place);
zp__client *zp__client_free(zp__client *client);
int zp__client_zmq(zp__client *client, void **ret); /* the zmq context */

/* Ping: 0 and the answer, -ETIMEDOUT, -EBADMSG. Starts no server. */
int zp__client_ping(zp__client *client, const void *payload, size_t size,
                    double timeout, zp_pong *ret);

#endif

/*
 * zmq_call.h - how zmq is called: with EINTR retried, with -errno as result,
 * and with the memory order that a thread sanitizer cannot see.
 *
 * Any zmq call can give EINTR, reading ZMQ_EVENTS included, even with
 * SA_RESTART: everything goes through the functions here. Those that would
 * wait are not offered: sockets are used with ZMQ_DONTWAIT, and who waits does
 * it in a poll with a deadline of its own.
 *
 * Stock libzmq is not instrumented, so TSan does not see that what one thread
 * sent happened before what another one received. ZP__ZMQ_RELEASE and
 * ZP__ZMQ_ACQUIRE tell it; without TSan they are nothing.
 *
 * zmq.h stays in loop.c, server*.c, client.c, feed.c and swarm_wire.c: they
 * alone include this header.
 */
#ifndef ZP_CORE_ZMQ_CALL_H
#define ZP_CORE_ZMQ_CALL_H

#include <errno.h>
#include <stddef.h>
#include <zmq.h>

#include "core/tsan.h"

#if ZP__TSAN
#include <sanitizer/tsan_interface.h>
extern char zp__zmq_order; /* in client.c: one for all sockets */
#define ZP__ZMQ_RELEASE() __tsan_release(&zp__zmq_order)
#define ZP__ZMQ_ACQUIRE() __tsan_acquire(&zp__zmq_order)
#else
#define ZP__ZMQ_RELEASE() ((void)0)
#define ZP__ZMQ_ACQUIRE() ((void)0)
#endif

/* What zmq left in errno as a negative code; its own codes, which strerror()
 * does not know, become the nearest of the system's. */
static inline int
zp__zmq_error(void)
{
    switch (errno) {
    case ETERM:
        return -ECANCELED; /* the context is being terminated */
    case EFSM:
        return -EPROTO;
    case ENOCOMPATPROTO:
        return -EPROTONOSUPPORT;
    case EMTHREAD:
        return -EAGAIN; /* no I/O thread */
    case 0:
        return -EIO;
    default:
        return errno > ZMQ_HAUSNUMERO + 50 ? -EIO : -errno;
    }
}

/* Send one frame without waiting: 0, -EAGAIN (the peer's queue is full),
 * -EHOSTUNREACH (ROUTER: no such peer). FLAGS: 0 or ZMQ_SNDMORE. */
static inline int
zp__zmq_send(void *socket, const void *data, size_t size, int flags)
{
    int rc;

    ZP__ZMQ_RELEASE();
    do
        rc = zmq_send(socket, data, size, flags | ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? zp__zmq_error() : 0;
}

/* Receive one frame without waiting: its whole length, of which at most SIZE
 * bytes are in BUFFER (the rest is lost), or -EAGAIN when there is none. */
static inline int
zp__zmq_recv(void *socket, void *buffer, size_t size)
{
    int rc;

    do
        rc = zmq_recv(socket, buffer, size, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    ZP__ZMQ_ACQUIRE();
    return rc < 0 ? zp__zmq_error() : rc;
}

/* The same with messages: MESSAGE is libzmq's when it could be sent. */
static inline int
zp__zmq_send_message(void *socket, zmq_msg_t *message, int flags)
{
    int rc;

    ZP__ZMQ_RELEASE();
    do
        rc = zmq_msg_send(message, socket, flags | ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? zp__zmq_error() : 0;
}

static inline int
zp__zmq_recv_message(void *socket, zmq_msg_t *message)
{
    int rc;

    do
        rc = zmq_msg_recv(message, socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    ZP__ZMQ_ACQUIRE();
    return rc < 0 ? zp__zmq_error() : 0;
}

/* An option of type int: 0; its value (not negative) or an error. */
static inline int
zp__zmq_set(void *socket, int option, int value)
{
    int rc;

    do
        rc = zmq_setsockopt(socket, option, &value, sizeof value);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? zp__zmq_error() : 0;
}

static inline int
zp__zmq_get(void *socket, int option)
{
    int value = 0, rc;
    size_t size = sizeof value;

    do
        rc = zmq_getsockopt(socket, option, &value, &size);
    while (rc < 0 && errno == EINTR);
    ZP__ZMQ_ACQUIRE();
    return rc < 0 ? zp__zmq_error() : value;
}

/* ZMQ_POLLIN | ZMQ_POLLOUT of what could be done now. Eats ZMQ_FD's edge. */
static inline int
zp__zmq_events(void *socket)
{
    return zp__zmq_get(socket, ZMQ_EVENTS);
}

/* Is there another frame of the message that was received last? */
static inline int
zp__zmq_more(void *socket)
{
    return zp__zmq_get(socket, ZMQ_RCVMORE);
}

/* Subscribe or unsubscribe (ZMQ_SUBSCRIBE, ZMQ_UNSUBSCRIBE). */
static inline int
zp__zmq_topic(void *socket, int option, const void *topic, size_t size)
{
    int rc;

    ZP__ZMQ_RELEASE();
    do
        rc = zmq_setsockopt(socket, option, topic, size);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? zp__zmq_error() : 0;
}

#endif

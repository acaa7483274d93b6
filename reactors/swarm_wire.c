/*
 * swarm_wire.c - the messages of swarm_wire.h, and their sockets.
 *
 * Queues have no bound: what is on its way is bounded by the owner, which gives
 * a worker work for some milliseconds only. The owner learns by MANDATORY that
 * a worker is gone; a DEALER that loses the connection has lost its owner, and
 * dies with it.
 */
#include "reactors/swarm_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/image.h"
#include "core/zmq_call.h"

#define OWNER_LINGER 100   /* ms */
#define WORKER_LINGER 2000 /* ms */
#define COPY_MAX 1024      /* bytes of a body that are rather copied */

_Static_assert(sizeof(zp__message) == sizeof(zmq_msg_t), "zmq_msg_t");

static zmq_msg_t *
inside(zp__message *message)
{
    return (zmq_msg_t *)(void *)message;
}

/* ------------------------------------------------------------- messages -- */

int
zp__message_new(zp__message *ret, size_t size)
{
    return zmq_msg_init_size(inside(ret), size) < 0 ? -ENOMEM : 0;
}

void
zp__message_init(zp__message *ret)
{
    zmq_msg_init(inside(ret));
}

void
zp__message_move(zp__message *ret, zp__message *from)
{
    zmq_msg_init(inside(ret));
    zmq_msg_move(inside(ret), inside(from));
    zmq_msg_close(inside(from));
}

void
zp__message_free(zp__message *message)
{
    zmq_msg_close(inside(message));
}

void *
zp__message_data(zp__message *message, size_t *ret_size)
{
    *ret_size = zmq_msg_size(inside(message));
    return zmq_msg_data(inside(message));
}

void
zp__wire_freed(void)
{
    ZP__ZMQ_ACQUIRE();
}

/* --------------------------------------------------------------- answers -- */

void
zp__answer_read(const unsigned char **at, zp__answer *ret,
                const unsigned char **ret_value, const char **ret_error,
                const char **ret_origin)
{
    memcpy(ret, *at, sizeof *ret);
    *ret_value = *at + sizeof *ret;
    *ret_error = (const char *)*ret_value + ret->value;
    *ret_origin = *ret_error + ret->error;
    *at = (const unsigned char *)*ret_origin + ret->origin;
}

int64_t
zp__answers_check(const void *body, size_t size, uint32_t n)
{
    const unsigned char *at = body;
    zp__answer answer;
    int64_t failed = 0;
    uint64_t rest;

    for (; n; n--, size -= rest, at += rest) {
        if (size < sizeof answer)
            return -1;
        memcpy(&answer, at, sizeof answer);
        rest = sizeof answer + (uint64_t)answer.value + answer.error +
               answer.origin;
        if (rest > size)
            return -1;
        if (answer.value &&
            zp__image_check(at + sizeof answer, answer.value) < 0)
            return -1;
        failed += answer.code < 0;
    }
    return size ? -1 : failed;
}

/* --------------------------------------------------------------- sockets -- */

/* A worker's last results are not lost with its context. What the owner has for
 * a dead worker libzmq keeps, and the context's end, for all of the time; but
 * (4.3.4, session_base.cpp) it aborts the process when a socket without LINGER
 * is closed while a message of two frames is on its way and the peer goes. */
static int
set_options(void *socket, int linger)
{
    const int options[][2] = {
        {ZMQ_SNDHWM, 0},
        {ZMQ_RCVHWM, 0},
        {ZMQ_LINGER, linger},
        {ZMQ_RECONNECT_IVL, 2},
        {ZMQ_RECONNECT_IVL_MAX, 250},
    };
    int rc = 0;

    for (size_t i = 0; i < sizeof options / sizeof *options && rc == 0; i++)
        rc = zp__zmq_set(socket, options[i][0], options[i][1]);
    return rc;
}

/* libzmq unlinks the path in a thread of its own, some time later: perhaps
 * when the directory is no more, or another's. */
void
zp__wire_close(void *socket, const char *address)
{
    if (address)
        unlink(address + strlen("ipc://"));
    zmq_close(socket);
}

void *
zp__wire_bind(void *zmq, const char *address)
{
    void *socket = zmq_socket(zmq, ZMQ_ROUTER);
    int rc;

    if (!socket)
        return NULL;
    rc = set_options(socket, OWNER_LINGER);
    if (rc == 0)
        rc = zp__zmq_set(socket, ZMQ_ROUTER_MANDATORY, 1);
    while (rc == 0 && zmq_bind(socket, address) < 0)
        if (errno != EINTR)
            rc = zp__zmq_error();
    if (rc == 0)
        return socket;
    zmq_close(socket);
    errno = -rc;
    return NULL;
}

void *
zp__wire_connect(void *zmq, const char *address, const zp__name *name)
{
    void *socket = zmq_socket(zmq, ZMQ_DEALER);
    int rc;

    if (!socket)
        return NULL;
    rc = set_options(socket, WORKER_LINGER);
    if (rc == 0)
        rc = zp__zmq_topic(socket, ZMQ_ROUTING_ID, name, sizeof *name);
    while (rc == 0 && zmq_connect(socket, address) < 0)
        if (errno != EINTR)
            rc = zp__zmq_error();
    if (rc == 0)
        return socket;
    zmq_close(socket);
    errno = -rc;
    return NULL;
}

/* ------------------------------------------------------- sending, reading --
 */

/* BODY as a message: -ENOMEM. FREE is called when it is no longer needed. */
static int
make_body(zmq_msg_t *ret, const void *body, size_t size,
          zp__message_free_fn *free_fn, void *hint)
{
    int rc;

    if (free_fn && size > COPY_MAX) {
        rc = zmq_msg_init_data(ret, (void *)(uintptr_t)body, size, free_fn,
                               hint);
        if (rc < 0)
            free_fn(NULL, hint);
        return rc < 0 ? -ENOMEM : 0;
    }
    rc = zmq_msg_init_size(ret, size);
    if (rc == 0 && size)
        memcpy(zmq_msg_data(ret), body, size);
    if (free_fn)
        free_fn(NULL, hint);
    return rc < 0 ? -ENOMEM : 0;
}

/* All that needs memory is made before anything is sent: of a message that was
 * begun the rest must follow. */
int
zp__wire_send(void *socket, const zp__name *name, const void *head,
              size_t head_size, const void *body, size_t size,
              zp__message_free_fn *free, void *hint)
{
    zmq_msg_t first, last;
    int rc = make_body(&last, body, size, free, hint);

    if (rc == 0 && (rc = make_body(&first, head, head_size, NULL, NULL)) < 0)
        zmq_msg_close(&last);
    if (rc < 0)
        return rc;
    if (name)
        rc = zp__zmq_send(socket, name, sizeof *name, ZMQ_SNDMORE);
    if (rc == 0)
        rc = zp__zmq_send_message(socket, &first, ZMQ_SNDMORE);
    if (rc == 0)
        rc = zp__zmq_send_message(socket, &last, 0);
    zmq_msg_close(&first); /* empty, if it was sent */
    zmq_msg_close(&last);
    return rc;
}

/* Read a frame of exactly SIZE bytes, with another one behind it: 1; 0: there
 * is no message; -1: of another shape. */
static int
receive_exactly(void *socket, void *ret, size_t size)
{
    int rc = zp__zmq_recv(socket, ret, size);

    if (rc < 0)
        return 0;
    return (size_t)rc == size && zp__zmq_more(socket) == 1 ? 1 : -1;
}

static void
skip_rest(void *socket)
{
    while (zp__zmq_more(socket) == 1 && zp__zmq_recv(socket, NULL, 0) >= 0)
        continue;
}

static int
receive(void *socket, zp__name *ret_name, void *ret_head, size_t head_size,
        zp__message *ret_body)
{
    int rc = 1;

    if (ret_name)
        rc = receive_exactly(socket, ret_name, sizeof *ret_name);
    if (rc == 1)
        rc = receive_exactly(socket, ret_head, head_size);
    if (rc != 1)
        return rc;
    zmq_msg_init(inside(ret_body));
    rc = zp__zmq_recv_message(socket, inside(ret_body));
    if (rc >= 0 && zp__zmq_more(socket) == 0)
        return 1;
    zmq_msg_close(inside(ret_body));
    return -1;
}

int
zp__wire_receive(void *socket, zp__name *ret_name, void *ret_head,
                 size_t head_size, zp__message *ret_body)
{
    int rc;

    while ((rc = receive(socket, ret_name, ret_head, head_size, ret_body)) < 0)
        skip_rest(socket);
    return rc;
}

/*
 * floor_zmq.c - raw ZeroMQ: what it costs to get from one process through a
 * second one, which filters by topic, into a third.
 *
 *     writer PUSH --ipc--> PULL forwarder PUB --ipc--> SUB watcher
 *
 * A message is a topic of 9 bytes, as ours, and the time of the "set".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "tests/bench/crew.h"
#include "tests/bench/floor.h"

#define TOPIC "Kabcdefgh"
#define TOPIC_SIZE 9
#define MESSAGE_SIZE (TOPIC_SIZE + 8)

struct zmq {
    void *context;
    void *socket;
};

static int
broken(struct side *side, const char *what)
{
    return side_fail(side, "%s: %s", what, zmq_strerror(zmq_errno()));
}

/* A socket of TYPE at the endpoint NAME of this side. */
static void *
open_socket(struct side *side, void *context, int type, const char *name,
            bool bind)
{
    char endpoint[300];
    void *socket = zmq_socket(context, type);
    int linger = 0;
    int fast = 2; /* ms between two attempts to connect */
    int r;

    snprintf(endpoint, sizeof(endpoint), "ipc://%s/%s", side->dir, name);
    if (socket == NULL)
        return NULL;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &fast, sizeof(fast));
    r = bind ? zmq_bind(socket, endpoint) : zmq_connect(socket, endpoint);
    if (r == 0 && type == ZMQ_SUB)
        r = zmq_setsockopt(socket, ZMQ_SUBSCRIBE, TOPIC, TOPIC_SIZE);
    if (r == 0)
        return socket;
    zmq_close(socket);
    return NULL;
}

static int
receive(void *socket, char *message)
{
    int n;

    do
        n = zmq_recv(socket, message, MESSAGE_SIZE, 0);
    while (n == -1 && zmq_errno() == EINTR);
    return n;
}

/* Both ends of a forwarder; no zmq_proxy(), which polls on both. */
int
floor_forwarder(struct side *side, unsigned index)
{
    void *context = zmq_ctx_new();
    void *in = open_socket(side, context, ZMQ_PULL, "in", true);
    void *out = open_socket(side, context, ZMQ_PUB, "out", true);
    char message[MESSAGE_SIZE];

    (void)index;
    if (in == NULL || out == NULL)
        return broken(side, "bind");
    while (receive(in, message) == MESSAGE_SIZE)
        if (zmq_send(out, message, MESSAGE_SIZE, 0) == -1)
            return broken(side, "send");
    return broken(side, "receive");
}

int
floor_watcher(struct side *side, unsigned index)
{
    void *context = zmq_ctx_new();
    void *in = open_socket(side, context, ZMQ_SUB, "out", false);
    char message[MESSAGE_SIZE];
    int64_t then;

    (void)index;
    if (in == NULL)
        return broken(side, "connect");
    for (bool first = true; receive(in, message) == MESSAGE_SIZE;
         first = false) {
        int64_t now = side_now();

        memcpy(&then, message + TOPIC_SIZE, sizeof(then));
        if (first)
            crew_add(&side->crew->shared->ready);
        crew_sample(side, now - then);
    }
    return broken(side, "receive");
}

int
floor_idler(struct side *side, unsigned index)
{
    void *context = zmq_ctx_new();
    void *in = open_socket(side, context, ZMQ_SUB, "out", false);
    char message[MESSAGE_SIZE];

    (void)index;
    if (in == NULL)
        return broken(side, "connect");
    for (bool first = true; receive(in, message) == MESSAGE_SIZE; first = false)
        if (first)
            crew_add(&side->crew->shared->ready);
    return broken(side, "receive");
}

static int
push(struct side *side, int64_t now)
{
    struct zmq *z = side->data;
    char message[MESSAGE_SIZE];

    memcpy(message, TOPIC, TOPIC_SIZE);
    memcpy(message + TOPIC_SIZE, &now, sizeof(now));
    if (zmq_send(z->socket, message, sizeof(message), 0) == -1)
        return broken(side, "send");
    return SIDE_OK;
}

static int
start(struct side *side, int type, const char *name, bool bind)
{
    struct zmq *z = calloc(1, sizeof(*z));

    side->data = z;
    if (z == NULL)
        return side_fail(side, "out of memory");
    z->context = zmq_ctx_new();
    z->socket = open_socket(side, z->context, type, name, bind);
    return z->socket == NULL ? broken(side, name) : crew_new(side);
}

int
floor_chain_start(struct side *side)
{
    if (start(side, ZMQ_PUSH, "in", false) != SIDE_OK ||
        crew_start(side, "forwarder", 1) != SIDE_OK ||
        crew_start(side, "watcher", 1) != SIDE_OK)
        return SIDE_FAIL;
    return crew_until_ready(side, push, 1);
}

int
floor_chain_round(struct side *side)
{
    return crew_latency(side, push, SIDE_SETS(side));
}

int
floor_idle_start(struct side *side)
{
    if (start(side, ZMQ_PUB, "out", true) != SIDE_OK ||
        crew_start(side, "idler", SIDE_IDLERS) != SIDE_OK)
        return SIDE_FAIL;
    return crew_until_ready(side, push, SIDE_IDLERS);
}

int
floor_idle_round(struct side *side)
{
    return crew_report_pss(side, side->crew->pid, side->crew->n);
}

void
floor_zmq_stop(struct side *side)
{
    struct zmq *z = side->data;

    if (z == NULL)
        return;
    if (z->socket != NULL)
        zmq_close(z->socket);
    if (z->context != NULL)
        zmq_ctx_term(z->context);
    free(z);
}

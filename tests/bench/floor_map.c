/*
 * floor_map.c - raw ZeroMQ: what it costs to get bytes to workers and back.
 *
 *     caller PUSH --ipc--> PULL worker (two) PUSH --ipc--> PULL caller
 *
 * A message has as many bytes as our items and their results have on the wire,
 * in as few messages as ours when they go in chunks; nothing is packed, read,
 * computed, put in order or taken note of. Large bytes are sent from where they
 * are. The caller keeps enough of them on the way that no worker waits.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "tests/bench/crew.h"
#include "tests/bench/floor.h"

#define TASK_BYTES 40 /* beside the items of a message */
#define ITEM_BYTES 22
#define RESULT_BYTES 30
#define CHUNK 2978 /* trivial items in one message of ours: 64 KiB */
#define COPY_MAX 1024
#define PATIENCE 20000 /* ms that no answer takes */

struct zmq {
    void *context, *items, *results;
    unsigned char *bytes; /* SIDE_LARGE and a head */
};

static int
broken(struct side *side, const char *what)
{
    return side_fail(side, "%s: %s", what, zmq_strerror(zmq_errno()));
}

static void *
open_socket(struct side *side, void *context, int type, const char *name,
            bool bind)
{
    char endpoint[300];
    void *socket = zmq_socket(context, type);
    int none = 0, patience = PATIENCE;
    int fast = 2; /* ms between two attempts to connect */
    int r;

    snprintf(endpoint, sizeof(endpoint), "ipc://%s/%s", side->dir, name);
    if (socket == NULL)
        return NULL;
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
    zmq_setsockopt(socket, ZMQ_SNDHWM, &none, sizeof(none));
    zmq_setsockopt(socket, ZMQ_RCVHWM, &none, sizeof(none));
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &fast, sizeof(fast));
    if (bind)
        zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof(patience));
    r = bind ? zmq_bind(socket, endpoint) : zmq_connect(socket, endpoint);
    if (r == 0)
        return socket;
    zmq_close(socket);
    return NULL;
}

static struct zmq *
open_all(struct side *side, bool caller)
{
    struct zmq *z = calloc(1, sizeof(*z));

    if (z == NULL)
        return NULL;
    z->bytes = calloc(1, SIDE_LARGE + TASK_BYTES);
    z->context = zmq_ctx_new();
    z->items = open_socket(side, z->context, caller ? ZMQ_PUSH : ZMQ_PULL,
                           "items", caller);
    z->results = open_socket(side, z->context, caller ? ZMQ_PULL : ZMQ_PUSH,
                             "results", caller);
    side->data = z;
    return z->bytes == NULL || z->items == NULL || z->results == NULL ? NULL
                                                                      : z;
}

static void
keep(void *data, void *hint)
{
    (void)data;
    (void)hint;
}

/* Send the first SIZE of BYTES. */
static int
send_bytes(void *socket, unsigned char *bytes, size_t size)
{
    zmq_msg_t message;

    if (size <= COPY_MAX)
        return zmq_send(socket, bytes, size, 0);
    zmq_msg_init_data(&message, bytes, size, keep, NULL);
    return zmq_msg_send(&message, socket, 0);
}

/* Answer each message with as many bytes as it begins with. */
int
floor_worker(struct side *side, unsigned index)
{
    struct zmq *z = open_all(side, false);
    zmq_msg_t message;
    uint32_t size;

    (void)index;
    if (z == NULL)
        return broken(side, "connect");
    for (bool first = true;; first = false) {
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, z->items, 0) < (int)sizeof(size))
            return broken(side, "receive");
        if (first)
            crew_add(&side->crew->shared->ready);
        memcpy(&size, zmq_msg_data(&message), sizeof(size));
        zmq_msg_close(&message);
        if (size > SIDE_LARGE + TASK_BYTES ||
            send_bytes(z->results, z->bytes, size) == -1)
            return broken(side, "send");
    }
}

static int
receive(struct zmq *z, int flags)
{
    zmq_msg_t message;
    int r;

    zmq_msg_init(&message);
    do
        r = zmq_msg_recv(&message, z->results, flags);
    while (r == -1 && zmq_errno() == EINTR);
    zmq_msg_close(&message);
    return r;
}

/* N messages of SIZE bytes with answers of ANSWER bytes, at most WINDOW of them
 * on the way. */
static int
exchange(struct side *side, uint32_t n, size_t size, uint32_t answer,
         uint32_t window)
{
    struct zmq *z = side->data;
    uint32_t sent = 0, got = 0;

    memcpy(z->bytes, &answer, sizeof(answer));
    while (got < n) {
        for (; sent < n && sent - got < window; sent++)
            if (send_bytes(z->items, z->bytes, size) == -1)
                return broken(side, "send");
        if (receive(z, 0) == -1)
            return broken(side, "receive");
        for (got++; receive(z, ZMQ_DONTWAIT) != -1; got++)
            continue;
    }
    return SIDE_OK;
}

/* N items of SIZE bytes, CHUNK of them in a message, with results of ANSWER. */
static int
report_rate(struct side *side, uint32_t n, uint32_t chunk, size_t size,
            size_t answer, uint32_t window)
{
    int64_t then = side_now();
    uint32_t messages = (n + chunk - 1) / chunk;
    int r = exchange(side, messages, TASK_BYTES + chunk * size,
                     (uint32_t)(TASK_BYTES + chunk * answer), window);

    side_report(side, "rate", n / ((double)(side_now() - then) / 1e9));
    return r;
}

int
floor_map_round(struct side *side)
{
    return report_rate(side, SIDE_ITEMS(side), CHUNK, ITEM_BYTES, RESULT_BYTES,
                       16);
}

int
floor_map_singly_round(struct side *side)
{
    return report_rate(side, SIDE_SINGLE_ITEMS(side), 1, ITEM_BYTES,
                       RESULT_BYTES, 1000);
}

int
floor_map_large_round(struct side *side)
{
    return report_rate(side, SIDE_LARGE_ITEMS(side), 1, SIDE_LARGE,
                       RESULT_BYTES, 8);
}

int
floor_map_results_round(struct side *side)
{
    return report_rate(side, SIDE_LARGE_ITEMS(side), 1, ITEM_BYTES, SIDE_LARGE,
                       8);
}

static int
push(struct side *side, int64_t now)
{
    struct zmq *z = side->data;
    uint32_t answer = TASK_BYTES;

    (void)now;
    memcpy(z->bytes, &answer, sizeof(answer));
    if (send_bytes(z->items, z->bytes, TASK_BYTES) == -1)
        return broken(side, "send");
    return SIDE_OK;
}

int
floor_map_start(struct side *side)
{
    struct zmq *z = open_all(side, true);
    int r;

    if (z == NULL)
        return broken(side, "bind");
    if (crew_new(side) != SIDE_OK ||
        crew_start(side, "worker", SIDE_WORKERS) != SIDE_OK)
        return SIDE_FAIL;
    r = crew_until_ready(side, push, SIDE_WORKERS);
    while (r == SIDE_OK && receive(z, ZMQ_DONTWAIT) != -1)
        continue;
    return r;
}

/* ----------------------------------------------------------------- spin -- */

static int
spin_one(struct side *side)
{
    (void)side;
    side_spin(SIDE_SPIN);
    return SIDE_OK;
}

/* What the CPUs can do at this moment: as many processes as there are workers,
 * which burn the time of one item after the other, and that is all. */
int
floor_spinner(struct side *side, unsigned index)
{
    return crew_hammer(side, index, spin_one);
}

int
floor_spin_start(struct side *side)
{
    return crew_new(side) == SIDE_OK ? crew_start(side, "spinner", SIDE_WORKERS)
                                     : SIDE_FAIL;
}

int
floor_spin_round(struct side *side)
{
    return crew_hammer_round(side, SIDE_WORKERS, SIDE_SPINS(side) / 2000.0);
}

void
floor_map_stop(struct side *side)
{
    struct zmq *z = side->data;

    if (z == NULL)
        return;
    if (z->items != NULL)
        zmq_close(z->items);
    if (z->results != NULL)
        zmq_close(z->results);
    if (z->context != NULL)
        zmq_ctx_term(z->context);
    free(z->bytes);
    free(z);
}

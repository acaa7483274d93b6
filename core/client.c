/*
 * client.c - asking the state server.
 *
 * A DEALER socket; each request has a number of its own, and answers to
 * earlier ones, which came too late, are passed over. libzmq may take a while
 * to notice that the server behind a connection is another one now, so an
 * answer that does not come makes us connect anew and ask again.
 */
#include "core/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/fork.h"
#include "core/loop.h"
#include "core/room.h"
#include "core/wire.h"
#include "core/zmq_call.h"

#define FIRST_ANSWER 0.05 /* seconds before the first new connection */
#define RECONNECT_IVL 2   /* ms */
#define RECONNECT_IVL_MAX 250

#if ZP__TSAN
char zp__zmq_order;
#endif

struct zp__client {
    char address[sizeof(((zp__place *)0)->run) + 16];
    void *zmq;
    void *dealer;
    zp__owned *owned_zmq; /* with the first dealer: descriptors of libzmq */
    zp__owned *owned_dealer;
    uint64_t id; /* of the last request */
};

int
zp__client_new(zp__client **ret, const zp__place *place)
{
    zp__client *client = calloc(1, sizeof *client);

    if (!client)
        return zp__fail(-ENOMEM, "no memory for a client of the server");
    snprintf(client->address, sizeof client->address, "ipc://%s/ctl",
             place->run);
    *ret = client;
    return 0;
}

static void
drop_dealer(zp__client *client)
{
    if (client->dealer)
        zmq_close(client->dealer);
    zp__own_forget(client->owned_dealer);
    client->dealer = NULL;
    client->owned_dealer = NULL;
}

zp__client *
zp__client_free(zp__client *client)
{
    if (!client)
        return NULL;
    drop_dealer(client);
    if (client->zmq) {
        ZP__ZMQ_RELEASE();
        while (zmq_ctx_term(client->zmq) < 0 && errno == EINTR)
            ;
        ZP__ZMQ_ACQUIRE();
    }
    zp__own_forget(client->owned_zmq);
    free(client);
    return NULL;
}

/* A connected DEALER; NULL with errno. */
static void *
new_dealer(void *zmq, const char *address)
{
    int64_t largest = ZP__ANSWER_HEAD + ZP__PAYLOAD_MAX;
    void *dealer = zmq_socket(zmq, ZMQ_DEALER);

    if (!dealer)
        return NULL;
    if (zp__zmq_set(dealer, ZMQ_LINGER, 0) < 0 ||
        zp__zmq_set(dealer, ZMQ_RECONNECT_IVL, RECONNECT_IVL) < 0 ||
        zp__zmq_set(dealer, ZMQ_RECONNECT_IVL_MAX, RECONNECT_IVL_MAX) < 0 ||
        zp__zmq_set(dealer, ZMQ_SNDHWM, 8) < 0 ||
        zp__zmq_set(dealer, ZMQ_RCVHWM, 8) < 0 ||
        zp__zmq_set(dealer, ZMQ_SNDTIMEO, 0) < 0 ||
        zmq_setsockopt(dealer, ZMQ_MAXMSGSIZE, &largest, sizeof largest) < 0 ||
        zmq_connect(dealer, address) < 0) {
        int saved = errno;

        zmq_close(dealer);
        errno = saved;
        return NULL;
    }
    return dealer;
}

/* zmq_ctx_new() opens nothing; the first socket starts its threads and opens
 * their descriptors. Both in one bracket, so that all of them are on record. */
static int
make_zmq(zp__client *client)
{
    void *zmq = NULL, *dealer = NULL;
    int rc;

    zp__own_begin();
    rc = zp__room_for_zmq();
    if (rc == 0)
        zmq = zmq_ctx_new();
    if (zmq) {
        zmq_ctx_set(zmq, ZMQ_BLOCKY, 0);
        zmq_ctx_set(zmq, ZMQ_IO_THREADS, 1);
        dealer = new_dealer(zmq, client->address);
    }
    if (rc == 0 && !dealer)
        rc = zp__fail(zp__zmq_error(), "cannot make a socket: %s",
                      zmq_strerror(errno));
    client->owned_zmq = zp__own_end(NULL);
    if (rc < 0) {
        if (zmq)
            zmq_ctx_term(zmq);
        zp__own_forget(client->owned_zmq);
        client->owned_zmq = NULL;
        return rc;
    }
    client->zmq = zmq;
    client->dealer = dealer;
    return 0;
}

int
zp__client_zmq(zp__client *client, void **ret)
{
    int rc = client->zmq ? 0 : make_zmq(client);

    if (rc == 0)
        *ret = client->zmq;
    return rc;
}

/* See to it that there is a connected socket. */
static int
connect_server(zp__client *client)
{
    if (client->dealer)
        return 0;
    if (!client->zmq)
        return make_zmq(client);
    zp__own_begin();
    client->dealer = new_dealer(client->zmq, client->address);
    client->owned_dealer = zp__own_end(NULL);
    if (client->dealer)
        return 0;
    zp__own_forget(client->owned_dealer);
    client->owned_dealer = NULL;
    return zp__fail(zp__zmq_error(), "cannot make a socket: %s",
                    zmq_strerror(errno));
}

/* One ping on its way: the request, and behind it room for the answer. */
struct ping {
    const void *payload;
    size_t size;
    unsigned char *request; /* ZP__REQUEST_HEAD + size */
    unsigned char *answer;  /* ZP__ANSWER_HEAD + size */
    uint64_t id;
};

/* The frame of SIZE bytes in ping->answer: 1 if it answers this ping, 0 if it
 * is something else, -EBADMSG. */
static int
take_answer(const struct ping *ping, size_t size, zp_pong *pong)
{
    uint64_t id;
    int32_t pid;

    if (size < ZP__ANSWER_HEAD || ping->answer[0] != ZP__VERB_PING)
        return 0;
    memcpy(&id, ping->answer + 1, 8);
    if (id != ping->id)
        return 0;
    if (size != ZP__ANSWER_HEAD + ping->size ||
        (ping->size && memcmp(ping->answer + ZP__ANSWER_HEAD, ping->payload,
                              ping->size) != 0))
        return zp__fail(-EBADMSG, "the state server sent back another payload");
    memcpy(&pid, ping->answer + 9, 4);
    memcpy(&pong->revision, ping->answer + 13, 8);
    pong->server_pid = pid;
    return 1;
}

/* Receive until the answer, or until there is nothing to be received: 1, 0 or
 * an error. */
static int
receive(zp__client *client, const struct ping *ping, zp_pong *pong)
{
    unsigned char rest[8];
    int n, rc;

    for (;;) {
        n = zp__zmq_recv(client->dealer, ping->answer,
                         ZP__ANSWER_HEAD + ping->size);
        if (n < 0)
            return n == -EAGAIN ? 0
                                : zp__fail(n, "cannot receive from the state "
                                              "server");
        rc = zp__zmq_more(client->dealer) > 0
                 ? 0
                 : take_answer(ping, (size_t)n, pong);
        while (zp__zmq_more(client->dealer) > 0)
            if (zp__zmq_recv(client->dealer, rest, sizeof rest) < 0)
                break;
        if (rc)
            return rc;
    }
}

/* Ask once, and wait until UNTIL: 1, 0 (no answer), or an error. */
static int
ask(zp__client *client, const struct ping *ping, double until, zp_pong *pong)
{
    struct pollfd one = {-1, POLLIN, 0};
    int rc;

    rc = connect_server(client);
    if (rc < 0)
        return rc;
    rc = zp__zmq_send(client->dealer, ping->request,
                      ZP__REQUEST_HEAD + ping->size, 0);
    if (rc < 0 && rc != -EAGAIN)
        return zp__fail(rc, "cannot send to the state server");
    one.fd = zp__zmq_get(client->dealer, ZMQ_FD);
    if (one.fd < 0)
        return zp__fail(one.fd, "the socket has no descriptor");
    for (;;) {
        rc = receive(client, ping, pong);
        if (rc)
            return rc;
        if (until >= 0 && zp__now() >= until)
            return 0;
        rc = poll(&one, 1, zp__ms_left(until));
        if (rc < 0 && errno != EINTR)
            return zp__fail_errno(errno, "cannot wait for the state server");
    }
}

/* Ask until there is an answer, each time on a new connection, since the old
 * one may lead nowhere: 0 or an error. */
static int
ask_again(zp__client *client, const struct ping *ping, double deadline,
          zp_pong *pong)
{
    double patience = FIRST_ANSWER, until;
    int rc;

    for (;;) {
        until = zp__now() + patience;
        if (deadline >= 0 && until > deadline)
            until = deadline;
        rc = ask(client, ping, until, pong);
        if (rc)
            return rc < 0 ? rc : 0;
        drop_dealer(client); /* with what is queued in it */
        if (deadline >= 0 && zp__now() >= deadline)
            return zp__fail(-ETIMEDOUT, "the state server does not answer");
        patience *= 2;
    }
}

int
zp__client_ping(zp__client *client, const void *payload, size_t size,
                double timeout, zp_pong *ret)
{
    double begun = zp__now();
    struct ping ping = {.payload = payload, .size = size};
    unsigned char *block;
    zp_pong pong;
    int rc;

    if (size > ZP__PAYLOAD_MAX || (size && !payload))
        return zp__fail(-EINVAL, "a payload of %zu bytes, limit %d", size,
                        ZP__PAYLOAD_MAX);
    block = malloc(ZP__REQUEST_HEAD + ZP__ANSWER_HEAD + 2 * size);
    if (!block)
        return zp__fail(-ENOMEM, "no memory for a ping");
    ping.id = ++client->id;
    ping.request = block;
    ping.answer = block + ZP__REQUEST_HEAD + size;
    block[0] = ZP__VERB_PING;
    memcpy(block + 1, &ping.id, 8);
    if (size)
        memcpy(block + ZP__REQUEST_HEAD, payload, size);
    rc = ask_again(client, &ping, timeout < 0 ? -1 : begun + timeout, &pong);
    free(block);
    if (rc < 0)
        return rc;
    pong.round_trip = zp__now() - begun;
    if (ret)
        *ret = pong;
    return 0;
}

/*
 * feed.c - the wake-ups: one SUB socket per context, what it is subscribed to,
 * and how one knows that the server knows.
 *
 * The confirmed start. A subscription travels through two processes and cannot
 * be seen to arrive. But what one socket sends arrives in order: so behind the
 * topics of a batch goes a fresh *sync topic*, which the server answers once
 * the interest in all that it read before stands in the board. The answer
 * confirms every subscription made before the question, whichever batch it was
 * of: they are numbered, and the confirmed ones are those up to a number.
 *
 *     subscribe K1, K2 (serial 7, 8), ask: S1     -->  server
 *     subscribe K3 (serial 9): S1 is on its way, wait
 *     answer S1: confirmed = 8; 9 is not, ask: S2 -->
 *
 * While nothing comes (a full queue drops the answer, the server is dead or
 * busy) the question is asked again with another topic: the old one would not
 * be reported twice. Nobody waits for any of this: a watch's cursor is the head
 * at its registration, and each answer makes a turn read the log once.
 *
 * Reconnects. libzmq sends all subscriptions again, in the order of their
 * bytes. One *standing* sync topic, which sorts behind all others (0xFF), is
 * answered then: with a new generation it says that a new server knows whatever
 * had been confirmed. A generation in the board that is not the one we
 * connected to means that libzmq has not noticed yet, or is sleeping before its
 * next attempt: then we connect afresh.
 *
 * Cost: a subscription that is confirmed already costs no message; it is kept
 * for a second after its last link went, so that a loop of short watches of one
 * key subscribes once.
 */
#include "reactors/feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/zmq_call.h"

#define DRAIN_MAX 1000 /* messages read per turn */
#define PATIENCE 0.05  /* seconds for the first answer; doubled, up to */
#define PATIENCE_MAX 1.0
#define KEEP_IDLE 1.0 /* seconds that an idle subscription is kept */
#define QUEUE 64      /* messages: they are wake-ups, one is enough */

/* -------------------------------------------------------------- topics -- */

static void
name_topic(unsigned char *name, unsigned char kind, uint64_t hash)
{
    name[0] = kind;
    for (int i = 8; i > 0; i--, hash >>= 8)
        name[i] = (unsigned char)hash;
}

/* Subscribe to a topic, or undo it. */
static int
set_topic(zp__feed *feed, int option, const unsigned char *name)
{
    zp__loop_touched(feed->readable);
    return zp__zmq_topic(feed->socket, option, name, ZP__TOPIC_SIZE);
}

static int
sub_new(zp__feed *feed, zp__sub **ret, unsigned char kind, uint64_t hash)
{
    zp__sub *sub;
    int rc;

    rc = zp__subs_add(&feed->subs, &sub, kind, hash);
    if (rc < 0)
        return rc;
    name_topic(sub->name, kind, hash);
    zp__bell_want(feed, hash, true);
    rc = set_topic(feed, ZMQ_SUBSCRIBE, sub->name);
    if (rc < 0) {
        zp__bell_want(feed, hash, false);
        zp__subs_remove(&feed->subs, sub);
        return zp__fail_errno(-rc, "cannot subscribe");
    }
    sub->serial = ++feed->serial;
    *ret = sub;
    return 0;
}

static void
sub_free(zp__feed *feed, zp__sub *sub)
{
    zp__list_remove(&sub->idle);
    (void)set_topic(feed, ZMQ_UNSUBSCRIBE, sub->name);
    zp__bell_want(feed, sub->hash, false);
    zp__subs_remove(&feed->subs, sub);
}

int
zp__feed_subscribe(zp__feed *feed, zp__link *link, unsigned char kind,
                   uint64_t hash)
{
    zp__sub *sub = zp__subs_find(&feed->subs, kind, hash);
    int rc;

    if (!sub) {
        rc = sub_new(feed, &sub, kind, hash);
        if (rc < 0)
            return rc;
    }
    zp__list_remove(&sub->idle);
    zp__list_append(&sub->links, &link->node);
    link->sub = sub;
    return 0;
}

void
zp__feed_unsubscribe(zp__feed *feed, zp__link *link)
{
    zp__sub *sub = link->sub;

    if (!sub)
        return;
    link->sub = NULL;
    zp__list_remove(&link->node);
    if (!zp__list_empty(&sub->links))
        return;
    if (zp__list_empty(&feed->idle))
        zp__timer_set(feed->idle_timer, KEEP_IDLE);
    sub->idle_since = zp__now();
    zp__list_append(&feed->idle, &sub->idle);
}

/* Drop what has been idle long enough; come again for the next. */
static void
on_idle(void *user)
{
    zp__feed *feed = user;
    double now = zp__now();

    ZP__EACH(at, next, &feed->idle)
    {
        zp__sub *sub = ZP__OF(at, zp__sub, idle);
        double left = sub->idle_since + KEEP_IDLE - now;

        if (left > 0.001) {
            zp__timer_set(feed->idle_timer, left);
            return;
        }
        sub_free(feed, sub);
    }
}

/* ------------------------------------------------------- confirmations -- */

static uint32_t
generation_now(const zp__feed *feed)
{
    return atomic_load(&feed->ctx->board->shared->generation);
}

bool
zp__feed_confirmed(const zp__feed *feed, const zp__sub *sub)
{
    return sub->serial <= feed->confirmed && feed->told == generation_now(feed);
}

static bool
all_confirmed(const zp__feed *feed)
{
    return feed->confirmed == feed->serial &&
           feed->told == generation_now(feed);
}

/* A sync topic that nobody has used. */
static void
name_sync(unsigned char *name)
{
    static _Thread_local uint64_t count;
    uint64_t number;

    if (getrandom(&number, sizeof number, GRND_NONBLOCK) !=
        (ssize_t)sizeof number)
        number = zp__token() + ++count * UINT64_C(0x9e3779b97f4a7c15);
    name_topic(name, ZP__TOPIC_SYNC, number);
}

static void
ask_no_more(zp__feed *feed)
{
    if (feed->is_asking)
        (void)set_topic(feed, ZMQ_UNSUBSCRIBE, feed->asking);
    feed->is_asking = false;
}

/* Ask about all that is subscribed to up to now. */
static void
ask(zp__feed *feed)
{
    ask_no_more(feed);
    name_sync(feed->asking);
    feed->is_asking = set_topic(feed, ZMQ_SUBSCRIBE, feed->asking) == 0;
    feed->asked = feed->serial;
    zp__timer_set(feed->patience_timer, feed->patience);
}

void
zp__feed_confirm(zp__feed *feed)
{
    if (!all_confirmed(feed) && !feed->is_asking)
        ask(feed);
}

static void
on_answer(zp__feed *feed, const unsigned char *topic, uint32_t generation)
{
    if (generation != generation_now(feed))
        return; /* of a server that is no more */
    feed->told = feed->connected = generation;
    if (feed->is_asking &&
        memcmp(topic, feed->asking, sizeof feed->asking) == 0) {
        feed->confirmed = feed->asked;
        feed->patience = PATIENCE;
        ask_no_more(feed);
        if (feed->confirmed != feed->serial)
            ask(feed);
        else
            zp__ctx_waits(feed->ctx);
    }
    if (!feed->is_asking)
        zp__timer_set(feed->patience_timer, -1);
}

/* ---------------------------------------------------------- connection -- */

static int
try_connect(zp__feed *feed)
{
    int rc;

    do
        rc = zmq_connect(feed->socket, feed->address);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? zp__zmq_error() : 0;
}

static void
disconnect(zp__feed *feed)
{
    int rc;

    do
        rc = zmq_disconnect(feed->socket, feed->address);
    while (rc < 0 && errno == EINTR);
}

/* The connection is to a server that is no more: make another one. What is
 * subscribed to goes with it; the question, too, but asking a new one finds out
 * if it went astray. If there can be no connection now, it is tried again when
 * patience ends. */
static void
reconnect(zp__feed *feed)
{
    uint32_t generation = generation_now(feed);

    zp__loop_touched(feed->readable);
    disconnect(feed);
    if (try_connect(feed) == 0)
        feed->connected = generation;
    feed->patience = PATIENCE;
    ask(feed);
}

static void
check_connection(zp__feed *feed)
{
    if (feed->connected != generation_now(feed))
        reconnect(feed);
}

void
zp__feed_drain(zp__feed *feed)
{
    unsigned char news[ZP__NEWS_SIZE + 1];
    uint32_t generation;
    bool rang = zp__bell_answer(feed);

    if (!rang)
        zp__loop_touched(feed->readable);
    for (int i = 0; i < DRAIN_MAX && !rang; i++) {
        int size = zp__zmq_recv(feed->socket, news, sizeof news);

        if (size < 0)
            break;
        if (size != ZP__NEWS_SIZE || news[0] != ZP__TOPIC_SYNC)
            continue;
        memcpy(&generation, news + ZP__TOPIC_SIZE, sizeof generation);
        on_answer(feed, news, generation);
    }
    check_connection(feed);
}

/* No answer in time. A dead server is not written to: what it does not read
 * would pile up; the context has it started again. */
static void
on_patience(void *user)
{
    zp__feed *feed = user;

    zp__feed_drain(feed);
    if (!all_confirmed(feed) || feed->is_asking) {
        feed->patience *= 2;
        if (feed->patience > PATIENCE_MAX)
            feed->patience = PATIENCE_MAX;
        if (zp__server_alive(feed->ctx->board))
            ask(feed);
        else
            zp__timer_set(feed->patience_timer, feed->patience);
    }
    zp__feed_turn(feed);
}

static void
on_server_new(zp_ctx *ctx)
{
    if (ctx->feed)
        zp__kick(ctx->feed->kick);
}

static void
on_turn(void *user)
{
    zp__feed_turn(user);
}

/* ---------------------------------------------------------------- feed -- */

static int
set_options(void *socket)
{
    static const int options[][2] = {
        {ZMQ_SNDHWM, 0}, /* a subscription is never dropped */
        {ZMQ_RCVHWM, QUEUE},    {ZMQ_LINGER, 0},
        {ZMQ_RECONNECT_IVL, 2}, {ZMQ_RECONNECT_IVL_MAX, 250},
    };
    int rc = 0;

    for (size_t i = 0; i < sizeof options / sizeof *options && rc == 0; i++)
        rc = zp__zmq_set(socket, options[i][0], options[i][1]);
    return rc;
}

static int
connect_socket(zp__feed *feed)
{
    unsigned char bare[ZP__TOPIC_SIZE];
    int rc;

    rc = set_options(feed->socket);
    if (rc < 0)
        return rc;
    feed->connected = generation_now(feed);
    rc = try_connect(feed);
    name_topic(bare, ZP__TOPIC_BARE, 0);
    if (rc == 0 && !feed->bell) /* before what it is to be known of */
        rc = set_topic(feed, ZMQ_SUBSCRIBE, bare);
    if (rc < 0)
        return rc;
    name_sync(feed->standing);
    return set_topic(feed, ZMQ_SUBSCRIBE, feed->standing);
}

static int
open_socket(zp__feed *feed)
{
    zp_ctx *ctx = feed->ctx;
    char path[ZP__PATH_MAX];
    void *zmq;
    int rc;

    rc = zp__ctx_zmq(ctx, &zmq);
    if (rc < 0)
        return rc;
    snprintf(feed->address, sizeof feed->address, "ipc://%s",
             zp__place_file(&ctx->place, "pub", path));
    zp__own_begin();
    feed->socket = zmq_socket(zmq, ZMQ_SUB);
    rc = feed->socket ? connect_socket(feed) : zp__zmq_error();
    feed->owned = zp__own_end(NULL);
    if (rc < 0)
        return zp__fail_errno(-rc, "cannot listen to %s", feed->address);
    if (!feed->owned)
        return zp__fail(-ENOMEM, "no memory for a socket");
    return 0;
}

/* Nothing that can fail half way leaves anything behind. */
static void
feed_drop(zp__feed *feed)
{
    ZP__EACH(at, next, &feed->idle)
    sub_free(feed, ZP__OF(at, zp__sub, idle));
    zp__bell_close(feed);
    zp__handle_free(feed->readable);
    zp__handle_free(feed->patience_timer);
    zp__handle_free(feed->idle_timer);
    zp__handle_free(feed->kick);
    zp__handle_free(feed->again);
    if (feed->socket)
        zmq_close(feed->socket);
    zp__own_forget(feed->owned);
    zp__view_free(feed->view);
    zp__frames_free(feed->spare);
    zp__subs_free(&feed->subs);
    free(feed);
}

static void
feed_free(zp_ctx *ctx)
{
    zp__feed *feed = ctx->feed;

    if (!feed)
        return;
    ZP__EACH(at, next, &feed->taps)
    zp__tap_free(ZP__OF(at, zp__tap, node));
    ctx->feed = NULL;
    feed_drop(feed);
}

static void
state_gone(zp_ctx *ctx, zp_state *state)
{
    if (!ctx->feed)
        return;
    ZP__EACH(at, next, &ctx->feed->taps)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, node);

        if (tap->handle == state)
            zp__tap_free(tap);
    }
}

/* Nothing will ever change again: nobody keeps the loop waiting for it. */
static void
closed(zp_ctx *ctx)
{
    if (!ctx->feed)
        return;
    ZP__EACH(at, next, &ctx->feed->taps)
    zp__tap_end(ZP__OF(at, zp__tap, node));
}

/* A callback is about to wait: its snapshots must not pin pages meanwhile, and
 * what its turn has not got round to yet is another turn's to do. */
static void
waiting(zp_ctx *ctx)
{
    zp__feed *feed = ctx->feed;

    if (!feed || !feed->turns)
        return;
    zp__view_end(feed->view);
    zp__kick(feed->kick);
}

static void
stats(zp_ctx *ctx, zp_stats *ret)
{
    ret->watches = ctx->feed ? ctx->feed->active : 0;
}

static void
feed_init(zp__feed *feed, zp_ctx *ctx)
{
    feed->ctx = ctx;
    feed->patience = PATIENCE;
    zp__list_init(&feed->idle);
    zp__list_init(&feed->taps);
    zp__list_init(&feed->due);
    zp__list_init(&feed->buffered.apart);
    zp__list_init(&feed->buffered.found);
    zp__list_init(&feed->live.apart);
    zp__list_init(&feed->live.found);
}

static int
feed_open(zp__feed *feed)
{
    zp__loop *loop = feed->ctx->loop;
    int rc;

    rc = zp__subs_init(&feed->subs);
    if (rc == 0)
        rc = zp__view_new(&feed->view, feed->ctx->store);
    if (rc == 0)
        rc = zp__loop_kick(loop, &feed->kick, on_turn, feed);
    if (rc == 0)
        rc = zp__loop_timer(loop, &feed->again, on_turn, feed);
    if (rc == 0)
        rc = zp__loop_timer(loop, &feed->patience_timer, on_patience, feed);
    if (rc == 0)
        rc = zp__loop_timer(loop, &feed->idle_timer, on_idle, feed);
    if (rc == 0)
        zp__bell_open(feed);
    if (rc == 0)
        rc = open_socket(feed);
    if (rc == 0)
        rc = zp__loop_zmq(loop, &feed->readable, feed->socket, on_turn, feed);
    return rc;
}

static void
set_hooks(zp_ctx *ctx)
{
    ctx->feed_free = feed_free;
    ctx->feed_state_gone = state_gone;
    ctx->feed_stats = stats;
    ctx->feed_server_new = on_server_new;
    ctx->feed_closed = closed;
    ctx->feed_waiting = waiting;
}

int
zp__feed_get(zp__feed **ret, zp_ctx *ctx)
{
    zp__feed *feed;
    int rc;

    if (ctx->feed) {
        *ret = ctx->feed;
        return 0;
    }
    feed = calloc(1, sizeof *feed);
    if (!feed)
        return zp__fail(-ENOMEM, "no memory for watches");
    feed_init(feed, ctx);
    rc = feed_open(feed);
    if (rc == 0)
        rc = zp__ctx_guard_server(ctx);
    if (rc < 0) {
        feed_drop(feed);
        return rc;
    }
    ctx->feed = feed;
    set_hooks(ctx);
    *ret = feed;
    return 0;
}

/*
 * bell.c - the watcher's side of its own bell (core/slots.h has the rules).
 *
 * The bell comes before the message, or instead of it. It says no more than a
 * message does: there is something in the log. So the one thing to be done
 * right is the order: the FIFO read dry, then `rung` taken back, then the log
 * read; and `rung` taken back before the log is read in every other turn, too,
 * so that nobody who rings takes it for granted for long.
 *
 * A turn for the bell leaves the socket alone: what comes there makes the loop
 * call on its own, and looking costs a system call.
 *
 * Topics share the buckets of the slot's filter, so they are counted here. The
 * bit is set before the server hears of the subscription, and cleared after
 * the server was told of its end: a bit too many is a turn for nothing.
 *
 * No bell is no error: then the topic for those without (wire.h) is subscribed
 * to, and messages come at once.
 */
#include <stdlib.h>

#include "core/slots.h"
#include "reactors/feed.h"

struct zp__feed_bell {
    zp__bell bell;
    zp__handle *readable;
    uint32_t topics[ZP__WANTED]; /* subscribed to, per bucket */
};

/* The feed may be gone after its turn. */
static void
on_bell(void *user)
{
    zp__feed *feed = user;

    zp__fifo_drain(feed->bell->bell.fd);
    feed->bell_rang = true;
    zp__feed_turn(feed);
}

void
zp__bell_open(zp__feed *feed)
{
    struct zp__feed_bell *own = calloc(1, sizeof *own);

    if (!own)
        return;
    if (zp__slot_claim(feed->ctx->board, &feed->ctx->place, &own->bell) < 0) {
        free(own);
        return;
    }
    if (zp__loop_fd(feed->ctx->loop, &own->readable, own->bell.fd, on_bell,
                    feed) < 0) {
        zp__slot_release(feed->ctx->board, &own->bell);
        free(own);
        return;
    }
    feed->bell = own;
}

void
zp__bell_close(zp__feed *feed)
{
    struct zp__feed_bell *own = feed->bell;

    if (!own)
        return;
    zp__handle_free(own->readable);
    zp__slot_release(feed->ctx->board, &own->bell);
    free(own);
    feed->bell = NULL;
}

void
zp__bell_want(zp__feed *feed, uint64_t topic, bool want)
{
    struct zp__feed_bell *own = feed->bell;
    unsigned bucket = zp__slot_bucket(topic);

    if (!own)
        return;
    if (want ? own->topics[bucket]++ == 0 : --own->topics[bucket] == 0)
        zp__slot_want(feed->ctx->board, &own->bell, bucket, want);
}

bool
zp__bell_answer(zp__feed *feed)
{
    bool rang = feed->bell_rang;

    feed->bell_rang = false;
    if (feed->bell)
        zp__slot_answer(feed->ctx->board, &feed->bell->bell);
    return rang;
}

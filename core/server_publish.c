/*
 * server_publish.c - from the log to the sockets, and from the subscriptions
 * to the interest filter.
 *
 * The two rules that nothing is lost by (docs/models/doorbell.pml):
 *
 *  - A sync topic is answered only when all that XPUB reported before it
 *    stands in the filter and a full fence lies behind it. The watcher reads
 *    the log after the answer: a commit that it cannot see there was made by a
 *    writer who sees the filter.
 *  - XPUB is read dry before every publish: while it sends, libzmq looks for
 *    new subscriptions only now and then.
 *
 * A pass reads the log rows of the commits that their writers found to be of
 * interest, and of those that nobody looked at: each once, in one read
 * transaction, which ends before anybody waits. (To read them all would pin
 * pages, for nothing, of whoever writes what nobody watches.) Topics are
 * collected in a batch of fixed size, each once per pass however often its key
 * changed. If the log has passed us (we were stopped, or starved), or cannot be
 * read, every topic is published: the watchers read the log themselves and will
 * see what is wrong with it.
 */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/server.h"
#include "core/wire.h"
#include "core/zmq_call.h"

/* Send TOPIC to who subscribed to it. A subscriber whose queue is full loses
 * it; so be it: it has older wake-ups waiting. */
static void
send_topic(zp__server *server, const uint8_t *topic)
{
    uint8_t news[ZP__NEWS_SIZE];

    memcpy(news, topic, ZP__TOPIC_SIZE);
    memcpy(news + ZP__TOPIC_SIZE, &server->generation, 4);
    memcpy(news + ZP__TOPIC_SIZE + 4, &server->published, 8);
    (void)zp__zmq_send(server->pub, news, sizeof news, 0);
    server->pub_used = true;
}

/* ------------------------------------------------------ subscriptions -- */

static void
answer_syncs(zp__server *server)
{
    size_t i;

    zp__board_fence();
    for (i = 0; i < server->n_syncs; i++)
        send_topic(server, server->syncs[i]);
    server->n_syncs = 0;
}

/* One report of XPUB: 1 or 0, and the topic. What is no topic of ours (or a
 * message that someone sent upstream) is nothing to us. */
static int
take_report(zp__server *server, const uint8_t *report, size_t size)
{
    const uint8_t *topic = report + 1;
    uint64_t hash;
    uint32_t kind;
    int rc = 0;

    if (size != 1 + ZP__TOPIC_SIZE || report[0] > 1)
        return 0;
    if (topic[0] == ZP__TOPIC_SYNC) {
        if (!report[0])
            server->gone = 2;
        else
            memcpy(server->syncs[server->n_syncs++], topic, ZP__TOPIC_SIZE);
    } else if (topic[0] == ZP__TOPIC_BARE) {
        server->bare = report[0];
        atomic_store(&server->board->shared->bare, report[0]);
    } else if (zp__topic_read(topic, ZP__TOPIC_SIZE, &kind, &hash)) {
        rc = report[0] ? zp__topics_put(&server->topics, kind, hash)
                       : zp__topics_take(&server->topics, kind, hash);
    }
    return rc < 0 ? rc : 0;
}

int
zp__server_read_pub(zp__server *server)
{
    uint8_t report[1 + ZP__TOPIC_SIZE];
    int n, rc;

    for (;;) {
        n = zp__zmq_recv(server->pub, report, sizeof report);
        if (n >= 0) {
            rc = take_report(server, report, (size_t)n);
            if (rc < 0)
                return rc;
        }
        /* Sending the answers may let libzmq take in new subscriptions: after
         * it the socket has to be read dry again. */
        if (server->n_syncs && (n < 0 || server->n_syncs == ZP__SYNCS)) {
            answer_syncs(server);
        } else if (n < 0) {
            server->pub_used = false;
            return 0;
        }
    }
}

/* -------------------------------------------------------------- sending -- */

int
zp__server_send(zp__server *server, const uint8_t *topic)
{
    int rc = zp__server_read_pub(server);

    if (rc >= 0)
        send_topic(server, topic);
    return rc;
}

/* The bells first: they are faster, and who has none waits the longer. */
static int
send_batch(zp__server *server)
{
    size_t i;
    int rc = 0;

    zp__server_ring_batch(server);
    for (i = 0; i < server->n_batch && rc >= 0; i++)
        rc = zp__server_send(server, server->batch[i]);
    server->n_batch = 0;
    return rc;
}

void
zp__server_publish_all(zp__server *server)
{
    const zp__topics *topics = &server->topics;
    uint8_t topic[ZP__TOPIC_SIZE];
    size_t i;

    zp__server_ring_all(server);
    /* Nothing is read in between: the set must not move under the loop. */
    for (i = 0; i < topics->capacity; i++) {
        if (!topics->slots[i].kind)
            continue;
        zp__topic_write(topic, topics->slots[i].kind, topics->slots[i].hash);
        send_topic(server, topic);
    }
}

/* ------------------------------------------------------------- the log -- */

static int
note(zp__server *server, uint32_t kind, uint64_t hash)
{
    if (!zp__board_interest(server->board, hash) ||
        !zp__topics_mark(&server->topics, kind, hash))
        return 0;
    if (server->n_batch == ZP__BATCH) {
        int rc = send_batch(server);

        if (rc < 0)
            return rc;
    }
    zp__topic_write(server->batch[server->n_batch++], kind, hash);
    return 1;
}

/* Note the topics of all changes of the row of REVISION: whether there was
 * one, or an error. */
static int
read_row(zp__server *server, uint64_t revision)
{
    zp__log_change change;
    int rc, found = 0;
    uint32_t i;
    zp__row row;

    rc = zp__view_row(server->view, revision, &row);
    for (i = 0; rc >= 0 && i < row.n; i++) {
        rc = zp__row_change(server->view, &row, i, &change);
        if (rc >= 0 && server->topics.keys) {
            rc = note(server, ZP__TOPIC_KEY,
                      zp__topic_key(change.ns, change.key));
            found |= rc;
        }
        if (rc >= 0 && server->topics.namespaces) {
            rc = note(server, ZP__TOPIC_NS, zp__topic_ns(change.ns));
            found |= rc;
        }
    }
    return rc < 0 ? rc : found;
}

/* Read the rows FROM - HEAD. ZP_EGONE if TAIL has passed them. */
static int
read_rows(zp__server *server, uint64_t from, uint64_t head, uint64_t tail)
{
    int rc, found = 0;

    if (from <= head && from < tail)
        return ZP_EGONE;
    for (; from <= head; from++) {
        rc = read_row(server, from);
        if (rc < 0)
            return rc;
        found |= rc;
        zp__server_trim(server, ZP__TRIM_ROW);
    }
    return found;
}

/* The rows behind REVISION of the commits that their writers found to be of
 * interest, from our last call to the N-th: whether there was a topic, 0, an
 * error, or -EOVERFLOW when it is not known any more which. */
static int
read_called(zp__server *server, uint64_t revision, uint64_t n, uint64_t tail)
{
    const zp__shared *shared = server->board->shared;
    int rc, found = 0;
    uint64_t i, row;

    for (i = server->calls; i < n; i++) {
        row = atomic_load_explicit(&shared->called[i % ZP__CALLS],
                                   memory_order_acquire);
        if (atomic_load(&shared->calls) - i >= ZP__CALLS)
            return -EOVERFLOW;
        rc = row > revision ? read_rows(server, row, row, tail) : 0;
        if (rc < 0)
            return rc;
        found |= rc;
    }
    return found;
}

/* Read what there is: whether there was a topic, or an error. A commit that its
 * writer looked at and did not call is nothing to anybody who had subscribed
 * by then, and who subscribed later reads the log; the newest one may not have
 * been looked at yet. */
static int
read_log(zp__server *server, uint64_t looked, uint64_t calls)
{
    uint64_t head, tail, last = server->published;
    int rc, more;

    rc = zp__view_range(server->view, &head, &tail);
    if (rc < 0 || head <= last)
        return rc;
    zp__topics_round(&server->topics);
    /* Set first: a full batch is sent on the way, and after an error we go on
     * behind what could not be read. */
    server->published = head;
    if (zp__topics_count(&server->topics))
        rc = read_called(server, last, calls, tail);
    server->calls = calls;
    if (rc == -EOVERFLOW)
        return read_rows(server, last + 1, head, tail);
    if (rc < 0 || !zp__topics_count(&server->topics))
        return rc;
    more = read_rows(server, (looked > last ? looked : last) + 1, head, tail);
    return more < 0 ? more : rc | more;
}

/* The log could not be read, or has passed us: everybody has to look. Another
 * pass at once would not help, so this counts as none found. */
static int
wake_all(zp__server *server)
{
    int rc;

    server->n_batch = 0;
    rc = zp__server_read_pub(server);
    if (rc >= 0)
        zp__server_publish_all(server);
    return rc;
}

int
zp__server_pass(zp__server *server)
{
    const zp__shared *shared = server->board->shared;
    uint64_t looked = atomic_load(&shared->looked); /* before the calls, */
    uint64_t calls = atomic_load(&shared->calls);   /* and before the log */
    int rc, sent;

    rc = zp__view_begin(server->view);
    if (rc < 0)
        return wake_all(server);
    rc = read_log(server, looked, calls);
    zp__view_end(server->view);
    if (rc < 0)
        return rc == -ENOMEM ? rc : wake_all(server);
    sent = send_batch(server);
    zp__server_trim(server, ZP__TRIM_PASS);
    return sent < 0 ? sent : rc;
}

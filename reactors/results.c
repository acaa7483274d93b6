/*
 * results.c - reading a map's results in another process than its owner's.
 *
 * How they come, and what there is of them in the state, is told in share.c and
 * share.h. A reader takes a run at a time: it moves the head's `next` behind
 * it and deletes its first segment, in one transaction; so each run is one
 * reader's, whoever else reads, and who comes later goes on behind it. The
 * other segments of that run follow as they are written. What was taken waits
 * in the reader's buffer.
 *
 * The head is looked at with each segment, and now and then in between: so a
 * reader that has all knows the end, though it may be long gone when it comes
 * to it. The last one to come there releases the head.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/share.h"
#include "reactors/swarm.h"

#define LOOK 0.1      /* seconds: how often the head is looked at, at most */
#define PATIENCE 0.05 /* seconds, at least, for the state's lock */
#define ROOM_KEPT (4 << 20) /* bytes of the buffer, when it is empty */

struct zp_results {
    zp__node node; /* of ctx->crews */
    zp_ctx *ctx;
    zp_state *state;
    uint64_t id;
    zp__share_head head; /* as it was seen last, ... */
    double looked;       /* ... and when */
    uint64_t segment;    /* the next one of the run that is being taken ... */
    uint32_t left;       /* ... and how many there are */
    unsigned char *bytes;
    size_t from, size, room;
    zp__kept kept;
    bool *gone;    /* of the call that waits, on its stack; NULL: none does */
    bool given_up; /* freed meanwhile */
    bool has_left; /* the head does not count it any more */
};

/* ------------------------------------------------------------------- life --
 */

static int
enter_txn(zp_state *txn, void *user)
{
    zp_results *results = user;
    int rc = zp__share_get_head(txn, results->id, &results->head);

    if (rc < 0)
        return rc;
    results->head.readers++;
    return zp__share_put_head(txn, results->id, &results->head, NULL);
}

/* Is all of it taken, and no more to come? */
static bool
is_all(const zp__share_head *head)
{
    return head->ended && head->next >= head->segments;
}

static int
leave_txn(zp_state *txn, void *user)
{
    const zp_results *results = user;
    zp__share_head head;
    int rc = zp__share_get_head(txn, results->id, &head);

    if (rc < 0)
        return rc;
    head.readers -= head.readers > 0;
    if (!head.readers && is_all(&head))
        return zp__share_clear(txn, results->id);
    return zp__share_put_head(txn, results->id, &head, NULL);
}

/* If it fails, the head counts one too many, and goes by its time. */
static void
leave(zp_results *results)
{
    int rc;

    if (results->has_left || !results->state)
        return;
    rc = zp__share_last(results->state, leave_txn, results);
    results->has_left = rc >= 0 || rc == ZP_ENOKEY;
}

static void
destroy(zp_results *results)
{
    if (results->gone) /* the context was freed in a callback */
        *results->gone = true;
    leave(results);
    zp__list_remove(&results->node);
    zp_state_free(results->state);
    zp_value_free(results->kept.value);
    free(results->bytes);
    free(results);
}

void
zp__results_destroy(zp__node *results)
{
    destroy(ZP__OF(results, zp_results, node));
}

static int
open_results(zp_results *results)
{
    zp_ctx *ctx = results->ctx;
    int rc = zp_state_clone(zp_ctx_state(ctx), &results->state, ZP__SHARE_NS);

    if (rc == 0)
        rc = zp__atomic(results->state, enter_txn, results, ctx->lock_timeout,
                        true);
    results->looked = zp__now();
    results->has_left = rc < 0;
    if (rc == ZP_ENOKEY)
        rc = zp__fail(ZP_ENOKEY,
                      "no map has the id %llu, or its results are "
                      "gone",
                      (unsigned long long)results->id);
    return rc;
}

int
zp_results_open(zp_ctx *ctx, zp_results **ret_results, uint64_t id)
{
    zp_results *results = NULL;
    struct zp__crews *crews = NULL;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && (!ret_results || !id))
        rc = zp__fail(-EINVAL, ret_results ? "the id is 0: of a map without "
                                             "ZP_SHARED"
                                           : "ret_results is NULL");
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_results_open()");
    if (rc == 0)
        rc = zp__crews_get(ctx, &crews);
    if (rc == 0 && !(results = calloc(1, sizeof *results)))
        rc = zp__fail(-ENOMEM, "no memory for results");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    zp__list_init(&results->node);
    results->ctx = ctx;
    results->id = id;
    rc = open_results(results);
    if (rc < 0) {
        destroy(results);
        return zp__ctx_done(ctx, rc);
    }
    zp__list_append(&crews->results, &results->node);
    *ret_results = results;
    return 0;
}

zp_results *
zp_results_free(zp_results *results)
{
    if (!results || zp__ctx_check(results->ctx) < 0)
        return NULL;
    if (results->gone) {
        results->given_up = true;
        leave(results);
        results->state = zp_state_free(results->state); /* ends the wait */
    } else {
        destroy(results);
    }
    return NULL;
}

/* ------------------------------------------------------------------- taking --
 */

static int
reserve(zp_results *results, size_t more)
{
    size_t room = results->size - results->from + more;
    unsigned char *larger;

    if (results->from) {
        memmove(results->bytes, results->bytes + results->from,
                results->size - results->from);
        results->size -= results->from;
        results->from = 0;
    }
    if (room <= results->room)
        return 0;
    room += room / 2;
    larger = realloc(results->bytes, room);
    if (!larger)
        return zp__fail(-ENOMEM, "no memory for results");
    results->bytes = larger;
    results->room = room;
    return 0;
}

/* A transaction that takes a segment, and what it leads to: taken over when it
 * is committed. */
typedef struct taking {
    zp_results *results;
    zp__share_head head;
    bool dead;             /* there is no head */
    zp__share_segment got; /* bytes.addr NULL: nothing */
    uint64_t segment;
    uint32_t left;
    bool lost; /* something that should be there is not */
} taking;

/* Take segment N, if it is there. */
static int
take(taking *t, zp_state *txn, uint64_t n)
{
    uint64_t id = t->results->id;
    int rc = zp__share_get(txn, id, n, &t->got);

    if (rc < 0)
        return rc == ZP_ENOKEY ? 0 : rc;
    rc = reserve(t->results, t->got.bytes.sz);
    if (rc == 0)
        rc = zp__share_delete(txn, id, n);
    t->segment = n + 1;
    return rc;
}

/* The next one of the run that was begun. */
static int
take_more(taking *t, zp_state *txn)
{
    int rc = take(t, txn, t->segment);

    if (rc < 0)
        return rc;
    if (t->got.bytes.addr) {
        t->left--;
    } else if (t->dead || t->segment < t->head.segments) {
        t->left = 0;
        t->lost = true;
    } else if (t->head.ended) { /* cut off: the map was cancelled */
        t->left = 0;
    }
    return 0;
}

/* The first run from *N on that is there from its beginning, which *N tells
 * then: 1, or 0: there is none. */
static int
find_run(taking *t, zp_state *txn, uint64_t *n)
{
    uint64_t id = t->results->id;
    zp__share_segment segment;
    int rc;

    while ((rc = zp__share_find(txn, id, *n, n)) > 0) {
        rc = zp__share_get(txn, id, *n, &segment);
        if (rc < 0)
            return rc;
        free(segment.bytes.addr);
        if (segment.piece == 0)
            return 1;
        *n +=
            segment.pieces > segment.piece ? segment.pieces - segment.piece : 1;
    }
    return rc;
}

/* The first segment of a run, which is segment N. */
static int
take_first(taking *t, zp_state *txn, uint64_t n)
{
    int rc = take(t, txn, n);

    if (rc < 0 || !t->got.bytes.addr)
        return rc;
    t->left = t->got.pieces > 1 ? t->got.pieces - 1 : 0;
    t->head.next = n + t->left + 1;
    return 0;
}

/* It is at `next`, unless that was lost, ... */
static int
take_next(taking *t, zp_state *txn)
{
    uint64_t n = t->head.next;
    int rc;

    if (n >= t->head.segments)
        return 0;
    rc = take_first(t, txn, n);
    if (rc == 0 && !t->got.bytes.addr) {
        t->lost = true;
        rc = find_run(t, txn, &n);
        t->head.next = rc > 0 || n > t->head.segments ? n : t->head.segments;
    }
    return rc < 0 ? rc
                  : zp__share_put_head(txn, t->results->id, &t->head, NULL);
}

/* ... or the head is, with the owner: then it is the first that there is, but
 * for what another reader has begun. */
static int
take_any(taking *t, zp_state *txn)
{
    uint64_t n = t->head.next;
    int rc = find_run(t, txn, &n);

    if (rc > 0)
        return take_first(t, txn, n);
    t->lost = !is_all(&t->head);
    return rc;
}

static int
take_txn(zp_state *txn, void *user)
{
    taking *t = user;
    int rc = zp__share_get_head(txn, t->results->id, &t->head);

    t->dead = rc == ZP_ENOKEY;
    if (t->dead)
        t->head = t->results->head;
    else if (rc < 0)
        return rc;
    if (t->left)
        return take_more(t, txn);
    return t->dead ? take_any(t, txn) : take_next(t, txn);
}

static int
fail_lost(const zp_results *results, bool dead)
{
    unsigned long long id = results->id;

    if (dead)
        return zp__fail(ZP_EGONE,
                        "the owner of map %llu has ended, or its results were "
                        "not read in time",
                        id);
    return zp__fail(ZP_EGONE, "results of map %llu were not read in time", id);
}

/* Take the next segment, if there is one: 0, or ZP_EGONE. */
static int
take_segment(zp_results *results, double patience)
{
    taking t = {
        .results = results, .segment = results->segment, .left = results->left};
    int rc = zp__atomic(results->state, take_txn, &t, patience, true);

    if (rc < 0) {
        free(t.got.bytes.addr);
        return rc;
    }
    if (!results->left || (!t.left && !t.got.bytes.addr))
        results->from = results->size = 0; /* a new run, or one cut off */
    results->head = t.head;
    results->looked = zp__now();
    results->segment = t.segment;
    results->left = t.left;
    if (t.got.bytes.addr) {
        memcpy(results->bytes + results->size, t.got.bytes.addr,
               t.got.bytes.sz);
        results->size += t.got.bytes.sz;
    }
    free(t.got.bytes.addr);
    return t.lost ? fail_lost(results, t.dead) : 0;
}

/* ------------------------------------------------------------------ waiting --
 */

/* Has the head anything new for who waits? */
static int
is_news(zp_state *snapshot, void *user)
{
    const zp_results *results = user;
    zp__share_head head;
    int rc = zp__share_get_head(snapshot, results->id, &head);

    if (rc < 0)
        return rc == ZP_ENOKEY ? 1 : rc;
    return head.ended ||
           head.segments > (results->left ? results->segment : head.next);
}

/* When *RET_GONE nothing of RESULTS may be touched any more: its context was
 * freed, or this is a child that a callback has forked. */
static int
wait_for_news(zp_results *results, double timeout, bool *ret_gone)
{
    uint64_t token = zp__token();
    char key[ZP__SHARE_KEY];
    const char *keys[] = {key};
    int rc;

    zp__share_key(key, results->id);
    results->gone = ret_gone;
    rc = zp_get_when(results->state, NULL, keys, 1, timeout, NULL, is_news,
                     results);
    *ret_gone |= token != zp__token();
    if (*ret_gone)
        return rc;
    results->gone = NULL;
    return results->given_up ? zp__fail(-ECANCELED, "the results were given "
                                                    "back meanwhile")
                             : rc;
}

/* ----------------------------------------------------------------- results --
 */

/* What is in the buffer makes no sense: the rest of that run goes. */
static int
fail_corrupt(zp_results *results)
{
    results->from = results->size = 0;
    results->left = 0;
    return zp__fail(ZP_ECORRUPT, "the results of map %llu are not results",
                    (unsigned long long)results->id);
}

/* Of a large result, when it is out. */
static void
drop_room(zp_results *results)
{
    if (results->from < results->size || results->room <= ROOM_KEPT)
        return;
    free(results->bytes);
    results->bytes = NULL;
    results->from = results->size = results->room = 0;
}

/* The next record in the buffer: 1, 0 if it is not whole, or ZP_ECORRUPT. */
static int
parse(zp_results *results, zp_map_result *ret)
{
    size_t left = results->size - results->from;
    const unsigned char *at;
    zp__shared_result record = {0, 0};
    int rc;

    if (!left)
        return 0;
    at = results->bytes + results->from;
    if (left >= sizeof record)
        memcpy(&record, at, sizeof record);
    if (record.size > 2 * ZP__IMAGE_MAX)
        return fail_corrupt(results);
    if (left < sizeof record + record.size)
        return results->left ? 0 : fail_corrupt(results);
    at += sizeof record;
    if (zp__answers_check(at, record.size, 1) < 0)
        return fail_corrupt(results);
    rc = zp__answer_result(&results->kept, at, record.index, ret);
    if (rc < 0)
        return rc;
    results->from += sizeof record + record.size;
    drop_room(results);
    return 1;
}

/* Look at the head, unless that was a moment ago. */
static void
look(zp_results *results)
{
    zp__share_head head;
    double now;

    if (results->head.ended)
        return;
    now = zp__now();
    if (now - results->looked < LOOK)
        return;
    results->looked = now;
    if (zp__share_get_head(results->state, results->id, &head) == 0)
        results->head = head;
}

/* There are no more: the last reader puts out the light. */
static int
finish(zp_results *results)
{
    leave(results);
    if (results->head.code < 0)
        return zp__fail((int)results->head.code, "%s", results->head.why);
    return 0;
}

static double
patience(const zp_results *results, double left)
{
    double most = results->ctx->lock_timeout;

    if (left >= 0 && left < most)
        most = left > PATIENCE ? left : PATIENCE;
    return most;
}

/* Is nothing left in the buffer, nor to be taken? */
static bool
is_over(const zp_results *results)
{
    return !results->left && is_all(&results->head);
}

static int
next(zp_results *results, zp_map_result *ret, double timeout, bool *ret_gone)
{
    double deadline = zp__now() + timeout, left = timeout;
    int rc;

    look(results);
    while ((rc = parse(results, ret)) == 0) {
        if (is_over(results))
            return finish(results);
        rc = wait_for_news(results, left, ret_gone);
        if (rc < 0)
            return rc;
        if (timeout > 0)
            left = deadline > zp__now() ? deadline - zp__now() : 0;
        rc = take_segment(results, patience(results, left));
        if (rc < 0)
            return rc;
    }
    return rc;
}

static int
enter(const zp_results *results)
{
    int rc;

    if (!results)
        return zp__fail(-EINVAL, "the results are NULL");
    rc = zp__ctx_enter(results->ctx);
    if (rc == 0)
        rc = zp__ctx_may_wait("reading a map's results");
    if (rc == 0 && results->gone)
        rc = zp__fail(-EBUSY, "somebody waits for the next result already");
    return rc;
}

int
zp_results_next(zp_results *results, zp_map_result *ret_result, double timeout)
{
    zp_ctx *ctx = results ? results->ctx : NULL;
    zp_map_result result;
    bool gone = false;
    int rc = enter(results);

    if (rc == 0 && ret_result && ret_result->size != sizeof result)
        rc = zp__fail(-EINVAL, "ret_result: its size is %zu, not %zu",
                      ret_result->size, sizeof result);
    if (rc == 0 && isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    if (rc == 0)
        rc = next(results, &result, timeout, &gone);
    if (gone)
        return rc;
    if (rc == 1 && ret_result)
        *ret_result = result;
    rc = zp__ctx_done(ctx, rc);
    if (results && results->given_up && !results->gone)
        destroy(results);
    return rc;
}

int
zp_results_get(zp_results *results, double timeout, const char *format, ...)
{
    zp_map_result result = {.size = sizeof result};
    va_list ap;
    int rc;

    if (!format)
        return zp__ctx_done(results ? results->ctx : NULL,
                            zp__fail(ZP_EFORMAT, "the format is NULL"));
    rc = zp_results_next(results, &result, timeout);
    if (rc == 1) {
        va_start(ap, format);
        rc = zp__result_get(&result, format, ap);
        va_end(ap);
        rc = zp__ctx_done(results->ctx, rc);
    }
    return rc;
}

/*
 * results.c - reading a map's results in another process than its owner's.
 *
 * How they come is told in share.c. A segment is deleted when it is read, so
 * there is one reader; what it has read of a record that goes on in the next
 * segment waits in its buffer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/swarm.h"

struct zp_results {
    zp__node node; /* of ctx->crews */
    zp_ctx *ctx;
    zp_state *state;
    uint64_t id;
    uint64_t next; /* segment */
    unsigned char *bytes;
    size_t from, size, room;
    zp__kept kept;
    bool *gone;    /* of the call that waits, on its stack; NULL: none does */
    bool given_up; /* freed meanwhile */
};

typedef struct head {
    uint64_t segments;
    int32_t ended;
    int64_t code;
    char *why; /* from malloc() */
} head;

/* ------------------------------------------------------------------- life --
 */

static void
destroy(zp_results *results)
{
    if (results->gone) /* the context was freed in a callback */
        *results->gone = true;
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
read_head(zp_state *state, uint64_t id, head *ret)
{
    char key[ZP__SHARE_KEY];

    zp__share_key(key, id, "head", 0);
    return zp_get(state, key, ZP__SHARE_HEAD, &ret->segments, &ret->ended,
                  &ret->code, &ret->why);
}

int
zp_results_open(zp_ctx *ctx, zp_results **ret_results, uint64_t id)
{
    zp_results *results = NULL;
    struct zp__crews *crews = NULL;
    head now;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && (!ret_results || !id))
        rc = zp__fail(-EINVAL, ret_results ? "the id is 0: of a map without "
                                             "ZP_SHARED"
                                           : "ret_results is NULL");
    if (rc == 0)
        rc = zp__crews_get(ctx, &crews);
    if (rc == 0 && !(results = calloc(1, sizeof *results)))
        rc = zp__fail(-ENOMEM, "no memory for results");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    zp__list_init(&results->node);
    results->ctx = ctx;
    results->id = id;
    rc = zp_state_clone(zp_ctx_state(ctx), &results->state, ZP__SHARE_NS);
    if (rc == 0)
        rc = read_head(results->state, id, &now);
    if (rc == ZP_ENOKEY)
        rc = zp__fail(ZP_ENOKEY,
                      "no map has the id %llu, or its results are "
                      "gone",
                      (unsigned long long)id);
    if (rc < 0) {
        destroy(results);
        return zp__ctx_done(ctx, rc);
    }
    free(now.why);
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
        results->state = zp_state_free(results->state); /* ends the wait */
    } else {
        destroy(results);
    }
    return NULL;
}

/* ---------------------------------------------------------------- segments --
 */

static int
reserve(zp_results *results, size_t more)
{
    size_t room = results->size - results->from + more;
    unsigned char *larger;

    memmove(results->bytes, results->bytes + results->from,
            results->size - results->from);
    results->size -= results->from;
    results->from = 0;
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

/* Take the next segment: 0; ZP_ENOKEY: it is not there. */
static int
take_segment(zp_results *results)
{
    char key[ZP__SHARE_KEY];
    zp_bin bytes = {NULL, 0};
    int rc;

    zp__share_key(key, results->id, NULL, results->next);
    rc = zp_get(results->state, key, "B", &bytes);
    if (rc < 0)
        return rc;
    rc = results->bytes ? reserve(results, bytes.sz)
         : (results->bytes = malloc(bytes.sz + 1))
             ? 0
             : zp__fail(-ENOMEM, "no memory for results");
    if (rc == 0 && !results->room)
        results->room = bytes.sz;
    if (rc == 0)
        rc = zp_delete(results->state, key);
    if (rc == 0) {
        memcpy(results->bytes + results->size, bytes.addr, bytes.sz);
        results->size += bytes.sz;
        results->next++;
    }
    free(bytes.addr);
    return rc;
}

typedef struct sought {
    char head[ZP__SHARE_KEY], segment[ZP__SHARE_KEY];
    uint64_t number;
} sought;

/* Is the next segment there, or does the head tell that it will not come? */
static int
is_news(zp_state *snapshot, void *user)
{
    const sought *what = user;
    head now;
    int rc = zp_contains(snapshot, what->segment);

    if (rc != 0)
        return rc;
    rc = zp_get(snapshot, what->head, ZP__SHARE_HEAD, &now.segments, &now.ended,
                &now.code, &now.why);
    if (rc == ZP_ENOKEY)
        return 1;
    if (rc < 0)
        return rc;
    free(now.why);
    return now.ended || now.segments > what->number;
}

/* When *RET_GONE nothing of RESULTS may be touched any more: its context was
 * freed, or this is a child that a callback has forked. */
static int
wait_for_news(zp_results *results, double timeout, bool *ret_gone)
{
    sought what = {.number = results->next};
    const char *keys[] = {what.head, what.segment};
    uint64_t token = zp__token();
    int rc;

    zp__share_key(what.head, results->id, "head", 0);
    zp__share_key(what.segment, results->id, NULL, results->next);
    results->gone = ret_gone;
    rc = zp_get_when(results->state, NULL, keys, 2, timeout, NULL, is_news,
                     &what);
    *ret_gone |= token != zp__token();
    if (*ret_gone)
        return rc;
    results->gone = NULL;
    return results->given_up ? zp__fail(-ECANCELED, "the results were given "
                                                    "back meanwhile")
                             : rc;
}

static int
is_there(zp_results *results)
{
    char key[ZP__SHARE_KEY];

    zp__share_key(key, results->id, NULL, results->next);
    return zp_contains(results->state, key);
}

/* No segment is there: 0: the map is over; 1: it goes on, or one has come
 * meanwhile; or why it does not. */
static int
ask_head(zp_results *results)
{
    head now = {.why = NULL};
    int rc = read_head(results->state, results->id, &now);

    /* what the head tells of, or who died with it, was written before */
    if (is_there(results) > 0) {
        free(now.why);
        return 1;
    }
    if (rc == ZP_ENOKEY)
        return zp__fail(ZP_EGONE,
                        "the owner of map %llu has ended, or its "
                        "results were not read in time",
                        (unsigned long long)results->id);
    if (rc < 0)
        return rc;
    if (!now.ended)
        rc = 1;
    else if (now.segments > results->next)
        rc = zp__fail(ZP_EGONE,
                      "results of map %llu were not read in time, or "
                      "by somebody else",
                      (unsigned long long)results->id);
    else if (now.code < 0)
        rc = zp__fail((int)now.code, "%s", now.why);
    free(now.why);
    return rc;
}

/* ----------------------------------------------------------------- results --
 */

/* The next record in the buffer: 1, 0 if it is not whole, or ZP_ECORRUPT. */
static int
parse(zp_results *results, zp_map_result *ret)
{
    size_t left = results->size - results->from;
    const unsigned char *at = results->bytes + results->from;
    zp__shared_result record;
    int rc;

    if (left < sizeof record)
        return 0;
    memcpy(&record, at, sizeof record);
    if (record.size > 2 * ZP__IMAGE_MAX)
        return zp__fail(ZP_ECORRUPT, "a result has %llu bytes",
                        (unsigned long long)record.size);
    if (left - sizeof record < record.size)
        return 0;
    at += sizeof record;
    if (zp__answers_check(at, record.size, 1) < 0)
        return zp__fail(ZP_ECORRUPT, "the results of map %llu are not results",
                        (unsigned long long)results->id);
    rc = zp__answer_result(&results->kept, at, record.index, ret);
    if (rc < 0)
        return rc;
    results->from += sizeof record + record.size;
    return 1;
}

static int
next(zp_results *results, zp_map_result *ret, double timeout, bool *ret_gone)
{
    double deadline = zp__now() + timeout, left = timeout;
    int rc;

    while ((rc = results->bytes ? parse(results, ret) : 0) == 0) {
        rc = take_segment(results);
        if (rc == 0)
            continue;
        if (rc == ZP_ENOKEY)
            rc = ask_head(results);
        if (rc <= 0)
            return rc;
        rc = wait_for_news(results, left, ret_gone);
        if (rc < 0)
            return rc;
        if (timeout > 0)
            left = deadline > zp__now() ? deadline - zp__now() : 0;
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

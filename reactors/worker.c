/*
 * worker.c - all that happens in a worker: a child that runs items for the
 * swarm that forked it.
 *
 * Its loop reads orders and runs items, a few milliseconds at a time, so that
 * whatever else is on the loop (watches that an item's function has left, for
 * one) has its turn. A function that waits runs the same loop: orders that come
 * then are kept, and nothing else is begun.
 *
 * Results go out with the end of a task, or when a few milliseconds of them, or
 * many bytes, have been gathered: what has been sent is not lost with us.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dlfcn.h>

#include "reactors/swarm.h"

#define SLICE 0.008            /* seconds of work until the loop has its turn */
#define SEND_EVERY 0.008       /* seconds of results that are gathered ... */
#define SEND_BYTES (256 << 10) /* ... and bytes */

#define BUCKETS 64

/* A map that we were told of. */
typedef struct known {
    zp__node node;
    uint64_t id;
    zp_map_fn *fn; /* NULL: not in this process */
    zp_value *common;
    bool runs; /* FN is on the stack ... */
    bool gone; /* ... and it is to be forgotten when that returns */
} known;

typedef struct job {
    zp__node node;
    zp__order order;
    zp__message items;
    size_t at; /* the next item */
} job;

typedef struct crew {
    zp_ctx *ctx;
    zp__seat *seat;
    void *socket;
    zp__owned *owned;
    zp__handle *readable, *kick;
    zp__node maps[BUCKETS]; /* by id */
    zp__node jobs;
    zp_value *item;
    bool busy;    /* an item's function is on the stack */
    bool leaving; /* when the jobs are done */
    int broken;   /* an order was lost: end with this; 0: none */
    bool left;
    unsigned char *out; /* results that were not sent */
    size_t out_size, out_room;
    uint32_t out_from, out_n;
    double out_since, out_seconds;
    double since; /* what out_seconds has not yet */
} crew;

/* ----------------------------------------------------------------- results --
 */

static int
send_report(crew *me, const zp__report *report, const void *body, size_t size,
            zp__message_free_fn *free_fn, void *hint)
{
    zp__loop_touched(me->readable);
    return zp__wire_send(me->socket, NULL, report, sizeof *report, body, size,
                         free_fn, hint);
}

static void
free_bytes(void *data, void *hint)
{
    (void)data;
    zp__wire_freed();
    free(hint);
}

/* Send what was gathered of JOB; LAST: it is over. */
static int
flush(crew *me, const job *of, bool last)
{
    zp__report report = {
        .kind = ZP__REPORT_DONE,
        .cell = of->order.cell,
        .task = of->order.task,
        .from = me->out_from,
        .n = me->out_n,
        .last = last,
        .seconds = me->out_seconds,
    };
    int rc = 0;

    if (me->out_n || last)
        rc = send_report(me, &report, me->out, me->out_size, free_bytes,
                         me->out);
    if (me->out_n || last) {
        me->out = NULL;
        me->out_size = me->out_room = 0;
    }
    me->out_from += me->out_n;
    me->out_n = 0;
    me->out_seconds = 0;
    return rc;
}

static int
room_for(crew *me, size_t size)
{
    size_t room = me->out_room ? me->out_room : 1024;
    unsigned char *larger;

    if (me->out_room - me->out_size >= size)
        return 0;
    while (room - me->out_size < size)
        room *= 2;
    larger = realloc(me->out, room);
    if (!larger)
        return zp__fail(-ENOMEM, "no memory for results");
    me->out = larger;
    me->out_room = room;
    return 0;
}

static int
put_answer(crew *me, const zp__answer *answer, const void *value,
           const char *error, const char *origin)
{
    int rc = room_for(me, sizeof *answer + answer->value + answer->error +
                              answer->origin);
    unsigned char *at;

    if (rc < 0)
        return rc;
    at = me->out + me->out_size;
    memcpy(at, answer, sizeof *answer);
    at += sizeof *answer;
    if (answer->value)
        memcpy(at, value, answer->value);
    at += answer->value;
    if (answer->error)
        memcpy(at, error, answer->error);
    if (answer->origin)
        memcpy(at + answer->error, origin, answer->origin);
    me->out_size +=
        sizeof *answer + answer->value + answer->error + answer->origin;
    me->out_n++;
    return 0;
}

/* What the function has left: CODE, and by zp_return() and zp_fail(). */
static int
keep_answer(crew *me, int code)
{
    zp__answer answer = {.code = code};
    zp_value *value = zp__child_result(me->ctx);
    const char *error = "", *origin = "";
    const void *image = NULL;
    size_t size = 0;
    int rc;

    if (code < 0) {
        zp__child_failure(me->ctx, code, &error, &origin);
        answer.error = (uint16_t)strlen(error);
        answer.origin = (uint16_t)strlen(origin);
    } else if (value)
        image = zp_value_image(value, &size);
    answer.value = (uint32_t)size;
    rc = put_answer(me, &answer, image, error, origin);
    if (size <= 4096)
        zp__child_spare(me->ctx, value);
    else
        zp_value_free(value);
    return rc;
}

/* ------------------------------------------------------------------ items --
 */

static known *
find(crew *me, uint64_t id)
{
    ZP__EACH(at, next, &me->maps[id % BUCKETS])
    if (ZP__OF(at, known, node)->id == id)
        return ZP__OF(at, known, node);
    return NULL;
}

/* The next item of JOB into me->item. */
static int
unpack(crew *me, job *from)
{
    size_t size;
    const unsigned char *bytes = zp__message_data(&from->items, &size);
    uint32_t length;

    if (size - from->at < sizeof length)
        return zp__fail(-EBADMSG, "an item's length is missing");
    memcpy(&length, bytes + from->at, sizeof length);
    from->at += sizeof length;
    if (size - from->at < length)
        return zp__fail(-EBADMSG, "an item is cut off");
    bytes += from->at;
    from->at += length;
    return me->item ? zp__value_assign(me->item, bytes, length)
                    : zp__value_copy(&me->item, bytes, length);
}

static void
forget(known *map)
{
    map->gone = true;
    if (map->runs)
        return;
    zp__list_remove(&map->node);
    zp_value_free(map->common);
    free(map);
}

static int
run_function(crew *me, known *map)
{
    int rc;

    if (!map || !map->fn)
        return zp_fail(me->ctx, -ENOEXEC,
                       "the function is not in this worker: it was loaded "
                       "after the worker was forked");
    zp__child_anew(me->ctx);
    me->busy = map->runs = true;
    rc = map->fn(me->ctx, me->item, map->common);
    me->busy = map->runs = false;
    if (map->gone)
        forget(map);
    return rc;
}

/* Run the next item of JOB: 1; 0: there is none that may be begun. */
static int
run_item(crew *me, job *from)
{
    uint32_t number;
    int rc;

    if (!zp__cell_claim(&me->seat->cell[from->order.cell], &number))
        return 0;
    rc = unpack(me, from);
    if (rc == 0)
        rc = run_function(me, find(me, from->order.map));
    if (zp__ctx_check(me->ctx) < 0) /* it has forked, and this is the child */
        _exit(1);
    rc = keep_answer(me, rc);
    return rc < 0 ? rc : 1;
}

static void
drop(job *gone)
{
    zp__list_remove(&gone->node);
    zp__message_free(&gone->items);
    free(gone);
}

/* Run items of JOB until UNTIL: 0: it is over; 1: not yet. */
static int
run_job(crew *me, job *from, double until)
{
    int64_t tick = zp__tick();
    unsigned n = 0;
    double now;
    int rc;

    me->since = zp__now();
    if (me->out_n == 0)
        me->out_since = me->since;
    while ((rc = run_item(me, from)) > 0) {
        if (++n % 256 && me->out_size <= SEND_BYTES && zp__tick() == tick)
            continue;
        tick = zp__tick();
        now = zp__now();
        me->out_seconds += now - me->since;
        me->since = now;
        if (now - me->out_since > SEND_EVERY || me->out_size > SEND_BYTES) {
            rc = flush(me, from, false);
            me->out_since = now;
        }
        if (rc < 0)
            return rc;
        if (now > until)
            return 1;
    }
    me->out_seconds += zp__now() - me->since;
    if (rc == 0)
        rc = flush(me, from, true);
    me->out_from = 0;
    drop(from);
    return rc;
}

/* One slice of work. What fails here for want of memory ends the worker: its
 * items are others', then. */
static void
work(crew *me)
{
    double until = zp__now() + SLICE;
    int rc = 0;

    while (rc == 0 && !me->broken && !zp__list_empty(&me->jobs))
        rc = run_job(me, ZP__OF(me->jobs.next, job, node), until);
    if (rc < 0 || me->broken)
        zp__loop_stop(me->ctx->loop, rc < 0 ? rc : me->broken);
    else if (rc == 1)
        zp__kick(me->kick);
    else if (me->leaving)
        me->left = true;
}

/* ----------------------------------------------------------------- orders --
 */

/* Is the function that the owner means where it is in the owner? We were
 * forked from it; but it may have loaded an object since. */
static zp_map_fn *
function_of(const zp__intro *intro, const char *path)
{
    Dl_info info = {.dli_fname = NULL};

    if (intro->path &&
        (!dladdr((void *)(uintptr_t)intro->fn, &info) || !info.dli_fname ||
         (uint64_t)(uintptr_t)info.dli_fbase != intro->base ||
         strlen(info.dli_fname) != intro->path ||
         memcmp(info.dli_fname, path, intro->path) != 0))
        return NULL;
    return (zp_map_fn *)(uintptr_t)intro->fn;
}

static int
on_map(crew *me, const zp__order *order, zp__message *body)
{
    size_t size;
    const unsigned char *bytes = zp__message_data(body, &size);
    zp__intro intro;
    known *new;
    int rc = 0;

    if (size < sizeof intro)
        return zp__fail(-EBADMSG, "a map's introduction is cut off");
    memcpy(&intro, bytes, sizeof intro);
    bytes += sizeof intro;
    size -= sizeof intro;
    if (size != (uint64_t)intro.path + intro.common)
        return zp__fail(-EBADMSG, "a map's introduction has another size");
    new = calloc(1, sizeof *new);
    if (!new)
        return zp__fail(-ENOMEM, "no memory for a map");
    new->id = order->map;
    new->fn = function_of(&intro, (const char *)bytes);
    if (intro.common)
        rc = zp__value_copy(&new->common, bytes + intro.path, intro.common);
    zp__list_init(&new->node);
    zp__list_append(me->maps[new->id % BUCKETS].next, &new->node);
    return rc;
}

static int
on_task(crew *me, const zp__order *order, zp__message *body)
{
    job *new = calloc(1, sizeof *new);

    if (!new || order->cell >= ZP__CELLS) {
        free(new);
        return new ? zp__fail(-EBADMSG, "no cell %u", order->cell)
                   : zp__fail(-ENOMEM, "no memory for a task");
    }
    new->order = *order;
    zp__message_move(&new->items, body);
    zp__message_init(body);
    zp__list_init(&new->node);
    zp__list_append(&me->jobs, &new->node);
    return 0;
}

static int
on_order(crew *me, const zp__order *order, zp__message *body)
{
    known *map;

    switch (order->kind) {
    case ZP__ORDER_MAP:
        return on_map(me, order, body);
    case ZP__ORDER_TASK:
        return on_task(me, order, body);
    case ZP__ORDER_FORGET:
        map = find(me, order->map);
        if (map)
            forget(map);
        return 0;
    case ZP__ORDER_LEAVE:
        me->leaving = true;
        return 0;
    default:
        return 0;
    }
}

static void
on_readable(void *user)
{
    crew *me = user;
    zp__order order;
    zp__message body;
    int rc = 0;

    while (rc == 0 && zp__wire_receive(me->socket, NULL, &order, sizeof order,
                                       &body) > 0) {
        rc = on_order(me, &order, &body);
        zp__message_free(&body);
    }
    if (rc < 0 && !me->broken)
        me->broken = rc;
    if (!me->busy)
        work(me);
}

static void
on_kick(void *user)
{
    crew *me = user;

    if (!me->busy)
        work(me);
}

/* ------------------------------------------------------------------- life --
 */

static int
open_socket(crew *me, const zp__worker *worker)
{
    zp__name name = zp__worker_name(worker);
    zp_ctx *ctx = me->ctx;
    void *zmq;
    int rc;

    rc = zp__ctx_zmq(ctx, &zmq);
    if (rc < 0)
        return rc;
    zp__own_begin();
    me->socket = zp__wire_connect(zmq, worker->swarm->address, &name);
    rc = me->socket ? 0 : errno;
    me->owned = zp__own_end(NULL);
    if (rc)
        return zp__fail_errno(rc, "cannot connect to %s",
                              worker->swarm->address);
    if (!me->owned)
        return zp__fail(-ENOMEM, "no memory for a socket");
    return zp__loop_zmq(ctx->loop, &me->readable, me->socket, on_readable, me);
}

static int
greet(crew *me)
{
    zp__report report = {.kind = ZP__REPORT_UP};

    return send_report(me, &report, NULL, 0, NULL, NULL);
}

static int
serve(crew *me)
{
    bool gone = false;
    int rc;

    rc = greet(me);
    while (rc == 0 && !me->left && !gone) {
        rc = zp__ctx_wait(me->ctx, &me->left, -1, &gone);
        if (rc == ZP_EBREAK) /* a function's zp_break() was not for us */
            rc = 0;
    }
    if (gone)
        _exit(1);
    return rc;
}

static void
close_all(crew *me)
{
    me->ctx->worker_free = NULL;
    ZP__EACH(at, next, &me->jobs)
    drop(ZP__OF(at, job, node));
    for (int i = 0; i < BUCKETS; i++) {
        ZP__EACH(at, next, &me->maps[i])
        forget(ZP__OF(at, known, node));
    }
    zp__handle_free(me->readable);
    zp__handle_free(me->kick);
    if (me->socket)
        zp__wire_close(me->socket, NULL);
    zp__own_forget(me->owned);
    zp_value_free(me->item);
    free(me->out);
}

/* The context goes, and we are still on the stack: an item has called
 * zp_exit(). What was done before that one is told. */
static void
worker_free(zp_ctx *ctx)
{
    crew *me = ctx->worker;

    if (me->socket && me->out_n)
        (void)flush(me, ZP__OF(me->jobs.next, job, node), false);
    close_all(me);
}

int
zp__worker_main(zp_ctx *ctx, void *user)
{
    const zp__worker *worker = user;
    crew me = {.ctx = ctx, .seat = worker->seat};
    int rc;

    for (int i = 0; i < BUCKETS; i++)
        zp__list_init(&me.maps[i]);
    zp__list_init(&me.jobs);
    ctx->worker = &me;
    ctx->worker_free = worker_free;
    rc = zp__loop_kick(ctx->loop, &me.kick, on_kick, &me);
    if (rc == 0)
        rc = open_socket(&me, worker);
    if (rc == 0)
        rc = serve(&me);
    close_all(&me);
    return zp__ctx_done(ctx, rc);
}

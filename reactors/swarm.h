/*
 * swarm.h - maps and their workers: what the files share.
 *
 *     map.c            a map as its caller sees it: options, life, progress
 *     map_input.c      items: packed, queued as ranges, asked of the source
 *     map_results.c    results: put in order, handed out
 *     map_read.c       ... to who asks for them, and waits
 *     map_calls.c      ... to callbacks
 *     map_end.c        its end: done, broken off, cancelled
 *     swarm.c          a swarm's life: socket, resize, stop
 *     swarm_worker.c   one worker: forked, greeted, given tasks, dead
 *     swarm_schedule.c who gets what, how much of it, and who gives it back
 *     swarm_cells.h    the words that caller and worker share
 *     swarm_wire.c     messages between them
 *     worker.c         all that happens in the worker
 *     share.c          results on their way to other processes
 *     share_keys.c     what they are in the state
 *     results.c        reading them there
 *
 * Items travel in *blobs*; a *range* is a run of items of one blob that
 * somebody is to do; a *task* is a range in a worker's hands; a *batch* is a
 * run of results in one message.
 *
 *     source --> blob, range (queued) --> task (worker's cell) --> batch -->
 * next ^                   |
 *                        +-- worker died, ---+
 *                            or has too much
 */
#ifndef ZP_REACTORS_SWARM_H
#define ZP_REACTORS_SWARM_H

#include "core/context.h"
#include "core/image.h"
#include "core/process.h"
#include "core/value.h"
#include "reactors/list.h"
#include "reactors/swarm_cells.h"
#include "reactors/swarm_wire.h"

#define ZP__WORKERS_MAX 1024
#define ZP__TASK_MAX 65536       /* items in one */
#define ZP__TASK_BYTES (1 << 20) /* unless it is a single item */
#define ZP__SWARM_NAME 48

/* A context's swarms, and what reads others' results. */
struct zp__crews {
    zp__node swarms, results;
};

/* Packed items, as they go on the wire: each a u32 size and an image. */
typedef struct zp__blob {
    _Atomic unsigned refs; /* libzmq's thread has some */
    size_t size, room;
    unsigned char bytes[];
} zp__blob;

typedef struct zp__range {
    zp__node node; /* of map->queue */
    zp_mapping *map;
    zp__blob *blob; /* one reference */
    size_t from, to;
    uint64_t index; /* of its first item */
    uint32_t n;
    uint32_t deaths; /* of workers that ran its first item */
} zp__range;

typedef struct zp__task {
    zp__range *range;
    uint64_t id;
    uint32_t got; /* results so far: of the first items */
    double load;  /* seconds that it was thought to take */
} zp__task;

typedef struct zp__worker {
    zp_swarm *swarm;
    zp_proc *proc; /* NULL: the seat is free */
    zp__seat *seat;
    uint32_t number; /* of the seat */
    uint32_t life;   /* counts attempts: the one that was started last */
    bool up;         /* it has greeted */
    bool fruitful;   /* it has told of results, in this life */
    bool lost;       /* it is not there any more: its end will be told */
    bool leaving;    /* gets nothing more */
    bool told;       /* to leave */
    bool single;     /* leaves after one item */
    double unborn;   /* since when it is awaited, as long as it is not up */
    double end_at;   /* leaving: then it gets a TERM, and then a KILL; 0 */
    int signals;     /* of these, so far */
    unsigned n_tasks;
    double load;
    double heard; /* when it began a task, or told of one */
    zp__task *tasks[ZP__CELLS];
} zp__worker;

struct zp_swarm {
    zp__node node; /* of ctx->crews */
    zp_ctx *ctx;
    char name[ZP__SWARM_NAME + 1];
    char address[sizeof(((zp__place *)0)->run) + 40];
    zp_spawn_options spawn; /* pointers are copies */
    zp_spawn_options *spawn_copy;
    void *socket;
    zp__owned *owned;
    zp__handle *readable, *kick, *timer;
    zp__seat *seats; /* shared with the workers */
    zp__worker *workers[ZP__WORKERS_MAX];
    uint32_t n_seats; /* of workers[], so far in use */
    size_t count;     /* workers that there are to be */
    zp__node maps;    /* all but those in ... */
    zp__node over;    /* ... which have ended, and of which nobody has anything;
                         those that were given back come first */
    zp__node turns;   /* of maps: may have something to be handed out; the one
                         whose turn is next comes first */
    zp__node ending;  /* those that have ended, and are not in `over` yet */
    zp__node awaited; /* somebody is in zp_map_wait() of these */
    uint64_t next_task, next_map;
    uint32_t lives;  /* of all workers so far: each has a number of its own */
    unsigned deaths; /* in a row, without any result in between */
    unsigned spawn_failures; /* of forks, in a row ... */
    double spawn_since;      /* ... and since when, without any worker */
    double spawn_at;         /* not before; 0: now */
    int code;                /* stopped, or failed: no more maps; else 0 */
    char error[ZP__ERROR_MAX];
    bool per_item; /* zp_spawn_map() */
    bool lent;     /* belongs to its one map */
    bool closing;  /* no more maps, and the workers leave when all is done */
    bool forced;   /* ... or at once */
    bool given_up; /* freed by the caller */
    bool pumping;  /* zp__swarm_pump() is on the stack */
    bool ticking;  /* the timer runs */
    bool waiting;  /* somebody idles while another one has items in hand */
    bool quiet;    /* the workers have ended, and nothing is to be done */
    unsigned pins; /* functions on the stack that look at it */
};

/* What a result that was handed out points to. */
typedef struct zp__kept {
    zp_value *value;
    char error[ZP__RECORD_TEXT + 256];
    char origin[ZP__RECORD_ORIGIN + 1];
} zp__kept;

struct zp_mapping {
    zp__node node;                  /* of swarm->maps, or swarm->over */
    zp__node turn, ending, awaited; /* of the swarm's lists, or of none */
    unsigned waits;                 /* zp_map_wait() on the stack */
    zp_ctx *ctx;
    zp_swarm *swarm;
    uint64_t id; /* within the swarm */
    unsigned flags;
    size_t chunk, window, window_bytes;
    unsigned tries;
    zp_map_fn *fn;
    zp_map_source_fn *source;
    void *source_user;
    zp_map_result_fn *result_fn;
    zp_map_progress_fn *progress_fn;
    double progress_every;
    void *user;
    void *common; /* image */
    size_t common_size;
    uint32_t *knows; /* of each seat the worker's life that was told of it */
    uint32_t n_knows;

    /* input */
    zp__blob *open; /* items not in any range yet */
    size_t open_from;
    uint64_t open_index;
    uint32_t open_n;
    zp__node queue; /* ranges that nobody has, lowest index first */
    uint64_t queued;
    bool sourcing; /* the source is on the stack */
    bool input_end;

    /* in work */
    uint64_t tasks;      /* in workers' hands ... */
    uint64_t out;        /* ... and items in them, without those done */
    double per_item;     /* seconds, as measured; 0: not yet */
    uint32_t grown;      /* items of the largest report so far */
    double bytes_item;   /* of an item, on the average ... */
    double bytes_result; /* ... and of a result */

    /* results */
    zp__node batches; /* sorted */
    size_t held;      /* bytes of items and results that somebody holds */
    uint64_t next;    /* index of the next result in order */
    zp__kept kept;    /* of the result that was given last */
    bool ready;       /* zp_map_next() waits for this: a result, or the end */
    bool settled;     /* zp_map_wait(): the end, or nothing more to be done */
    bool calling;     /* a callback is on the stack */
    bool over;        /* it is in swarm->over */
    int64_t looked;   /* when the caller's loop was last run: zp__tick() */
    zp__handle *kick, *timer; /* callbacks; progress and cancelling */
    bool holds_loop;
    struct zp__share *share; /* ZP_SHARED; else NULL */
    double progress_at;      /* the next one */
    bool changed;

    uint64_t added, done, failed, read, again;
    int code; /* what has ended it */
    char why[ZP__ERROR_MAX];
    bool ended; /* nothing more will happen */
    bool told;  /* result_fn was told of the end */
    bool cancelled;
    double cancel_at; /* the next signal to those that still run it */
    int cancel_step;
    bool given_up;  /* freed by the caller: goes when nothing holds it */
    unsigned pins;  /* functions on the stack that look at it */
    unsigned holds; /* waits that hold callbacks back, around the wait for it */
};

/* ---- map.c ---- */

/* Every entry on a map: CHECK is zp__ctx_enter() or zp__ctx_check(); and what
 * it ends with. */
int zp__map_enter(const zp_mapping *map, int (*check)(const zp_ctx *ctx));
int zp__map_done(const zp_mapping *map, int rc);

/* Free MAP if it was given back and nothing holds it. */
void zp__map_let_go(zp_mapping *map);
void zp__map_destroy(zp_mapping *map);

/* ---- map_calls.c ---- */

/* Something has changed: callbacks come soon. The same for what could not be
 * called before. */
void zp__map_changed(zp_mapping *map);
void zp__map_call(zp_mapping *map);

/* Are its callbacks held back? */
bool zp__map_held(const zp_mapping *map);

/* The callback of MAP's kick and timer. */
void zp__map_on_kick(void *map);

/* zp_run() goes on as long as there is something to be called for. */
void zp__map_hold(zp_mapping *map, bool hold);

/* ---- map_end.c ---- */

/* Is all done, or over? Then say so to whoever waits. */
void zp__map_check_end(zp_mapping *map);

/* It ends with CODE before all is done: ranges and results go. */
void zp__map_abort(zp_mapping *map, int code, const char *text);

/* Cancelled: signal those that still run it; is there more to be done later? */
bool zp__map_press(zp_mapping *map);

/* ---- map_read.c ---- */

/* All that was added is over, and more can only come from zp_map_add(). */
bool zp__map_starved(const zp_mapping *map);

/* ---- map_input.c ---- */

int zp__map_add_image(zp_mapping *map, const void *image, size_t size);

/* Is its window full? And of results only, so that nothing more will happen
 * before some are read? */
bool zp__map_full(const zp_mapping *map);
bool zp__map_stuck(const zp_mapping *map);

/* It may have something to be handed out: it takes part in the turns; or it has
 * nothing, and does not. */
void zp__map_turn(zp_mapping *map);
bool zp__map_rests(zp_mapping *map);

/* Make more queued items, if the source has some, until there are WANT, or it
 * has taken some milliseconds. false: the context is gone. */
bool zp__map_fill(zp_mapping *map, uint64_t want);

/* Of the first queued range at most N items and BYTES (one may be more), as a
 * range of their own, out of the queue. NULL: nothing is queued, or no memory
 * (then the range stays). */
zp__range *zp__map_take(zp_mapping *map, uint32_t n, size_t bytes);

/* Cut RANGE: the items from number AT become a range of their own. */
zp__range *zp__range_split(zp__range *range, uint32_t at);
void zp__range_free(zp__range *range);

/* Put RANGE back to where it belongs. */
void zp__map_requeue(zp_mapping *map, zp__range *range);
void zp__map_drop_input(zp_mapping *map);
void zp__blob_drop(zp__blob *blob);

/* ---- map_results.c ---- */

/* Results of N items from INDEX: MESSAGE (an open zmq_msg_t, taken) is checked
 * already. -ENOMEM. */
int zp__map_results(zp_mapping *map, zp__message *message, uint64_t index,
                    uint32_t n, uint32_t failed);

/* The N items from INDEX have failed with CODE. */
int zp__map_fail_items(zp_mapping *map, uint64_t index, uint32_t n, int code,
                       const char *error);
bool zp__map_has_result(const zp_mapping *map);

/* The next result: 1 and *RET, or 0. The same as it came, of *RET_SIZE bytes,
 * borrowed: NULL if there is none; then it must be passed over. */
int zp__map_result(zp_mapping *map, zp_map_result *ret);
const unsigned char *zp__map_answer(const zp_mapping *map, size_t *ret_size,
                                    uint64_t *ret_index);
void zp__map_pass(zp_mapping *map);

/* What the answer at AT says; KEPT holds what RET points to. */
int zp__answer_result(zp__kept *kept, const unsigned char *at, uint64_t index,
                      zp_map_result *ret);

/* RESULT into addresses: 1, or its error. */
int zp__result_get(const zp_map_result *result, const char *format, va_list ap);
void zp__map_drop_results(zp_mapping *map);

/* ---- share.c, results.c ---- */

int zp__share_new(zp_mapping *map, double keep);
void zp__share_free(zp_mapping *map);
uint64_t zp__share_id(const zp_mapping *map);

/* Move results to the state, and at the end say so: false: not all of it yet,
 * and it is time to try again later. */
bool zp__share_pump(zp_mapping *map);

/* Has it anything to be moved yet, or its end to be told? */
bool zp__share_pending(const zp_mapping *map);

/* Drop what is to be written: was there anything? */
bool zp__share_drop(zp_mapping *map);
void zp__results_destroy(zp__node *results);

/* ---- swarm.c ---- */

/* CTX's, made by the first call. */
int zp__crews_get(zp_ctx *ctx, struct zp__crews **ret);

/* Make one without workers, NAME being its default; then as many as it is to
 * have (or none, and it goes). */
int zp__swarm_make(zp_ctx *ctx, zp_swarm **ret, const zp_swarm_options *options,
                   const char *name);
int zp__swarm_man(zp_swarm *swarm);
void zp__swarm_destroy(zp_swarm *swarm);

/* No more maps, and all of its workers leave: now (FORCE), or when they have
 * done what they have. */
void zp__swarm_leave(zp_swarm *swarm, bool force);
void zp__swarm_let_go(zp_swarm *swarm);

/* -EDEADLK inside a source function of SWARM's, or inside an atomic operation,
 * else 0. */
int zp__swarm_may_wait(const zp_swarm *swarm, const char *what);

/* MAP has ended, and no worker has anything of it. */
void zp__swarm_put_by(zp_swarm *swarm, zp_mapping *map);

/* After each round: what has ended goes, what is to end is pressed. SWARM may
 * be gone afterwards. */
void zp__swarm_settle(zp_swarm *swarm);

/* It cannot go on: all of its maps end with CODE. */
void zp__swarm_fail(zp_swarm *swarm, int code, const char *text);

/* ---- swarm_worker.c ---- */

int zp__worker_new(zp_swarm *swarm, zp__worker **ret);

/* Give RANGE (taken) to WORKER. Errors: -ENOMEM, -EAGAIN; then nothing was. */
int zp__worker_give(zp__worker *worker, zp__range *range, double load);

/* Who it is on the wire. */
zp__name zp__worker_name(const zp__worker *worker);

/* How many items of the task in CELL it has begun: no less than it has told of,
 * and no more than there are, whatever the cell says. */
uint32_t zp__worker_claimed(const zp__worker *worker, unsigned cell);

/* Has it begun an item of MAP, and not told of it? And was that the last one
 * that it has begun? */
bool zp__worker_runs(const zp__worker *worker, const zp_mapping *map);
bool zp__worker_is_at(const zp__worker *worker, const zp_mapping *map);

/* Take away all that it has of MAP, which is about to be freed. */
void zp__worker_forget(zp__worker *worker, zp_mapping *map);

/* Take back the unclaimed items of the task in CELL but KEEP; NULL: there are
 * none. */
zp__range *zp__worker_take_back(zp__worker *worker, unsigned cell,
                                uint32_t keep);

/* WORKER gets nothing more and ends when it has done what it has (and gives
 * back what it has not begun). Once it is up this takes effect; then not
 * before it is said again. */
void zp__worker_last(zp__worker *worker);
void zp__worker_leave(zp__worker *worker);
void zp__worker_signal(zp__worker *worker, int number);

/* Let go of the process; it ends by itself, or with the context. */
void zp__worker_free(zp__worker *worker);

/* The socket is readable: read what the workers say. */
void zp__swarm_read(zp_swarm *swarm);

/* ---- swarm_schedule.c ---- */

/* Hand out what there is to whoever has room. */
void zp__swarm_pump(zp_swarm *swarm);

/* ---- worker.c ---- */

/* The function of a worker, born with a copy of its owner's memory: of WORKER
 * (and its swarm) only plain fields are read. */
int zp__worker_main(zp_ctx *ctx, void *worker);

#endif

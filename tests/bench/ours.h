/*
 * ours.h - our side: zproc as an application uses it, through zp.h alone.
 */
#ifndef ZP_BENCH_OURS_H
#define ZP_BENCH_OURS_H

#include <zp.h>

#include "tests/bench/crew.h"

#define OURS_KEY "cookies"

struct ours {
    zp_ctx *ctx;
    zp_state *state;
    zp_ctx *other; /* the state that it is compared with */
    zp_state *other_state;
    char (*keys)[16];
    uint32_t n_keys;
    int64_t value; /* so that each set is a change */
    void *more;    /* the measure's own; freed with this */
};

/* Tell why R, the return of a zp_ function, is an error: SIDE_FAIL. */
int ours_fail(struct side *side, const char *what, int r);

/* A new state with the first N of the keys. */
int ours_open(struct side *side, zp_ctx **ret_ctx, uint32_t n);

/* The ordinary start of a measure: a state with SIDE_KEYS keys, and OURS_KEY.
 * And the stop of all. */
int ours_start(struct side *side);
void ours_stop(struct side *side);

/* Set one of the keys at random, to something new. */
int ours_set_one(struct side *side);

/* In a watcher, at each event: at the first one it is ready. */
void ours_first_event(struct side *side);

/* Where the crew's next members find their state. */
void ours_tell_address(struct side *side, zp_ctx *ctx);

/* In a crew: attach to the state of the side. */
int ours_join(struct side *side, zp_ctx **ret_ctx);

/* ours_grow.c */
int ours_keys_start(struct side *side);
int ours_keys_round(struct side *side);
int ours_deletes_start(struct side *side);
int ours_later_start(struct side *side);
int ours_deletes_round(struct side *side);

/* ours_watch.c */
int ours_watcher(struct side *side, unsigned index);
int ours_beside(struct side *side, unsigned index);
int ours_fan(struct side *side, unsigned index);
int ours_counter(struct side *side, unsigned index);
int ours_callback_start(struct side *side);
int ours_callback_round(struct side *side);
int ours_fan_start(struct side *side);
int ours_fan_round(struct side *side);
int ours_events_start(struct side *side);
int ours_events_round(struct side *side);
int ours_pss_start(struct side *side);
int ours_pss_round(struct side *side);

/* ours_many.c */
int ours_many(struct side *side, unsigned index);
int ours_hundred_start(struct side *side);
int ours_hundred_round(struct side *side);
int ours_watches_start(struct side *side);
int ours_watches_round(struct side *side);
void ours_watches_stop(struct side *side);

/* ours_wait.c */
int ours_waiter(struct side *side, unsigned index);
int ours_wait_start(struct side *side);
int ours_wait_round(struct side *side);

/* ours_spawn.c */
int ours_spawn_start(struct side *side);
int ours_spawn_round(struct side *side);
int ours_hundred_children_start(struct side *side);
int ours_hundred_children_round(struct side *side);
int ours_kill_start(struct side *side);
int ours_kill_round(struct side *side);
int ours_children_start(struct side *side);
int ours_children_round(struct side *side);

/* ours_map.c */
int ours_map_start(struct side *side);
int ours_map_round(struct side *side);
int ours_map_singly_round(struct side *side);
int ours_map_spin_round(struct side *side);
int ours_map_process_round(struct side *side);
int ours_map_large_round(struct side *side);
int ours_map_results_round(struct side *side);
void ours_map_stop(struct side *side);

/* ours_stall.c */
int ours_stalled(struct side *side, unsigned index);
int ours_stall_start(struct side *side);
int ours_stall_round(struct side *side);

#endif

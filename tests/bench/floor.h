/*
 * floor.h - what nobody who stands on LMDB and ZeroMQ can be faster than: the
 * same work in bare calls of these libraries, with no value, key check, lock,
 * log or loop of ours.
 */
#ifndef ZP_BENCH_FLOOR_H
#define ZP_BENCH_FLOOR_H

#include "tests/bench/side.h"

/* floor_lmdb.c */
int floor_lmdb_start(struct side *side);
void floor_lmdb_stop(struct side *side);
int floor_get_round(struct side *side);
int floor_commit_round(struct side *side);
int floor_rate_round(struct side *side); /* the same, per second */

/* floor_zmq.c: a chain PUSH -> PULL, PUB -> SUB over ipc in three processes,
 * and idle processes with one SUB socket each. */
int floor_chain_start(struct side *side);
int floor_chain_round(struct side *side);
int floor_idle_start(struct side *side);
int floor_idle_round(struct side *side);
void floor_zmq_stop(struct side *side);
int floor_forwarder(struct side *side, unsigned index);
int floor_watcher(struct side *side, unsigned index);
int floor_idler(struct side *side, unsigned index);

/* floor_fork.c: processes by fork() alone. */
int floor_spawn_start(struct side *side);
int floor_spawn_round(struct side *side);
int floor_hundred_round(struct side *side);
int floor_kill_round(struct side *side);
int floor_children_start(struct side *side);
int floor_children_round(struct side *side);
int floor_process_round(struct side *side);
void floor_fork_stop(struct side *side);

/* floor_map.c: messages to workers and back, PUSH -> PULL, PUSH -> PULL. */
int floor_map_start(struct side *side);
int floor_map_round(struct side *side);
int floor_map_singly_round(struct side *side);
int floor_map_large_round(struct side *side);
int floor_map_results_round(struct side *side);
int floor_spin_start(struct side *side);
int floor_spin_round(struct side *side);
int floor_spinner(struct side *side, unsigned index);
void floor_map_stop(struct side *side);
int floor_worker(struct side *side, unsigned index);

#endif

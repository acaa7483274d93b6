/*
 * bench_floor.c - the floor: raw LMDB, raw ZeroMQ, raw fork().
 */
#include "tests/bench/floor.h"

static const side_measure measures[] = {
    {"get", floor_lmdb_start, floor_get_round, floor_lmdb_stop},
    {"set", floor_lmdb_start, floor_commit_round, floor_lmdb_stop},
    {"increase", floor_lmdb_start, floor_commit_round, floor_lmdb_stop},
    {"atomic", floor_lmdb_start, floor_commit_round, floor_lmdb_stop},
    {"events", floor_lmdb_start, floor_rate_round, floor_lmdb_stop},
    {"callback", floor_chain_start, floor_chain_round, floor_zmq_stop},
    {"wait", floor_chain_start, floor_chain_round, floor_zmq_stop},
    {"pss", floor_idle_start, floor_idle_round, floor_zmq_stop},
    {"spawn", floor_spawn_start, floor_spawn_round, floor_fork_stop},
    {"spawn-100", floor_spawn_start, floor_hundred_round, floor_fork_stop},
    {"kill-exit", floor_spawn_start, floor_kill_round, floor_fork_stop},
    {"child-pss", floor_children_start, floor_children_round, floor_fork_stop},
    {"map", floor_map_start, floor_map_round, floor_map_stop},
    {"map-singly", floor_map_start, floor_map_singly_round, floor_map_stop},
    {"map-spin", floor_spin_start, floor_spin_round, floor_map_stop},
    {"map-large", floor_map_start, floor_map_large_round, floor_map_stop},
    {"map-results", floor_map_start, floor_map_results_round, floor_map_stop},
    {"map-process", floor_spawn_start, floor_process_round, floor_fork_stop},
    {0},
};

static const side_role roles[] = {
    {"forwarder", floor_forwarder}, {"watcher", floor_watcher},
    {"idler", floor_idler},         {"worker", floor_worker},
    {"spinner", floor_spinner},     {0},
};

int
main(int argc, char **argv)
{
    return side_main(argc, argv, measures, roles);
}

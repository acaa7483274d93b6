/*
 * swarm_cells.h - the words that a swarm's owner and a worker share: which
 * items of a task are begun, and which may not be any more.
 *
 * A worker has room for ZP__CELLS tasks, each with a cell: how many of its
 * items the worker has *claimed* (begun, perhaps done), and the *limit*, behind
 * which it may claim none. Both sides change it with compare-and-swap: the
 * worker claims one item at a time; the owner lowers the limit to take items
 * back, from a worker that is busy or stopped, too. So each item is either
 * claimed or taken back, never both, and after a worker's death the cell tells
 * exactly which items it had begun.
 */
#ifndef ZP_REACTORS_SWARM_CELLS_H
#define ZP_REACTORS_SWARM_CELLS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define ZP__CELLS 64

typedef struct zp__seat {
    _Alignas(64) _Atomic uint64_t cell[ZP__CELLS]; /* limit << 32 | claimed */
} zp__seat;

static inline void
zp__cell_set(_Atomic uint64_t *cell, uint32_t limit)
{
    atomic_store(cell, (uint64_t)limit << 32);
}

static inline uint32_t
zp__cell_claimed(const _Atomic uint64_t *cell)
{
    return (uint32_t)atomic_load((_Atomic uint64_t *)cell);
}

/* The next item, if there is one that may be begun. */
static inline bool
zp__cell_claim(_Atomic uint64_t *cell, uint32_t *ret)
{
    uint64_t word = atomic_load(cell);

    do {
        *ret = (uint32_t)word;
        if (*ret >= word >> 32)
            return false;
    } while (!atomic_compare_exchange_weak(cell, &word, word + 1));
    return true;
}

/* Leave at most KEEP items that are not claimed; returns the limit. */
static inline uint32_t
zp__cell_cut(_Atomic uint64_t *cell, uint32_t keep)
{
    uint64_t word = atomic_load(cell), limit;

    do {
        limit = (uint64_t)(uint32_t)word + keep;
        if (limit >= word >> 32)
            return (uint32_t)(word >> 32);
    } while (!atomic_compare_exchange_weak(cell, &word,
                                           limit << 32 | (uint32_t)word));
    return (uint32_t)limit;
}

#endif

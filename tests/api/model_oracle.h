/*
 * model_oracle.h - what the parts of the oracle know of each other.
 *
 *     model_replay.c   the journal: what was, what is an event, how many
 *     model_oracle.c   callbacks and iterators
 *     model_waits.c    calls that wait
 */
#ifndef ZP_TESTS_MODEL_ORACLE_H
#define ZP_TESTS_MODEL_ORACLE_H

#include "tests/api/model.h"

/* Where a watch stands, if it began at one possible revision. */
typedef struct model_place {
    const model_watch *x;
    const model_seen *seen; /* the one in hand */
    size_t at;
    uint64_t cursor;
    unsigned events;
    bool first; /* the first look is to come */
    bool over;
    model_complaint *complaint;
} model_place;

#define R(revision) ((unsigned long long)(revision))

/* All entries, and how many; which is the first behind REVISION; the state of
 * X's namespace at REVISION. */
const model_entry *model_all(const model_watch *x, unsigned *ret_n);
unsigned model_behind(const model_watch *x, uint64_t revision);
void model_replay(model_codes ret, const model_watch *x, uint64_t revision);

/* How many events there are in (FROM, TO], at most MAX; *RET_LAST: where the
 * last of them is. */
unsigned model_count(const model_watch *x, uint64_t from, uint64_t to,
                     unsigned max, uint64_t *ret_last);

/* Must a live watch that has seen all up to FROM be told of something up to
 * TO? If the newest change is an event, yes. */
bool model_has_news(const model_watch *x, uint64_t from, uint64_t to,
                    uint64_t *ret);

/* Where X can begin that was told to when HEAD, up to HEAD_AFTER, was the
 * newest; P as it is when it begins at REVISION. */
void model_range(const model_watch *x, uint64_t head, uint64_t head_after,
                 uint64_t *low, uint64_t *high);
void model_start(model_place *p, const model_watch *x, uint64_t revision,
                 model_complaint *complaint);

/* Complain: always false. */
bool model_wrong(model_place *p, const char *format, ...) ZP_PRINTF(2, 3);

/* Is GOT the state at REVISION? */
bool model_same_codes(model_place *p, const model_codes got, uint64_t revision,
                      const char *what);

int model_judge_waits(const model_watch *x, model_complaint *complaint);

#endif

/*
 * store_past.c - where in the log a moment is.
 *
 * Each log row has its writer's wall clock. They are taken to be in order, as
 * the clocks of one machine are but for the moments when one is set: so the
 * first row of a moment is found by halving, 18 looks in a full log.
 */
#include "core/store_lmdb.h"

int
zp__view_since(zp__view *view, int64_t time_ns, uint64_t *ret_cursor)
{
    uint64_t head, low, high;
    int rc = zp__view_range(view, &head, &low);
    uint64_t tail = low;

    if (rc != 0)
        return rc;
    high = head + 1;
    while (low < high) { /* those before `low` are older, from `high` on not */
        uint64_t middle = low + (high - low) / 2;
        zp__row row;
        rc = zp__view_row(view, middle, &row);
        if (rc != 0)
            return rc;
        if (row.time_ns < time_ns)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_cursor = low == tail ? 0 : low - 1;
    return 0;
}

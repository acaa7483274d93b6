/*
 * create.h - a new state from options: what zp_ctx_new() and a server run by
 * hand have in common.
 */
#ifndef ZP_CORE_CREATE_H
#define ZP_CORE_CREATE_H

#include <zp.h>

#include "core/place.h"

/* Copy GIVEN (NULL: all defaults; of any size) to RET, with the defaults of
 * the times and the namespace filled in. -EINVAL: a size that is none, fields
 * of a later version that are not zero, an unknown flag or sync, a bad
 * namespace. */
int zp__options_take(zp_ctx_options *ret, const zp_ctx_options *given);

/* Make the state that OPTIONS (taken) describe, owned by this process: run
 * directory, board, store, all published under the final name. With RET_LOCK
 * the server's flock is taken before anybody can see it. On an error nothing
 * is left behind. Errors: as zp_ctx_new(). */
int zp__create(zp__place *ret, const zp_ctx_options *options, int *ret_lock);

#endif

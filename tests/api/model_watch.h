/*
 * model_watch.h - what the files that watch know of each other.
 *
 *     model_see.c     what is seen, written down; what callbacks do
 *     model_call.c    options and keys, and the functions of each kind
 *     model_watch.c   registering, fetching, waiting, ending
 */
#ifndef ZP_TESTS_MODEL_WATCH_H
#define ZP_TESTS_MODEL_WATCH_H

#include "tests/api/model.h"

#define MODEL_UNHAPPY (-477) /* what a callback returns now and then */

/* What is needed to begin any of them. */
typedef struct model_request {
    zp_state *state;
    zp_watch **ret; /* or ... */
    zp_state **ret_snapshot;
    const char *keys[KEYS];
    size_t n_keys;
    double wait;
    zp_watch_options options;
    zp_watch_fn *fn;
} model_request;

void model_make_request(model_request *r, model_watch *x);
int model_call_when(const model_request *r, model_watch *x);
int model_get_when(const model_request *r, model_watch *x);

model_seen *model_new_seen(model_watch *x, enum seen_kind what);
void model_see_event(model_watch *x, const zp_event *event);
int model_on_event(zp_watch *watch, const zp_event *event, void *user);
int model_on_look(zp_state *snapshot, void *user);

#endif

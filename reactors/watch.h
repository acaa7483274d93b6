/*
 * watch.h - zp_watch: a tap with a condition, a count, a time, and what is done
 * with its events: a callback, or somebody who fetches them.
 *
 *     want.c        what is asked for
 *     call_when.c   registers one of any kind
 *     watch.c       its life, and its callback
 *     fetch.c       the next event of one without a callback, waited for
 *     get_when.c    the calls that wait: an iterator for one event
 */
#ifndef ZP_REACTORS_WATCH_H
#define ZP_REACTORS_WATCH_H

#include "reactors/event.h"
#include "reactors/feed.h"
#include "reactors/want.h"

/* Somebody waits for an event of an iterator: on the C stack. */
typedef struct zp__fetch {
    bool done; /* there is one, or there will be none */
} zp__fetch;

struct zp_watch {
    zp__tap tap; /* first */
    uint64_t token;
    uint64_t left; /* events until it ends; 0: it does not */
    zp__condition condition;
    void *image;       /* the condition's */
    zp__handle *timer; /* of its time; NULL: it has all the time */
    zp_watch_fn *fn;   /* NULL: an iterator */
    void *user;

    /* an iterator */
    zp__fetch *fetch; /* while it is waited for */
    zp__view *view;   /* that its event is read through */
    zp_event event;
    bool has;      /* an event that has not been handed out */
    bool complete; /* its count or its time is over: there will be no more */
};

/* Can something be registered through STATE? As the public contract says. */
int zp__may_watch(zp_state *state);

/* Make and start one: with a callback, or an iterator (FN NULL). LOOKS: it gets
 * a condition's first look. UNATTENDED: freed when it ends. */
int zp__watch_new(zp_watch **ret, zp_state *state, const zp__want *want,
                  bool looks, bool unattended, zp_watch_fn *fn, void *user);

/* Wait for the next event of an iterator: 1, it `has` one; 0, it is complete;
 * or an error. *RET_GONE: nothing of the context must be touched any more.
 * WATCH may be freed meanwhile, as memory it stays if the caller holds a
 * reference of its tap. */
int zp__watch_fetch(zp_watch *watch, double timeout, bool *ret_gone);

#endif

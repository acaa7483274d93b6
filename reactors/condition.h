/*
 * condition.h - what has to be true of a snapshot for a reaction to fire.
 */
#ifndef ZP_REACTORS_CONDITION_H
#define ZP_REACTORS_CONDITION_H

#include "core/state.h"

enum zp__condition_kind {
    ZP__ALWAYS = 0, /* none: every change is one */
    ZP__WHEN,       /* the predicate says so */
    ZP__EQUAL,
    ZP__NOT_EQUAL,
    ZP__IS_NONE,
    ZP__NOT_NONE,
    ZP__TRUTHY,
    ZP__FALSY,
    ZP__AVAILABLE
};

typedef struct zp__condition {
    enum zp__condition_kind kind;
    const char *key; /* of all but a predicate */
    zp_predicate_fn *predicate;
    void *user;
    const void *image; /* to be equal to, or not */
    size_t size;
} zp__condition;

/* 1 if it holds in SNAPSHOT, 0 if not, or an error (a predicate's own, or of
 * reading). A predicate may do anything. */
int zp__condition_holds(const zp__condition *condition, zp_state *snapshot);

#endif

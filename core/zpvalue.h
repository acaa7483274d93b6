/*
 * zpvalue.h - the inside of a zp_value: an image that belongs to it. Numbers
 * need no second allocation.
 */
#ifndef ZP_CORE_ZPVALUE_H
#define ZP_CORE_ZPVALUE_H

#include "core/value.h"

struct zp_value {
    unsigned char *image; /* `small`, or from malloc() */
    size_t size;
    size_t room;
    unsigned char small[64];
};

/* A value with room for SIZE bytes, of which its maker writes `size`. */
int zp__value_make(zp_value **ret, size_t size);

#endif

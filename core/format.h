/*
 * format.h - a tpl format, compiled: what image, text, value and map share.
 *
 * A plan is the format as a flat list of steps, one per atom, A( S( and their
 * ends; each knows how often it stands there (the product of its #) and how
 * few bytes it takes. It is the only parser of formats in the library.
 */
#ifndef ZP_CORE_FORMAT_H
#define ZP_CORE_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/image.h"

#define ZP__POUNDS_MAX 10 /* # in a row: tpl has room for no more */

/* One step. TYPE is the letter of an atom, 'A' or 'S' at the beginning of an
 * array or structure, and ')' at its end. */
typedef struct zp__op {
    char type;
    uint8_t width;  /* an atom's bytes, strings and bytes at least */
    bool many;      /* has # behind it */
    bool single;    /* A, S: holds one item only (for the text) */
    bool flat;      /* A, S: holds numbers only: all elements take LEAST */
    uint16_t other; /* A, S: the step of its end, and the other way round */
    uint16_t at;    /* where in the format */
    uint32_t count; /* atoms, S: the product of its #; A: which one, from 1 */
    uint32_t least; /* A, S: the fewest bytes that one element takes */
} zp__op;

typedef struct zp__plan {
    int ops;
    int pounds;      /* # in all */
    int arrays;      /* A() in all */
    size_t least;    /* the fewest bytes of all the data */
    int misread;     /* where a $() stands whose padding tpl misses, or -1 */
    const char *why; /* after an error: what is wrong, and where */
    int where;
    zp__op op[ZP__FORMAT_MAX];
} zp__plan;

/* Compile FORMAT, LENGTH bytes. COUNTS are the numbers behind its #, native
 * int32 at any alignment; NULL: all are taken as 1. 0, ZP_EFORMAT, or with
 * COUNTS -EINVAL (one below 1), -EMSGSIZE (no image could hold that); keeps
 * no text but fills in why and where. */
int zp__plan_make(zp__plan *ret, const char *format, size_t length,
                  const void *counts);

/* Keep the text of a failed zp__plan_make(), return CODE. */
int zp__plan_fail(int code, const zp__plan *plan, const char *format,
                  size_t length);

/* FORMAT with the numbers behind each #, "S(is)#(2)", into BUFFER; it. */
const char *zp__format_text(const char *format, const void *counts,
                            char *buffer, size_t size);

#endif

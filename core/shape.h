/*
 * shape.h - a format together with what stands behind it in a call: the
 * numbers behind its #, and addresses of which none is NULL.
 */
#ifndef ZP_CORE_SHAPE_H
#define ZP_CORE_SHAPE_H

#include <stdarg.h>

#include "core/format.h"

typedef struct zp__shape {
    const char *format;
    zp__plan plan; /* with the numbers */
    int32_t counts[ZP__FORMAT_MAX];
} zp__shape;

/* What to do with the address of each B field, which stands in the A() of
 * index ARRAY (0: in none): 0, or an error that ends it. */
typedef int zp__bin_fn(const zp_bin *bin, int array, void *user);

/* Check FORMAT, then the arguments in AP (a copy is used); EACH may be NULL.
 * ZP_EFORMAT (also empty, or a $() that tpl would misread in memory), -EINVAL,
 * -EMSGSIZE. */
int zp__shape_make(zp__shape *ret, const char *format, va_list ap,
                   zp__bin_fn *each, void *user);

/* -EINVAL if the bytes at BIN are none, but counted. */
int zp__shape_bin(const zp_bin *bin, int array, void *user);

/* Is IMAGE (a trusted one) of this format and these numbers? 0 or ZP_ETYPE
 * with a text that tells both. */
int zp__shape_match(const zp__shape *shape, const void *image, size_t size);

/* The same for a format whose numbers are at COUNTS. */
int zp__format_match(const char *format, const void *counts, const void *image,
                     size_t size);

#endif

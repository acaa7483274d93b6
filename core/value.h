/*
 * value.h - formats and addresses to images and back: the one file that talks
 * to tpl, and zp_value, zp_tpl on top.
 *
 * Lone plain formats (c j v i u I U f s B) never go through tpl: their images
 * are a few fixed bytes. Everything else does, inside a guard: tpl exits the
 * process when out of memory, so its global hooks (set once, chained to those
 * that were there, active only in a thread that is inside the guard) turn that
 * into an error and free what the call had allocated.
 */
#ifndef ZP_CORE_VALUE_H
#define ZP_CORE_VALUE_H

#include "core/image.h"

/* An image being made: small ones need no malloc. */
typedef struct zp__encoded {
    const void *image; /* in `small`, or `heap` */
    size_t size;
    void *heap;
    unsigned char small[120];
} zp__encoded;

/* Encode FORMAT (no A()) and its addresses. Errors: as zp_value_new(). On
 * success zp__encoded_free() must follow. The va_list is consumed. */
int zp__encode(zp__encoded *ret, const char *format, va_list ap);
int zp__encode_string(zp__encoded *ret, const char *value);
int zp__encode_bytes(zp__encoded *ret, const void *value, size_t size);
void zp__encoded_free(zp__encoded *encoded);

/* Decode a *trusted* image (made by us, or checked) into addresses. Nothing
 * is written unless all of it can be. Errors: as zp_value_get(). */
int zp__decode(const void *image, size_t size, const char *format, va_list ap);

/* The same in two steps: all that can fail, and (WRITE) the writing, which
 * cannot. The image must stay where it is until then. */
typedef struct zp__decoder zp__decoder;
int zp__decode_begin(zp__decoder **ret, const void *image, size_t size,
                     const char *format, va_list ap);
int zp__decode_end(zp__decoder *decoder, bool write);
int zp__decode_string(const void *image, size_t size, char **ret);
int zp__decode_bytes(const void *image, size_t size, void **ret,
                     size_t *ret_size);

/* A zp_value that holds a copy of a trusted image; one whose content can be
 * replaced (iterators), keeping its buffer. */
int zp__value_copy(zp_value **ret, const void *image, size_t size);
int zp__value_assign(zp_value *value, const void *image, size_t size);

#endif

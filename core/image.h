/*
 * image.h - tpl images as bytes: formats, the strict check, plain values,
 * text. Nothing here calls tpl: this is what stands before it.
 *
 * An image is "tpl", a flag byte, its whole length (u32), the format with its
 * NUL, one u32 per # and the data. We accept only what tpl itself would write
 * on this machine (byte order and flags included): a stricter set than tpl
 * loads, so that equal values have equal bytes.
 *
 * The plain forms: none "" | bool "c" | int "I" (or "U" above INT64_MAX) |
 * double "f" | string "s" | bytes "B"; all other formats are composites.
 */
#ifndef ZP_CORE_IMAGE_H
#define ZP_CORE_IMAGE_H

#include <stdbool.h>
#include <zp.h>

#define ZP__IMAGE_MAX ((size_t)64 << 20) /* bytes of any image */
#define ZP__FORMAT_MAX 1024              /* bytes of a format, without NUL */
#define ZP__NEST_MAX 32                  /* parentheses in a format */
#define ZP__PLAIN_MAX 32 /* bytes of a none, bool, int or double image */

/* Is FORMAT one that tpl maps without complaint? Also -: no "()" , no # behind
 * B or A(), at most 10 # in a row. 0 or ZP_EFORMAT with a text that shows
 * where. RET_POUNDS and RET_ARRAYS (may be NULL): how many # and A(). */
int zp__format_check(const char *format, int *ret_pounds, int *ret_arrays);

/* Is it one whole image, valid and bounded in every length? Reads nothing
 * outside of SIZE bytes, takes time and stack in proportion to them (zero-size
 * elements and huge counts included). 0, or ZP_EVALUE (the text names what and
 * the offset), or -EMSGSIZE. */
int zp__image_check(const void *image, size_t size);

/* What a checked image (or one of our own) is. */
int zp__image_type(const void *image, size_t size);           /* zp_type */
const char *zp__image_format(const void *image, size_t size); /* borrowed */
size_t zp__image_data(const void *image, size_t size); /* offset of the data */

/* Write the image of a plain value into BUFFER (ZP__PLAIN_MAX bytes at least)
 * and return its size. Numbers become canonical. */
size_t zp__image_none(void *buffer);
size_t zp__image_bool(void *buffer, bool value);
size_t zp__image_int(void *buffer, int64_t value);
size_t zp__image_uint(void *buffer, uint64_t value);
size_t zp__image_double(void *buffer, double value);

/* The size of a string's or bytes' image, and writing it. LENGTH without NUL;
 * a string holds none inside. */
size_t zp__image_string_size(size_t length);
void zp__image_string(void *buffer, const char *value, size_t length);
size_t zp__image_bytes_size(size_t length);
void zp__image_bytes(void *buffer, const void *value, size_t length);

/* Read a plain value from a checked image. ZP_ETYPE with a text ("an int is
 * stored, a string was asked"), -ERANGE. The data of strings and bytes are
 * borrowed from the image (no NUL behind). */
int zp__image_get_bool(const void *image, size_t size, bool *ret);
int zp__image_get_int(const void *image, size_t size, int64_t *ret);
int zp__image_get_uint(const void *image, size_t size, uint64_t *ret);
/* An int as the lone atom LETTER (one of cjviuIU) has it in memory. */
int zp__image_get_as(const void *image, size_t size, char letter, void *ret);
int zp__image_get_double(const void *image, size_t size, double *ret);
int zp__image_get_string(const void *image, size_t size, const char **ret,
                         size_t *ret_length);
int zp__image_get_bytes(const void *image, size_t size, const void **ret,
                        size_t *ret_length);

/* Make a checked foreign image canonical in place (lone numbers); it may get
 * larger: BUFFER has room for SIZE + 8 bytes. Returns the new size. */
size_t zp__image_canonical(void *buffer, size_t size);

/* The element image ELEMENT of format X appended to IMAGE of format A(X), or
 * string to string, bytes to bytes: a new image from malloc(). ZP_ETYPE,
 * -EMSGSIZE (over MAX bytes), -ENOMEM. */
int zp__image_append(void **ret_image, size_t *ret_size, const void *image,
                     size_t size, const void *element, size_t element_size,
                     size_t max);

/* As zp_value_text(): none, true, 42, 0.5, "text" (escaped), b"\x00..",
 * is(1, "a"), A(i)[1, 2, 3], S(is)#(2)[...]. */
int zp__image_text(const void *image, size_t size, char *buffer,
                   size_t buffer_size);

/* "an int", "a string", "a composite of format ...": for messages, into
 * BUFFER; returns it. */
const char *zp__image_what(const void *image, size_t size, char *buffer,
                           size_t buffer_size);

#endif

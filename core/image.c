/*
 * image.c - the strict check, and plain values as a few fixed bytes.
 *
 * The check is the border between this process and whoever made the bytes: tpl
 * trusts lengths, so whatever it would misread is refused here first. It is a
 * walk (walk.c) to exactly the end, and three rules for lone formats: a bool is
 * 0 or 1, a lone string is not NULL, and an empty format has no data. A valid
 * image of a lone format, as most are, is told by its few bytes, without a
 * walk; one that is not valid goes the long way, which knows why.
 *
 * A plain image has its format in the two bytes at FORMAT and its data right
 * behind, so writing or reading one is a handful of stores or loads: no tpl,
 * no plan, no malloc.
 *
 * Canonical numbers: an int is "I", or "U" above INT64_MAX; a double is "f"
 * with one NaN and no negative zero. So equal numbers have equal images.
 */
#include "core/image.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/walk.h"

#define FORMAT 8          /* offset of the format */
#define DATA (FORMAT + 2) /* of the data behind a format of one letter */
#define HEAD_STRING (DATA + 4)

/* ----------------------------------------------------------- the head -- */

/* The head of a plain image of SIZE bytes; where its data belong. */
static unsigned char *
head(void *buffer, char format, size_t size)
{
    unsigned char *image = buffer;
    uint32_t size32 = (uint32_t)size;
    memcpy(image, "tpl", 3);
    image[3] = format == 's' ? 2 : 0;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    image[3] |= 1;
#endif
    memcpy(image + 4, &size32, 4);
    image[FORMAT] = (unsigned char)format;
    if (format)
        image[FORMAT + 1] = 0;
    return image + DATA;
}

/* ---------------------------------------------------------- the check -- */

static int
bad(const char *what, size_t at, size_t size)
{
    return zp__fail(ZP_EVALUE, "not a valid image: %s at byte %zu of %zu", what,
                    at, size);
}

/* Walk to the end, which has to be that of the image. */
static int
check_data(zp__walk *walk, size_t size)
{
    zp__item item;
    int kind;
    while ((kind = zp__walk_next(walk, &item)) > 0) {
        if (kind == ZP__OPEN && item.op->flat)
            kind = zp__walk_skip(walk, &item);
        if (kind < 0)
            break;
    }
    if (kind < 0)
        return kind;
    if (walk->at != walk->end)
        return bad("bytes behind its end", (size_t)(walk->at - walk->start),
                   size);
    return 0;
}

static int
check_plain(const unsigned char *image, size_t size)
{
    uint32_t length;
    if (!image[FORMAT] || image[FORMAT + 1])
        return 0;
    if (image[FORMAT] == 'c' && image[DATA] > 1)
        return bad("a bool is neither 0 nor 1", DATA, size);
    if (image[FORMAT] == 's') {
        memcpy(&length, image + DATA, 4);
        if (length == 0)
            return bad("a lone string is NULL", DATA, size);
    }
    return 0;
}

/* Bytes behind the lone FORMAT, of strings and bytes those of their length; 0:
 * it is none. */
static size_t
width_of(unsigned char format)
{
    switch (format) {
    case 'c':
        return 1;
    case 'j':
    case 'v':
        return 2;
    case 'i':
    case 'u':
    case 's':
    case 'B':
        return 4;
    case 'I':
    case 'U':
    case 'f':
        return 8;
    default:
        return 0;
    }
}

static bool
is_valid_text(const unsigned char *image, size_t size)
{
    bool string = image[FORMAT] == 's';
    size_t length = size - HEAD_STRING;
    uint32_t stored;
    memcpy(&stored, image + DATA, 4);
    return stored == length + string &&
           !(string && memchr(image + HEAD_STRING, 0, length));
}

/* Is it a valid image of a lone format? */
static bool
is_valid_lone(const unsigned char *image, size_t size)
{
    unsigned char expected[DATA];
    if (size <= DATA || size > ZP__IMAGE_MAX)
        return false;
    unsigned char format = image[FORMAT];
    size_t width = width_of(format);
    if (width == 0 || size < DATA + width)
        return false;
    head(expected, (char)format, size);
    if (memcmp(image, expected, DATA) != 0)
        return false;
    if (format == 's' || format == 'B')
        return is_valid_text(image, size);
    return size == DATA + width && (format != 'c' || image[DATA] <= 1);
}

int
zp__image_check(const void *image, size_t size)
{
    zp__plan plan;
    zp__walk walk;
    if (!image)
        return zp__fail(ZP_EVALUE, "not a valid image: it is NULL");
    if (is_valid_lone(image, size))
        return 0;
    int rc = zp__walk_image(&walk, &plan, image, size);
    if (rc == 0)
        rc = check_data(&walk, size);
    return rc < 0 ? rc : check_plain(image, size);
}

/* ----------------------------------------------------- what an image is -- */

/* The letter of a lone format; 0 of none, '(' of a composite. */
static char
letter(const void *image)
{
    const char *format = (const char *)image + FORMAT;
    return format[0] && format[1] ? '(' : format[0];
}

static int
type_of_letter(char c)
{
    switch (c) {
    case 0:
        return ZP_NONE;
    case 'c':
        return ZP_BOOL;
    case 'j':
    case 'v':
    case 'i':
    case 'u':
    case 'I':
    case 'U':
        return ZP_INT;
    case 'f':
        return ZP_DOUBLE;
    case 's':
        return ZP_STRING;
    case 'B':
        return ZP_BYTES;
    default:
        return ZP_COMPOSITE;
    }
}

int
zp__image_type(const void *image, size_t size)
{
    (void)size;
    return type_of_letter(letter(image));
}

const char *
zp__image_format(const void *image, size_t size)
{
    (void)size;
    return (const char *)image + FORMAT;
}

size_t
zp__image_data(const void *image, size_t size)
{
    const char *format = zp__image_format(image, size), *c = format;
    size_t pounds = 0;
    for (; *c; c++)
        pounds += *c == '#';
    return FORMAT + (size_t)(c - format) + 1 + 4 * pounds;
}

/* ------------------------------------------------------------ writing -- */

size_t
zp__image_none(void *buffer)
{
    head(buffer, 0, FORMAT + 1);
    return FORMAT + 1;
}

size_t
zp__image_bool(void *buffer, bool value)
{
    *head(buffer, 'c', DATA + 1) = value;
    return DATA + 1;
}

size_t
zp__image_int(void *buffer, int64_t value)
{
    memcpy(head(buffer, 'I', DATA + 8), &value, 8);
    return DATA + 8;
}

size_t
zp__image_uint(void *buffer, uint64_t value)
{
    char format = value > INT64_MAX ? 'U' : 'I';
    memcpy(head(buffer, format, DATA + 8), &value, 8);
    return DATA + 8;
}

size_t
zp__image_double(void *buffer, double value)
{
    if (isnan(value))
        value = (double)NAN;
    if (value == 0)
        value = 0;
    memcpy(head(buffer, 'f', DATA + 8), &value, 8);
    return DATA + 8;
}

size_t
zp__image_string_size(size_t length)
{
    return HEAD_STRING + length;
}

void
zp__image_string(void *buffer, const char *value, size_t length)
{
    uint32_t stored = (uint32_t)length + 1;
    unsigned char *data = head(buffer, 's', HEAD_STRING + length);
    memcpy(data, &stored, 4);
    if (length)
        memcpy(data + 4, value, length);
}

size_t
zp__image_bytes_size(size_t length)
{
    return HEAD_STRING + length;
}

void
zp__image_bytes(void *buffer, const void *value, size_t length)
{
    uint32_t stored = (uint32_t)length;
    unsigned char *data = head(buffer, 'B', HEAD_STRING + length);
    memcpy(data, &stored, 4);
    if (length)
        memcpy(data + 4, value, length);
}

/* ------------------------------------------------------------ reading -- */

static int
other_type(const void *image, size_t size, const char *asked)
{
    char what[160];
    return zp__fail(ZP_ETYPE, "%s is stored, %s was asked",
                    zp__image_what(image, size, what, sizeof(what)), asked);
}

int
zp__image_get_bool(const void *image, size_t size, bool *ret)
{
    if (letter(image) != 'c')
        return other_type(image, size, "a bool");
    *ret = ((const unsigned char *)image)[DATA] != 0;
    return 0;
}

/* An int of any width: its bits as those of an int64_t; *RET_BIG if they are
 * to be read as unsigned. False: it is no int. */
static bool
load_int(const void *image, int64_t *ret, bool *ret_big)
{
    const unsigned char *data = (const unsigned char *)image + DATA;
    union {
        int16_t j;
        uint16_t v;
        int32_t i;
        uint32_t u;
        int64_t I;
    } n;
    char c = letter(image);
    *ret_big = false;
    switch (c) {
    case 'I':
    case 'U':
        memcpy(&n.I, data, 8);
        *ret = n.I;
        *ret_big = c == 'U' && n.I < 0;
        return true;
    case 'i':
        memcpy(&n.i, data, 4);
        *ret = n.i;
        return true;
    case 'u':
        memcpy(&n.u, data, 4);
        *ret = n.u;
        return true;
    case 'j':
        memcpy(&n.j, data, 2);
        *ret = n.j;
        return true;
    case 'v':
        memcpy(&n.v, data, 2);
        *ret = n.v;
        return true;
    default:
        return false;
    }
}

int
zp__image_get_int(const void *image, size_t size, int64_t *ret)
{
    int64_t value;
    bool big;
    if (!load_int(image, &value, &big))
        return other_type(image, size, "an int");
    if (big)
        return zp__fail(-ERANGE, "%llu is stored, an int64_t was asked",
                        (unsigned long long)value);
    *ret = value;
    return 0;
}

int
zp__image_get_uint(const void *image, size_t size, uint64_t *ret)
{
    int64_t value;
    bool big;
    if (!load_int(image, &value, &big))
        return other_type(image, size, "an int");
    if (value < 0 && !big)
        return zp__fail(-ERANGE, "%lld is stored, a uint64_t was asked",
                        (long long)value);
    *ret = (uint64_t)value;
    return 0;
}

/* May VALUE be stored as LETTER? */
static bool
fits(int64_t value, char atom)
{
    switch (atom) {
    case 'c':
        return value >= 0 && value <= UINT8_MAX;
    case 'v':
        return value >= 0 && value <= UINT16_MAX;
    case 'j':
        return value >= INT16_MIN && value <= INT16_MAX;
    case 'u':
        return value >= 0 && value <= UINT32_MAX;
    case 'i':
        return value >= INT32_MIN && value <= INT32_MAX;
    default:
        return true;
    }
}

/* Conversions to fewer bits keep the value: it fits. */
static void
store_int(int64_t value, char atom, void *ret)
{
    uint8_t n8 = (uint8_t)value;
    uint16_t n16 = (uint16_t)value;
    uint32_t n32 = (uint32_t)value;
    switch (atom) {
    case 'c':
        memcpy(ret, &n8, 1);
        break;
    case 'v':
    case 'j':
        memcpy(ret, &n16, 2);
        break;
    case 'u':
    case 'i':
        memcpy(ret, &n32, 4);
        break;
    default:
        memcpy(ret, &value, 8);
    }
}

int
zp__image_get_as(const void *image, size_t size, char atom, void *ret)
{
    int64_t value;
    uint64_t unsigned_value;
    if (atom == 'U') {
        int rc = zp__image_get_uint(image, size, &unsigned_value);
        if (rc == 0)
            memcpy(ret, &unsigned_value, 8);
        return rc;
    }
    int rc = zp__image_get_int(image, size, &value);
    if (rc < 0)
        return rc;
    if (!fits(value, atom))
        return zp__fail(-ERANGE, "%lld is stored, which does not fit into %c",
                        (long long)value, atom);
    store_int(value, atom, ret);
    return 0;
}

int
zp__image_get_double(const void *image, size_t size, double *ret)
{
    if (letter(image) != 'f')
        return other_type(image, size, "a double");
    memcpy(ret, (const unsigned char *)image + DATA, 8);
    return 0;
}

int
zp__image_get_string(const void *image, size_t size, const char **ret,
                     size_t *ret_length)
{
    if (letter(image) != 's')
        return other_type(image, size, "a string");
    *ret = (const char *)image + HEAD_STRING;
    *ret_length = size - HEAD_STRING;
    return 0;
}

int
zp__image_get_bytes(const void *image, size_t size, const void **ret,
                    size_t *ret_length)
{
    if (letter(image) != 'B')
        return other_type(image, size, "bytes");
    *ret = (const unsigned char *)image + HEAD_STRING;
    *ret_length = size - HEAD_STRING;
    return 0;
}

size_t
zp__image_canonical(void *buffer, size_t size)
{
    int64_t value;
    double number;
    bool big;
    if (load_int(buffer, &value, &big)) {
        if (big)
            return zp__image_uint(buffer, (uint64_t)value);
        return zp__image_int(buffer, value);
    }
    if (letter(buffer) != 'f')
        return size;
    memcpy(&number, (unsigned char *)buffer + DATA, 8);
    return zp__image_double(buffer, number);
}

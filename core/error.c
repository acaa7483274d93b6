/*
 * error.c - codes and their texts.
 *
 * Two thread-local buffers: what was kept for the last failure (with its
 * code, so that a code that comes up without a text finds out whether one was
 * kept for it), and the text of an errno that zp_strerror() was asked for.
 * The table of our own codes is made from ZP_ERRORS in zp.h, the one place
 * where they stand.
 */
#include "core/error.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local struct {
    int code;
    char text[ZP__ERROR_MAX];
} kept;

static _Thread_local char errno_text[128];

#define TEXT(major, minor, patch) #major "." #minor "." #patch
#define VERSION(major, minor, patch) TEXT(major, minor, patch)

const char *
zp_version(void)
{
    return VERSION(ZP_VERSION_MAJOR, ZP_VERSION_MINOR, ZP_VERSION_PATCH);
}

/* A message is one line, whatever keys and names hold; bytes above 0x7f are
 * left alone: they are UTF-8, most likely. */
static void
make_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

/* Do not end in the middle of a UTF-8 character that was cut. */
static void
trim_cut(char *text, size_t length)
{
    size_t start = length;
    while (start > 0 && length - start < 4 &&
           ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start > 0 && (unsigned char)text[start - 1] >= 0xc0)
        text[start - 1] = 0;
}

/* Keep the text of CODE. It is made aside, since the arguments may point into
 * the text that was kept before ("%s: %s", what, zp__fail_text()). */
static void
keep(int code, int errnum, const char *format, va_list ap)
{
    char text[ZP__ERROR_MAX];
    int n = vsnprintf(text, sizeof(text), format, ap);
    if (n < 0)
        n = snprintf(text, sizeof(text), "%s", zp_strerror(code));
    if (errnum && (size_t)n < sizeof(text))
        n += snprintf(text + n, sizeof(text) - (size_t)n, ": %s",
                      zp_strerror(-errnum));
    if ((size_t)n >= sizeof(text))
        trim_cut(text, sizeof(text) - 1);
    make_line(text);
    kept.code = code;
    memcpy(kept.text, text, sizeof(text));
}

int
zp__fail(int code, const char *format, ...)
{
    int saved = errno;
    va_list ap;
    va_start(ap, format);
    keep(code, 0, format, ap);
    va_end(ap);
    errno = saved;
    return code;
}

int
zp__fail_errno(int errnum, const char *format, ...)
{
    int saved = errno;
    va_list ap;
    va_start(ap, format);
    keep(-errnum, errnum, format, ap);
    va_end(ap);
    errno = saved;
    return -errnum;
}

const char *
zp__fail_text(void)
{
    return kept.text;
}

int
zp__fail_code(int code)
{
    if (code < 0 && (code != kept.code || !kept.text[0]))
        zp__fail(code, "%s", zp_strerror(code));
    return code;
}

static const char *
own_text(int error)
{
    switch (error) {
#define CASE(name, code, text)                                                 \
    case name:                                                                 \
        return text;
        ZP_ERRORS(CASE)
#undef CASE
    default:
        return NULL;
    }
}

const char *
zp_strerror(int error)
{
    int saved = errno;
    const char *text = own_text(error);
    if (error == 0)
        text = "success";
    if (!text && error < 0 && error > -4096) {
        /* GNU's form: the text is static, or in the buffer. */
        text = strerror_r(-error, errno_text, sizeof(errno_text));
    }
    if (!text) {
        snprintf(errno_text, sizeof(errno_text), "unknown error %d", error);
        text = errno_text;
    }
    errno = saved;
    return text;
}

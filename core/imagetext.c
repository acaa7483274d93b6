/*
 * imagetext.c - images for people: in messages, listings, debuggers.
 *
 *     none  true  42  0.5  "text"  b"\x00bytes"
 *     is(1, "a")                       fields in the order of the format
 *     A(i)[1, 2, 3]                    an array; of several fields:
 *     A(is)[(1, "a"), (2, NULL)]
 *     i#(3)[1, 2, 3]                   the number behind a # in parentheses
 *     S(is)#(2)[(1, "a"), (2, "b")]
 *     iA(S(ij)sA(c))(7, [((1, 2), "x", [3, 4])])
 *
 * Text goes into a sink that counts all of it and keeps what fits. Quotes,
 * backslashes, control characters and what is not UTF-8 are escaped, so that
 * the text is one line and valid UTF-8, whatever the value holds.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/image.h"
#include "core/walk.h"

struct sink {
    char *buffer;
    size_t room; /* without the NUL; 0: there is no buffer */
    size_t length;
};

/* -------------------------------------------------------------- sink -- */

static void
put(struct sink *sink, const char *text, size_t size)
{
    if (sink->length < sink->room) {
        size_t fits = sink->room - sink->length;
        memcpy(sink->buffer + sink->length, text, size < fits ? size : fits);
    }
    sink->length += size;
}

static void
puts_to(struct sink *sink, const char *text)
{
    put(sink, text, strlen(text));
}

static struct sink
sink_on(char *buffer, size_t size)
{
    return (struct sink){buffer, buffer && size ? size - 1 : 0, 0};
}

/* Terminate; a text that did not fit ends in "...", before which no UTF-8
 * character is left in pieces. */
static int
finish(struct sink *sink, size_t size)
{
    size_t end = sink->length;
    if (sink->buffer && size > 0) {
        if (end > sink->room) {
            end = sink->room > 3 ? sink->room - 3 : 0;
            while (end > 0 && ((unsigned char)sink->buffer[end] & 0xc0) == 0x80)
                end--;
            for (int dots = 0; dots < 3 && end < sink->room; dots++)
                sink->buffer[end++] = '.';
        }
        sink->buffer[end] = 0;
    }
    return sink->length > INT32_MAX ? INT32_MAX : (int)sink->length;
}

/* ------------------------------------------------------------- atoms -- */

/* Bytes of the UTF-8 character at TEXT, or 0: it is none, or a control. */
static size_t
utf8_length(const unsigned char *text, size_t left)
{
    unsigned char c = text[0];
    if (c < 0x80)
        return c >= 0x20 && c != 0x7f;
    size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    /* Overlong forms, surrogates, C1 controls, beyond U+10FFFF. */
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f) ||
        (c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] > 0x8f) ||
        (c == 0xc2 && text[1] < 0xa0))
        return 0;
    return n;
}

static void
put_escaped(struct sink *sink, unsigned char c)
{
    char text[8];
    switch (c) {
    case '\n':
        puts_to(sink, "\\n");
        break;
    case '\t':
        puts_to(sink, "\\t");
        break;
    case '\r':
        puts_to(sink, "\\r");
        break;
    case '"':
    case '\\':
        snprintf(text, sizeof(text), "\\%c", c);
        puts_to(sink, text);
        break;
    default:
        snprintf(text, sizeof(text), "\\x%02x", c);
        puts_to(sink, text);
    }
}

/* SIZE bytes in quotes; as bytes only ASCII stands for itself. */
static void
put_quoted(struct sink *sink, const unsigned char *data, size_t size,
           bool bytes)
{
    puts_to(sink, bytes ? "b\"" : "\"");
    for (size_t i = 0; i < size;) {
        size_t n = utf8_length(data + i, size - i);
        if (data[i] == '"' || data[i] == '\\' || (bytes && n > 1))
            n = 0;
        if (n)
            put(sink, (const char *)data + i, n);
        else
            put_escaped(sink, data[i]);
        i += n ? n : 1;
    }
    puts_to(sink, "\"");
}

/* The fewest digits that read back the same, and always with something that
 * tells a double from an int. The decimal point is one, whatever the locale. */
static void
put_double(struct sink *sink, double value)
{
    char text[40];
    if (isnan(value) || isinf(value)) {
        puts_to(sink, isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    if (!text[strspn(text, "-0123456789")])
        strcat(text, ".0");
    size_t digits = strspn(text, "-0123456789");
    if (text[digits] && text[digits] != 'e') {
        /* A comma, or another mark of several bytes. */
        size_t mark = strcspn(text + digits, "0123456789");
        text[digits] = '.';
        memmove(text + digits + 1, text + digits + mark,
                strlen(text + digits + mark) + 1);
    }
    puts_to(sink, text);
}

static void
put_number(struct sink *sink, char type, const unsigned char *data)
{
    union {
        int16_t j;
        uint16_t v;
        int32_t i;
        uint32_t u;
        int64_t I;
        uint64_t U;
        double f;
    } n;
    char text[32];
    switch (type) {
    case 'c':
        snprintf(text, sizeof(text), "%u", data[0]);
        break;
    case 'j':
        memcpy(&n.j, data, 2);
        snprintf(text, sizeof(text), "%d", n.j);
        break;
    case 'v':
        memcpy(&n.v, data, 2);
        snprintf(text, sizeof(text), "%u", n.v);
        break;
    case 'i':
        memcpy(&n.i, data, 4);
        snprintf(text, sizeof(text), "%ld", (long)n.i);
        break;
    case 'u':
        memcpy(&n.u, data, 4);
        snprintf(text, sizeof(text), "%lu", (unsigned long)n.u);
        break;
    case 'I':
        memcpy(&n.I, data, 8);
        snprintf(text, sizeof(text), "%lld", (long long)n.I);
        break;
    case 'U':
        memcpy(&n.U, data, 8);
        snprintf(text, sizeof(text), "%llu", (unsigned long long)n.U);
        break;
    default:
        memcpy(&n.f, data, 8);
        put_double(sink, n.f);
        return;
    }
    puts_to(sink, text);
}

/* -------------------------------------------------------- composites -- */

/* What is open on the way through a composite. */
struct printer {
    struct sink *sink;
    int depth;
    struct {
        bool comma;    /* the next item needs one before it */
        bool brackets; /* its elements stand in [ ], */
        bool each;     /* and each in ( ) */
        bool inside;   /* such an element is open */
    } level[2 * ZP__NEST_MAX];
};

static void
comma(struct printer *p)
{
    if (p->level[p->depth].comma)
        puts_to(p->sink, ", ");
    p->level[p->depth].comma = true;
}

static void
open_level(struct printer *p, const zp__op *op)
{
    bool many = op->type == 'A' || op->many;
    comma(p);
    p->depth++;
    p->level[p->depth].comma = false;
    p->level[p->depth].brackets = many;
    p->level[p->depth].each = op->type == 'S' || !op->single;
    p->level[p->depth].inside = false;
    if (many)
        puts_to(p->sink, "[");
}

static void
end_element(struct printer *p)
{
    if (p->level[p->depth].inside)
        puts_to(p->sink, ")");
    p->level[p->depth].inside = false;
}

static void
next_element(struct printer *p)
{
    end_element(p);
    if (!p->level[p->depth].each)
        return;
    if (p->level[p->depth].comma)
        puts_to(p->sink, ", ");
    puts_to(p->sink, "(");
    p->level[p->depth].inside = true;
    p->level[p->depth].comma = false;
}

static void
close_level(struct printer *p)
{
    end_element(p);
    if (p->level[p->depth].brackets)
        puts_to(p->sink, "]");
    p->depth--;
}

static void
put_numbers(struct printer *p, const zp__item *item)
{
    comma(p);
    if (item->op->many)
        puts_to(p->sink, "[");
    for (uint32_t i = 0; i < item->count; i++) {
        if (i)
            puts_to(p->sink, ", ");
        put_number(p->sink, item->op->type,
                   item->data + (size_t)i * item->op->width);
    }
    if (item->op->many)
        puts_to(p->sink, "]");
}

static void
put_string(struct printer *p, const zp__item *item)
{
    bool many = item->op->many;
    bool first = item->count + 1 == item->op->count;
    comma(p);
    if (many && first)
        puts_to(p->sink, "[");
    if (item->data)
        put_quoted(p->sink, item->data, item->size, false);
    else
        puts_to(p->sink, "NULL");
    if (many && item->count == 0)
        puts_to(p->sink, "]");
}

static void
put_item(struct printer *p, const zp__item *item)
{
    switch (item->kind) {
    case ZP__NUMBERS:
        put_numbers(p, item);
        break;
    case ZP__STRING:
        put_string(p, item);
        break;
    case ZP__BYTES:
        comma(p);
        put_quoted(p->sink, item->data, item->size, true);
        break;
    case ZP__OPEN:
        open_level(p, item->op);
        break;
    case ZP__NEXT:
        next_element(p);
        break;
    case ZP__CLOSE:
        close_level(p);
        break;
    }
}

/* The format, with its numbers behind each #: "S(is)#(2)". */
static void
put_format(struct sink *sink, const char *format, const void *counts)
{
    const unsigned char *count = counts;
    for (; *format; format++) {
        put(sink, format, 1);
        if (*format == '#') {
            puts_to(sink, "(");
            put_number(sink, 'u', count);
            puts_to(sink, ")");
            count += 4;
        }
    }
}

static void
put_image_format(struct sink *sink, const void *image, size_t size)
{
    const char *format = zp__image_format(image, size);
    put_format(sink, format, format + strlen(format) + 1);
}

/* Does all of it stand in brackets of its own? One item that is an array, a
 * structure or has a #. */
static bool
is_wrapped(const zp__plan *plan)
{
    const zp__op *op = &plan->op[0];
    if (op->type == 'A' || op->type == 'S')
        return op->other == plan->ops - 1;
    return plan->ops == 1 && op->many;
}

static void
put_composite(struct sink *sink, const void *image, size_t size)
{
    struct printer p = {.sink = sink};
    zp__plan plan;
    zp__walk walk;
    zp__item item;
    if (zp__walk_image(&walk, &plan, image, size) < 0) {
        puts_to(sink, "(damaged)");
        return;
    }
    bool wrapped = is_wrapped(&plan);
    put_image_format(sink, image, size);
    if (!wrapped)
        puts_to(sink, "(");
    while (zp__walk_next(&walk, &item) > 0)
        put_item(&p, &item);
    if (!wrapped)
        puts_to(sink, ")");
}

/* ------------------------------------------------------------ images -- */

int
zp__image_text(const void *image, size_t size, char *buffer, size_t buffer_size)
{
    struct sink sink = sink_on(buffer, buffer_size);
    const unsigned char *data = image;
    const char *format = zp__image_format(image, size);
    data += zp__image_data(image, size);
    switch (zp__image_type(image, size)) {
    case ZP_NONE:
        puts_to(&sink, "none");
        break;
    case ZP_BOOL:
        puts_to(&sink, *data ? "true" : "false");
        break;
    case ZP_STRING:
    case ZP_BYTES:
        put_quoted(&sink, data + 4,
                   size - (size_t)(data + 4 - (const unsigned char *)image),
                   *format == 'B');
        break;
    case ZP_COMPOSITE:
        put_composite(&sink, image, size);
        break;
    default:
        put_number(&sink, *format, data);
    }
    return finish(&sink, buffer_size);
}

const char *
zp__image_what(const void *image, size_t size, char *buffer, size_t buffer_size)
{
    static const char *const what[] = {[ZP_NONE] = "none",
                                       [ZP_BOOL] = "a bool",
                                       [ZP_INT] = "an int",
                                       [ZP_DOUBLE] = "a double",
                                       [ZP_STRING] = "a string",
                                       [ZP_BYTES] = "bytes",
                                       [ZP_COMPOSITE] =
                                           "a composite of format "};
    struct sink sink = sink_on(buffer, buffer_size);
    int type = zp__image_type(image, size);
    puts_to(&sink, what[type]);
    if (type == ZP_COMPOSITE)
        put_image_format(&sink, image, size);
    finish(&sink, buffer_size);
    return buffer;
}

const char *
zp__format_text(const char *format, const void *counts, char *buffer,
                size_t size)
{
    struct sink sink = sink_on(buffer, size);
    put_format(&sink, format, counts);
    finish(&sink, size);
    return buffer;
}

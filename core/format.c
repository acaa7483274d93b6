/*
 * format.c - formats: the grammar, the plan, the layout of structures.
 *
 *     format    = item...
 *     item      = atom pounds | "B" | "A(" item... ")" | "S(" field... ")"
 * pounds field     = atom pounds | "$(" field... ")" atom      = c j v i u I U
 * f s pounds    = up to ten "#"
 *
 * That is less than tpl swallows. It takes "A", "AA(i)", "iS#(i)" and "A(i)#"
 * without complaint and then reads them in ways of its own, or through stale
 * pointers; a # behind $() repeats the whole structure around it. Whatever is
 * outside of the grammar above is not a format here.
 *
 * The plan counts bytes as it goes. No element of an array or structure may
 * take more than the largest image, even if the array is empty: tpl multiplies
 * the numbers behind # in ints, and allocates the products.
 *
 * tpl lays out the fields of a $() one behind the other as if it were not
 * there. C aligns an inner structure to its widest field and pads its end, so
 * with some formats tpl would look at the wrong places: both layouts are
 * computed here, and the plan says where they part (misread).
 *
 * One pass, one fixed stack of ZP__NEST_MAX frames, no recursion.
 */
#include "core/format.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "core/error.h"

/* What is open: an A(, S( or $(; the lowest frame is the format itself. */
struct frame {
    char kind;
    int op;        /* the step that opened it */
    int items;     /* atoms, A() and S() in it */
    size_t least;  /* bytes so far */
    size_t start;  /* $: offset of its first field, by tpl */
    size_t before; /* $: and where the field before it ended, by C */
    size_t align;  /* S, $: of the widest field */
    bool begun;    /* S, $: has a field */
    bool varies;   /* has what is not a number */
};

struct parser {
    zp__plan *plan;
    const char *format;
    int length;
    int at;
    const unsigned char *counts;
    struct frame frame[ZP__NEST_MAX + 1];
    int depth;
    int structure;  /* depth of the open S(, or 0 */
    size_t end_tpl; /* in a structure: where its last field ends, */
    size_t end_c;   /* and where C says that it does */
};

struct align_int64 {
    char c;
    int64_t field;
};
struct align_double {
    char c;
    double field;
};
struct align_pointer {
    char c;
    char *field;
};

/* ------------------------------------------------------------- atoms -- */

/* Bytes of an atom in the image; of a string: of its length. 0: no atom. */
static unsigned
atom_width(char type)
{
    switch (type) {
    case 'c':
        return 1;
    case 'j':
    case 'v':
        return 2;
    case 'i':
    case 'u':
    case 's':
        return 4;
    case 'I':
    case 'U':
    case 'f':
        return 8;
    default:
        return 0;
    }
}

/* Bytes and alignment of an atom in memory. */
static size_t
memory_width(char type)
{
    return type == 's' ? sizeof(char *) : atom_width(type);
}

static size_t
memory_align(char type)
{
    switch (type) {
    case 'I':
    case 'U':
        return offsetof(struct align_int64, field);
    case 'f':
        return offsetof(struct align_double, field);
    case 's':
        return offsetof(struct align_pointer, field);
    default:
        return atom_width(type);
    }
}

static size_t
align_up(size_t offset, size_t align)
{
    return (offset + align - 1) / align * align;
}

/* ------------------------------------------------------------ errors -- */

static int
bad(struct parser *p, int code, const char *why)
{
    p->plan->why = why;
    p->plan->where = p->at;
    return code;
}

int
zp__plan_fail(int code, const zp__plan *plan, const char *format, size_t length)
{
    int where = plan->where, from = where > 40 ? where - 40 : 0;
    int rest = (int)length - where;
    return zp__fail(code, "format \"%s%.*s\" >here> \"%.*s%s\": %s",
                    from ? "..." : "", where - from, format + from,
                    rest > 40 ? 40 : rest, format + where,
                    rest > 40 ? "..." : "", plan->why);
}

/* ------------------------------------------------------------ layout -- */

static void
note_misread(struct parser *p, int at)
{
    if (p->plan->misread < 0)
        p->plan->misread = at;
}

/* An atom in a structure: where do tpl and C put it? */
static void
lay_field(struct parser *p, const zp__op *op)
{
    size_t align = memory_align(op->type), width = memory_width(op->type);
    size_t offset = align_up(p->end_tpl, align);
    for (int d = p->structure; d <= p->depth; d++) {
        struct frame *frame = &p->frame[d];
        if (!frame->begun) {
            frame->begun = true;
            frame->start = offset;
            frame->before = p->end_c;
        }
        if (align > frame->align)
            frame->align = align;
    }
    /* Its first field is judged when the whole of a $() is known. */
    if (offset != align_up(p->end_c, align))
        note_misread(p, p->at);
    p->end_tpl = p->end_c = offset + width * op->count;
}

/* The way from one structure to the next is the same for both: its end, up to
 * the widest alignment. */
static void
lay_inner_end(struct parser *p, const struct frame *inner)
{
    if (align_up(inner->before, inner->align) != inner->start)
        note_misread(p, p->at);
    p->end_c = inner->start + align_up(p->end_c - inner->start, inner->align);
}

/* ------------------------------------------------------------- items -- */

static zp__op *
add_op(struct parser *p, char type)
{
    zp__op *op = &p->plan->op[p->plan->ops++];
    *op = (zp__op){.type = type, .at = (uint16_t)p->at, .count = 1};
    return op;
}

/* The # behind an atom or S(): their product into OP. */
static int
take_pounds(struct parser *p, zp__op *op)
{
    uint64_t product = 1;
    for (int n = 0; p->at + 1 < p->length && p->format[p->at + 1] == '#'; n++) {
        int32_t count = 1;
        p->at++;
        if (n == ZP__POUNDS_MAX)
            return bad(p, ZP_EFORMAT, "more than 10 # in a row");
        if (p->counts)
            memcpy(&count, p->counts + 4 * (size_t)p->plan->pounds, 4);
        if (count < 1)
            return bad(p, -EINVAL, "a fixed length below 1");
        product *= (uint32_t)count;
        if (product > ZP__IMAGE_MAX)
            return bad(p, -EMSGSIZE, "fixed lengths beyond any image");
        p->plan->pounds++;
        op->many = true;
    }
    op->count = (uint32_t)product;
    return 0;
}

/* COUNT times LEAST bytes more in the innermost frame. */
static int
add_least(struct parser *p, uint64_t count, size_t least)
{
    struct frame *frame = &p->frame[p->depth];
    frame->items++;
    /* Both are at most ZP__IMAGE_MAX: no overflow. */
    if (count * least > ZP__IMAGE_MAX - frame->least)
        return bad(p, -EMSGSIZE, "fixed lengths beyond any image");
    frame->least += (size_t)(count * least);
    return 0;
}

static int
take_atom(struct parser *p, char type)
{
    zp__op *op = add_op(p, type);
    op->width = (uint8_t)atom_width(type);
    p->frame[p->depth].varies |= type == 's';
    int rc = take_pounds(p, op);
    if (rc < 0)
        return rc;
    if (p->structure)
        lay_field(p, op);
    return add_least(p, op->count, op->width);
}

static int
take_bytes(struct parser *p)
{
    if (p->structure)
        return bad(p, ZP_EFORMAT, "B cannot stand in a structure");
    if (p->at + 1 < p->length && p->format[p->at + 1] == '#') {
        p->at++;
        return bad(p, ZP_EFORMAT, "# cannot stand behind B");
    }
    add_op(p, 'B')->width = 4;
    p->frame[p->depth].varies = true;
    return add_least(p, 1, 4);
}

/* An A(, S( or $(: P->at is left at the parenthesis. */
static int
open_frame(struct parser *p, char kind)
{
    int op = -1;
    if (p->at + 1 >= p->length || p->format[p->at + 1] != '(')
        return bad(p, ZP_EFORMAT, "a ( must follow");
    if (p->depth == ZP__NEST_MAX)
        return bad(p, ZP_EFORMAT, "nested too deep");
    if (kind != '$') {
        op = p->plan->ops;
        add_op(p, kind);
    }
    p->at++;
    p->frame[++p->depth] = (struct frame){.kind = kind, .op = op};
    return 0;
}

static int
open_array(struct parser *p)
{
    if (p->structure)
        return bad(p, ZP_EFORMAT, "A() cannot stand in a structure");
    int rc = open_frame(p, 'A');
    if (rc == 0)
        p->plan->op[p->plan->ops - 1].count = (uint32_t)++p->plan->arrays;
    return rc;
}

static int
open_structure(struct parser *p)
{
    if (p->structure)
        return bad(p, ZP_EFORMAT, "S() in a structure is written $()");
    int rc = open_frame(p, 'S');
    if (rc == 0) {
        p->structure = p->depth;
        p->end_tpl = p->end_c = 0;
    }
    return rc;
}

static int
open_inner(struct parser *p)
{
    if (!p->structure)
        return bad(p, ZP_EFORMAT, "$() stands in a structure only");
    return open_frame(p, '$');
}

/* The end step of FRAME, its beginning completed; the beginning. */
static zp__op *
end_op(struct parser *p, const struct frame *frame)
{
    zp__op *begin = &p->plan->op[frame->op];
    begin->other = (uint16_t)p->plan->ops;
    begin->least = (uint32_t)frame->least;
    begin->single = frame->items == 1;
    begin->flat = !frame->varies;
    add_op(p, ')')->other = (uint16_t)frame->op;
    return begin;
}

static int
close_frame(struct parser *p)
{
    struct frame frame = p->frame[p->depth];
    if (p->depth == 0)
        return bad(p, ZP_EFORMAT, "nothing is open here");
    if (frame.items == 0)
        return bad(p, ZP_EFORMAT, "nothing in the parentheses");
    p->depth--;
    p->frame[p->depth].varies |= frame.varies || frame.kind == 'A';
    if (frame.kind == '$') {
        lay_inner_end(p, &frame);
        p->frame[p->depth].items += frame.items - 1;
        return add_least(p, 1, frame.least);
    }
    zp__op *begin = end_op(p, &frame);
    if (frame.kind == 'A')
        return add_least(p, 1, 4);
    p->structure = 0;
    int rc = take_pounds(p, begin);
    if (rc < 0)
        return rc;
    return add_least(p, begin->count, frame.least);
}

static int
take_item(struct parser *p)
{
    char c = p->format[p->at];
    if (atom_width(c))
        return take_atom(p, c);
    switch (c) {
    case 'B':
        return take_bytes(p);
    case 'A':
        return open_array(p);
    case 'S':
        return open_structure(p);
    case '$':
        return open_inner(p);
    case ')':
        return close_frame(p);
    case '(':
        return bad(p, ZP_EFORMAT, "( stands behind A, S or $ only");
    case '#':
        return bad(p, ZP_EFORMAT, "# stands behind an atom or S() only");
    default:
        return bad(p, ZP_EFORMAT, "no such type");
    }
}

int
zp__plan_make(zp__plan *ret, const char *format, size_t length,
              const void *counts)
{
    struct parser p = {.plan = ret, .format = format, .counts = counts};
    ret->ops = ret->pounds = ret->arrays = 0;
    ret->misread = -1;
    ret->why = "";
    ret->where = 0;
    if (length > ZP__FORMAT_MAX)
        return bad(&p, ZP_EFORMAT, "longer than 1024 bytes");
    p.length = (int)length;
    for (; p.at < p.length; p.at++) {
        int rc = take_item(&p);
        if (rc < 0)
            return rc;
    }
    if (p.depth > 0)
        return bad(&p, ZP_EFORMAT, "a ) is missing");
    ret->least = p.frame[0].least;
    return 0;
}

int
zp__format_check(const char *format, int *ret_pounds, int *ret_arrays)
{
    zp__plan plan;
    if (!format)
        return zp__fail(ZP_EFORMAT, "the format is NULL");
    size_t length = strnlen(format, ZP__FORMAT_MAX + 1);
    int rc = zp__plan_make(&plan, format, length, NULL);
    if (rc < 0)
        return zp__plan_fail(rc, &plan, format, length);
    if (ret_pounds)
        *ret_pounds = plan.pounds;
    if (ret_arrays)
        *ret_arrays = plan.arrays;
    return 0;
}

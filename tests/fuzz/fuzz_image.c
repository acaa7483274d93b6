/*
 * fuzz_image.c - foreign bytes at the border: what zp__image_check() lets in
 * must be safe to read in every way, mean to tpl what it means to us, and come
 * out again as the same bytes.
 *
 * Each input is taken twice: as it is, and with its head put right ("tpl",
 * flags, size), so that mutations reach the format and the data behind it.
 *
 * The corpus has an image of each plain form, of many composites (named after
 * their formats), and images that crashed a naive use of tpl (crasher-*; those
 * called *-selector have a byte in front). tests/fuzz/corpus/image.list names
 * all files; those with a hash for a name were found by the fuzzer.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tpl.h>

#include "core/error.h"
#include "core/value.h"
#include "core/walk.h"

#define ARGUMENTS 24             /* more of them are not tried with tpl */
#define MEMORY ((size_t)1 << 20) /* nor is what takes more than this */

#define must(condition)                                                        \
    do {                                                                       \
        if (!(condition))                                                      \
            die(#condition, __LINE__);                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Noreturn void
die(const char *condition, int line)
{
    fprintf(stderr, "fuzz_image.c:%d: not so: %s (%s)\n", line, condition,
            zp__fail_text());
    abort();
}

/* ------------------------------------------------------------ readers -- */

static void
try_text(const uint8_t *image, size_t size)
{
    char what[64], cut[16];
    int length = zp__image_text(image, size, NULL, 0);
    must(length > 0);
    char *text = malloc((size_t)length + 1);
    must(text);
    must(zp__image_text(image, size, text, (size_t)length + 1) == length);
    must(strlen(text) == (size_t)length);
    for (size_t room = 1; room <= sizeof(cut); room++) {
        must(zp__image_text(image, size, cut, room) == length);
        must(strlen(cut) < room);
    }
    must(zp__image_what(image, size, what, sizeof(what)) == what);
    free(text);
}

static void
try_readers(const uint8_t *image, size_t size)
{
    bool truth;
    int64_t number;
    uint64_t natural;
    double real;
    const char *text;
    const void *data;
    size_t length;
    int type = zp__image_type(image, size);
    bool ranged;
    must((zp__image_get_bool(image, size, &truth) == 0) == (type == ZP_BOOL));
    int rc = zp__image_get_int(image, size, &number);
    int rc2 = zp__image_get_uint(image, size, &natural);
    ranged = (rc == 0 || rc == -ERANGE) && (rc2 == 0 || rc2 == -ERANGE);
    must(ranged == (type == ZP_INT));
    must(type != ZP_INT || rc == 0 || rc2 == 0);
    must(rc || rc2 || (uint64_t)number == natural);
    rc = zp__image_get_double(image, size, &real);
    must((rc == 0) == (type == ZP_DOUBLE));
    rc = zp__image_get_string(image, size, &text, &length);
    must((rc == 0) == (type == ZP_STRING));
    must(rc || (strlen(text = strndup(text, length)) == length &&
                (free((void *)text), true)));
    rc = zp__image_get_bytes(image, size, &data, &length);
    must((rc == 0) == (type == ZP_BYTES));
    must(zp__image_data(image, size) <= size);
}

/* Canonical once is canonical for good, and stays an image of its type. */
static void
try_canonical(const uint8_t *image, size_t size)
{
    uint8_t *copy = malloc(size + 8), *again = malloc(size + 16);
    must(copy && again);
    memcpy(copy, image, size);
    size_t canonical = zp__image_canonical(copy, size);
    must(zp__image_check(copy, canonical) == 0);
    must(zp__image_type(copy, canonical) == zp__image_type(image, size));
    memcpy(again, copy, canonical);
    must(zp__image_canonical(again, canonical) == canonical);
    must(memcmp(copy, again, canonical) == 0);
    free(copy);
    free(again);
}

static void
try_append_one(const uint8_t *image, size_t size, const void *element,
               size_t element_size)
{
    void *result;
    size_t result_size;
    int rc = zp__image_append(&result, &result_size, image, size, element,
                              element_size, ZP__IMAGE_MAX);
    must(rc == 0 || rc == ZP_ETYPE || rc == -ERANGE);
    if (rc == 0) {
        must(zp__image_check(result, result_size) == 0);
        must(result_size >= size);
        free(result);
    }
}

static void
try_append(const uint8_t *image, size_t size)
{
    uint8_t element[ZP__PLAIN_MAX];
    try_append_one(image, size, image, size);
    try_append_one(image, size, element, zp__image_int(element, 77));
    try_append_one(image, size, element, zp__image_int(element, -1));
    try_append_one(image, size, element, zp__image_double(element, 0.5));
    try_append_one(image, size, element, zp__image_bool(element, true));
    try_append_one(image, size, element, zp__image_none(element));
    try_append_one(element, zp__image_none(element), image, size);
}

/* ---------------------------------------------------------- addresses -- */

/* A field that holds memory of its own once it was unpacked. */
struct owner {
    char type;
    int index;         /* of the A() that it stands in */
    unsigned char *at; /* the first */
    size_t count;      /* side by side */
    size_t repeat;     /* structures, */
    size_t stride;     /* from one to the next */
};

/* What stands behind a format: made up to fit. */
struct arguments {
    void *argument[ARGUMENTS]; /* addresses, and the numbers of # */
    int n;
    unsigned char *memory;
    size_t used;
    struct owner owner[ZP__FORMAT_MAX];
    int owners;
    int parent[ZP__FORMAT_MAX];
    int arrays;
};

static size_t
width(char type)
{
    return type == 's'           ? sizeof(char *)
           : strchr("IUf", type) ? 8
           : strchr("iu", type)  ? 4
           : type == 'c'         ? 1
                                 : 2;
}

/* The fields of a structure: their layout, and where its strings are. */
static size_t
lay_structure(struct arguments *a, const zp__plan *plan, int op, int index)
{
    const zp__op *s = &plan->op[op];
    size_t end = 0, widest = 1;
    int first = a->owners;
    for (int i = op + 1; i < s->other; i++) {
        const zp__op *field = &plan->op[i];
        size_t size = width(field->type);
        end = (end + size - 1) / size * size;
        if (field->type == 's')
            a->owner[a->owners++] = (struct owner){
                's',          index,    a->memory + a->used + end,
                field->count, s->count, 0};
        end += size * field->count;
        widest = size > widest ? size : widest;
        if (end > MEMORY)
            return SIZE_MAX;
    }
    size_t stride = (end + widest - 1) / widest * widest;
    for (int i = first; i < a->owners; i++)
        a->owner[i].stride = stride;
    return stride * s->count;
}

/* An address of SIZE bytes. */
static bool
take_memory(struct arguments *a, size_t size)
{
    if (size > MEMORY - a->used || a->n == ARGUMENTS)
        return false;
    a->argument[a->n++] = a->memory + a->used;
    a->used += (size + 15) / 16 * 16;
    return a->used <= MEMORY;
}

/* The numbers behind the # from FORMAT + AT on; COUNTS goes on. */
static bool
take_counts(struct arguments *a, const char *format, int at,
            const unsigned char **counts)
{
    for (; format[at] == '#'; at++) {
        int32_t count;
        memcpy(&count, *counts, 4);
        *counts += 4;
        if (a->n == ARGUMENTS)
            return false;
        a->argument[a->n++] = (void *)(intptr_t)count;
    }
    return true;
}

/* An atom or B outside of structures, or a whole S(). */
static bool
take_field(struct arguments *a, const zp__plan *plan, int op, int index,
           const char *format, const unsigned char **counts)
{
    const zp__op *field = &plan->op[op];
    unsigned char *at = a->memory + a->used;
    if (field->type == 'B') {
        a->owner[a->owners++] = (struct owner){'B', index, at, 1, 1, 0};
        return take_memory(a, sizeof(zp_bin));
    }
    if (field->type != 'S') {
        if (field->type == 's')
            a->owner[a->owners++] =
                (struct owner){'s', index, at, field->count, 1, 0};
        return take_memory(a, width(field->type) * field->count) &&
               take_counts(a, format, field->at + 1, counts);
    }
    size_t size = lay_structure(a, plan, op, index);
    if (size > MEMORY || !take_memory(a, size))
        return false;
    for (int i = op + 1; i < field->other; i++)
        if (!take_counts(a, format, plan->op[i].at + 1, counts))
            return false;
    return take_counts(a, format, plan->op[field->other].at + 1, counts);
}

/* False: too much, not tried. */
static bool
make_arguments(struct arguments *a, const zp__plan *plan, const char *format)
{
    const unsigned char *counts =
        (const unsigned char *)format + strlen(format) + 1;
    int inner[ZP__NEST_MAX + 1] = {0}, depth = 0;
    a->parent[0] = -1;
    for (int i = 0; i < plan->ops; i++) {
        const zp__op *op = &plan->op[i];
        if (op->type == 'A') {
            a->parent[op->count] = inner[depth];
            inner[++depth] = (int)op->count;
            a->arrays++;
        } else if (op->type == ')')
            depth--;
        else if (!take_field(a, plan, i, inner[depth], format, &counts))
            return false;
        if (op->type == 'S')
            i = op->other;
    }
    return true;
}

static void
release(struct arguments *a, int index)
{
    for (int i = 0; i < a->owners; i++) {
        const struct owner *o = &a->owner[i];
        if (o->index != index)
            continue;
        if (o->type == 'B') {
            free(((zp_bin *)o->at)->addr);
            memset(o->at, 0, sizeof(zp_bin));
            continue;
        }
        for (size_t r = 0; r < o->repeat; r++)
            for (size_t c = 0; c < o->count; c++) {
                char **s = (char **)(o->at + r * o->stride) + c;
                free(*s);
                *s = NULL;
            }
    }
}

/* As many arguments as there may be: those that FORMAT does not take are not
 * looked at. A number is passed like an address. */
#define A4(a, i)                                                               \
    (a)->argument[i], (a)->argument[(i) + 1], (a)->argument[(i) + 2],          \
        (a)->argument[(i) + 3]
#define ALL(a) A4(a, 0), A4(a, 4), A4(a, 8), A4(a, 12), A4(a, 16), A4(a, 20)

static int
encode(zp__encoded *ret, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int rc = zp__encode(ret, format, ap);
    va_end(ap);
    return rc;
}

static int
decode(const uint8_t *image, size_t size, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int rc = zp__decode(image, size, format, ap);
    va_end(ap);
    return rc;
}

/* -------------------------------------------------------- through tpl -- */

/* What stands in index I, element by element from one map to the other. */
static void
copy_inner(struct arguments *a, zp_tpl *from, zp_tpl *to, int i)
{
    for (int j = 1; j <= a->arrays; j++) {
        if (a->parent[j] != i)
            continue;
        int left = zp_tpl_length(from, j), rc;
        must(left >= 0);
        while ((rc = zp_tpl_unpack(from, j)) == 1) {
            must(zp_tpl_length(from, j) == --left);
            copy_inner(a, from, to, j);
            must(zp_tpl_pack(to, j) == 0);
            release(a, j);
        }
        must(rc == 0 && left == 0);
    }
}

static void
try_map(struct arguments *a, const uint8_t *image, size_t size)
{
    const char *format = zp__image_format(image, size);
    zp_tpl *from, *to;
    zp_value *value, *copy;
    must(zp_value_new_image(&value, image, size) == 0);
    must(zp_tpl_new(&from, format, ALL(a)) == 0);
    must(zp_tpl_new(&to, format, ALL(a)) == 0);
    must(zp_tpl_load(from, value) == 0);
    must(zp_tpl_unpack(from, 0) == 1);
    copy_inner(a, from, to, 0);
    must(zp_tpl_pack(to, 0) == 0);
    release(a, 0);
    must(zp_tpl_value(to, &copy) == 0);
    must(zp_value_equal(value, copy));
    zp_value_free(value);
    zp_value_free(copy);
    zp_tpl_free(from);
    zp_tpl_free(to);
}

static void
try_codec(struct arguments *a, const uint8_t *image, size_t size)
{
    const char *format = zp__image_format(image, size);
    zp__encoded again;
    must(decode(image, size, format, ALL(a)) == 0);
    must(encode(&again, format, ALL(a)) == 0);
    must(again.size == size && memcmp(again.image, image, size) == 0);
    zp__encoded_free(&again);
    release(a, 0);
}

static void
try_composite(const uint8_t *image, size_t size)
{
    const char *format = zp__image_format(image, size);
    struct arguments *a = calloc(1, sizeof(*a));
    zp__plan *plan = malloc(sizeof(*plan));
    zp__walk walk;
    must(a && plan);
    must(zp__walk_image(&walk, plan, image, size) == 0);
    a->memory = calloc(1, MEMORY);
    must(a->memory);
    if (make_arguments(a, plan, format)) {
        zp_tpl *tpl;
        if (plan->misread >= 0)
            must(zp_tpl_new(&tpl, format, ALL(a)) == ZP_EFORMAT);
        else {
            try_map(a, image, size);
            if (plan->arrays == 0)
                try_codec(a, image, size);
        }
    }
    free(a->memory);
    free(plan);
    free(a);
}

/* Lone atoms never meet tpl in the library: here they do. */
static void
try_plain(const uint8_t *image, size_t size)
{
    union {
        uint64_t number;
        char *text;
        tpl_bin bin;
    } field = {0};
    char format[2] = {*zp__image_format(image, size), 0};
    void *again;
    size_t again_size;
    tpl_node *map = tpl_map(format, &field);
    must(map);
    /* tpl does not write to it. */
    must(tpl_load(map, TPL_MEM, (void *)image, size) == 0);
    must(tpl_unpack(map, 0) == 1);
    tpl_free(map);
    map = tpl_map(format, &field);
    must(map && tpl_pack(map, 0) == 0);
    must(tpl_dump(map, TPL_MEM, &again, &again_size) == 0);
    must(again_size == size && memcmp(again, image, size) == 0);
    tpl_free(map);
    free(again);
    if (*format == 's')
        free(field.text);
    if (*format == 'B')
        free(field.bin.addr);
}

static void
try_plain_codec(const uint8_t *image, size_t size)
{
    union {
        uint64_t number;
        char *text;
        zp_bin bin;
    } field = {0};
    zp_value *value;
    zp__encoded again;
    must(zp_value_new_image(&value, image, size) == 0);
    const void *canonical = zp_value_image(value, &size);
    const char *format = zp_value_format(value);
    if (zp_value_type(value) != ZP_BOOL) {
        must(zp_value_get(value, format, &field) == 0);
        must(encode(&again, format, &field) == 0);
        must(again.size == size && memcmp(again.image, canonical, size) == 0);
        zp__encoded_free(&again);
    }
    if (*format == 's')
        free(field.text);
    if (*format == 'B')
        free(field.bin.addr);
    zp_value_free(value);
}

/* ------------------------------------------------------------- target -- */

static bool
try_image(const uint8_t *image, size_t size)
{
    int rc = zp__image_check(image, size);
    if (rc < 0) {
        zp_value *value;
        must(rc == ZP_EVALUE || rc == -EMSGSIZE);
        must(zp__fail_text()[0]);
        must(zp_value_new_image(&value, image, size) < 0);
        return false;
    }
    try_text(image, size);
    try_readers(image, size);
    try_canonical(image, size);
    try_append(image, size);
    if (zp__image_type(image, size) == ZP_COMPOSITE)
        try_composite(image, size);
    else if (zp__image_type(image, size) != ZP_NONE) {
        try_plain(image, size);
        try_plain_codec(image, size);
    }
    return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (try_image(data, size) || size < 9)
        return 0;
    uint8_t *mended = malloc(size);
    must(mended);
    memcpy(mended, data, size);
    memcpy(mended, "tpl", 3);
    mended[3] =
        memchr(mended + 8, 's', strnlen((char *)mended + 8, size - 8)) ? 2 : 0;
    uint32_t whole = (uint32_t)size;
    memcpy(mended + 4, &whole, 4);
    try_image(mended, size);
    free(mended);
    return 0;
}

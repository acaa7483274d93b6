/*
 * tplmap.c - zp_tpl: formats with A(), packed and unpacked element by element.
 *
 * The map does the work (map.h); here is what tpl does not see to.
 *
 *     new  ---pack--->  packing  ---value--->  new
 *     any  ---load--->  loaded   (unpack, length)
 *     any  ---out of memory in the middle--->  failed, until the next load
 *
 * One slot per index, 0 for the format itself and 1.. for its A()s, says what
 * may be done with it: unpacked only after what it stands in; packed only into
 * something that is packed after it. A slot also knows where its next element
 * is in the image, so that the memory for strings and bytes is there before
 * tpl writes the first address: an unpacking that fails has done nothing.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/map.h"
#include "core/shape.h"
#include "core/value.h"
#include "core/walk.h"
#include "core/zpvalue.h"

/* What all of a map may come to hold in memory: tpl keeps up to 64 bytes for
 * an element of one byte. */
#define MAP_LIMIT (64 * (uint64_t)ZP__IMAGE_MAX)

enum mode { NEW, PACKING, LOADED };

struct slot {
    int parent; /* index that it stands in, a smaller one; of 0: -1 */
    int begin;  /* its steps in the plan */
    int end;
    bool fields;             /* has any of its own, not only A()s */
    bool packed;             /* since what it stands in was packed; 0: ever */
    bool known;              /* at and left are those of the image */
    bool ready;              /* and what it stands in was unpacked */
    const unsigned char *at; /* the next element */
    uint32_t left;           /* elements to come */
    const unsigned char *next_at; /* while its parent is unpacked */
    uint32_t next_left;
};

/* A B field: where it stands and its address. */
struct bin {
    int index;
    const zp_bin *bin;
};

struct zp_tpl {
    zp__map map;
    enum mode mode;
    int failed; /* why the map can no longer be trusted, or 0 */
    int slots;
    struct slot *slot;
    struct bin *bin;
    size_t bins;
    void *image; /* loaded */
    size_t size;
    char *format;
    int32_t *counts;
    zp__plan plan;
};

/* ---------------------------------------------------- making, freeing -- */

static int
keep_bin(const zp_bin *bin, int array, void *user)
{
    zp_tpl *tpl = user;
    tpl->bin[tpl->bins++] = (struct bin){array, bin};
    return 0;
}

/* The slots from the plan: which A() stands in which. */
static void
make_slots(zp_tpl *tpl)
{
    int inner[ZP__NEST_MAX + 1] = {0}, depth = 0;
    tpl->slot[0] = (struct slot){.parent = -1, .end = tpl->plan.ops};
    for (int i = 0; i < tpl->plan.ops; i++) {
        const zp__op *op = &tpl->plan.op[i];
        bool end = op->type == ')' && tpl->plan.op[op->other].type == 'A';
        if (op->type == 'A') {
            struct slot *slot = &tpl->slot[op->count];
            *slot = (struct slot){
                .parent = inner[depth], .begin = i + 1, .end = op->other};
            inner[++depth] = (int)op->count;
        } else if (end)
            depth--;
        else
            tpl->slot[inner[depth]].fields = true;
    }
}

static int
make_parts(zp_tpl *tpl, const char *format)
{
    size_t bins = 1, slots = 1;
    for (const char *c = format; *c; c++) {
        bins += *c == 'B';
        slots += *c == 'A';
    }
    tpl->slots = (int)slots;
    tpl->format = strdup(format);
    tpl->slot = malloc(slots * sizeof(*tpl->slot));
    tpl->bin = malloc(bins * sizeof(*tpl->bin));
    if (!tpl->format || !tpl->slot || !tpl->bin)
        return zp__fail_errno(ENOMEM, "a zp_tpl");
    return 0;
}

static int
keep_counts(zp_tpl *tpl, const zp__shape *shape)
{
    size_t size = (size_t)shape->plan.pounds * sizeof(*tpl->counts);
    tpl->counts = malloc(size ? size : 1);
    if (!tpl->counts)
        return zp__fail_errno(ENOMEM, "a zp_tpl");
    memcpy(tpl->counts, shape->counts, size);
    return 0;
}

static int
make(zp_tpl *tpl, const char *format, va_list ap)
{
    zp__shape shape;
    int rc = make_parts(tpl, format);
    if (rc == 0)
        rc = zp__shape_make(&shape, format, ap, keep_bin, tpl);
    if (rc == 0)
        rc = keep_counts(tpl, &shape);
    if (rc < 0)
        return rc;
    tpl->plan = shape.plan;
    make_slots(tpl);
    size_t limit = MAP_LIMIT > SIZE_MAX / 2 ? SIZE_MAX / 2 : MAP_LIMIT;
    rc = zp__map_open(&tpl->map, format, ap, limit);
    return rc < 0 ? rc : zp__map_keep(&tpl->map);
}

int
zp_tpl_new(zp_tpl **ret_tpl, const char *format, ...)
{
    va_list ap;
    if (!ret_tpl || !format)
        return zp__fail(-EINVAL, "%s is NULL",
                        format ? "the place for the result" : "the format");
    int rc = zp__format_check(format, NULL, NULL);
    if (rc < 0)
        return rc;
    if (format[0] && !format[1])
        return zp__fail(ZP_EFORMAT,
                        "format %s: a lone atom is no map, but a zp_value",
                        format);
    zp_tpl *tpl = calloc(1, sizeof(*tpl));
    if (!tpl)
        return zp__fail_errno(ENOMEM, "a zp_tpl");
    va_start(ap, format);
    rc = make(tpl, format, ap);
    va_end(ap);
    if (rc < 0)
        zp_tpl_free(tpl);
    else
        *ret_tpl = tpl;
    return rc;
}

zp_tpl *
zp_tpl_free(zp_tpl *tpl)
{
    if (tpl) {
        zp__map_close(&tpl->map);
        free(tpl->image);
        free(tpl->counts);
        free(tpl->format);
        free(tpl->bin);
        free(tpl->slot);
        free(tpl);
    }
    return NULL;
}

/* ------------------------------------------------------------ errors -- */

static int
null_tpl(void)
{
    return zp__fail(-EINVAL, "the zp_tpl is NULL");
}

static int
bad_use(const zp_tpl *tpl, int i, const char *what)
{
    return zp__fail(-EINVAL, "index %d of format %.100s: %s", i, tpl->format,
                    what);
}

static int
check_use(const zp_tpl *tpl, int i)
{
    if (!tpl)
        return null_tpl();
    if (i < 0 || i >= tpl->slots)
        return bad_use(tpl, i, "there is no such index");
    if (tpl->failed)
        return bad_use(tpl, i,
                       "what was packed or loaded was lost by an error: "
                       "load again, or make a new one");
    return 0;
}

/* An error in the middle of tpl: nothing that it holds counts any more. */
static int
give_up(zp_tpl *tpl, int rc)
{
    tpl->failed = rc;
    return rc;
}

/* ----------------------------------------------------------- packing -- */

/* As new: the map, and what the slots say of it. */
static void
renew(zp_tpl *tpl)
{
    zp__map_reset(&tpl->map);
    free(tpl->image);
    tpl->image = NULL;
    tpl->size = 0;
    tpl->failed = 0;
    tpl->mode = NEW;
    for (int i = 0; i < tpl->slots; i++) {
        struct slot *slot = &tpl->slot[i];
        slot->packed = slot->known = slot->ready = false;
    }
}

static int
check_bins(const zp_tpl *tpl, int i)
{
    int rc = 0;
    for (size_t n = 0; n < tpl->bins && rc == 0; n++)
        if (tpl->bin[n].index == i)
            rc = zp__shape_bin(tpl->bin[n].bin, i, NULL);
    return rc;
}

int
zp_tpl_pack(zp_tpl *tpl, int i)
{
    int rc = check_use(tpl, i);
    if (rc == 0 && tpl->mode == LOADED)
        rc = bad_use(tpl, i, "it is loaded, to be unpacked");
    if (rc == 0)
        rc = check_bins(tpl, i);
    if (rc < 0)
        return rc;
    rc = zp__map_pack(&tpl->map, i);
    if (rc < 0)
        return give_up(tpl, rc);
    tpl->mode = PACKING;
    for (int j = 1; j < tpl->slots; j++)
        if (tpl->slot[j].parent == i)
            tpl->slot[j].packed = false;
    tpl->slot[i].packed = true;
    return 0;
}

/* Is all that was packed part of the value? */
static int
check_whole(const zp_tpl *tpl)
{
    if (tpl->slot[0].fields && !tpl->slot[0].packed)
        return bad_use(tpl, 0, "it has fields that were not packed");
    for (int i = 1; i < tpl->slots; i++)
        if (tpl->slot[i].packed && tpl->slot[i].parent > 0)
            return bad_use(tpl, i,
                           "it was packed, but then not the element that it "
                           "stands in");
    return 0;
}

static int
dump(zp_tpl *tpl, zp_value **ret_value)
{
    zp_value *value;
    size_t size = 0;
    int rc = zp__map_size(&tpl->map, &size);
    if (rc < 0)
        return give_up(tpl, rc);
    if (size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "a value of %zu bytes: at most %zu", size,
                        ZP__IMAGE_MAX);
    rc = zp__value_make(&value, size);
    if (rc < 0)
        return rc;
    rc = zp__map_dump(&tpl->map, value->image, size);
    if (rc < 0) {
        zp_value_free(value);
        return give_up(tpl, rc);
    }
    value->size = size;
    *ret_value = value;
    return 0;
}

int
zp_tpl_value(zp_tpl *tpl, zp_value **ret_value)
{
    int rc = check_use(tpl, 0);
    if (rc == 0 && !ret_value)
        rc = zp__fail(-EINVAL, "the place for the result is NULL");
    if (rc == 0 && tpl->mode == LOADED)
        rc = bad_use(tpl, 0, "it is loaded, to be unpacked");
    if (rc == 0)
        rc = check_whole(tpl);
    if (rc == 0)
        rc = dump(tpl, ret_value);
    if (rc == 0)
        renew(tpl);
    return rc;
}

/* --------------------------------------------------------- unpacking -- */

/* One element of index I from the image: where the A()s in it begin, and, if
 * SPARES is not NULL, the memory that its fields need. Where the next is, into
 * *RET_AT. Nothing changes but next_at and next_left. */
static int
look(zp_tpl *tpl, int i, zp__spares *spares, const unsigned char **ret_at)
{
    const unsigned char *start = tpl->image;
    const struct slot *slot = &tpl->slot[i];
    zp__walk walk;
    zp__item item;
    int inner = 0, kind;
    zp__walk_begin(&walk, &tpl->plan, slot->begin, slot->end, start, slot->at,
                   start + tpl->size);
    while ((kind = zp__walk_next(&walk, &item)) > 0) {
        bool array = item.op->type == 'A';
        if (kind == ZP__OPEN && array && inner == 0) {
            tpl->slot[item.op->count].next_at = item.data;
            tpl->slot[item.op->count].next_left = item.count;
        }
        if (kind == ZP__OPEN && item.op->flat)
            kind = zp__walk_skip(&walk, &item);
        else if (kind == ZP__OPEN && array)
            inner++;
        else if (kind == ZP__CLOSE && array)
            inner--;
        else if (inner == 0 && spares)
            kind = zp__spares_item(spares, &item);
        if (kind < 0)
            return kind;
    }
    *ret_at = walk.at;
    return kind;
}

/* Does index J stand in index I, however deep? */
static bool
is_below(const zp_tpl *tpl, int j, int i)
{
    while (j > i)
        j = tpl->slot[j].parent;
    return j == i;
}

/* The A()s right in index I are those that look() found; READY: to be
 * unpacked. What stands in them, in turn, waits for theirs. */
static void
arm(zp_tpl *tpl, int i, bool ready)
{
    for (int j = i + 1; j < tpl->slots; j++) {
        struct slot *slot = &tpl->slot[j];
        if (!is_below(tpl, j, i))
            continue;
        slot->known = slot->parent == i;
        slot->ready = slot->known && ready;
        slot->at = slot->next_at;
        slot->left = slot->next_left;
    }
}

int
zp_tpl_load(zp_tpl *tpl, const zp_value *value)
{
    const unsigned char *end;
    if (!tpl)
        return null_tpl();
    if (!value)
        return zp__fail(-EINVAL, "the value is NULL");
    int rc =
        zp__format_match(tpl->format, tpl->counts, value->image, value->size);
    if (rc < 0)
        return rc;
    void *image = malloc(value->size);
    if (!image)
        return zp__fail_errno(ENOMEM, "a zp_tpl");
    memcpy(image, value->image, value->size);
    renew(tpl);
    tpl->image = image;
    tpl->size = value->size;
    tpl->slot[0].at =
        (unsigned char *)image + zp__image_data(image, value->size);
    rc = look(tpl, 0, NULL, &end);
    if (rc == 0)
        rc = zp__map_load(&tpl->map, image, tpl->size);
    if (rc < 0)
        return give_up(tpl, rc);
    tpl->mode = LOADED;
    tpl->slot[0].known = tpl->slot[0].ready = true;
    arm(tpl, 0, false);
    return 0;
}

int
zp_tpl_unpack(zp_tpl *tpl, int i)
{
    zp__spares spares = {0};
    const unsigned char *next = NULL;
    int rc = check_use(tpl, i);
    if (rc == 0 && tpl->mode != LOADED)
        rc = bad_use(tpl, i, "nothing is loaded");
    if (rc == 0 && !tpl->slot[i].ready)
        rc = bad_use(tpl, i, "what it stands in must be unpacked first");
    if (rc < 0)
        return rc;
    if (i > 0 && tpl->slot[i].left == 0)
        return 0;
    rc = look(tpl, i, &spares, &next);
    if (rc == 0) {
        rc = zp__map_unpack(&tpl->map, i, &spares);
        if (rc < 0)
            give_up(tpl, rc);
    }
    zp__spares_free(&spares);
    if (rc < 0)
        return rc;
    if (i > 0) {
        tpl->slot[i].at = next;
        tpl->slot[i].left--;
    }
    arm(tpl, i, true);
    return 1;
}

int
zp_tpl_length(zp_tpl *tpl, int i)
{
    int rc = check_use(tpl, i);
    if (rc == 0 && i == 0)
        rc = bad_use(tpl, i, "it is no array");
    if (rc == 0 && tpl->mode != LOADED)
        rc = bad_use(tpl, i, "nothing is loaded");
    if (rc == 0 && !tpl->slot[i].known)
        rc = bad_use(tpl, i, "what it stands in must be unpacked first");
    return rc < 0 ? rc : (int)tpl->slot[i].left;
}

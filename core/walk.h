/*
 * walk.h - the data of an image, item by item, along its plan.
 *
 * Every reader of composites goes through this walk, and it checks each length
 * against the bytes that are left before it looks at them: the strict check of
 * foreign images is a walk to the end.
 */
#ifndef ZP_CORE_WALK_H
#define ZP_CORE_WALK_H

#include "core/format.h"

enum zp__item_kind {
    ZP__DONE = 0,
    ZP__NUMBERS, /* op->count numbers of op->width bytes at data */
    ZP__STRING,  /* size bytes at data, without NUL; NULL: a NULL string */
    ZP__BYTES,   /* size bytes at data */
    ZP__OPEN,    /* an A() or S(), of count elements; data: behind the count */
    ZP__NEXT,    /* its next element begins */
    ZP__CLOSE    /* it ends; data: behind it */
};

typedef struct zp__item {
    int kind;
    const zp__op *op; /* of OPEN, NEXT, CLOSE: the A or S */
    const unsigned char *data;
    uint32_t size;
    uint32_t count; /* of a string in s#: how many are still to come */
} zp__item;

typedef struct zp__walk {
    const zp__plan *plan;
    const unsigned char *start; /* what offsets in messages are counted from */
    const unsigned char *at;
    const unsigned char *end;
    int op;           /* next step */
    int stop;         /* step to end at */
    uint32_t strings; /* left of the s# at op */
    int depth;
    struct {
        int op;        /* the A or S that is open */
        uint32_t left; /* elements still to come */
    } open[ZP__NEST_MAX];
} zp__walk;

/* Begin a walk along the steps from OP (a whole plan: 0) up to STOP (its ops),
 * with data from AT on, in an image from START to END. */
void zp__walk_begin(zp__walk *walk, const zp__plan *plan, int op, int stop,
                    const unsigned char *start, const unsigned char *at,
                    const unsigned char *end);

/* The next item: its kind, or ZP_EVALUE with a text that names the offset. */
int zp__walk_next(zp__walk *walk, zp__item *ret);

/* Leave the A() or S() that was just opened as ITEM, whose op is flat, in one
 * step: it is checked like any other. */
int zp__walk_skip(zp__walk *walk, const zp__item *item);

/* The plan of a whole image and a walk through it, which reads nothing behind
 * SIZE and checks the header. ZP_EVALUE, -EMSGSIZE. */
int zp__walk_image(zp__walk *walk, zp__plan *ret_plan, const void *image,
                   size_t size);

#endif

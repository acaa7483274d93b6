/*
 * swarm_wire.h - what a swarm's owner and its workers say to each other, over
 * a ROUTER and DEALERs: two frames, a head and a body (the owner's have the
 * worker's identity before them).
 *
 * Both are the same program on the same machine: numbers as memory has them.
 * Nevertheless everything is checked before it is used, since a worker runs
 * anybody's code.
 */
#ifndef ZP_REACTORS_SWARM_WIRE_H
#define ZP_REACTORS_SWARM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct zp__name { /* a worker's identity */
    char what[4];         /* not 0 at first: those are ZeroMQ's own */
    uint32_t number, life;
} zp__name;

enum zp__order_kind {
    ZP__ORDER_MAP = 1, /* body: zp__intro, path, common image */
    ZP__ORDER_TASK,    /* body: packed items */
    ZP__ORDER_FORGET,  /* a map; no body */
    ZP__ORDER_LEAVE
};

typedef struct zp__order {
    uint32_t kind, cell;
    uint64_t map, task, index;
    uint32_t n, filler;
} zp__order;

/* A function, as an address and the object in which it is. */
typedef struct zp__intro {
    uint64_t fn, base;
    uint32_t path;   /* bytes of the object's path behind this; 0: unknown */
    uint32_t common; /* bytes of an image behind that; 0: none */
} zp__intro;

enum zp__report_kind { ZP__REPORT_UP = 1, ZP__REPORT_DONE };

typedef struct zp__report {
    uint32_t kind, cell;
    uint64_t task;
    uint32_t from, n; /* these items of the task: the body has a result each */
    uint32_t last;    /* 1: its limit is reached, and the cell is free */
    uint32_t filler;
    double seconds; /* that they took */
} zp__report;

/* A result: this, the value's image, the texts. */
typedef struct zp__answer {
    int32_t code;
    uint32_t value;         /* bytes; 0: none */
    uint16_t error, origin; /* bytes, without NUL */
} zp__answer;

/* Is BODY a result each for N items? How many failed, or -1. */
int64_t zp__answers_check(const void *body, size_t size, uint32_t n);

/* Read the answer at *AT, and move behind it. */
void zp__answer_read(const unsigned char **at, zp__answer *ret,
                     const unsigned char **ret_value, const char **ret_error,
                     const char **ret_origin);

/* A frame that is kept as it came, or that is sent without a copy. */
typedef struct zp__message {
    _Alignas(void *) unsigned char opaque[64]; /* a zmq_msg_t */
} zp__message;

/* Begins with zp__wire_freed(): it may run in libzmq's thread, and a thread
 * sanitizer does not see what happened before that. */
typedef void zp__message_free_fn(void *data, void *hint);
void zp__wire_freed(void);

/* Bytes of our own. -ENOMEM. */
int zp__message_new(zp__message *ret, size_t size);
void zp__message_init(zp__message *ret); /* empty */
void zp__message_move(zp__message *ret, zp__message *from);
void zp__message_free(zp__message *message);
void *zp__message_data(zp__message *message, size_t *ret_size);

/* The socket of a swarm's owner, bound to ADDRESS; of a worker, connected. NULL
 * with errno. */
void *zp__wire_bind(void *zmq, const char *address);
void *zp__wire_connect(void *zmq, const char *address, const zp__name *name);
/* What was bound to ADDRESS (NULL: connected). */
void zp__wire_close(void *socket, const char *address);

/* Send to the worker NAME (NULL: to the owner). The body is copied; with FREE
 * it is sent as it is, and FREE called when it is no longer needed, by any
 * thread, on failure at once. Errors: -EHOSTUNREACH (it is not there any more),
 * -EAGAIN. */
int zp__wire_send(void *socket, const zp__name *name, const void *head,
                  size_t head_size, const void *body, size_t size,
                  zp__message_free_fn *free, void *hint);

/* Receive a message whose head has HEAD_SIZE bytes: 1 (RET_BODY is to be
 * freed), 0 when there is none now; what has another shape is passed over.
 * RET_NAME is NULL in a worker. */
int zp__wire_receive(void *socket, zp__name *ret_name, void *ret_head,
                     size_t head_size, zp__message *ret_body);

#endif

/*
 * list.h - doubly linked rings. A node is part of what it links; a list is a
 * node, too: the ring's fixed point. A node that is in no list points to
 * itself, so taking it out twice is harmless.
 */
#ifndef ZP_REACTORS_LIST_H
#define ZP_REACTORS_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct zp__node zp__node;
struct zp__node {
    zp__node *next, *prev;
};

/* The TYPE that NODE is the MEMBER of. */
#define ZP__OF(node, type, member)                                             \
    ((type *)((char *)(node)-offsetof(type, member)))

/* For each node AT of LIST; the body may take AT out: NEXT is the one after. */
#define ZP__EACH(at, next_, list)                                              \
    for (zp__node *at = (list)->next, *next_ = at->next; at != (list);         \
         at = next_, next_ = at->next)

static inline void
zp__list_init(zp__node *node)
{
    node->next = node->prev = node;
}

static inline bool
zp__list_empty(const zp__node *list)
{
    return list->next == list;
}

static inline void
zp__list_append(zp__node *list, zp__node *node)
{
    node->prev = list->prev;
    node->next = list;
    list->prev->next = node;
    list->prev = node;
}

static inline void
zp__list_remove(zp__node *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    zp__list_init(node);
}

#endif

/*
 * leases.h - the store's side of leases: why a key goes by itself, at the
 * latest when. Beside store.h: the same views, transactions and rules.
 */
#ifndef ZP_CORE_LEASES_H
#define ZP_CORE_LEASES_H

#include "core/store.h"

typedef struct zp__lease {
    zp__pid holder;      /* goes with this process; pid 0: with none */
    uint64_t boot;       /* where holder and deadline are from */
    uint64_t pid_ns;     /* likewise */
    int64_t deadline_ns; /* CLOCK_BOOTTIME; 0: none */
    int64_t wall_ns;     /* the same moment, for another boot */
} zp__lease;

/* CLOCK_BOOTTIME: it also goes on while the machine sleeps. */
int64_t zp__boottime(void);

/* A deadline TTL seconds from now (negative: none), here and now. */
void zp__lease_until(zp__lease *lease, double ttl);

/* How many ns are left at NOW (zp__boottime()): 0 or less: it is over;
 * INT64_MAX: there is no deadline. */
int64_t zp__lease_left(const zp__lease *lease, int64_t now);

/* Is it of this boot and pid namespace? Else its holder has ended. */
bool zp__lease_is_here(const zp__lease *lease);

/* The word for a holder in the board. */
static inline uint64_t
zp__holder_word(const zp__pid *id)
{
    return id->start << 32 | (uint32_t)id->pid;
}

/* Put with a lease, which is copied; put, and keep the one it has, if any.
 * zp__txn_put() and zp__txn_delete() end it. */
int zp__txn_put_leased(zp__txn *txn, const char *ns, const char *key,
                       const void *image, size_t size, const zp__lease *lease);
int zp__txn_put_kept(zp__txn *txn, const char *ns, const char *key,
                     const void *image, size_t size);

/* The lease of KEY, all zero if it has none; another one (NULL: none), which is
 * no change of the key; a new deadline for it, likewise. ZP_ENOKEY, no text. */
int zp__txn_lease(zp__txn *txn, const char *ns, const char *key,
                  zp__lease *ret);
int zp__txn_set_lease(zp__txn *txn, const char *ns, const char *key,
                      const zp__lease *lease);
int zp__txn_renew(zp__txn *txn, const char *ns, const char *key, double ttl);

/* Remove a lease whose key is not there. */
int zp__txn_drop_lease(zp__txn *txn, const char *ns, const char *key);

int zp__view_lease(zp__view *view, const char *ns, const char *key,
                   zp__lease *ret);

typedef struct zp__lease_at { /* a place among them; zeros: before the first */
    uint64_t epoch;
    char ns[ZP__NS_MAX + 1];
    char key[ZP__KEY_MAX + 1];
} zp__lease_at;

/* The next lease behind AT, which moves to it: 1, 0 at the end, or an error.
 * Rows that make no sense are passed over. Fast as long as the view is used for
 * nothing else; the view may be ended and begun in between. */
int zp__view_next_lease(zp__view *view, zp__lease_at *at, zp__lease *ret);

#endif

/*
 * fork.h - what must not cross a fork, and how one notices.
 *
 * The token: a page marked MADV_WIPEONFORK holds it, so that the kernel itself
 * clears it in every child, however it was forked; handles remember the token
 * of the process that made them. Comparing costs one load.
 *
 * The registry: every descriptor and mapping that the library (or LMDB, zmq,
 * libev for it) holds in this process. A child made by zp_spawn() closes them
 * all first thing, before it opens anything: closing an inherited LMDB lock
 * descriptor later would drop the child's own locks. The child forgets the
 * memory; it never passes it to LMDB, zmq or libev.
 */
#ifndef ZP_CORE_FORK_H
#define ZP_CORE_FORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const volatile uint64_t *zp__token_page;
uint64_t zp__token_slow(void);

/* This process's token: never 0, never that of another process. */
static inline uint64_t
zp__token(void)
{
    const volatile uint64_t *page =
        __atomic_load_n(&zp__token_page, __ATOMIC_ACQUIRE);
    uint64_t token = page ? __atomic_load_n(page, __ATOMIC_RELAXED) : 0;
    return token ? token : zp__token_slow();
}

typedef struct zp__owned zp__owned;

/* Around a call that opens descriptors or maps files on its own (mdb_env_open,
 * zmq_ctx/zmq_socket, ev_loop_new): what is new after it is recorded as one
 * group. With PREFIX: files below this directory, and their mappings; with
 * NULL: what has no path (eventfds, epolls, pipes). All else that is new is
 * another thread's. Serialised by a process-wide lock, held in between: no
 * other function of this registry may be called there.
 * zp__own_end() gives NULL when out of memory (then nothing is recorded), and
 * leaves errno as it was. */
void zp__own_begin(void);
zp__owned *zp__own_end(const char *prefix);

/* One descriptor or mapping that we opened ourselves. NULL: no memory. */
zp__owned *zp__own_fd(int fd);
zp__owned *zp__own_map(void *address, size_t size);

/* A directory: unix sockets bound or connected to a path below it are ours. */
zp__owned *zp__own_dir(const char *dir);

/* Forget the group, best just before who opened them closes them: an address
 * may be another's a moment later. NULL is fine. */
void zp__own_forget(zp__owned *group);

/* Hold the registry over a fork; then in the parent, or in the child first
 * thing: the child also closes every registered descriptor that is still what
 * it was, every unix socket bound or connected to a path below RUN_DIR (may be
 * NULL) or a registered directory (zmq's connections, which come and go
 * unseen), unmaps every registered mapping, forgets all, and gets its own
 * token. */
void zp__fork_prepare(void);
void zp__fork_parent(void);
void zp__fork_child(const char *run_dir);

/* Before anything is opened for a new context: if this is a child that the
 * application forked by itself, do what zp__fork_child() does, now. */
void zp__fork_settle(void);

/* Objects that other modules keep process-wide (the table of open stores):
 * called last in zp__fork_child(), to forget them; their groups are gone by
 * then, and the registry must not be called. At most 8; the same function
 * counts once. */
void zp__fork_on_child(void (*forget)(void));

#endif

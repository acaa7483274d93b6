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
    const volatile uint64_t *page = zp__token_page;
    uint64_t token = page ? *page : 0;
    return token ? token : zp__token_slow();
}

typedef struct zp__owned zp__owned;

/* Around a call that opens descriptors or maps files on its own (mdb_env_open,
 * zmq_ctx/zmq_socket, ev_loop_new): what is new after it is recorded as one
 * group. PREFIX (may be NULL): mappings of files below this directory are
 * recorded, too. Serialised by a process-wide lock, held in between.
 * zp__own_end() gives NULL when out of memory (then nothing is recorded). */
void zp__own_begin(void);
zp__owned *zp__own_end(const char *prefix);

/* One descriptor or mapping that we opened ourselves. NULL: no memory. */
zp__owned *zp__own_fd(int fd);
zp__owned *zp__own_map(void *address, size_t size);

/* They were closed by who opened them: forget the group. NULL is fine. */
void zp__own_forget(zp__owned *group);

/* Hold the registry over a fork; then in the parent, or in the child first
 * thing: the child also closes every registered descriptor that is still what
 * it was, every unix socket connected to a path below RUN_DIR (zmq's
 * connections, which come and go unseen), unmaps every registered mapping,
 * forgets all, and gets its own token. */
void zp__fork_prepare(void);
void zp__fork_parent(void);
void zp__fork_child(const char *run_dir);

/* Objects that other modules keep process-wide (the table of open stores):
 * called in zp__fork_child(), to forget them. At most 8. */
void zp__fork_on_child(void (*forget)(void));

#endif

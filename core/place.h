/*
 * place.h - where a state lives in the file system.
 *
 * Base: $ZP_RUNTIME_DIR, or /dev/shm/zp-UID (0700; made on demand, and then
 * removed when empty; refused when it is a link or another's). Below it one
 * *run directory* (0700) per state, named by the state's well-known name, or
 * "p-PID-RANDOM" for a private one, or "d-DEV-INO" for a durable one (of its
 * path's directory; one with a name has that). In it:
 *
 *     board   shared memory (board.h)       bell    FIFO (board.h)
 *     lock    flock of the server           start   flock of who starts one
 *     pub     XPUB socket                   ctl     ROUTER socket
 *     bell.N  FIFO of a watcher (slots.h)
 *     data.mdb lock.mdb                     (a durable state has these two in
 *                                           its own path instead)
 *
 * A new one is filled under a temporary name (".new-PID-START-RANDOM") and
 * then renamed: whoever sees it sees it whole. rename() onto a live one fails;
 * onto a stale one (server's flock free, owner dead) after removing it.
 */
#ifndef ZP_CORE_PLACE_H
#define ZP_CORE_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZP__PATH_MAX 512

typedef struct zp__place {
    char run[108 - 8];       /* the run directory; sockets must fit */
    char data[ZP__PATH_MAX]; /* where data.mdb is: run, or the durable path */
    bool durable;
    char target[108 - 8]; /* until published: the final run directory */
    uint64_t dev, ino;    /* the run directory; 0: not known */
} zp__place;

/* Make a fresh run directory under a temporary name (then `run` is that name)
 * for a state called NAME (NULL: private), durable at PATH (made, 0700, if
 * absent; NULL: ephemeral); publish it under its final name; or drop it with
 * zp__place_remove(). Sweeps stale ones first. A name or path whose owner died
 * but whose server still cleans up is waited for, up to 3 s. Errors:
 * -EADDRINUSE, -EINVAL (name), -ENAMETOOLONG, -errno. */
int zp__place_new(zp__place *place, const char *name, const char *path);
int zp__place_publish(zp__place *place);

/* Find a running state: by name, or by path ('/' in it) of its run directory
 * or of its durable data. ZP_ENOSTATE when there is none, or its owner has
 * ended; -EACCES when it is another user's. */
int zp__place_find(zp__place *place, const char *address);

/* The run directory RUN_DIR, whether its owner lives or not: for a server, who
 * is the one to clean up. */
int zp__place_reach(zp__place *place, const char *run_dir);

/* Remove the run directory with all it holds (never a durable state's data),
 * and the base when it is empty and was made on demand. Best effort; missing
 * things are fine. Another directory that has the name by now is not touched
 * (if `ino` is known). */
void zp__place_remove(const zp__place *place);

/* Remove stale run directories of this uid: flock on `lock` free and the owner
 * in `board` dead, or never finished by a dead process. */
void zp__place_sweep(void);

/* The path of FILE in the run directory, into BUFFER of ZP__PATH_MAX bytes. */
const char *zp__place_file(const zp__place *place, const char *file,
                           char *buffer);

/* An exclusive flock on FILE (O_CLOEXEC, made if absent): the descriptor, or
 * -EWOULDBLOCK when another holds it, -ENOENT when the directory is gone (or
 * another one, or being removed), or -errno. */
int zp__place_flock(const zp__place *place, const char *file);

#endif

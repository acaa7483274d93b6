/*
 * server_orphans.c - ending processes whose parent has died, while the state
 * goes on.
 *
 * Most end by themselves: the kernel sends SIGKILL to the children of a process
 * that dies. That does not reach those which another thread than the main one
 * has forked, nor those that run a program with other rights. And an attached
 * program may end without zp_ctx_free(). So once a second the server looks at
 * the records of those that run:
 *
 *     parent lives                           fine
 *     parent dead, or about to be ended      TERM, a while later KILL;
 *                                            when it is gone: its record ends
 *     both dead                              the record ends
 *     waits for an attempt, parent dead      likewise: nobody will make it
 *
 * A record is written when the parent is dead, not before: as long as it lives
 * it may write, too, and start the process again; that is another orphan then.
 *
 * A child has a greater id than its parent. So one walk in the order of ids
 * finds the whole tree below a dead process, and no generation waits for the
 * one before.
 *
 * Nothing is waited for: orphans are kept in a list, and each tick does what is
 * due to them. All of it is bounded: rows and looks at /proc in one tick (the
 * next one goes on there), orphans at a time, writes. To write, the server asks
 * for the lock as everybody does, but not for long; it tries again later. Whom
 * it signals is told by pid and start time: never another one.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/record.h"
#include "core/server.h"

#define LOOK_SECONDS 1.0  /* between walks */
#define TEND_SECONDS 0.1  /* between ticks, while one is being ended */
#define GRACE_SECONDS 1.0 /* between TERM and KILL, and from KILL to KILL */
#define LOCK_SECONDS 0.05
#define MAX_ROWS 4096   /* in one tick */
#define MAX_PARENTS 256 /* looked for in one tick */
#define MAX_ORPHANS 1024
#define MAX_WRITES 64     /* in one tick; each may have to wait for a disk */
#define BUSY_SECONDS 0.05 /* likewise, all of it */

/* -------------------------------------------------------------- parents -- */

/* Parents looked at in this tick: siblings ask for the same one. */
struct parents {
    struct {
        zp__pid id;
        bool dead;
    } seen[64];
    unsigned looks;
};

static bool
is_dead(struct parents *parents, const zp__pid *id)
{
    size_t slot =
        (size_t)id->pid % (sizeof parents->seen / sizeof *parents->seen);

    if (id->start == 0) /* it could not tell */
        return false;
    if (parents->seen[slot].id.pid != id->pid ||
        parents->seen[slot].id.start != id->start) {
        parents->looks++;
        parents->seen[slot].id = *id;
        parents->seen[slot].dead = !zp__pid_alive(id);
    }
    return parents->seen[slot].dead;
}

/* ------------------------------------------------------------- the list -- */

/* By record, in ascending order: its place, or -1. */
static int
find(const zp__orphans *orphans, uint64_t record)
{
    unsigned low = 0, high = orphans->n;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (orphans->list[middle].record < record)
            low = middle + 1;
        else
            high = middle;
    }
    return low < orphans->n && orphans->list[low].record == record ? (int)low
                                                                   : -1;
}

/* False when there is no room: a later walk finds it again. */
static bool
add(zp__orphans *orphans, uint64_t record, const zp__pid *id)
{
    unsigned i;

    if (orphans->n == MAX_ORPHANS)
        return false;
    if (orphans->n == orphans->room) {
        unsigned room = orphans->room ? orphans->room * 2 : 16;
        zp__orphan *list = realloc(orphans->list, room * sizeof *orphans->list);
        if (!list)
            return false;
        orphans->list = list;
        orphans->room = room;
    }
    for (i = orphans->n; i > 0 && orphans->list[i - 1].record > record; i--)
        orphans->list[i] = orphans->list[i - 1];
    orphans->list[i] = (zp__orphan){.record = record, .id = *id};
    orphans->n++;
    return true;
}

static void
drop(zp__orphans *orphans, unsigned i)
{
    orphans->n--;
    memmove(&orphans->list[i], &orphans->list[i + 1],
            (orphans->n - i) * sizeof *orphans->list);
}

/* -------------------------------------------------------------- walking -- */

/* Is it, by its record, one to be ended or written off? */
static bool
is_orphan(const zp__orphans *orphans, struct parents *parents,
          const zp__record *record)
{
    if (record->boot != zp__boot_hash())
        return true;
    if (record->pid_ns != zp__pid_ns() || record->id.pid == (int32_t)getpid())
        return false;
    return is_dead(parents, &record->parent) ||
           (record->parent_record && find(orphans, record->parent_record) >= 0);
}

/* Go on with the walk over those that run, and add what is new. */
static void
walk(zp__server *server)
{
    static const zp__pid nobody;
    zp__orphans *orphans = &server->orphans;
    struct parents parents;
    uint64_t id = orphans->after;
    zp__record record;
    const void *data;
    size_t size;
    int rows, rc = 1;

    if (zp__view_begin(server->view) < 0)
        return;
    memset(&parents, 0, sizeof parents);
    for (rows = 0; rows < MAX_ROWS && parents.looks < MAX_PARENTS; rows++) {
        rc = zp__view_next_running(server->view, id, &id, &data, &size);
        if (rc <= 0)
            break;
        if (zp__record_decode(&record, data, size) < 0 ||
            find(orphans, id) >= 0 || !is_orphan(orphans, &parents, &record))
            continue;
        if (!add(orphans, id,
                 record.boot == zp__boot_hash() ? &record.id : &nobody))
            break;
        server->gone = 2; /* what its parent has left in the run directory */
    }
    zp__view_end(server->view);
    orphans->some = rows > 0 || orphans->after > 0;
    orphans->after = rc > 0 ? id : 0;
    zp__server_trim(server, (unsigned)rows * ZP__TRIM_ROW);
}

/* --------------------------------------------------------------- ending -- */

/* Signal what is due to it. True when it has ended. */
static bool
end(zp__orphan *orphan, double now)
{
    if (!zp__pid_alive(&orphan->id))
        return true;
    if (now >= orphan->due) {
        (void)zp__pid_kill(&orphan->id, orphan->told ? SIGKILL : SIGTERM);
        if (!orphan->told) /* a stopped one hears it, too */
            (void)zp__pid_kill(&orphan->id, SIGCONT);
        orphan->told = true;
        orphan->due = now + GRACE_SECONDS;
    }
    return false;
}

/* Can nobody else write this record any more? Its parent can, which may be
 * about to be ended only: it may even start the process again. */
static bool
is_ours(const zp__record *record)
{
    return record->boot != zp__boot_hash() || !zp__pid_alive(&record->parent);
}

/* Does it tell of ORPHAN, rather than of an attempt that came after it? */
static bool
is_about(const zp__record *record, const zp__orphan *orphan)
{
    return record->boot != zp__boot_hash() ||
           (record->id.pid == orphan->id.pid &&
            record->id.start == orphan->id.start);
}

/* RECORD with the end of ORPHAN in it, encoded. */
static int
encode_end(zp__record *record, const zp__orphan *orphan, void **ret,
           size_t *ret_size)
{
    zp__record_lose(record);
    if (orphan->told) {
        record->error = "ended by the state server, since the process that "
                        "spawned it had ended";
        record->ended_ns = zp__wall_ns();
    }
    return zp__record_encode(record, ret, ret_size);
}

/* The record of an orphan that has ended, with that in it: 1; 0: nothing is to
 * be written, it has told by itself how it ended, or is to be found again as
 * another attempt; -EBUSY: not yet; or another error. */
static int
ended_record(zp__server *server, const zp__orphan *orphan, void **ret,
             size_t *ret_size)
{
    zp__record record;
    const void *data;
    size_t size;
    int rc = zp__view_begin(server->view);

    if (rc < 0)
        return rc;
    rc = zp__view_record(server->view, orphan->record, &data, &size);
    if (rc == 0)
        rc = zp__record_decode(&record, data, size);
    if (rc < 0 || record.state == ZP__RECORD_ENDED)
        rc = 0; /* what is damaged stays as it is */
    else if (!is_ours(&record))
        rc = -EBUSY;
    else if (is_about(&record, orphan))
        rc = encode_end(&record, orphan, ret, ret_size) < 0 ? -ENOMEM : 1;
    zp__view_end(server->view);
    return rc;
}

/* 0: done with it; -EBUSY: it has to wait; or an error: all have to. */
static int
write_off(zp__server *server, const zp__orphan *orphan)
{
    uint64_t id = orphan->record;
    void *data;
    size_t size;
    int rc = ended_record(server, orphan, &data, &size);

    if (rc <= 0)
        return rc;
    rc = zp__store_put_record(server->store, &id, data, size, true,
                              LOCK_SECONDS);
    free(data);
    return rc == -EBUSY ? -ETIMEDOUT : rc;
}

/* From the last one on: children before their parents. */
static void
tend(zp__server *server, double now)
{
    zp__orphans *orphans = &server->orphans;
    unsigned writes = 0, i;
    int rc;

    for (i = orphans->n; i-- > 0;) {
        if (!end(&orphans->list[i], now) || writes == MAX_WRITES)
            continue;
        rc = write_off(server, &orphans->list[i]);
        if (rc == 0)
            drop(orphans, i);
        if (rc != -EBUSY)
            writes = rc == 0 ? writes + 1 : MAX_WRITES;
        if (zp__now() - now > BUSY_SECONDS)
            writes = MAX_WRITES;
    }
}

void
zp__server_orphans_tick(zp__server *server, double now)
{
    zp__orphans *orphans = &server->orphans;

    if (now < orphans->next)
        return;
    if (now >= orphans->next_walk) {
        walk(server);
        orphans->next_walk =
            now + (orphans->after ? TEND_SECONDS : LOOK_SECONDS);
    }
    tend(server, now);
    orphans->next = orphans->n ? now + TEND_SECONDS : orphans->next_walk;
}

int
zp__server_orphans_ms(const zp__server *server, int ms)
{
    const zp__orphans *orphans = &server->orphans;
    double left = (orphans->next - zp__now()) * 1000;

    if ((!orphans->some && !orphans->n) || left >= ms)
        return ms;
    return left < 0 ? 0 : (int)left + 1;
}

void
zp__server_orphans_free(zp__server *server)
{
    free(server->orphans.list);
}

/*
 * server_memory.c - keeping the server small.
 *
 * What it reads of the store is mapped memory. The pages belong to the file
 * and cost nothing twice, but each one touched counts as resident here, with
 * its neighbours (the kernel maps 16 at a time), and as the log moves through
 * the file a busy server would come to have mapped all of it. So it lets go of
 * the mapping's pages when they have become many: they stay where they are, in
 * the file, and the few that are needed again are mapped again. A look at how
 * many there are costs 2 us, and is taken every few passes: how much a pass
 * touches depends on how far LMDB's free pages are scattered.
 *
 * LMDB does not tell where its map is; the kernel does. It is reserved once,
 * when the store is opened, and stays there.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/server.h"

#define MAPPED_MAX (2 << 20) /* bytes more than at the start */
#define LOOK_AGAIN 256       /* in the units of zp__server_trim() */

/* Is the mapping in this line of /proc/self/maps one of the file ST? */
static bool
is_map_of(const char *line, const struct stat *st, uintptr_t *ret_begin,
          uintptr_t *ret_end)
{
    unsigned major, minor;
    uint64_t inode;

    return sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %x:%x %" SCNu64,
                  ret_begin, ret_end, &major, &minor, &inode) == 5 &&
           inode == (uint64_t)st->st_ino && major == major(st->st_dev) &&
           minor == minor(st->st_dev);
}

/* How much file-backed memory is mapped now; -1: who knows. */
static int64_t
mapped_now(const zp__server *server)
{
    char text[128];
    long shared;
    ssize_t n;

    n = pread(server->statm_fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    if (sscanf(text, "%*d %*d %ld", &shared) != 1)
        return -1;
    return (int64_t)shared * sysconf(_SC_PAGESIZE);
}

void
zp__server_find_map(zp__server *server)
{
    char path[sizeof server->place.data + 16], line[512];
    uintptr_t begin, end;
    struct stat st;
    FILE *maps;

    snprintf(path, sizeof path, "%s/data.mdb", server->place.data);
    if (stat(path, &st) < 0)
        return;
    maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return; /* larger, then */
    while (fgets(line, sizeof line, maps))
        if (is_map_of(line, &st, &begin, &end)) {
            server->map = (void *)begin;
            server->map_size = end - begin;
            break;
        }
    fclose(maps);
    server->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    server->mapped_base = mapped_now(server);
}

void
zp__server_trim(zp__server *server, unsigned weight)
{
    int64_t mapped;

    server->touched += weight;
    if (server->touched < LOOK_AGAIN || !server->map)
        return;
    server->touched = 0;
    mapped = mapped_now(server);
    if (mapped >= 0 && mapped < server->mapped_base + MAPPED_MAX)
        return;
    (void)madvise(server->map, server->map_size, MADV_DONTNEED);
}

/*
 * board.c - the shared page: made, opened; the bell, topics and ids. The lock
 * has a file of its own, board_lock.c.
 *
 * The page is allocated whole when it is made: on a full tmpfs a store to a
 * page that is not there would be SIGBUS.
 */
#include "core/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/fork.h"
#include "core/slots.h"
#include "core/stale.h"

_Static_assert(sizeof(_Atomic uint64_t) == 8, "lives in shared memory");

/* ---- making and opening ---- */

static int
init_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);
    if (rc != 0)
        return -rc;
    if ((rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED)) ==
            0 &&
        (rc = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST)) == 0 &&
        (rc = pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK)) == 0)
        rc = pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return -rc;
}

/* Everything but the magic, then the magic. */
static int
fill(zp__shared *shared, const zp__place *place, const zp__pid *self)
{
    int rc = init_lock(&shared->lock);
    if (rc < 0)
        return rc;
    shared->version = ZP__BOARD_VERSION;
    shared->size = sizeof *shared;
    shared->boot = zp__boot_hash();
    shared->pid_ns = zp__pid_ns();
    shared->owner = *self;
    if (place->durable)
        strcpy(shared->data, place->data);
    atomic_store(&shared->lease_look, INT64_MAX);
    /* Ids of an earlier life of a durable state stand in its log. */
    atomic_store(&shared->writers, zp__random() >> 1);
    __atomic_store_n(&shared->magic, ZP__BOARD_MAGIC, __ATOMIC_RELEASE);
    return 0;
}

/* A new file of SIZE bytes that are really there: descriptor or -errno. */
static int
make_file(const char *path, size_t size)
{
    int fd =
        open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int rc = ftruncate(fd, (off_t)size) < 0 ? errno : 0;
    while (rc == 0 && (rc = posix_fallocate(fd, 0, (off_t)size)) == EINTR)
        rc = 0;
    if (rc == 0)
        return fd;
    close(fd);
    unlink(path);
    return -rc;
}

int
zp__board_create(const zp__place *place)
{
    char board[ZP__PATH_MAX], bell[ZP__PATH_MAX];
    zp__pid self;
    int known = zp__pid_of(getpid(), &self);
    zp__place_file(place, "board", board);
    zp__place_file(place, "bell", bell);
    if (known < 0)
        return zp__fail_errno(-known, "cannot read /proc/self/stat");
    if (mkfifo(bell, 0600) < 0)
        return zp__fail_errno(errno, "cannot make %s", bell);
    int rc, fd = make_file(board, sizeof(zp__shared));
    if (fd < 0) {
        rc = zp__fail_errno(-fd, "cannot make %s", board);
        goto no_file;
    }
    zp__shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    rc = shared == MAP_FAILED ? -errno : fill(shared, place, &self);
    if (shared != MAP_FAILED)
        munmap(shared, sizeof *shared);
    close(fd);
    if (rc == 0)
        return 0;
    rc = zp__fail_errno(-rc, "cannot make %s", board);
    unlink(board);
no_file:
    unlink(bell);
    return rc;
}

/* Can the state of a board that begins with HEAD be used here and now? */
static int
check_head(const zp__shared *head, off_t file_size)
{
    if (head->magic != ZP__BOARD_MAGIC)
        return ZP_ECORRUPT;
    if (head->boot != zp__boot_hash())
        return ZP_ENOSTATE;
    if (head->version != ZP__BOARD_VERSION || head->size != sizeof *head)
        return ZP_EVERSION;
    if (file_size < (off_t)sizeof *head ||
        !memchr(head->data, '\0', sizeof head->data))
        return ZP_ECORRUPT;
    return head->pid_ns == zp__pid_ns() ? 0 : -EXDEV;
}

/* What is before the lock must be there; what is behind it only of our own
 * version: *RET is zero where the file ends. */
static int
read_head(int fd, char *bytes, size_t size)
{
    size_t used = 0;
    memset(bytes, 0, size);
    while (used < size) {
        ssize_t n = pread(fd, bytes + used, size - used, (off_t)used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    return used < offsetof(zp__shared, lock) ? ZP_ECORRUPT : 0;
}

int
zp__board_peek(int dir, zp__pid *ret_owner, char ret_data[ZP__PATH_MAX])
{
    zp__shared *head; /* only its beginning is read: too large for a stack */
    struct stat st;
    int fd =
        openat(dir, "board", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    head = aligned_alloc(_Alignof(zp__shared), sizeof *head);
    int rc = !head ? -ENOMEM : fstat(fd, &st) < 0 ? -errno : 0;
    if (rc == 0 && !S_ISREG(st.st_mode))
        rc = ZP_ECORRUPT;
    if (rc == 0)
        rc = read_head(fd, (char *)head, offsetof(zp__shared, interest));
    close(fd);
    if (rc == 0)
        rc = check_head(head, st.st_size);
    if (rc == 0 || rc == -EXDEV)
        *ret_owner = head->owner;
    if (rc == 0 && ret_data)
        strcpy(ret_data, head->data);
    if (rc == 0 && atomic_load(&head->closed))
        rc = -ESHUTDOWN;
    free(head);
    return rc;
}

int
zp__board_owner(const char *dir, zp__pid *ret)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = zp__board_peek(fd, ret, NULL);
    close(fd);
    return rc;
}

/* Why the board at PATH cannot be used. */
static int
refuse(int code, const char *path)
{
    switch (code) {
    case -ENOENT:
        return zp__fail(ZP_ENOSTATE, "%s: no such state", path);
    case ZP_ENOSTATE:
        return zp__fail(code, "%s: from before the machine was started", path);
    case -EXDEV:
        return zp__fail(ZP_ENOSTATE,
                        "%s: the state lives in another pid namespace", path);
    case ZP_EVERSION:
    case ZP_ECORRUPT:
        return zp__fail(code, "%s: %s", path, zp_strerror(code));
    default:
        return zp__fail_errno(-code, "cannot open %s", path);
    }
}

/* The board in the file FD, mapped. */
static int
map_board(int fd, zp__shared **ret)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)offsetof(zp__shared, lock))
        return ZP_ECORRUPT;
    zp__shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        return -errno;
    int rc = check_head(shared, st.st_size);
    if (rc < 0)
        munmap(shared, sizeof *shared);
    else
        *ret = shared;
    return rc;
}

int
zp__fifo_open(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
        return fd;
    close(fd);
    return ZP_ECORRUPT;
}

/* Children made by zp_spawn() are to lose all three. */
static int
register_board(zp__board *board, const char *run)
{
    board->owned[0] = zp__own_fd(board->bell);
    board->owned[1] = zp__own_map(board->shared, sizeof *board->shared);
    board->owned[2] = zp__own_dir(run);
    if (board->owned[0] && board->owned[1] && board->owned[2])
        return 0;
    return zp__fail(-ENOMEM, "no memory to open %s", run);
}

int
zp__board_open(zp__board *ret, const zp__place *place)
{
    char path[ZP__PATH_MAX];
    zp__board board = {.bell = -1, .pid = getpid()};
    zp__place_file(place, "board", path);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return refuse(-errno, path);
    int rc = map_board(fd, &board.shared);
    close(fd);
    if (rc < 0)
        return refuse(rc, path);
    zp__place_file(place, "bell", path);
    board.bell = zp__fifo_open(path);
    if (board.bell < 0)
        rc = refuse(board.bell, path);
    else
        rc = register_board(&board, place->run);
    if (rc < 0)
        zp__board_close(&board);
    else
        *ret = board;
    if (rc == 0)
        zp__rings_init(ret);
    return rc;
}

void
zp__board_close(zp__board *board)
{
    zp__rings_close(board);
    for (size_t i = 0; i < sizeof board->owned / sizeof *board->owned; i++)
        zp__own_forget(board->owned[i]);
    if (board->bell >= 0)
        close(board->bell);
    if (board->shared)
        munmap(board->shared, sizeof *board->shared);
    *board = (zp__board){.bell = -1};
}

/* ---- the bell ---- */

void
zp__board_ring(zp__board *board)
{
    zp__shared *shared = board->shared;
    if (!atomic_load_explicit(&shared->asleep, memory_order_relaxed))
        return;
    atomic_fetch_add_explicit(&shared->rings, 1, memory_order_relaxed);
    zp__fifo_ring(board->bell);
}

void
zp__board_drain(zp__board *board)
{
    zp__fifo_drain(board->bell);
}

void
zp__fifo_ring(int fd)
{
    int before = errno;
    while (write(fd, "", 1) < 0 && errno == EINTR)
        continue;
    errno = before;
}

void
zp__fifo_drain(int fd)
{
    char bytes[512]; /* there is hardly ever more than one */
    int before = errno;
    for (int i = 0; i < 256; i++) { /* a full pipe twice: never for ever */
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n < 0 ? errno != EINTR : (size_t)n < sizeof bytes)
            break;
    }
    errno = before;
}

/* ---- the rest ---- */

/* FNV-1a and a finaliser that spreads the last byte over all bits. */
static uint64_t
hash_more(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t
hash_end(uint64_t hash)
{
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

uint64_t
zp__topic_key(const char *ns, const char *key)
{
    uint64_t hash = hash_more(UINT64_C(0xcbf29ce484222325), ns);
    hash *= UINT64_C(0x100000001b3); /* a NUL between the two */
    return hash_end(hash_more(hash, key));
}

uint64_t
zp__topic_ns(const char *ns)
{
    return hash_end(hash_more(UINT64_C(0x84222325cbf29ce4), ns));
}

uint64_t
zp__board_writer(zp__board *board)
{
    uint64_t id;
    do
        id = atomic_fetch_add(&board->shared->writers, 1) + 1;
    while (id == 0);
    return id;
}

bool
zp__board_closed(const zp__board *board)
{
    return atomic_load_explicit(&board->shared->closed, memory_order_acquire) !=
           0;
}

/* The server changes the two one after the other. */
zp__pid
zp__board_server(const zp__board *board)
{
    zp__shared *shared = board->shared;
    int32_t pid = atomic_load(&shared->server_pid), again;
    uint64_t start = 0;
    for (int i = 0; i < 100; i++) {
        start = atomic_load(&shared->server_start);
        again = atomic_load(&shared->server_pid);
        if (again == pid)
            break;
        pid = again;
    }
    return (zp__pid){.pid = pid, .start = start};
}

/*
 * wordcount.c - how many words all files below a directory have.
 *
 *     wordcount [-sv] [-j WORKERS] [-p BYTES] FILE-OR-DIRECTORY...
 *
 *     -s   sequentially: in this process, without a map, to compare
 *     -j   with so many workers; default: as many as there are cores
 *     -p   in pieces of so many bytes; default: 4 MiB
 *     -v   say on standard error how much it was, and how long it took
 *
 * Prints the number of words of each regular file, and of all of them. A word
 * is what it is to GNU wc -w in the C locale: bytes without white space between
 * them, of which one at least is printable (to later versions of wc than 9.1
 * any byte will do).
 *
 * The files are found by the map's source function, while those that it has
 * found already are counted. A file is an item, a large one several: one huge
 * file keeps all cores busy, too. The cuts are made where it is easy, anywhere;
 * a word belongs to the piece in which it begins, and whoever counts that piece
 * reads beyond its end if need be. So no process has to look at the file before
 * it is cut, and no word is counted twice or not at all.
 *
 * Is it fast? It cannot be faster than the files are read; from a disk that is
 * slower than one core counts, it will not be. What the map costs are a few
 * hundredths of a second to start it, and some microseconds for each file. Try
 * -v with and without -s, on your files, twice: the second time they are in
 * memory.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* Bytes of a file: the words that begin in [from, to). */
struct piece {
    const char *path;
    uint64_t from, to;
};

/* A file whose words are not all counted yet. */
struct file {
    STAILQ_ENTRY(file) next;
    uint64_t size, words;
    uint64_t pieces; /* that are to be counted yet */
    bool failed;
    char path[];
};

struct job {
    size_t workers;
    uint64_t piece_size;
    bool alone, verbose;

    FTS *walk;
    STAILQ_HEAD(, file) files; /* in the order in which they are cut */
    struct file *cutting;      /* of these the one that is not cut to its end */
    uint64_t at;               /* where its next piece begins */

    uint64_t n_files, bytes, words;
    bool failed; /* some file could not be counted */
    bool bar;    /* there is one on the screen */
};

/* ------------------------------------------------------------ counting -- */

/* [count] */
enum { PRINTABLE = 1, NO_SPACE = 2 };

static unsigned char kinds[256];

static void
set_kinds(void)
{
    for (int byte = 0; byte < 256; byte++)
        kinds[byte] = (unsigned char)((isgraph(byte) ? PRINTABLE : 0) |
                                      (isspace(byte) ? 0 : NO_SPACE));
}

/* How many words have their first printable byte here. *IN: 1 when that of the
 * word at hand was seen, else 0. There is nothing to branch on. */
static uint64_t
count_bytes(const unsigned char *bytes, size_t size, unsigned *in)
{
    unsigned now = *in, before, kind;
    uint64_t words = 0;

    for (size_t i = 0; i < size; i++) {
        kind = kinds[bytes[i]];
        before = now;
        now = (kind & PRINTABLE) | (now & kind >> 1);
        words += now & ~before;
    }
    *in = now;
    return words;
}
/* [/count] */

static size_t
find_space(const unsigned char *bytes, size_t size)
{
    size_t i = 0;

    while (i < size && kinds[bytes[i]] & NO_SPACE)
        i++;
    return i;
}

/* Does what goes on at AT, a word that is none yet, become one? */
static bool
becomes_word(int fd, uint64_t at)
{
    unsigned char bytes[4096];
    ssize_t n;

    while ((n = pread(fd, bytes, sizeof(bytes), (off_t)at)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            if (kinds[bytes[i]] != NO_SPACE)
                return kinds[bytes[i]] & PRINTABLE;
        at += (uint64_t)n;
    }
    return false;
}

/* [piece] */
/* A word belongs to the piece in which it begins. So what goes on from the
 * piece before is passed over, with its last byte we know what that is; and if
 * nothing printable has come yet of the last word, it is looked for behind the
 * end. */
static int
count_open(int fd, const struct piece *piece, uint64_t *ret_words)
{
    static unsigned char bytes[256 << 10];
    uint64_t at = piece->from ? piece->from - 1 : 0, words = 0;
    bool passing = piece->from > 0, open = false;
    unsigned in = 0;
    ssize_t n = 1;

    while (at < piece->to && n > 0) {
        uint64_t left = piece->to - at;
        size_t skip = 0;

        n = pread(fd, bytes, left < sizeof(bytes) ? left : sizeof(bytes),
                  (off_t)at);
        if (n <= 0)
            break;
        if (passing)
            skip = find_space(bytes, (size_t)n);
        passing = passing && skip == (size_t)n;
        words += count_bytes(bytes + skip, (size_t)n - skip, &in);
        open = !passing && !in && kinds[bytes[n - 1]] & NO_SPACE;
        at += (uint64_t)n;
    }
    if (n < 0)
        return -errno;
    *ret_words = words + (open && becomes_word(fd, at));
    return 0;
}
/* [/piece] */

static int
count_piece(const struct piece *piece, uint64_t *ret_words)
{
    int fd = open(piece->path, O_RDONLY | O_CLOEXEC), rc;

    if (fd < 0)
        return -errno;
    rc = count_open(fd, piece, ret_words);
    close(fd);
    return rc;
}

/* [item] */
/* In a worker, for each piece. A file that cannot be read is a failure of this
 * item, no more. */
static int
count_item(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    struct piece piece;
    uint64_t words;
    char *path;
    int rc;

    (void)common;
    TRY(zp_value_get(item, "sUU", &path, &piece.from, &piece.to));
    piece.path = path;
    rc = count_piece(&piece, &words);
    free(path);
    if (rc < 0)
        return zp_fail(ctx, rc, "%s", strerror(-rc));
    return zp_return(ctx, "U", &words);
}
/* [/item] */

/* -------------------------------------------------------------- output -- */

static void
hide_bar(struct job *job)
{
    if (job->bar)
        fprintf(stderr, "\r\033[K");
    job->bar = false;
}

static void
complain(struct job *job, const char *path, const char *what)
{
    hide_bar(job);
    fprintf(stderr, "wordcount: %s: %s\n", path, what);
    job->failed = true;
}

/* [bar] */
/* Called while the map goes on, ten times a second at most. */
static int
draw_bar(zp_mapping *map, void *user)
{
    static const char full[] = "########################################";
    zp_progress progress = {.size = sizeof(progress)};
    struct job *job = user;
    int width;

    TRY(zp_map_progress(map, &progress));
    hide_bar(job);
    fflush(stdout); /* what is printed comes before it */
    if (progress.all && progress.added) {
        width = (int)(40 * progress.done / progress.added);
        fprintf(stderr, "[%-40.*s] %3d %%", width, full,
                (int)(100 * progress.done / progress.added));
    } else { /* who knows how many there will be */
        fprintf(stderr, "%" PRIu64 " of %" PRIu64 " or more", progress.done,
                progress.added);
    }
    job->bar = true;
    return 0;
}
/* [/bar] */

/* The next piece is counted: that of the first file. */
static void
take(struct job *job, int code, const char *error, uint64_t words)
{
    struct file *file = STAILQ_FIRST(&job->files);

    if (code < 0 && !file->failed)
        complain(job, file->path, error);
    file->failed |= code < 0;
    file->words += words;
    if (--file->pieces)
        return;
    if (!file->failed) {
        hide_bar(job);
        printf("%" PRIu64 " %s\n", file->words, file->path);
        job->words += file->words;
        job->bytes += file->size;
        job->n_files++;
    }
    STAILQ_REMOVE_HEAD(&job->files, next);
    free(file);
}

/* ------------------------------------------------------ files to pieces -- */

static int
by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int
new_file(struct job *job, const FTSENT *entry)
{
    struct file *file = calloc(1, sizeof(*file) + strlen(entry->fts_path) + 1);

    if (!file)
        return -ENOMEM;
    strcpy(file->path, entry->fts_path);
    file->size = (uint64_t)entry->fts_statp->st_size;
    file->pieces = file->size ? (file->size - 1) / job->piece_size + 1 : 1;
    STAILQ_INSERT_TAIL(&job->files, file, next);
    job->cutting = file;
    job->at = 0;
    return 1;
}

/* Cut the next file that there is: 1; 0: there are no more. */
static int
next_file(struct job *job)
{
    FTSENT *entry;

    while (errno = 0, (entry = fts_read(job->walk)))
        switch (entry->fts_info) {
        case FTS_F:
            return new_file(job, entry);
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS:
            complain(job, entry->fts_path, strerror(entry->fts_errno));
            break;
        default: /* directories; no regular files */
            break;
        }
    return -errno;
}

/* The next piece; its path is good as long as it was not taken. The last one of
 * a file ends where that ends, even if it is longer by then. */
static int
next_piece(struct job *job, struct piece *ret)
{
    const struct file *file;
    bool last;
    int rc = job->cutting ? 1 : next_file(job);

    if (rc <= 0)
        return rc;
    file = job->cutting;
    last = job->at + job->piece_size >= file->size;
    *ret = (struct piece){file->path, job->at,
                          last ? INT64_MAX : job->at + job->piece_size};
    job->at = ret->to;
    if (last)
        job->cutting = NULL;
    return 1;
}

/* ------------------------------------------------------------- the ways -- */

static int
count_alone(struct job *job)
{
    struct piece piece;
    uint64_t words;
    int rc, code;

    while ((rc = next_piece(job, &piece)) > 0) {
        words = 0;
        code = count_piece(&piece, &words);
        take(job, code, strerror(-code), words);
    }
    return rc;
}

/* [map] */
/* The map can take another piece: it is given the next one. */
static int
add_piece(zp_mapping *map, void *user)
{
    struct job *job = user;
    struct piece piece;
    int rc = next_piece(job, &piece);

    if (rc > 0)
        TRY(zp_map_add(map, "sUU", &piece.path, &piece.from, &piece.to));
    return rc;
}

/* The results come in the order of the pieces. */
static int
take_results(struct job *job, zp_mapping *map)
{
    zp_map_result result = {.size = sizeof(result)};
    uint64_t words;
    int rc;

    while ((rc = zp_map_next(map, &result, -1)) > 0) {
        words = 0;
        if (result.code >= 0)
            TRY(zp_value_get(result.value, "U", &words));
        take(job, result.code, result.error, words);
    }
    return rc;
}

static int
count_with_map(zp_ctx *ctx, struct job *job)
{
    zp_map_options options = {
        .size = sizeof(options),
        .name = "counter",
        .count = job->workers,
        .progress_fn = isatty(STDERR_FILENO) ? draw_bar : NULL,
        .user = job,
    };
    zp_mapping *map;
    int rc;

    TRY(zp_map(ctx, &map, &options, count_item, add_piece, job));
    rc = take_results(job, map);
    if (rc == 0 && options.progress_fn)
        rc = draw_bar(map, job); /* to see it full */
    hide_bar(job);
    zp_map_free(map);
    return rc;
}
/* [/map] */

static int
count_in_parallel(struct job *job)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = count_with_map(ctx, job);
    if (rc < 0)
        fprintf(stderr, "wordcount: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc;
}

/* ---------------------------------------------------------------- main -- */

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
tell_time(const struct job *job, double seconds)
{
    fprintf(stderr,
            "%" PRIu64 " files, %" PRIu64 " bytes, %.3f s (%.0f MB/s), %s\n",
            job->n_files, job->bytes, seconds,
            (double)job->bytes / seconds / 1e6,
            job->alone ? "sequentially" : "with a map");
}

static int
count_all(struct job *job, char *const *paths)
{
    double began = now();
    int rc;

    STAILQ_INIT(&job->files);
    job->walk =
        fts_open(paths, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    if (!job->walk)
        return -errno;
    rc = job->alone ? count_alone(job) : count_in_parallel(job);
    fts_close(job->walk);
    if (rc == 0 && job->n_files != 1)
        printf("%" PRIu64 " total\n", job->words);
    fflush(stdout);
    if (rc == 0 && job->verbose)
        tell_time(job, now() - began);
    return rc;
}

static int
usage(void)
{
    fprintf(stderr, "usage: wordcount [-sv] [-j WORKERS] [-p BYTES] "
                    "FILE-OR-DIRECTORY...\n");
    return 2;
}

int
main(int argc, char **argv)
{
    struct job job = {.piece_size = 4 << 20};
    int option, rc;

    while ((option = getopt(argc, argv, "svj:p:")) != -1)
        switch (option) {
        case 's':
            job.alone = true;
            break;
        case 'v':
            job.verbose = true;
            break;
        case 'j':
            job.workers = strtoul(optarg, NULL, 10);
            break;
        case 'p':
            job.piece_size = strtoull(optarg, NULL, 10);
            break;
        default:
            return usage();
        }
    if (optind == argc || !job.piece_size || job.piece_size > INT64_MAX)
        return usage();
    if (job.alone)
        job.piece_size = INT64_MAX; /* nobody needs pieces */
    set_kinds();
    rc = count_all(&job, argv + optind);
    return rc < 0 || job.failed;
}

/*
 * process_streams.c - standard input, output and error of a child.
 *
 * Everything is opened in the parent, before the fork: so what cannot be opened
 * is an error of the call that starts, and paths are as the parent sees them.
 * All descriptors are above 2, close-on-exec; the child puts them where they
 * belong. A pipe serves all attempts: the child's end of it is kept while there
 * may be another one, and its reader sees the end of the last.
 *
 * Both ends of a pipe belong to the library as far as forks go: no other child
 * inherits them, or the reader would wait for that one's end, too. This holds
 * for an end that the application has taken as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>
#include <unistd.h>

#include "core/process.h"

static const char *const names[] = {"input", "output", "error"};

int
zp__above_two(int fd)
{
    int other;

    if (fd < 0 || fd > 2)
        return fd;
    other = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return other;
}

static int
open_file(const zp_proc *proc, int which)
{
    const zp_stream *stream = &proc->job.streams[which];
    int flags = O_CLOEXEC | O_NOCTTY;

    if (which == 0)
        flags |= O_RDONLY;
    else if (stream->kind == ZP_STREAM_APPEND || proc->attempts > 1)
        flags |= O_WRONLY | O_CREAT | O_APPEND; /* not over the first's */
    else
        flags |= O_WRONLY | O_CREAT | O_TRUNC;
    return zp__above_two(open(stream->path, flags, 0666));
}

static void
close_owned(int *fd, zp__owned **owned)
{
    zp__own_forget(*owned);
    *owned = NULL;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Both ends of one that could not be made; errno stays. */
static void
close_pipe(zp_proc *proc, int which)
{
    int errnum = errno;

    close_owned(&proc->pipe_ends[which], &proc->pipe_ends_owned[which]);
    close_owned(&proc->pipes[which], &proc->pipes_owned[which]);
    errno = errnum;
}

static int
make_pipe(zp_proc *proc, int which)
{
    int fds[2], ours = which == 0, child = !ours;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -1;
    proc->pipes[which] = zp__above_two(fds[ours]);
    proc->pipe_ends[which] = zp__above_two(fds[child]);
    if (proc->pipes[which] < 0 || proc->pipe_ends[which] < 0) {
        close_pipe(proc, which);
        return -1;
    }
    proc->pipes_owned[which] = zp__own_fd(proc->pipes[which]);
    proc->pipe_ends_owned[which] = zp__own_fd(proc->pipe_ends[which]);
    if (!proc->pipes_owned[which] || !proc->pipe_ends_owned[which]) {
        close_pipe(proc, which);
        errno = ENOMEM;
        return -1;
    }
    return 0;
}

/* The descriptor for WHICH; -1 with errno. */
static int
open_stream(zp_proc *proc, int which)
{
    const zp_stream *stream = &proc->job.streams[which];

    switch (stream->kind) {
    case ZP_STREAM_NULL:
        return zp__above_two(open("/dev/null", O_RDWR | O_CLOEXEC));
    case ZP_STREAM_FD:
        return fcntl(stream->fd, F_DUPFD_CLOEXEC, 3);
    case ZP_STREAM_PIPE:
        if (proc->pipe_ends[which] < 0 && make_pipe(proc, which) < 0)
            return -1;
        return proc->pipe_ends[which];
    default:
        return open_file(proc, which);
    }
}

static int
fail_stream(const zp_proc *proc, int which, int errnum)
{
    const zp_stream *stream = &proc->job.streams[which];

    if (stream->path)
        return zp__fail_errno(errnum, "standard %s: cannot open %s",
                              names[which], stream->path);
    if (stream->kind == ZP_STREAM_FD)
        return zp__fail_errno(errnum, "standard %s: descriptor %d",
                              names[which], stream->fd);
    return zp__fail_errno(errnum, "cannot make the standard %s", names[which]);
}

int
zp__streams_open(zp_proc *proc, int fds[3])
{
    int i, errnum;

    for (i = 0; i < 3; i++)
        fds[i] = -1;
    for (i = 0; i < 3; i++) {
        if (proc->job.streams[i].kind == ZP_STREAM_INHERIT)
            continue;
        if (proc->job.streams[i].kind == ZP_STREAM_STDOUT) {
            fds[i] = fds[1];
            continue;
        }
        fds[i] = open_stream(proc, i);
        if (fds[i] >= 0)
            continue;
        errnum = errno;
        zp__streams_close(proc, fds);
        return fail_stream(proc, i, errnum);
    }
    return 0;
}

/* Is FDS[I] nobody's but the attempt's, and met for the first time? */
static bool
to_close(const zp_proc *proc, const int fds[3], int i)
{
    int kind = proc->job.streams[i].kind;

    return fds[i] >= 0 && kind != ZP_STREAM_PIPE && kind != ZP_STREAM_STDOUT;
}

void
zp__streams_close(const zp_proc *proc, const int fds[3])
{
    int i;

    for (i = 0; i < 3; i++)
        if (to_close(proc, fds, i))
            close(fds[i]);
}

void
zp__streams_free(zp_proc *proc, bool ours_too)
{
    int i;

    for (i = 0; i < 3; i++) {
        close_owned(&proc->pipe_ends[i], &proc->pipe_ends_owned[i]);
        if (ours_too)
            close_owned(&proc->pipes[i], &proc->pipes_owned[i]);
    }
}

/* In the child, while the parent's descriptors are all still there. What
 * stdio has read of the parent's input is not the new one's. */
int
zp__streams_apply(const zp__birth *birth)
{
    const zp_stream *streams = birth->job->streams;
    int i, j;

    for (i = 0; i < 3; i++) {
        if (streams[i].kind == ZP_STREAM_INHERIT)
            continue;
        if (streams[i].kind == ZP_STREAM_STDOUT &&
            streams[1].kind == ZP_STREAM_INHERIT) {
            if (dup2(1, 2) < 0)
                return -errno;
        } else if (dup2(birth->stream_fd[i], i) < 0) {
            return -errno;
        }
    }
    for (i = 0; i < 3; i++) {
        for (j = 0; j < i && birth->stream_fd[j] != birth->stream_fd[i]; j++)
            ;
        if (birth->stream_fd[i] > 2 && j == i)
            close(birth->stream_fd[i]);
    }
    if (streams[0].kind != ZP_STREAM_INHERIT) {
        __fpurge(stdin);
        clearerr(stdin);
    }
    return 0;
}

/* fflush(NULL) waits for each stream that another thread uses, be it for
 * reading: while one waits for a line of standard input, that is for long. (It
 * must not be held here either: another thread's fflush(NULL) has the list of
 * all streams, and would wait for us.) */
void
zp__streams_flush(void)
{
    if (ftrylockfile(stdin) == 0) {
        funlockfile(stdin);
        fflush(NULL);
    } else {
        fflush(stdout);
        fflush(stderr);
    }
}

int
zp_proc_stream(zp_proc *proc, int which)
{
    int rc = zp__proc_enter(proc, zp__ctx_check), fd;

    if (rc == 0 && (which < 0 || which > 2))
        rc = zp__fail(-EINVAL, "stream %d is not 0, 1 or 2", which);
    if (rc == 0 && proc->pipes[which] < 0)
        rc = zp__fail(-EBADF, "standard %s has no pipe, or it was taken",
                      names[which]);
    if (rc < 0)
        return zp__proc_done(proc, rc);
    fd = proc->pipes[which];
    proc->pipes[which] = -1; /* `owned` stays: no child inherits it */
    return fd;
}

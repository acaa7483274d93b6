/*
 * process_options.c - what a process is asked to be: checked, defaults filled
 * in from the context, and copied, since further attempts need it long after
 * the call.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/image.h"
#include "core/process.h"

#define NICE_MAX 39 /* from one end of the scale to the other */

/* --------------------------------------------------------------- checks -- */

static int
check_output(const zp_stream *stream, const char *what)
{
    switch (stream->kind) {
    case ZP_STREAM_INHERIT:
    case ZP_STREAM_NULL:
    case ZP_STREAM_PIPE:
        return 0;
    case ZP_STREAM_FILE:
    case ZP_STREAM_APPEND:
        if (!stream->path || !*stream->path)
            return zp__fail(-EINVAL, "options.%s: the path is empty", what);
        return 0;
    case ZP_STREAM_FD:
        if (fcntl(stream->fd, F_GETFD) < 0)
            return zp__fail_errno(errno, "options.%s: descriptor %d", what,
                                  stream->fd);
        return 0;
    default:
        return zp__fail(-EINVAL, "options.%s: unknown kind %d", what,
                        stream->kind);
    }
}

static int
check_streams(const zp_spawn_options *options)
{
    int rc = 0;

    if (options->in.kind == ZP_STREAM_APPEND)
        rc = zp__fail(-EINVAL, "options.in: input is not appended");
    if (rc == 0)
        rc = check_output(&options->in, "in");
    if (rc == 0)
        rc = check_output(&options->out, "out");
    if (rc == 0 && options->err.kind != ZP_STREAM_STDOUT)
        rc = check_output(&options->err, "err");
    return rc;
}

static int
check(const zp_spawn_options *options)
{
    if (options->flags & ~(unsigned)(ZP_DEFERRED | ZP_SAYS_READY))
        return zp__fail(-EINVAL, "unknown flags 0x%x", options->flags);
    if (options->name &&
        (!*options->name || strlen(options->name) > ZP__RECORD_NAME))
        return zp__fail(-EINVAL, "a name has 1-%d bytes", ZP__RECORD_NAME);
    if (options->arg_size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "the argument has %zu bytes, limit %zu",
                        options->arg_size, ZP__IMAGE_MAX);
    if (options->dir && !*options->dir)
        return zp__fail(-EINVAL, "the working directory is empty");
    if (options->nice < -NICE_MAX || options->nice > NICE_MAX)
        return zp__fail(-EINVAL, "nice is %d, not -%d - %d", options->nice,
                        NICE_MAX, NICE_MAX);
    if (isnan(options->grace))
        return zp__fail(-EINVAL, "grace is not a number");
    if (options->ns && zp__ns_check(options->ns) < 0)
        return -EINVAL;
    return check_streams(options);
}

/* What a caller gave, as large as we know it. */
static int
take(zp_spawn_options *ret, const zp_spawn_options *given)
{
    const unsigned char *bytes = (const unsigned char *)given;
    size_t i;

    memset(ret, 0, sizeof *ret);
    ret->size = sizeof *ret;
    if (!given)
        return 0;
    if (given->size < sizeof given->size || given->size > 4096)
        return zp__fail(-EINVAL, "options.size is %zu", given->size);
    for (i = sizeof *ret; i < given->size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL, "an option of a later version is set");
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    ret->size = sizeof *ret;
    return check(ret);
}

/* ------------------------------------------------------------- defaults -- */

static void
fill_in(zp_spawn_options *options, const zp_spawn_options *defaults)
{
    options->flags |= defaults->flags;
    if (!options->name)
        options->name = defaults->name;
    if (!options->ns)
        options->ns = defaults->ns;
    if (!options->dir)
        options->dir = defaults->dir;
    if (!options->nice)
        options->nice = defaults->nice;
    if (!options->in.kind)
        options->in = defaults->in;
    if (!options->out.kind)
        options->out = defaults->out;
    if (!options->err.kind)
        options->err = defaults->err;
    if (!(fabs(options->grace) > 0))
        options->grace = defaults->grace;
    if (!options->retry)
        options->retry = defaults->retry;
    if (!options->exit_fn) {
        options->exit_fn = defaults->exit_fn;
        options->exit_user = defaults->exit_user;
    }
}

int
zp__spawn_options(zp_spawn_options *ret, const zp_ctx *ctx,
                  const zp_spawn_options *given)
{
    int rc = take(ret, given);

    if (rc == 0 && ctx->spawn)
        fill_in(ret, ctx->spawn);
    return rc;
}

/* A copy of TEXT into *AT, which may be NULL. */
static bool
copy_text(const char **at)
{
    return !*at || (*at = strdup(*at)) != NULL;
}

static void *
copy_bytes(const void *data, size_t size)
{
    void *copy = malloc(size ? size : 1);

    if (copy && size)
        memcpy(copy, data, size);
    return copy;
}

static void
free_retry(zp_retry *retry)
{
    free((void *)retry->codes);
    free((void *)retry->signals);
    free(retry->arg_size ? retry->arg : NULL);
    free(retry);
}

/* A copy of GIVEN, which has been checked; NULL: no memory. */
static zp_retry *
copy_retry(const zp_retry *given)
{
    zp_retry *copy = calloc(1, sizeof *copy);

    if (!copy)
        return NULL;
    memcpy(copy, given,
           given->size < sizeof *copy ? given->size : sizeof *copy);
    copy->size = sizeof *copy;
    if (copy->codes)
        copy->codes =
            copy_bytes(copy->codes, copy->n_codes * sizeof *copy->codes);
    if (copy->signals)
        copy->signals =
            copy_bytes(copy->signals, copy->n_signals * sizeof *copy->signals);
    if (copy->arg_size)
        copy->arg = copy_bytes(copy->arg, copy->arg_size);
    if ((copy->n_codes && !copy->codes) ||
        (copy->n_signals && !copy->signals) || (copy->arg_size && !copy->arg)) {
        free_retry(copy);
        return NULL;
    }
    return copy;
}

zp_spawn_options *
zp__spawn_defaults_free(zp_spawn_options *defaults)
{
    if (!defaults)
        return NULL;
    free((void *)defaults->name);
    free((void *)defaults->ns);
    free((void *)defaults->dir);
    free((void *)defaults->in.path);
    free((void *)defaults->out.path);
    free((void *)defaults->err.path);
    if (defaults->retry)
        free_retry((zp_retry *)defaults->retry);
    free(defaults);
    return NULL;
}

/* All that OWN points to is another's: make copies. On failure what has not
 * been copied is NULL. */
static bool
copy_all(zp_spawn_options *own)
{
    const char **texts[] = {&own->name,    &own->ns,       &own->dir,
                            &own->in.path, &own->out.path, &own->err.path};
    const zp_retry *retry = own->retry;
    bool good = true;
    size_t i;

    for (i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!copy_text(texts[i]))
            good = false;
    own->retry = retry ? copy_retry(retry) : NULL;
    return good && !own->retry == !retry;
}

int
zp__spawn_defaults(zp_spawn_options **ret, const zp_spawn_options *given)
{
    zp_spawn_options taken, *own;
    zp__retry *retry;
    int rc;

    *ret = NULL;
    if (!given)
        return 0;
    rc = take(&taken, given);
    if (rc == 0 && taken.arg_size)
        rc = zp__fail(-EINVAL, "spawn.arg_size: a default has no argument");
    if (rc == 0 && taken.retry) { /* is it one? */
        rc = zp__retry_new(&retry, taken.retry);
        if (rc == 0)
            zp__retry_free(retry);
    }
    if (rc < 0)
        return rc;
    own = malloc(sizeof *own);
    if (!own)
        return zp__fail(-ENOMEM, "no memory for options");
    *own = taken;
    if (!copy_all(own)) {
        zp__spawn_defaults_free(own);
        return zp__fail(-ENOMEM, "no memory for options");
    }
    *ret = own;
    return 0;
}

/* ------------------------------------------------------------------ job -- */

void
zp__job_free(zp__job *job)
{
    int i;

    free(job->argv);
    free(job->env);
    free(job->arg_copy);
    free(job->again_copy);
    free(job->dir);
    for (i = 0; i < 3; i++)
        free((void *)job->streams[i].path);
    memset(job, 0, sizeof *job);
}

/* ARG, or a copy of its SIZE bytes, kept in *COPY. */
static int
take_arg(void **ret, void **copy, void *arg, size_t size)
{
    *ret = arg;
    if (!size)
        return 0;
    if (!arg)
        return zp__fail(-EINVAL, "the argument is NULL, arg_size %zu", size);
    *ret = *copy = copy_bytes(arg, size);
    return *ret ? 0
                : zp__fail(-ENOMEM, "no memory for an argument of %zu bytes",
                           size);
}

static int
take_again(zp__job *job, const zp_retry *retry)
{
    zp_retry whole;

    if (!retry)
        return 0;
    memset(&whole, 0, sizeof whole);
    memcpy(&whole, retry,
           retry->size < sizeof whole ? retry->size : sizeof whole);
    if (!(whole.flags & ZP_RETRY_ARG)) {
        if (whole.arg || whole.arg_size)
            return zp__fail(-EINVAL, "retry.arg without ZP_RETRY_ARG");
        return 0;
    }
    job->has_again = true;
    if (whole.arg_size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "the argument has %zu bytes, limit %zu",
                        whole.arg_size, ZP__IMAGE_MAX);
    return take_arg(&job->again, &job->again_copy, whole.arg, whole.arg_size);
}

/* On failure JOB holds what was copied so far: zp__job_free(). */
int
zp__job_take(zp__job *job, const zp_ctx *ctx, const zp_spawn_options *options,
             void *arg)
{
    const char *ns = options->ns ? options->ns : ctx->ns;
    int i, rc;

    memcpy(job->ns, ns, strlen(ns) + 1); /* was checked */
    job->says_ready = (options->flags & ZP_SAYS_READY) != 0;
    job->nice = options->nice;
    job->streams[0] = options->in;
    job->streams[1] = options->out;
    job->streams[2] = options->err;
    for (i = 0; i < 3; i++) /* no longer the caller's, whatever fails */
        job->streams[i].path = NULL;
    rc = take_arg(&job->arg, &job->arg_copy, arg, options->arg_size);
    if (rc == 0)
        rc = take_again(job, options->retry);
    if (rc < 0)
        return rc;
    job->streams[0].path = options->in.path;
    job->streams[1].path = options->out.path;
    job->streams[2].path = options->err.path;
    for (i = 0; i < 3; i++)
        if (!copy_text(&job->streams[i].path))
            rc = -ENOMEM;
    if (options->dir && !(job->dir = strdup(options->dir)))
        rc = -ENOMEM;
    return rc < 0 ? zp__fail(rc, "no memory for a process") : 0;
}

/* ---------------------------------------------------------------- exec -- */

static size_t
length(const char *const *list, size_t *bytes)
{
    size_t n;

    for (n = 0; list[n]; n++)
        *bytes += strlen(list[n]) + 1;
    return n;
}

/* A copy of the N strings of LIST, with EXTRA behind them, and NULL; in one
 * block. Those of LIST that begin as one of EXTRA does, up to its '=', are left
 * out. */
static char **
copy_list(const char *const *list, const char *const *extra)
{
    size_t bytes = 0, n = length(list, &bytes) + length(extra, &bytes), i, j;
    char **copy = malloc((n + 1) * sizeof *copy + bytes);
    char *at = copy ? (char *)(copy + n + 1) : NULL;
    char **next = copy;

    if (!copy)
        return NULL;
    for (i = 0; list[i]; i++) {
        for (j = 0; extra[j]; j++)
            if (strncmp(list[i], extra[j],
                        (size_t)(strchr(extra[j], '=') - extra[j]) + 1) == 0)
                break;
        if (extra[j])
            continue;
        *next++ = at;
        at = stpcpy(at, list[i]) + 1;
    }
    for (i = 0; extra[i]; i++) {
        *next++ = at;
        at = stpcpy(at, extra[i]) + 1;
    }
    *next = NULL;
    return copy;
}

int
zp__job_exec(zp__job *job, const zp_ctx *ctx, const char *const *argv,
             const char *const *env)
{
    char address[sizeof ctx->place.run + 16], ns[ZP__NS_MAX + 16];
    const char *none[] = {NULL}, *added[] = {address, ns, NULL};

    snprintf(address, sizeof address, "ZP_ADDRESS=%s", ctx->place.run);
    snprintf(ns, sizeof ns, "ZP_NAMESPACE=%s", job->ns);
    job->argv = copy_list(argv, none);
    job->env = copy_list(env ? env : (const char *const *)environ, added);
    if (!job->argv || !job->env)
        return zp__fail(-ENOMEM, "no memory for a program's arguments");
    return 0;
}

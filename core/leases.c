/*
 * leases.c - keys that go by themselves: set with a lease, renewed, looked at.
 *
 * A lease is bound to a process by pid and start time, boot and pid namespace:
 * whoever has the number later is nobody. Who a process is costs a look at
 * /proc, and never changes, so each thread looks once.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "core/leases.h"
#include "core/state.h"

#define TTL_MAX 1e9 /* seconds */
#define SIZE_MOST 4096

/* ---- options ---- */

static int
check_ttl(const char *key, double ttl)
{
    if (ttl <= TTL_MAX) /* and a number */
        return 0;
    return zp__fail(-EINVAL, "'%s': a ttl of %g (at most %g seconds)", key, ttl,
                    TTL_MAX);
}

static int
take_options(zp_set_options *ret, const char *key, const zp_set_options *given)
{
    const unsigned char *bytes = (const unsigned char *)given;

    memset(ret, 0, sizeof *ret);
    if (given == NULL)
        return 0;
    if (given->size < sizeof given->size || given->size > SIZE_MOST)
        return zp__fail(-EINVAL, "options.size is %zu", given->size);
    for (size_t i = sizeof *ret; i < given->size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL, "options of a later version are set");
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    if (ret->flags & ~(unsigned)ZP_BOUND)
        return zp__fail(-EINVAL, "unknown flags 0x%x", ret->flags);
    if (ret->ttl < 0)
        return zp__fail(-EINVAL, "'%s': a ttl of %g (0 is for ever)", key,
                        ret->ttl);
    return check_ttl(key, ret->ttl);
}

static int
find_self(zp__pid *ret)
{
    static _Thread_local uint64_t token;
    static _Thread_local zp__pid self;

    if (token != zp__token()) {
        int rc = zp__pid_of(getpid(), &self);
        if (rc < 0)
            return zp__fail_errno(-rc, "cannot read /proc/self/stat");
        token = zp__token();
    }
    *ret = self;
    return 0;
}

/* ---- setting ---- */

static int
put(zp_state *state, zp__txn *txn, const char *key, const void *image,
    size_t size, const zp_set_options *options)
{
    zp__lease lease = {.boot = 0};

    if (options->flags == 0 && options->ttl == 0)
        return zp__txn_put(txn, state->ns, key, image, size);
    /* In the lock: what it took to get it does not count. */
    zp__lease_until(&lease, options->ttl > 0 ? options->ttl : -1);
    lease.pid_ns = zp__pid_ns();
    if (options->flags & ZP_BOUND) {
        int rc = find_self(&lease.holder);
        if (rc != 0)
            return zp__about_key(key, rc);
    }
    return zp__txn_put_leased(txn, state->ns, key, image, size, &lease);
}

static int
write_with(zp_state *state, const char *key, const void *image, size_t size,
           const zp_set_options *options)
{
    zp__txn *txn;
    int rc = zp__write_begin(state, &txn, size, false);

    if (rc != 0)
        return rc;
    rc = put(state, txn, key, image, size, options);
    return zp__write_end(state, txn, rc);
}

/* What comes before all: the state, the key, the options. */
static int
enter(const zp_state *state, const char *key, const zp_set_options *given,
      zp_set_options *ret)
{
    int rc = zp__state_enter(state, key, true);

    if (rc == 0 && key == NULL)
        rc = zp__key_check(key);
    return rc == 0 ? take_options(ret, key, given) : rc;
}

int
zp_set_with(zp_state *state, const char *key, const zp_set_options *options,
            const char *format, ...)
{
    zp__encoded encoded;
    zp_set_options taken;
    va_list ap;
    int rc = enter(state, key, options, &taken);

    if (rc != 0)
        return zp__state_done(state, rc);
    va_start(ap, format);
    rc = zp__encode(&encoded, format, ap);
    va_end(ap);
    if (rc != 0)
        return zp__state_done(state, zp__about_key(key, rc));
    rc = write_with(state, key, encoded.image, encoded.size, &taken);
    zp__encoded_free(&encoded);
    return zp__state_done(state, rc);
}

int
zp_set_value_with(zp_state *state, const char *key,
                  const zp_set_options *options, const zp_value *value)
{
    size_t size = 0;
    const void *image = value == NULL ? NULL : zp_value_image(value, &size);
    zp_set_options taken;
    int rc = enter(state, key, options, &taken);

    if (rc == 0 && value == NULL)
        rc = zp__fail(-EINVAL, "the value for '%s' is NULL", key);
    if (rc == 0)
        rc = write_with(state, key, image, size, &taken);
    return zp__state_done(state, rc);
}

/* ---- renewing ---- */

int
zp_renew(zp_state *state, const char *key, double ttl)
{
    zp__txn *txn;
    int rc = zp__state_enter(state, key, true);

    if (rc == 0 && key == NULL)
        rc = zp__key_check(key);
    if (rc == 0 && ttl == 0)
        rc = zp__fail(-EINVAL, "'%s': a ttl of 0 (zp_delete() is for that)",
                      key);
    if (rc == 0 && !(ttl < 0))
        rc = check_ttl(key, ttl);
    if (rc == 0) /* on a full state, too: it adds nothing that stays */
        rc = zp__write_begin(state, &txn, 0, true);
    if (rc != 0)
        return zp__state_done(state, rc);
    rc = zp__txn_renew(txn, state->ns, key, ttl);
    if (rc == ZP_ENOKEY)
        zp__no_key(state, key);
    return zp__state_done(state, zp__write_end(state, txn, rc));
}

/* ---- looking ---- */

static int
read_lease(zp_state *state, const char *key, zp__lease *ret)
{
    int rc = zp__read_begin(state);

    if (rc != 0)
        return rc;
    rc = state->kind == ZP__TXN
             ? zp__txn_lease(state->txn, state->ns, key, ret)
             : zp__view_lease(state->view, state->ns, key, ret);
    zp__read_end(state);
    return rc == ZP_ENOKEY ? zp__no_key(state, key) : rc;
}

static double
seconds_left(const zp__lease *lease)
{
    int64_t left = zp__lease_left(lease, zp__boottime());

    if (lease->holder.pid != 0 &&
        (!zp__lease_is_here(lease) || !zp__pid_alive(&lease->holder)))
        return 0;
    if (left == INT64_MAX)
        return -1;
    return left > 0 ? (double)left * 1e-9 : 0;
}

int
zp_get_lease(zp_state *state, const char *key, zp_lease *ret_lease)
{
    zp__lease lease;
    zp_lease told;
    int rc = zp__state_enter(state, key, false);

    if (rc == 0 && key == NULL)
        rc = zp__key_check(key);
    if (rc == 0 &&
        (ret_lease == NULL || ret_lease->size < sizeof ret_lease->size ||
         ret_lease->size > SIZE_MOST))
        rc = zp__fail(-EINVAL, "lease.size is not set");
    if (rc == 0 && state->kind == ZP__SNAPSHOT)
        rc = zp__fail(-EINVAL,
                      "'%s': a snapshot has no leases, ask the live "
                      "state",
                      key);
    if (rc == 0)
        rc = read_lease(state, key, &lease);
    if (rc != 0)
        return zp__state_done(state, rc);
    memset(&told, 0, sizeof told);
    told.size = ret_lease->size;
    told.pid = lease.holder.pid;
    told.ttl = seconds_left(&lease);
    memset(ret_lease, 0, told.size); /* what a later version may know */
    memcpy(ret_lease, &told, told.size < sizeof told ? told.size : sizeof told);
    return 0;
}

/*
 * state_watchers.c - every way to watch a state, once.
 *
 * `flag` is 1 at first. Then another process takes it through a life: it
 * becomes none, 0, -5, 1 again, and in the end it is deleted.
 *
 * First, callbacks. Each condition tells when it finds that it holds: at its
 * first look, if it does then, and after each change that leaves it true. The
 * change watcher tells each change, whatever it is to.
 *
 * Then a wait, and an iterator, for the same life over again: it is in the log,
 * and they begin at its beginning.
 */
#include <stdio.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [life] */
/* In another process: the life of a flag. */
static int
life(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    (void)arg;
    TRY(zp_set_none(state, "flag"));
    TRY(zp_set_int(state, "flag", 0));
    TRY(zp_set_int(state, "flag", -5));
    TRY(zp_set_int(state, "flag", 1));
    TRY(zp_delete(state, "flag"));
    return zp_set_bool(state, "over", 1);
}
/* [/life] */

/* What a watcher has to tell: what the flag was at that moment. */
static int
tell(zp_state *then, const char *what)
{
    char text[16] = "gone";
    zp_value *value;

    if (zp_contains(then, "flag")) {
        TRY(zp_get_value(then, "flag", &value));
        zp_value_text(value, text, sizeof(text));
        zp_value_free(value);
    }
    printf("%-4s  %s\n", text, what);
    return 0;
}

/* [callbacks] */
static int
say(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    return tell(zp_event_snapshot(event), user);
}

/* A condition of one's own. It says no where the flag is absent, or none. */
static int
is_negative(zp_state *snapshot, void *user)
{
    int64_t flag;

    (void)user;
    return zp_get_int(snapshot, "flag", &flag) == 0 && flag < 0;
}

static int
stop(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    return zp_break(user);
}

/* What they say. */
static char changed[] = "has changed", negative[] = "is negative",
            equal[] = "equals 1", not_equal[] = "does not equal 1",
            none[] = "is none", not_none[] = "is not none",
            truthy[] = "is truthy", falsy[] = "is falsy",
            available[] = "is available", other[] = "another key has changed";

static int
call_when(zp_ctx *ctx)
{
    zp_state *s = zp_ctx_state(ctx);

    TRY(zp_call_when_change(s, NULL, ZP_KEYS("flag"), NULL, say, changed));
    TRY(zp_call_when(s, NULL, ZP_KEYS("flag"), NULL, is_negative, say,
                     negative));
    TRY(zp_call_when_equal(s, NULL, "flag", NULL, say, equal, ZP_I(1)));
    TRY(zp_call_when_not_equal(s, NULL, "flag", NULL, say, not_equal, ZP_I(1)));
    TRY(zp_call_when_none(s, NULL, "flag", NULL, say, none));
    TRY(zp_call_when_not_none(s, NULL, "flag", NULL, say, not_none));
    TRY(zp_call_when_truthy(s, NULL, "flag", NULL, say, truthy));
    TRY(zp_call_when_falsy(s, NULL, "flag", NULL, say, falsy));
    TRY(zp_call_when_available(s, NULL, "flag", NULL, say, available));
    TRY(zp_call_when_change(s, NULL, ZP_KEYS("flag"),
                            ZP_WATCH(.flags = ZP_EXCLUDE), say, other));
    return zp_call_when_available(s, NULL, "over", NULL, stop, ctx);
}
/* [/callbacks] */

/* [wait] */
/* Wait until the flag is none, and be given the state as it was then. */
static int
get_when(zp_state *state, uint64_t since)
{
    zp_state *then;

    TRY(zp_get_when_none(state, &then, "flag", -1,
                         ZP_WATCH(.flags = ZP_SINCE, .since = since)));
    TRY(tell(then, "was waited for"));
    zp_state_free(then);
    return 0;
}
/* [/wait] */

/* [iterator] */
/* Go through the changes of the flag, one after the other. */
static int
iterate(zp_state *state, uint64_t since)
{
    const zp_event *event;
    zp_watch *watch;
    int rc;

    TRY(zp_call_when_change(
        state, &watch, ZP_KEYS("flag"),
        ZP_WATCH(.flags = ZP_SINCE, .since = since, .count = 5), NULL, NULL));
    while ((rc = zp_watch_next(watch, &event, -1)) > 0)
        TRY(tell(zp_event_snapshot(event), "was next"));
    zp_watch_free(watch);
    return rc; /* 0: that were all five */
}
/* [/iterator] */

static int
watch_state(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);
    uint64_t since;

    TRY(zp_set_int(state, "flag", 1));
    TRY(zp_revision(state, &since));
    TRY(call_when(ctx));
    TRY(zp_spawn(ctx, NULL, NULL, life, NULL));
    TRY(zp_run(ctx)); /* until it is over */
    TRY(get_when(state, since));
    return iterate(state, since);
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = watch_state(ctx);
    if (rc < 0)
        fprintf(stderr, "state_watchers: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}

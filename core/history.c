/*
 * history.c - what has happened to a key, from one revision back.
 *
 * The store tells of the change that made what a revision shows; the next one
 * to ask for is the revision before that change. This goes on as long as the
 * changes' log rows are retained. The oldest of them still tells what it
 * replaced, so one version more is known than changes are:
 *
 *     change    9 |     12       15 (deleted)   21     retained from 10
 *     told   <- 9     <- 12   <- 15          <- 21     of 9: its value alone
 *
 * Each step is a look of its own at a revision, nothing is remembered of the
 * one before: so a history on the snapshot of an event outlives the end of the
 * event's read transaction (when the callback waits), as the snapshot does.
 * The view that it reads through knows the way: a step costs a few rows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/state.h"

struct zp_history {
    zp_state state; /* what is read: a copy, with a view of its own if live */
    uint64_t revision; /* the version at it is told next ... */
    bool ended;        /* ... or nothing more, but ... */
    int end;           /* ... this */
    zp_value *value;
    char key[ZP__KEY_MAX + 1];
};

/* From where: the newest that the view shows, if the state is live. */
static int
begin(zp_state *state, zp_history *history)
{
    uint64_t tail;
    int rc = zp__reading_open(state, &history->state);

    if (rc != 0)
        return rc;
    history->revision = state->revision;
    if (state->kind != ZP__LIVE)
        return 0;
    rc = zp__view_range(history->state.view, &history->revision, &tail);
    if (rc != 0)
        zp__reading_close(&history->state);
    return rc;
}

int
zp_history_new(zp_state *state, zp_history **ret_history, const char *key)
{
    zp_history *history;
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0)
        rc = zp__key_check(key);
    if (rc == 0 && ret_history == NULL)
        rc = zp__fail(-EINVAL, "ret_history is NULL");
    if (rc == 0 && state->kind == ZP__TXN)
        rc = zp__fail(-EINVAL, "a transaction has no history");
    if (rc != 0)
        return zp__state_done(state, rc);
    history = calloc(1, sizeof *history);
    if (history == NULL)
        return zp__state_done(state, zp__fail(-ENOMEM, "making a history"));
    strcpy(history->key, key);
    rc = begin(state, history);
    if (rc != 0) {
        free(history);
        return zp__state_done(state, rc);
    }
    *ret_history = history;
    return 0;
}

zp_history *
zp_history_free(zp_history *history)
{
    if (history == NULL || history->state.token != zp__token())
        return NULL;
    zp__reading_close(&history->state);
    zp_value_free(history->value);
    free(history);
    return NULL;
}

static int
tell_end(const zp_history *history)
{
    if (history->end == 0)
        return 0;
    return zp__fail(history->end,
                    "what happened to '%s' before revision %llu is no longer "
                    "retained",
                    history->key, (unsigned long long)history->revision);
}

/* The version that is next: 1; 0 or ZP_EGONE at the end. */
static int
look(zp_history *history, zp__version *ret)
{
    zp_state *state = &history->state;
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0 && history->ended)
        return tell_end(history);
    if (rc == 0)
        rc = zp__read_begin(state);
    if (rc == 0)
        rc = zp__view_version(state->view, state->ns, history->key,
                              history->revision, ret);
    if (rc == ZP_ENOKEY) {
        history->ended = true;
        history->end = 0;
        return 0;
    }
    return rc == 0 ? 1 : rc;
}

static int
keep_value(zp_history *history, const zp__item *item)
{
    int rc = zp__image_check(item->image, item->size);

    if (rc != 0)
        return zp__about_key(history->key, rc);
    return history->value == NULL
               ? zp__value_copy(&history->value, item->image, item->size)
               : zp__value_assign(history->value, item->image, item->size);
}

/* Behind a change that the log has forgotten there is nothing to be found. */
static void
go_on(zp_history *history, const zp__version *version)
{
    history->revision = version->revision;
    if (!version->forgotten)
        history->revision--;
    else
        history->ended = true;
    history->end = version->flags & ZP_CREATED ? 0 : ZP_EGONE;
}

int
zp_history_next(zp_history *history, zp_history_entry *ret_entry,
                const zp_value **ret_value)
{
    zp__version version;
    bool has_value;
    int rc;

    if (history == NULL)
        return zp__fail(-EINVAL, "the history is NULL");
    rc = look(history, &version);
    if (rc != 1)
        return zp__state_done(&history->state, rc);
    has_value = version.item.image != NULL;
    if (has_value && ret_value != NULL) {
        rc = keep_value(history, &version.item);
        if (rc != 0)
            return zp__state_done(&history->state, rc);
    }
    if (!has_value && !(version.flags & ZP_DELETED))
        version.flags |= ZP_UNKEPT;
    go_on(history, &version);
    if (ret_entry != NULL) {
        ret_entry->revision = version.revision;
        ret_entry->flags = version.flags;
        ret_entry->writer = version.pid;
        ret_entry->time = (double)version.time_ns * 1e-9;
    }
    if (ret_value != NULL)
        *ret_value = has_value ? history->value : NULL;
    return 1;
}

/*
 * feed.h - how changes reach a process: one SUB socket per context, the
 * subscriptions, the confirmed start, and the catch-up from the log.
 *
 * A message is a wake-up; the truth is in the log. Each watch has a cursor (the
 * revision up to which it has seen everything); a turn of the feed reads the
 * log once from the lowest cursor of the watches that can run to the head, and
 * delivers in revision order, at most ZP__TURN events, then lets the loop go
 * on. So a lost, repeated or late message can delay an event at most.
 */
#ifndef ZP_REACTORS_FEED_H
#define ZP_REACTORS_FEED_H

#include "core/state.h"

#define ZP__TURN 64 /* events per turn of the loop */

typedef struct zp__feed zp__feed;

/* What the feed knows of a watch (watch.c embeds it first). */
typedef struct zp__tap zp__tap;

#endif

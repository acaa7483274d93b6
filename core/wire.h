/*
 * wire.h - what goes over the server's two sockets, and how zmq is called.
 *
 * pub (XPUB; watchers connect a SUB):
 *   topic 'K' + 8 bytes big-endian zp__topic_key()  + generation, revision
 *   topic 'N' + 8 bytes big-endian zp__topic_ns()   + generation, revision
 *   topic 0xFF + 8 random bytes (a watcher's own sync topic): answered once per
 *     report of its subscription with the same body, after the interest of all
 *     subscriptions read before it stands in the board
 *   topic 'B' + 8 zero bytes: subscribed to, before anything else, by a watcher
 *     that has no bell of its own (slots.h); never sent
 *   The message is one frame: 9 bytes topic, u32 generation, u64 revision, in
 *   host byte order. It only wakes: the receiver reads the log to its end.
 *
 * ctl (ROUTER; clients connect a DEALER): request: 1 frame: u8 verb, u64 id,
 *   payload; answer: u8 verb, u64 id, i32 pid, u64 revision, payload.
 *
 * All that arrives is checked for its length before it is used.
 */
#ifndef ZP_CORE_WIRE_H
#define ZP_CORE_WIRE_H

#include <stdint.h>

#define ZP__TOPIC_SIZE 9
#define ZP__TOPIC_KEY 'K'
#define ZP__TOPIC_NS 'N'
#define ZP__TOPIC_BARE 'B'
#define ZP__TOPIC_SYNC 0xFF
#define ZP__NEWS_SIZE (ZP__TOPIC_SIZE + 4 + 8)

#define ZP__VERB_PING 'P'
#define ZP__REQUEST_HEAD (1 + 8)
#define ZP__ANSWER_HEAD (1 + 8 + 4 + 8)
#define ZP__PAYLOAD_MAX 65536

#endif

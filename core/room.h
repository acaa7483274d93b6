/*
 * room.h - is there room for what libzmq opens and starts by itself?
 */
#ifndef ZP_CORE_ROOM_H
#define ZP_CORE_ROOM_H

#include <stddef.h>

/* Can this process have the descriptors and threads that a zmq context needs?
 * 0, or an error, with its errno and text. */
int zp__room_for_zmq(void);

/* And, where it listens, for one connection more, and OTHERS that are about to
 * come? It aborts the process if there is none when it comes. */
int zp__room_for_peer(size_t others);

#endif

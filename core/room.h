/*
 * room.h - is there room for what libzmq starts with?
 */
#ifndef ZP_CORE_ROOM_H
#define ZP_CORE_ROOM_H

/* Can this process have the descriptors and threads that a zmq context needs?
 * 0, or an error, with its errno and text. */
int zp__room_for_zmq(void);

#endif

/*
 * warden.h - who looks after the server's process.
 */
#ifndef ZP_TOOLS_WARDEN_H
#define ZP_TOOLS_WARDEN_H

/* Split in two. In the process that shall serve: the descriptor READY, or 0 if
 * it stands in for one that was killed (nobody listens any more). The other
 * one, which keeps the standard descriptors alone, does not return: it ends
 * with its server. If there can be no second process: READY, in the first. */
int zp_warden(int ready);

#endif

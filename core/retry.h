/*
 * retry.h - whether a failed process is to be started again, and when. Pure:
 * it knows no process and no clock, the times are told to it.
 */
#ifndef ZP_CORE_RETRY_H
#define ZP_CORE_RETRY_H

#include <zp.h>

typedef struct zp__retry zp__retry;

/* Check GIVEN and keep a copy of all but `arg` and its size. NULL, and 0, when
 * GIVEN allows no retry at all. -EINVAL (the text names the field), -ENOMEM. */
int zp__retry_new(zp__retry **ret, const zp_retry *given);
zp__retry *zp__retry_free(zp__retry *retry);

typedef struct zp__attempt { /* one that has failed */
    int code;                /* as in zp_result */
    int signal;
    double started, ended; /* seconds, of any one clock that only goes on */
    double random;         /* 0 - 1, for the jitter */
} zp__attempt;

enum zp__verdict {
    ZP__RETRY_NOT,  /* not for this failure */
    ZP__RETRY_OVER, /* all of them are used up */
    ZP__RETRY_LOOP, /* a crash loop */
    ZP__RETRY_AFTER /* after *RET_DELAY seconds */
};

/* One attempt more has failed: a zp__verdict. RET_SPAN: of a loop, how many
 * seconds it took. */
int zp__retry_ask(zp__retry *retry, const zp__attempt *attempt,
                  double *ret_delay, double *ret_span);

/* The attempts so far count as nothing, as after a stable one: the delay after
 * them, which the next failure multiplies no more. */
double zp__retry_forgive(zp__retry *retry);

#endif

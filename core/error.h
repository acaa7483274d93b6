/*
 * error.h - codes and the text that goes with them.
 *
 * Whoever meets an error says what it was about with zp__fail(), where it
 * knows most; the text waits in a thread-local buffer. The public functions
 * copy it to their context on the way out (zp__ctx_done() in context.h), so
 * that it stays until the next failure on that context.
 */
#ifndef ZP_CORE_ERROR_H
#define ZP_CORE_ERROR_H

#include <zp.h>

#define ZP__ERROR_MAX 512

/* Keep the text and return CODE (negative). Longer texts are cut. errno is
 * left as it was. */
int zp__fail(int code, const char *format, ...) ZP_PRINTF(2, 3);

/* The same with ": " and the text of ERRNUM (positive) behind it; returns
 * -ERRNUM. */
int zp__fail_errno(int errnum, const char *format, ...) ZP_PRINTF(2, 3);

/* The thread's text; "" when nothing failed. */
const char *zp__fail_text(void);

/* CODE, with zp_strerror(CODE) as text unless one was kept for it: for codes
 * that come from below without a text. */
int zp__fail_code(int code);

#endif

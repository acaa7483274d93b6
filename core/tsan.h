/*
 * tsan.h - ZP__TSAN: 1 in a build with the thread sanitizer, else 0.
 */
#ifndef ZP_CORE_TSAN_H
#define ZP_CORE_TSAN_H

#if defined(__SANITIZE_THREAD__)
#define ZP__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ZP__TSAN 1
#endif
#endif
#ifndef ZP__TSAN
#define ZP__TSAN 0
#endif

#endif

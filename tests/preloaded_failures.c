/* Preloaded before libc: calls on chosen files fail now and then, as on a shared folder.
 *
 *   FAILING_FILES   ends of names, with colons between them: "heartbeat.json:n1.exit"
 *   FAILING_ERRNO   the number of the error
 *   FAILING_EVERY   each so many-th open() of such a file fails; 0: none
 *   FAILING_LOCKS   if set, flock() and locks by fcntl() fail with ENOSYS
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

static int number(const char *name) {
  const char *value = getenv(name);
  return value ? atoi(value) : 0;
}

static int is_chosen(const char *path) {
  const char *ends = getenv("FAILING_FILES");
  size_t length = strlen(path);
  while (ends && *ends) {
    size_t end = strcspn(ends, ":");
    if (end && end <= length && !strncmp(path + length - end, ends, end)) return 1;
    ends += end + (ends[end] == ':');
  }
  return 0;
}

static int fails(const char *path) {
  static unsigned opened;
  int every = number("FAILING_EVERY");
  if (!path || !every || !is_chosen(path) || __sync_add_and_fetch(&opened, 1) % every) return 0;
  errno = number("FAILING_ERRNO");
  return 1;
}

#define OPEN(NAME, FIRST, PASS)                          \
  int NAME FIRST {                                       \
    static int (*real)();                                \
    va_list more;                                        \
    int mode;                                            \
    va_start(more, flags);                               \
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0; \
    va_end(more);                                        \
    if (fails(path)) return -1;                          \
    if (!real) real = (int (*)())dlsym(RTLD_NEXT, #NAME); \
    return real PASS;                                    \
  }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

int flock(int file, int operation) {
  static int (*real)(int, int);
  if (getenv("FAILING_LOCKS")) return errno = ENOSYS, -1;
  if (!real) real = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
  return real(file, operation);
}

#define LOCKING(NAME)                                                       \
  int NAME(int file, int command, ...) {                                    \
    static int (*real)(int, int, void *);                                   \
    va_list more;                                                           \
    void *value;                                                            \
    va_start(more, command);                                                \
    value = va_arg(more, void *);                                           \
    va_end(more);                                                           \
    int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || \
                command == F_OFD_SETLKW || command == F_OFD_GETLK;          \
    if (locks && getenv("FAILING_LOCKS")) return errno = ENOSYS, -1;        \
    if (!real) real = (int (*)(int, int, void *))dlsym(RTLD_NEXT, #NAME);   \
    return real(file, command, value);                                      \
  }

LOCKING(fcntl)
LOCKING(fcntl64)

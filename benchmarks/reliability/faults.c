/* Preloaded by faults.py: lets the n-th call fail that opens, looks at, reads or writes something below one folder.

   arm(folder, n, error, kinds, stay) begins to count; n = 0 lets none fail; stay: all after the n-th fail, too.
   last() tells which one failed first, and trace(), where none was to fail, all of them, one a line. Descriptors are followed from open on. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LOOKS = 1, WRITES = 2, MOST = 65536, TRACE = 1 << 24 };
static char prefix[4096], said[4352], traced[TRACE];
static atomic_char below[MOST];
static atomic_long calls, nth;
static int wrong, wanted, lasting;
static atomic_long used;

void arm(const char *folder, long n, int error, int kinds, int stay) {
    nth = 0;
    snprintf(prefix, sizeof prefix, "%s", folder);
    said[0] = 0, calls = 0, used = 0, wrong = error, wanted = kinds, lasting = stay, nth = n;
}
const char *last(void) { return said; }
const char *trace(void) { return traced; }

static int inside(int at, const char *path) {
    if (!path || !*path) return at >= 0 && at < MOST && below[at];
    if (*path != '/' && at >= 0) return at < MOST && below[at];
    return *prefix && !strncmp(path, prefix, strlen(prefix));
}
static int fails(int kind, const char *call, int there, const char *path, int fd) {
    if (!there || !(kind & wanted)) return 0;
    long number = ++calls;
    if (nth && (number < nth || (number > nth && !lasting))) return 0;
    char own[64], name[4096];
    if (!path || !*path) {
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        long size = readlinkat(AT_FDCWD, own, name, sizeof name - 1);
        name[size < 0 ? 0 : size] = 0, path = name;
    }
    if (!nth) {
        long size = strlen(call) + strlen(path) + 2, at = (used += size) - size;
        if (at + size < TRACE) snprintf(traced + at, size + 1, "%s %s\n", call, path);
        return 0;
    }
    if (!*said) snprintf(said, sizeof said, "%s %s", call, path);
    errno = wrong;
    return 1;
}
static int opened(int fd, int there) {
    if (fd >= 0 && fd < MOST) below[fd] = there;
    return fd;
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define AT AT_FDCWD
/* kind, type, name(parameters), (arguments), directory, path, descriptor, what a failure returns */
#define CALL(kind, type, name, parameters, arguments, at, path, fd, bad)                                             \
    type name parameters {                                                                                           \
        REAL(name);                                                                                                  \
        return fails(kind, #name, inside(path ? at : fd, path), path, path ? -1 : fd) ? bad : real arguments;        \
    }
#define NONE ((const char *)0)
#define OPEN(name, parameters, at, ...)                                                                              \
    int name parameters {                                                                                            \
        REAL(name);                                                                                                  \
        va_list more;                                                                                                \
        va_start(more, flags);                                                                                       \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, int) : 0, there = inside(at, path);                \
        va_end(more);                                                                                                \
        int kind = flags & (O_CREAT | O_TRUNC) ? WRITES : LOOKS;                                                     \
        return fails(kind, #name, there, path, -1) ? -1 : opened(real(__VA_ARGS__, flags, mode), there);             \
    }
OPEN(open, (const char *path, int flags, ...), AT, path)
OPEN(open64, (const char *path, int flags, ...), AT, path)
OPEN(openat, (int at, const char *path, int flags, ...), at, at, path)
OPEN(openat64, (int at, const char *path, int flags, ...), at, at, path)
#define STREAM(name)                                                                                                 \
    FILE *name(const char *path, const char *mode) {                                                                 \
        REAL(name);                                                                                                  \
        int there = inside(AT, path), kind = strpbrk(mode, "wa") ? WRITES : LOOKS;                                   \
        if (fails(kind, #name, there, path, -1)) return NULL;                                                        \
        FILE *file = real(path, mode);                                                                               \
        if (file) opened(fileno(file), there);                                                                       \
        return file;                                                                                                 \
    }
STREAM(fopen)
STREAM(fopen64)
int close(int fd) {
    REAL(close);
    opened(fd, 0);
    return real(fd);
}
DIR *opendir(const char *path) {
    REAL(opendir);
    int there = inside(AT, path);
    if (fails(LOOKS, "opendir", there, path, -1)) return NULL;
    DIR *found = real(path);
    if (found) opened(dirfd(found), there);
    return found;
}
int closedir(DIR *dir) {
    REAL(closedir);
    opened(dirfd(dir), 0);
    return real(dir);
}
#define STAT(name, type) CALL(LOOKS, int, name, (const char *path, struct type *to), (path, to), AT, path, -1, -1)
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
CALL(LOOKS, int, fstat, (int fd, struct stat *to), (fd, to), AT, NONE, fd, -1)
CALL(LOOKS, int, fstat64, (int fd, struct stat64 *to), (fd, to), AT, NONE, fd, -1)
CALL(LOOKS, int, fstatat, (int at, const char *path, struct stat *to, int f), (at, path, to, f), at, path, at, -1)
CALL(LOOKS, int, fstatat64, (int at, const char *path, struct stat64 *to, int f), (at, path, to, f), at, path, at, -1)
CALL(LOOKS, int, statx, (int at, const char *path, int f, unsigned m, struct statx *to), (at, path, f, m, to), at, path, at, -1)
CALL(LOOKS, int, access, (const char *path, int mode), (path, mode), AT, path, -1, -1)
CALL(LOOKS, int, faccessat, (int at, const char *path, int mode, int f), (at, path, mode, f), at, path, at, -1)
CALL(LOOKS, struct dirent *, readdir, (DIR *dir), (dir), AT, NONE, dirfd(dir), NULL)
CALL(LOOKS, struct dirent64 *, readdir64, (DIR *dir), (dir), AT, NONE, dirfd(dir), NULL)
CALL(LOOKS, ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), AT, NONE, fd, -1)
CALL(LOOKS, ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at), AT, NONE, fd, -1)
CALL(LOOKS, ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at), AT, NONE, fd, -1)
CALL(LOOKS, ssize_t, readv, (int fd, const struct iovec *to, int n), (fd, to, n), AT, NONE, fd, -1)
CALL(LOOKS, void *, mmap, (void *p, size_t n, int r, int f, int fd, off_t at), (p, n, r, f, fd, at), AT, NONE, fd, MAP_FAILED)
CALL(LOOKS, void *, mmap64, (void *p, size_t n, int r, int f, int fd, off64_t at), (p, n, r, f, fd, at), AT, NONE, fd, MAP_FAILED)
CALL(WRITES, ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size), AT, NONE, fd, -1)
CALL(WRITES, ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), AT, NONE, fd, -1)
CALL(WRITES, ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at), AT, NONE, fd, -1)
CALL(WRITES, ssize_t, writev, (int fd, const struct iovec *from, int n), (fd, from, n), AT, NONE, fd, -1)
CALL(WRITES, int, fsync, (int fd), (fd), AT, NONE, fd, -1)
CALL(WRITES, int, fdatasync, (int fd), (fd), AT, NONE, fd, -1)
CALL(WRITES, int, ftruncate, (int fd, off_t size), (fd, size), AT, NONE, fd, -1)
CALL(WRITES, int, ftruncate64, (int fd, off64_t size), (fd, size), AT, NONE, fd, -1)
CALL(WRITES, int, mkdir, (const char *path, mode_t mode), (path, mode), AT, path, -1, -1)
CALL(WRITES, int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), at, path, at, -1)
CALL(WRITES, int, rename, (const char *path, const char *to), (path, to), AT, path, -1, -1)
CALL(WRITES, int, renameat, (int at, const char *path, int t, const char *to), (at, path, t, to), at, path, at, -1)
CALL(WRITES, int, renameat2, (int at, const char *path, int t, const char *to, unsigned f), (at, path, t, to, f), at, path, at, -1)

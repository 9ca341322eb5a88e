/* Numbers the calls of libc that change files below a folder, and strikes one of them.
 *
 * A call is named by what it does and to which file: "write store/registries/#/#.new". Parts of a name that differ
 * from run to run (numbers of processes, times, random ids) are written as #. A point is a name and how often it came
 * before. So threads that take turns in another order do not move it.
 *
 * Lines "NAME<tab>OCCURRENCE" go to a descriptor. Nothing happens before `arm`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, BEFORE, AFTER, FULL, BROKEN, TORN }; /* kinds of fault, as in tests/faults/library.py */
enum { NAMES = 8192, LONGEST = 512 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], wanted[LONGEST], *names[NAMES];
static int counts[NAMES], armed, kind, occurrence, lines = -1, struck;

/* The next definition of a function: that of libc. */
#define REAL(result, name, ...) \
    static result (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

void arm(const char *folder, int descriptor, const char *name, int number, int fault) {
    pthread_mutex_lock(&lock);
    snprintf(root, sizeof root, "%s", folder);
    snprintf(wanted, sizeof wanted, "%s", name);
    for (int i = 0; i < NAMES; i++) { free(names[i]); names[i] = NULL; counts[i] = 0; }
    lines = descriptor, occurrence = number, kind = fault, struck = 0, armed = 1;
    pthread_mutex_unlock(&lock);
}

void disarm(void) { armed = 0; }
int has_struck(void) { return struck; }

static int varies(const char *part, size_t length) {
    size_t capitals = strspn(part, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    int digits = 0, others = 0;
    if (length == 6 && capitals >= 6) return 1;
    for (size_t i = 0; i < length; i++) part[i] >= '0' && part[i] <= '9' ? digits++ : others++;
    return (digits >= 3 && !others) || ((digits || !strncmp(part, "tmp", 3)) && length >= 7);
}

/* Writes the call and the file, with # for what differs from run to run. */
static void named(char *out, const char *call, const char *path) {
    size_t at = (size_t)snprintf(out, LONGEST, "%s ", call);
    while (*path && at < LONGEST - 2) {
        size_t length = strspn(path, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        if (!length) out[at++] = *path++;
        else if (varies(path, length)) out[at++] = '#', path += length;
        else while (length-- && at < LONGEST - 2) out[at++] = *path++;
    }
    out[at] = 0;
}

/* The path below the root, or NULL. */
static const char *below(const char *path) {
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && path[length] == '/' ? path + length + 1 : NULL;
}

/* Returns what the call has to do: NONE to go on, or a kind of fault. */
static int strike(const char *call, const char *path, int grows) {
    const char *inside = below(path);
    char name[LONGEST], line[LONGEST + 16];
    unsigned long hash = 5381;
    int result = NONE;
    if (!inside || strstr(inside, "-shm")) return NONE; /* SQLite's shared memory outlives nobody */
    named(name, call, inside);
    for (const char *c = name; *c; c++) hash = hash * 33 + (unsigned char)*c;
    pthread_mutex_lock(&lock);
    size_t slot = hash % NAMES;
    while (names[slot] && strcmp(names[slot], name)) slot = (slot + 1) % NAMES;
    if (!names[slot]) names[slot] = strdup(name);
    int number = counts[slot]++;
    if (lines >= 0) {
        int length = snprintf(line, sizeof line, "%s\t%d\n", name, number);
        syscall(SYS_write, lines, line, length);
    }
    if (kind != NONE && number == occurrence && !strcmp(name, wanted)) struck = 1, result = kind;
    else if (struck && kind == FULL && grows) result = FULL; /* the disk stays full */
    pthread_mutex_unlock(&lock);
    if (result == BEFORE) kill(getpid(), SIGKILL);
    return result;
}

static int strike_fd(const char *call, int fd, int grows) {
    char link[64], path[PATH_MAX];
    if (!armed) return NONE;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return NONE;
    path[length] = 0;
    char *gone = strstr(path, " (deleted)");
    if (gone) *gone = 0;
    return strike(call, path, grows);
}

static int strike_at(const char *call, int folder, const char *file, int grows) {
    char parent[PATH_MAX], real[PATH_MAX], path[2 * PATH_MAX];
    if (!armed || !file) return NONE;
    if (file[0] == '/' || folder == AT_FDCWD) snprintf(parent, sizeof parent, "%s", file);
    else snprintf(parent, sizeof parent, "/proc/self/fd/%d/%s", folder, file);
    size_t length = strlen(parent);
    while (length > 1 && parent[length - 1] == '/') parent[--length] = 0;
    char *slash = strrchr(parent, '/'), *base = slash ? slash + 1 : parent;
    size_t skipped = (size_t)(base - parent);
    if (slash) *slash = 0;
    if (!realpath(!slash ? "." : slash == parent ? "/" : parent, real)) return NONE;
    snprintf(path, sizeof path, "%s/%s", real, parent + skipped);
    return strike(call, path, grows);
}

static long failed(int fault) {
    errno = fault == FULL ? ENOSPC : EIO;
    return -1;
}

/* Ends a call that went well where the process dies after it. */
static long after(int fault, long result) {
    if (fault == AFTER) kill(getpid(), SIGKILL);
    return result;
}

#define FAULTY(fault) ((fault) == FULL || (fault) == BROKEN)
/* The call `real` unless a fault comes before it; `half` is the same with half of the bytes. */
#define GUARDED(fault, real, half) \
    do { \
        int what = (fault); \
        if (FAULTY(what)) return failed(what); \
        if (what == TORN) { (void)!(half); kill(getpid(), SIGKILL); } \
        return after(what, (real)); \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    GUARDED(strike_fd("write", fd, 1), real_write(fd, bytes, count), real_write(fd, bytes, count / 2));
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *bytes, size_t count, offset_type at) { \
        REAL(ssize_t, name, int, const void *, size_t, offset_type); \
        GUARDED(strike_fd("write", fd, 1), real_##name(fd, bytes, count, at), real_##name(fd, bytes, count / 2, at)); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    GUARDED(strike_fd("write", fd, 1), real_writev(fd, parts, count), real_writev(fd, parts, count / 2));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
    GUARDED(strike_fd("write", fd, 1), real_pwritev(fd, parts, count, at), real_pwritev(fd, parts, count / 2, at));
}

#define SENDFILE(name, offset_type) \
    ssize_t name(int out, int in, offset_type *at, size_t count) { \
        REAL(ssize_t, name, int, int, offset_type *, size_t); \
        struct stat info; \
        size_t half = fstat(in, &info) ? 1 : (size_t)info.st_size / 2; \
        GUARDED(strike_fd("write", out, 1), real_##name(out, in, at, count), real_##name(out, in, at, half)); \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    GUARDED(strike_fd("write", out, 1), real_copy_file_range(in, from, out, to, count, flags),
            real_copy_file_range(in, from, out, to, count / 2, flags));
}

#define BY_FD(name) \
    int name(int fd) { \
        REAL(int, name, int); \
        GUARDED(strike_fd("fsync", fd, 0), real_##name(fd), 0); \
    }
BY_FD(fsync)
BY_FD(fdatasync)

#define TRUNCATE(name, offset_type) \
    int name(int fd, offset_type length) { \
        REAL(int, name, int, offset_type); \
        GUARDED(strike_fd("ftruncate", fd, 1), real_##name(fd, length), 0); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    GUARDED(strike_at("rename", AT_FDCWD, to, 0), real_rename(from, to), 0);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    GUARDED(strike_at("rename", b, to, 0), real_renameat(a, from, b, to), 0);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    GUARDED(strike_at("rename", b, to, 0), real_renameat2(a, from, b, to, flags), 0);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    GUARDED(strike_at("link", AT_FDCWD, to, 1), real_link(from, to), 0);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    GUARDED(strike_at("link", b, to, 1), real_linkat(a, from, b, to, flags), 0);
}

int symlink(const char *from, const char *to) {
    REAL(int, symlink, const char *, const char *);
    GUARDED(strike_at("link", AT_FDCWD, to, 1), real_symlink(from, to), 0);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    GUARDED(strike_at("unlink", AT_FDCWD, path, 0), real_unlink(path), 0);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    GUARDED(strike_at(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path, 0), real_unlinkat(folder, path, flags), 0);
}

int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    GUARDED(strike_at("rmdir", AT_FDCWD, path, 0), real_rmdir(path), 0);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    GUARDED(strike_at("mkdir", AT_FDCWD, path, 1), real_mkdir(path, mode), 0);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    GUARDED(strike_at("mkdir", folder, path, 1), real_mkdirat(folder, path, mode), 0);
}

#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC) || ((flags) & O_ACCMODE) != O_RDONLY)
#define MAKES(folder, path, flags) (((flags) & O_CREAT) && faccessat(folder, path, F_OK, 0))
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        MODE(flags) \
        if (!armed || !CHANGES(flags)) return real_##name(path, flags, mode); \
        GUARDED(strike_at("open", AT_FDCWD, path, MAKES(AT_FDCWD, path, flags)), \
                real_##name(path, flags, mode), 0); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        MODE(flags) \
        if (!armed || !CHANGES(flags)) return real_##name(folder, path, flags, mode); \
        GUARDED(strike_at("open", folder, path, MAKES(folder, path, flags)), \
                real_##name(folder, path, flags, mode), 0); \
    }
OPENAT(openat)
OPENAT(openat64)

/* Streams of C open and write inside libc, past the functions here: their opening is a point, what they write is none. */
FILE *fopen64(const char *path, const char *mode) {
    REAL(FILE *, fopen64, const char *, const char *);
    if (armed && mode[0] != 'r') {
        int what = strike_at("open", AT_FDCWD, path, 1);
        if (FAULTY(what)) { failed(what); return NULL; }
        FILE *stream = real_fopen64(path, mode);
        after(what, 0);
        return stream;
    }
    return real_fopen64(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

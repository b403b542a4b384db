/* A disk that fails on command and loses power: loaded into a server (LD_PRELOAD), between it and the kernel.

   DISK_PATH is what the names of the files begin with that are on this disk. DISK_FOLDER is a folder in which
   - `fault` says what fails from now on: `full` (nothing can be written), `write`, `sync`, `readonly`; anything else: nothing;
   - `faults` has a byte for every call that was made to fail;
   - `journal` has everything that was done to the files, if it is there: what would be on a real disk after a power cut
     is told by that.

   A record of the journal: what was done (W write, S synced, F sync failed, T truncated, U unlinked), the bytes of the name, an
   offset or a length, the bytes of data; then name and data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
    uint32_t what;
    uint32_t name_bytes;
    uint64_t at;
    uint64_t data_bytes;
};

static int open_raw(const char *name, int flags) {
    const char *folder = getenv("DISK_FOLDER");
    char path[PATH_MAX];
    if (!folder || snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

static int is_on_disk(const char *path) {
    const char *prefix = getenv("DISK_PATH");
    return prefix && strncmp(path, prefix, strlen(prefix)) == 0;
}

/* The name of an open file that is on the disk. */
static int name_of(int fd, char *name) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, name, PATH_MAX - 1);
    if (bytes < 0) return 0;
    name[bytes] = 0;
    return is_on_disk(name);
}

/* Whether a call of this kind is to fail: w(rite), s(ync), o(pen for writing). Sets errno. */
static int fails(char call) {
    char fault[16] = "";
    int fd = open_raw("fault", O_RDONLY);
    if (fd < 0) return 0;
    ssize_t bytes = syscall(SYS_read, fd, fault, sizeof fault - 1);
    syscall(SYS_close, fd);
    fault[bytes > 0 ? bytes : 0] = 0;
    int error = 0;
    if (!strcmp(fault, "full") && call == 'w') error = ENOSPC;
    if (!strcmp(fault, "write") && call == 'w') error = EIO;
    if (!strcmp(fault, "sync") && call == 's') error = EIO;
    if (!strcmp(fault, "readonly")) error = EROFS;
    if (!error) return 0;
    fd = open_raw("faults", O_WRONLY | O_APPEND | O_CREAT);
    if (fd >= 0) {
        syscall(SYS_write, fd, &call, 1);
        syscall(SYS_close, fd);
    }
    errno = error;
    return 1;
}

static void note(char what, const char *name, uint64_t at, const void *data, uint64_t data_bytes) {
    int saved = errno;
    int fd = open_raw("journal", O_WRONLY | O_APPEND);
    if (fd >= 0) {
        struct record record = {(uint32_t)what, (uint32_t)strlen(name), at, data_bytes};
        struct iovec parts[] = {{&record, sizeof record}, {(void *)name, record.name_bytes}, {(void *)data, data_bytes}};
        if (syscall(SYS_writev, fd, parts, 3) < 0) abort();
        syscall(SYS_close, fd);
    }
    errno = saved;
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
    char name[PATH_MAX];
    int is_ours = name_of(fd, name);
    if (is_ours && fails('w')) return -1;
    ssize_t written = syscall(SYS_pwrite64, fd, data, bytes, at);
    if (is_ours && written > 0) note('W', name, (uint64_t)at, data, (uint64_t)written);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) { return pwrite64(fd, data, bytes, at); }

ssize_t write(int fd, const void *data, size_t bytes) {
    char name[PATH_MAX];
    int is_ours = name_of(fd, name);
    if (is_ours && fails('w')) return -1;
    off_t at = is_ours ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t written = syscall(SYS_write, fd, data, bytes);
    if (is_ours && written > 0) note('W', name, (uint64_t)at, data, (uint64_t)written);
    return written;
}

int ftruncate64(int fd, off64_t bytes) {
    char name[PATH_MAX];
    int is_ours = name_of(fd, name);
    if (is_ours && fails('w')) return -1;
    int result = (int)syscall(SYS_ftruncate, fd, bytes);
    if (is_ours && result == 0) note('T', name, (uint64_t)bytes, "", 0);
    return result;
}

int ftruncate(int fd, off_t bytes) { return ftruncate64(fd, bytes); }

static int synced(int fd, long call) {
    char name[PATH_MAX];
    int is_ours = name_of(fd, name);
    if (is_ours && fails('s')) {
        note('F', name, 0, "", 0);
        return -1;
    }
    int result = (int)syscall(call, fd);
    if (is_ours && result == 0) note('S', name, 0, "", 0);
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }

int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int unlink(const char *path) {
    if (is_on_disk(path) && fails('o')) return -1;
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (is_on_disk(path) && result == 0) note('U', path, 0, "", 0);
    return result;
}

static int opened(const char *path, int flags, mode_t mode) {
    int writes = (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0;
    if (writes && is_on_disk(path) && fails('o')) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return opened(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return opened(path, flags, mode);
}

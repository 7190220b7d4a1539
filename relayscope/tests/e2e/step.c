/*
 * Makes the wall clock of one process step, as the kernel would have it: what clock_gettime and time
 * tell and the receive stamps of the same process's datagrams are shifted alike, each from the same
 * moment on. Nothing else on the host notices.
 *
 * $STEP_FILE holds up to 8 steps, in host byte order: 64 bits of CLOCK_REALTIME in nanoseconds from which
 * one is in force, 64 bits of what it adds then in nanoseconds; zero and zero for none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 8 };
static const int64_t SECOND = 1000000000;

struct step {
    volatile int64_t from, add;
};

static const struct step *steps;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_recvmmsg)(int, struct mmsghdr *, unsigned, int, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("STEP_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(NULL, STEPS * sizeof *steps, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        abort();
    close(file);
    steps = map;
    *(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    *(void **)&real_recvmmsg = dlsym(RTLD_NEXT, "recvmmsg");
}

static void shift(struct timespec *time) {
    int64_t real = (int64_t)time->tv_sec * SECOND + time->tv_nsec, shifted = real;
    for (int i = 0; i < STEPS; i++)
        if (steps[i].from && real >= steps[i].from)
            shifted += steps[i].add;
    time->tv_sec = shifted / SECOND;
    time->tv_nsec = shifted % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real_gettime)
        *(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_gettime(clock, time);
    if (result == 0 && steps && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        shift(time);
    return result;
}

time_t time(time_t *to) {
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}

int recvmmsg(int socket, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
    int received = real_recvmmsg(socket, messages, count, flags, timeout);
    for (int i = 0; i < received; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS)
                continue;
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
            shift(&stamp);
            memcpy(CMSG_DATA(c), &stamp, sizeof stamp);
        }
    }
    return received;
}

/* The receiver of the benchmarks: counts webhooks as fast as a receiver can.
 *
 * One thread, epoll, HTTP/1.1 with keep-alive and Content-Length. Every body is searched for the
 * first "TKN-" followed by twelve digits: that number is the mail. Answers 200 at once.
 *
 *   sink MAX [FILE]     numbers run below MAX; with FILE every body is appended to it
 *
 * Prints its port, then serves. "GET /stats" answers with one JSON object: requests, unique,
 * other (bodies without a number), bytes, first and last (CLOCK_MONOTONIC of the first request
 * and of the last number that was new, in seconds). "GET /times" answers with a line for every
 * number that came: the number and CLOCK_MONOTONIC of its first request. "POST /reset" sets all
 * of it to zero.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define ROOM 65536

struct peer {
    int fd;
    char *data;
    size_t used, room;
    size_t wanted; /* bytes of the whole request, 0 while the head is incomplete */
    size_t head;
};

static double *seen; /* by number: when it came first, 0 if it did not */
static long limit, requests, unique, other;
static unsigned long long bytes;
static double first, last;
static FILE *out;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *get(void *old, size_t size) {
    void *p = realloc(old, size);
    if (!p) {
        perror("realloc");
        exit(1);
    }
    return p;
}

static void count(const char *body, size_t size) {
    const char *at = body, *end = body + size;
    requests++;
    bytes += size;
    if (first == 0) first = now();
    if (out) fwrite(body, 1, size, out), fputc('\n', out);
    while ((at = memmem(at, (size_t)(end - at), "TKN-", 4))) {
        long number = 0;
        int digits = 0;
        for (at += 4; at < end && digits < 12 && *at >= '0' && *at <= '9'; at++, digits++)
            number = number * 10 + (*at - '0');
        if (digits != 12) continue;
        if (number < limit && seen[number] == 0) {
            seen[number] = last = now();
            unique++;
        }
        return;
    }
    other++;
}

static void answer(int fd, const char *status, const char *body) {
    char text[512];
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                        status, strlen(body), body);
    /* At most a few hundred bytes into an empty socket buffer: this is never partial. */
    if (send(fd, text, (size_t)size, MSG_NOSIGNAL) != size) shutdown(fd, SHUT_RDWR);
}

/* Send all of it, waiting where the socket is full: only the benchmark asks for so much. */
static void push(int fd, const char *data, size_t size) {
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return (void)shutdown(fd, SHUT_RDWR);
        if (n < 0) poll(&ready, 1, 1000);
        else data += n, size -= (size_t)n;
    }
}

static void times(int fd) {
    size_t used = 0, room = 64 + (size_t)unique * 48;
    char *text = get(NULL, room), head[128];
    for (long number = 0; number < limit; number++)
        if (seen[number] != 0)
            used += (size_t)snprintf(text + used, room - used, "%ld %.6f\n", number, seen[number]);
    push(fd, head, (size_t)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-length: %zu\r\n\r\n", used));
    push(fd, text, used);
    free(text);
}

static void serve(struct peer *p) {
    if (!strncmp(p->data, "GET /stats", 10)) {
        char text[320];
        if (out) fflush(out);
        snprintf(text, sizeof text,
                 "{\"requests\":%ld,\"unique\":%ld,\"other\":%ld,\"bytes\":%llu,"
                 "\"first\":%.6f,\"last\":%.6f}",
                 requests, unique, other, bytes, first, last);
        answer(p->fd, "200 OK", text);
    } else if (!strncmp(p->data, "GET /times", 10)) {
        times(p->fd);
    } else if (!strncmp(p->data, "POST /reset", 11)) {
        memset(seen, 0, (size_t)limit * sizeof *seen);
        requests = unique = other = 0;
        bytes = 0;
        first = last = 0;
        answer(p->fd, "200 OK", "{}");
    } else {
        count(p->data + p->head, p->wanted - p->head);
        answer(p->fd, "200 OK", "{}");
    }
}

/* Find the end of the head and the length of the body; -1 for what this server cannot do. */
static int head(struct peer *p) {
    char *end = memmem(p->data, p->used, "\r\n\r\n", 4), *line;
    long length = 0;
    if (!end) return p->used > ROOM / 2 ? -1 : 0;
    for (line = p->data; line < end; line = (char *)memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2) {
        if (!strncasecmp(line, "content-length:", 15)) length = atol(line + 15);
        if (!strncasecmp(line, "transfer-encoding:", 18)) return -1;
    }
    p->head = (size_t)(end + 4 - p->data);
    p->wanted = p->head + (size_t)length;
    if (p->wanted > p->room) p->data = get(p->data, p->room = p->wanted + ROOM);
    return 1;
}

/* Read what is there; returns 0 when the peer is gone. */
static int feed(struct peer *p) {
    ssize_t n;
    if (p->used == p->room) p->data = get(p->data, p->room *= 2);
    n = recv(p->fd, p->data + p->used, p->room - p->used, 0);
    if (n <= 0) return n < 0 && (errno == EAGAIN || errno == EINTR);
    p->used += (size_t)n;
    for (;;) {
        if (!p->wanted) {
            int state = head(p);
            if (state < 0) answer(p->fd, "411 Length Required", "{}");
            if (state < 0) return 0;
            if (!state) return 1;
        }
        if (p->used < p->wanted) return 1;
        serve(p);
        memmove(p->data, p->data + p->wanted, p->used - p->wanted);
        p->used -= p->wanted;
        p->wanted = 0;
    }
}

static void take(int poll, int listener) {
    struct epoll_event event = {.events = EPOLLIN};
    struct peer *p;
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    p = get(NULL, sizeof *p);
    *p = (struct peer){.fd = fd, .data = get(NULL, ROOM), .room = ROOM};
    event.data.ptr = p;
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), poll = epoll_create1(EPOLL_CLOEXEC);
    if (argc < 2 || (limit = atol(argv[1])) < 1) return 2;
    seen = get(NULL, (size_t)limit * sizeof *seen);
    memset(seen, 0, (size_t)limit * sizeof *seen);
    if (argc > 2 && !(out = fopen(argv[2], "ab"))) return perror(argv[2]), 1;
    signal(SIGPIPE, SIG_IGN);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) return perror("listen"), 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll, events, EVENTS, -1), i;
        for (i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (!p) {
                take(poll, listener);
            } else if (!feed(p)) {
                close(p->fd);
                free(p->data);
                free(p);
            }
        }
    }
}

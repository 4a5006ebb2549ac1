/* A sink for the bench: takes batches, counts the calls in them, keeps nothing.
 *
 *     sink LATENCY_MS      prints its port; ends when its stdin is closed
 *
 * One thread and epoll. Each POST is answered after LATENCY_MS; what it holds is counted: requests, calls (each
 * "messageId"), different message ids, and bytes. GET tells the counts as JSON, DELETE puts them back to zero.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define MOST 4096               /* sockets */
#define OK "{\"success\":true}"

struct connection {
    char *got;                  /* what came of the request */
    size_t size, room, body, end; /* end is 0 until the head is whole */
    int gzip, method;
};

struct answer {
    int socket;
    int64_t due;                /* nanoseconds */
};

static struct connection *connections[MOST];
static struct answer waiting[MOST]; /* in the order of their time, as all wait equally long */
static size_t first_waiting, waiting_count;
static uint64_t requests, calls, distinct, bytes;
static uint64_t *seen;          /* hashes of message ids; an open hash table */
static size_t seen_room;
static char *plain;             /* a body that came as gzip */
static size_t plain_room;
static double cpu_before;

static void *need(void *memory) {
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static double cpu_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void forget_ids(void) {
    seen_room = 1 << 16;
    free(seen);
    seen = need(calloc(seen_room, sizeof *seen));
    distinct = 0;
}

static void put_id(uint64_t hash) {
    size_t place = hash & (seen_room - 1);
    while (seen[place] && seen[place] != hash)
        place = (place + 1) & (seen_room - 1);
    distinct += seen[place] == 0;
    seen[place] = hash;
}

static void note_id(const char *id, const char *end) {
    uint64_t hash = 0x9E3779B97F4A7C15ULL, word;
    for (; end - id >= 8; id += 8) {
        memcpy(&word, id, 8);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93ULL;
        hash ^= hash >> 32;
    }
    for (; id < end; id++)
        hash = (hash ^ (unsigned char)*id) * 0xD6E8FEB86659FD93ULL;
    hash ^= hash >> 29;
    if (distinct * 2 > seen_room) {
        uint64_t *old = seen;
        size_t room = seen_room;
        seen_room *= 4;
        seen = need(calloc(seen_room, sizeof *seen));
        distinct = 0;
        for (size_t place = 0; place < room; place++)
            if (old[place])
                put_id(old[place]);
        free(old);
    }
    put_id(hash ? hash : 1);
}

static void count_calls(const char *body, size_t size) {
    static const char key[] = "\"messageId\"";
    const char *end = body + size, *at = body;
    while ((at = memmem(at, end - at, key, sizeof key - 1))) {
        calls++;
        at += sizeof key - 1;
        while (at < end && (*at == ' ' || *at == ':'))
            at++;
        if (at >= end || *at != '"')
            continue;
        const char *close = memchr(at + 1, '"', end - at - 1);
        if (!close)
            return;
        note_id(at + 1, close);
        at = close;
    }
}

static void count_body(struct connection *one) {
    char *body = one->got + one->body;
    size_t size = one->end - one->body;
    requests++;
    bytes += size;
    if (!one->gzip) {
        count_calls(body, size);
        return;
    }
    z_stream stream = {.next_in = (unsigned char *)body, .avail_in = size};
    size_t out = 0;
    int state = Z_OK;
    if (inflateInit2(&stream, 15 + 32) != Z_OK)
        return;
    while (state == Z_OK) {
        if (plain_room - out < 65536)
            plain = need(realloc(plain, plain_room = plain_room * 2 + (1 << 20)));
        stream.next_out = (unsigned char *)plain + out;
        stream.avail_out = plain_room - out;
        state = inflate(&stream, Z_NO_FLUSH);
        out = plain_room - stream.avail_out;
        if (state == Z_BUF_ERROR || (state == Z_OK && !stream.avail_in && stream.avail_out))
            break;
    }
    inflateEnd(&stream);
    count_calls(plain, out);
}

static void hang_up(int socket) {
    free(connections[socket]->got);
    free(connections[socket]);
    connections[socket] = NULL;
    close(socket);
}

static void say(int socket, const char *text) {
    char answer[512];
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        strlen(text), text);
    if (write(socket, answer, size) != size)
        hang_up(socket);
}

static void answer(int socket, int64_t latency) {
    struct connection *one = connections[socket];
    char text[256];
    if (one->method == 'G') {
        snprintf(text, sizeof text,
                 "{\"requests\":%lu,\"calls\":%lu,\"distinct\":%lu,\"bytes\":%lu,\"cpu_s\":%.6f}",
                 (unsigned long)requests, (unsigned long)calls, (unsigned long)distinct, (unsigned long)bytes,
                 cpu_seconds() - cpu_before);
        say(socket, text);
    } else if (one->method == 'D') {
        requests = calls = bytes = 0;
        forget_ids();
        cpu_before = cpu_seconds();
        say(socket, OK);
    } else {
        count_body(one);
        if (!latency)
            say(socket, OK);
        else if (waiting_count < MOST)
            waiting[(first_waiting + waiting_count++) % MOST] = (struct answer){socket, now() + latency};
    }
}

/* Whether the head of the request is whole; then its length and its encoding are known. */
static int read_head(struct connection *one) {
    char *end = memmem(one->got, one->size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    char *length = strcasestr(one->got, "\r\ncontent-length:");
    one->gzip = strcasestr(one->got, "\r\ncontent-encoding: gzip") != NULL;
    one->method = one->got[0];
    one->body = end + 4 - one->got;
    one->end = one->body + (length ? strtoull(length + 17, NULL, 10) : 0);
    return 1;
}

static void take(int socket, int64_t latency) {
    struct connection *one = connections[socket];
    for (;;) {
        size_t wanted = one->end > one->size ? one->end : one->size + 65536;
        if (wanted > one->room)
            one->got = need(realloc(one->got, one->room = wanted + 65536));
        ssize_t count = read(socket, one->got + one->size, one->room - one->size);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (count <= 0) {
            hang_up(socket);
            return;
        }
        one->size += count;
        if (!one->end && !read_head(one))
            continue;
        if (one->size >= one->end) {
            answer(socket, latency);
            if (connections[socket])
                one->size = one->end = 0;
            return;
        }
    }
}

static void greet(int listener, int loop) {
    int yes = 1, socket;
    while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (socket >= MOST) {
            close(socket);
            continue;
        }
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connections[socket] = need(calloc(1, sizeof **connections));
        struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};
        epoll_ctl(loop, EPOLL_CTL_ADD, socket, &event);
    }
}

/* Send the answers that are due; returns the milliseconds until the next one, or -1. */
static int send_due(void) {
    for (; waiting_count; waiting_count--, first_waiting = (first_waiting + 1) % MOST) {
        int64_t left = waiting[first_waiting].due - now();
        if (left > 0)
            return (left + 999999) / 1000000;
        if (connections[waiting[first_waiting].socket])
            say(waiting[first_waiting].socket, OK);
    }
    return -1;
}

int main(int count, char **arguments) {
    int64_t latency = count > 1 ? atoll(arguments[1]) * 1000000LL : 0;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), loop = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 512))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = STDIN_FILENO;
    epoll_ctl(loop, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    forget_ids();
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(loop, events, 256, send_due());
        for (int i = 0; i < ready; i++) {
            int socket = events[i].data.fd;
            if (socket == STDIN_FILENO)
                return 0;
            if (socket == listener)
                greet(listener, loop);
            else if (connections[socket])
                take(socket, latency);
        }
    }
}

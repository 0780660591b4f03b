/* A small, fast HTTP/1.1 server for what nginx cannot be told to do: chunks of a chosen size, a sink for uploads that
 * answers after the whole body, a barrier that holds replies until N requests are waiting, heads of a chosen shape.
 *
 *   cc -O2 -o server server.c -lssl -lcrypto
 *   ./server PLAIN_PORT TLS_PORT CERTIFICATE_CHAIN KEY
 *
 *   GET  /bytes/TOTAL               a body of TOTAL octets with a content-length
 *   GET  /chunks/SIZE/TOTAL         the same, chunked, each chunk SIZE octets
 *   GET  /fields/COUNT/LENGTH       a head with COUNT further fields whose values have LENGTH octets
 *   GET  /drip/COUNT/LENGTH         the same, one octet a segment
 *   GET  /redirects/N               302 to /redirects/N-1, and so on down to 200
 *   GET  /hold/N                    answered when N such requests wait
 *   POST anything                   reads the body (content-length or chunked; 100-continue is answered), then 200
 *
 * One thread, epoll, level-triggered. It trusts its client: it is an instrument for loopback, not a server. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT = 16384, SCRATCH = 1 << 18, EVENTS = 512 };
enum body { NONE, LENGTH, SIZE_LINE, CHUNK, CHUNK_END, TRAILER };

struct stream { /* what is being sent: a head, then `left` octets taken cyclically from `block`, then a tail */
    char *head;
    size_t head_size, head_sent;
    char *block;
    size_t block_size, block_at;
    long long left;
    const char *tail;
    size_t tail_size;
    int drip;
};

struct connection {
    int fd, listening, shaking, sending, waiting;
    SSL *ssl;
    SSL_CTX *context;
    char input[INPUT];
    size_t input_size;
    enum body body;
    long long body_left;
    struct stream out;
    struct connection *next_held;
};

static int poller;
static struct connection *held;
static long held_count;
static char scratch[SCRATCH];

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void drop(struct connection *c) {
    for (struct connection **p = &held; *p; p = &(*p)->next_held)
        if (*p == c) {
            *p = c->next_held;
            held_count--;
            break;
        }
    if (c->ssl) SSL_free(c->ssl);
    close(c->fd);
    free(c->out.head);
    free(c->out.block);
    free(c);
}

/* Both return the octets moved, 0 where it would block, -1 at the end or on an error. */
static ssize_t receive(struct connection *c, char *to, size_t size) {
    if (!c->ssl) {
        ssize_t n = recv(c->fd, to, size, 0);
        return n > 0 ? n : n < 0 && errno == EAGAIN ? 0 : -1;
    }
    int n = SSL_read(c->ssl, to, (int)size);
    if (n > 0) return n;
    int error = SSL_get_error(c->ssl, n);
    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t transmit(struct connection *c, const char *from, size_t size, int more) {
    if (!c->ssl) {
        ssize_t n = send(c->fd, from, size, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
        return n > 0 ? n : n < 0 && errno == EAGAIN ? 0 : -1;
    }
    int n = SSL_write(c->ssl, from, (int)size);
    if (n > 0) return n;
    int error = SSL_get_error(c->ssl, n);
    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static int flush(struct connection *c) { /* 1 = all sent, 0 = wait for the socket, -1 = gone */
    struct stream *o = &c->out;
    while (o->head_sent < o->head_size) {
        size_t size = o->drip ? 1 : o->head_size - o->head_sent;
        ssize_t n = transmit(c, o->head + o->head_sent, size, !o->drip && o->left > 0);
        if (n <= 0) return (int)n;
        o->head_sent += (size_t)n;
        if (o->drip) {
            usleep(20); /* long enough for the client to wake up and read this octet alone */
            return 0;
        }
    }
    while (o->left > 0) {
        size_t size = o->block_size - o->block_at;
        if ((long long)size > o->left) size = (size_t)o->left;
        ssize_t n = transmit(c, o->block + o->block_at, size, 0);
        if (n <= 0) return (int)n;
        o->left -= n;
        o->block_at = (o->block_at + (size_t)n) % o->block_size;
    }
    while (o->tail_size) {
        ssize_t n = transmit(c, o->tail, o->tail_size, 0);
        if (n <= 0) return (int)n;
        o->tail += n;
        o->tail_size -= (size_t)n;
    }
    free(o->head);
    free(o->block);
    memset(o, 0, sizeof *o);
    return 1;
}

static void head(struct stream *o, const char *text) {
    o->head = strdup(text);
    o->head_size = strlen(text);
}

static void fill(struct stream *o, long chunk, long long total) {
    if (!chunk) {
        o->block_size = 65536;
        o->block = malloc(o->block_size);
        memset(o->block, 'x', o->block_size);
        o->left = total;
        return;
    }
    char line[32];
    size_t line_size = (size_t)sprintf(line, "%lx\r\n", chunk), one = line_size + (size_t)chunk + 2;
    size_t repeat = one < SCRATCH ? SCRATCH / one : 1;
    o->block_size = one * repeat;
    o->block = malloc(o->block_size);
    for (size_t i = 0; i < repeat; i++) {
        char *at = o->block + i * one;
        memcpy(at, line, line_size);
        memset(at + line_size, 'x', (size_t)chunk);
        memcpy(at + line_size + chunk, "\r\n", 2);
    }
    o->left = total / chunk * (long long)one;
    o->tail = "0\r\n\r\n";
    o->tail_size = 5;
}

static void answer(struct connection *c, const char *path) {
    struct stream *o = &c->out;
    long long total;
    long size, count;
    char text[256];
    c->sending = 1;
    if (sscanf(path, "/bytes/%lld", &total) == 1) {
        sprintf(text, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: %lld\r\n\r\n", total);
        head(o, text);
        fill(o, 0, total);
    } else if (sscanf(path, "/chunks/%ld/%lld", &size, &total) == 2) {
        head(o, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
        fill(o, size, total);
    } else if (sscanf(path, "/fields/%ld/%ld", &count, &size) == 2 || sscanf(path, "/drip/%ld/%ld", &count, &size) == 2) {
        o->drip = path[1] == 'd';
        o->head = malloc((size_t)(count * (size + 32) + 128));
        char *at = o->head + sprintf(o->head, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n");
        for (long i = 0; i < count; i++) {
            at += sprintf(at, "x-field-%ld: ", i);
            memset(at, 'v', (size_t)size);
            at += size;
            at += sprintf(at, "\r\n");
        }
        at += sprintf(at, "\r\n");
        o->head_size = (size_t)(at - o->head);
    } else if (sscanf(path, "/redirects/%ld", &count) == 1 && count > 0) {
        sprintf(text, "HTTP/1.1 302 Found\r\nLocation: /redirects/%ld\r\nContent-Length: 0\r\n\r\n", count - 1);
        head(o, text);
    } else if (sscanf(path, "/hold/%ld", &count) == 1 && held_count + 1 < count) {
        c->sending = 0;
        c->waiting = 1;
        c->next_held = held;
        held = c;
        held_count++;
    } else {
        head(o, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
    }
}

/* Takes what `data` holds of the request's body; returns the octets used. body == NONE afterwards: it is complete. */
static size_t swallow(struct connection *c, char *data, size_t size) {
    size_t at = 0;
    while (at < size && c->body != NONE) {
        if (c->body == LENGTH || c->body == CHUNK) {
            long long take = (long long)(size - at) < c->body_left ? (long long)(size - at) : c->body_left;
            at += (size_t)take;
            c->body_left -= take;
            if (!c->body_left) c->body = c->body == CHUNK ? CHUNK_END : NONE;
            continue;
        }
        char octet = data[at++];
        if (octet == '\r') continue;
        if (c->body == SIZE_LINE) {
            if (octet != '\n') {
                int digit = octet <= '9' ? octet - '0' : (octet | 32) - 'a' + 10;
                c->body_left = c->body_left * 16 + digit;
            } else {
                c->body = c->body_left ? CHUNK : TRAILER;
            }
        } else if (octet == '\n') { /* the end of a chunk, or of the last line: a client of ours sends no trailer */
            c->body = c->body == CHUNK_END ? SIZE_LINE : NONE;
        }
    }
    return at;
}

static void release_held(void) {
    while (held) {
        struct connection *c = held;
        held = c->next_held;
        c->waiting = 0;
        c->sending = 1;
        head(&c->out, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
        watch(c, EPOLLOUT);
    }
    held_count = 0;
}

static int request(struct connection *c) { /* reads a head from c->input; 0 = incomplete */
    char *end = memmem(c->input, c->input_size, "\r\n\r\n", 4);
    if (!end) return 0;
    end[2] = 0; /* the head as a string, its last line's CRLF kept */
    char path[512] = "/";
    sscanf(c->input, "%*s %500s", path);
    char *length = strcasestr(c->input, "\ncontent-length:");
    char *coding = strcasestr(c->input, "\ntransfer-encoding:");
    int expects = strcasestr(c->input, "100-continue") != NULL;
    c->body = coding ? SIZE_LINE : NONE;
    c->body_left = 0;
    if (length && !coding && (c->body_left = atoll(length + 16)) > 0) c->body = LENGTH;
    if (expects && c->body != NONE) transmit(c, "HTTP/1.1 100 Continue\r\n\r\n", 25, 0);
    size_t used = (size_t)(end + 4 - c->input);
    if (c->body != NONE) {
        used += swallow(c, c->input + used, c->input_size - used);
        if (c->body != NONE) {
            c->input_size = 0;
            return 2;
        }
    }
    memmove(c->input, c->input + used, c->input_size - used);
    c->input_size -= used;
    answer(c, path);
    if (c->sending && !strncmp(path, "/hold/", 6)) release_held();
    return 1;
}

static void serve(struct connection *c) {
    if (c->shaking) {
        int n = SSL_accept(c->ssl);
        if (n != 1) {
            int error = SSL_get_error(c->ssl, n);
            ERR_clear_error();
            if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) drop(c);
            return;
        }
        c->shaking = 0;
    }
    for (;;) {
        if (c->sending) {
            int state = flush(c);
            if (state < 0) {
                drop(c);
                return;
            }
            if (!state) {
                watch(c, EPOLLOUT);
                return;
            }
            c->sending = 0;
            watch(c, EPOLLIN);
        }
        if (c->body != NONE) {
            ssize_t n = receive(c, scratch, sizeof scratch);
            if (n < 0) drop(c);
            if (n <= 0) return;
            swallow(c, scratch, (size_t)n);
            if (c->body == NONE) answer(c, "/");
            continue;
        }
        if (c->input_size && request(c)) {
            if (c->waiting) return;
            continue;
        }
        ssize_t n = receive(c, c->input + c->input_size, INPUT - c->input_size);
        if (n < 0) drop(c);
        if (n <= 0) return;
        c->input_size += (size_t)n;
    }
}

static struct connection *add(int fd, SSL_CTX *context, int listening) {
    struct connection *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->context = context;
    c->listening = listening;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return c;
}

static void listen_on(int port, SSL_CTX *context) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("listen");
        exit(1);
    }
    add(fd, context, 1);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s PLAIN_PORT TLS_PORT CERTIFICATE_CHAIN KEY\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(context, argv[3]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[4], SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        return 1;
    }
    listen_on(atoi(argv[1]), NULL);
    listen_on(atoi(argv[2]), context);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c->listening) {
                serve(c);
                continue;
            }
            int fd, one = 1;
            while ((fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                struct connection *peer = add(fd, c->context, 0);
                if (c->context) {
                    peer->ssl = SSL_new(c->context);
                    SSL_set_fd(peer->ssl, fd);
                    peer->shaking = 1;
                }
            }
        }
    }
}

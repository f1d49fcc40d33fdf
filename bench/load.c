/* load.c: HTTP/1.1 requests over kept connections, as many as answers come back, until the time is over and each
 * connection has had an answer (on a busy machine a short time may pass without any), at most a minute longer. Loopback only.
 *
 * load PORT CONNECTIONS MILLISECONDS, the request on stdin; one line on stdout: answers, answers that are not 200, microseconds, and the
 * median and the 99th percentile of the microseconds from a request to its answer. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 256, ROOM = 16384, LONGEST_US = 1 << 20 };

typedef struct {
  char in[ROOM];
  size_t have;
  uint64_t asked_us;
} connection;

static char request[ROOM];
static size_t request_len;
static uint32_t took_us[LONGEST_US]; /* answers by the time that they took */

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static int connected(uint16_t port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)(void *)&to, sizeof to) != 0) return -1;
  return fd;
}

static int ask(int fd, connection *c) {
  c->asked_us = now_us();
  return write(fd, request, request_len) == (ssize_t)request_len;
}

static void count(uint64_t took) { took_us[took < LONGEST_US ? took : LONGEST_US - 1]++; }

/* The time within which that share, in percent, of the answers came. */
static uint64_t percentile(uint64_t answers, uint64_t percent) {
  uint64_t seen = 0, at = 0;
  for (; at < LONGEST_US - 1; at++) {
    seen += took_us[at];
    if (seen * 100 >= answers * percent) break;
  }
  return at;
}

/* Length of the whole answer at the start of c, or 0 when more must come. */
static size_t answer_length(connection *c) {
  c->in[c->have] = 0;
  const char *end = strstr(c->in, "\r\n\r\n"), *size = strstr(c->in, "content-length: ");
  if (end == NULL || size == NULL || size > end) return 0;
  const size_t whole = (size_t)(end - c->in) + 4 + strtoul(size + 16, NULL, 10);
  return c->have >= whole ? whole : 0;
}

int main(int argc, char **argv) {
  static connection connections[MOST];
  struct pollfd polled[MOST];
  if (argc != 4) return 2;
  const uint16_t port = (uint16_t)atoi(argv[1]);
  const int n = atoi(argv[2]);
  if (n < 1 || n > MOST) return 2;
  request_len = fread(request, 1, sizeof request, stdin);
  for (int i = 0; i < n; i++) {
    polled[i].fd = connected(port);
    polled[i].events = POLLIN;
    if (polled[i].fd < 0 || !ask(polled[i].fd, &connections[i])) return 1;
  }
  uint64_t answers = 0, others = 0;
  const uint64_t begun = now_us(), end = begun + (uint64_t)atoi(argv[3]) * 1000u;
  while (now_us() < end || (answers < (uint64_t)n && now_us() < end + 60000000u)) {
    if (poll(polled, (nfds_t)n, 100) < 0) return 1;
    for (int i = 0; i < n; i++) {
      connection *c = &connections[i];
      if ((polled[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      const ssize_t got = read(polled[i].fd, c->in + c->have, ROOM - 1 - c->have);
      if (got <= 0) return 1;
      c->have += (size_t)got;
      if (answer_length(c) == 0) continue;
      answers++;
      count(now_us() - c->asked_us);
      others += strncmp(c->in, "HTTP/1.1 200", 12) != 0;
      c->have = 0;
      if (!ask(polled[i].fd, c)) return 1;
    }
  }
  printf("%llu %llu %llu %llu %llu\n", (unsigned long long)answers, (unsigned long long)others, (unsigned long long)(now_us() - begun),
         (unsigned long long)percentile(answers, 50), (unsigned long long)percentile(answers, 99));
  return 0;
}

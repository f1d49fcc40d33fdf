/* fuzz_main.c: mutates the files of a corpus for a number of seconds; a compiler without libFuzzer can build it. Same seed, same inputs.
 * usage: DRIVER SEED SECONDS FILE… — with 0 seconds each file is run once as it is. Before each run the input is kept in ./last-input. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#define INPUT_MAX (1u << 16)
#define FILES_MAX 4096

static uint8_t *corpus[FILES_MAX], input[INPUT_MAX];
static size_t length[FILES_MAX];
static uint64_t state;

/* splitmix64 */
static uint64_t next_random(void) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
static size_t below(size_t n) { return n == 0 ? 0 : (size_t)(next_random() % n); }

static const char *const TOKENS[] = {"{", "}", "[", "]", ",", ":", "\"", "\\u0000", "\\ud800", "null", "true", "-", "1e9", "0.0000001", "999999999999999999",
                                     "\xff", "\xc3\xa9", "\xf0\x9f\x98\x80", "\"id\":", "2026-01-01T00:00:00Z", "{}", "<", "/>", "</Item>", "<Item id='1'>", "<Name>", "&amp;", "&#x10FFFF;", "&a;",
                                     "<![CDATA[", "]]>", "<!--", "-->", "<?p", "?>", "<!DOCTYPE a [<!ENTITY a 'b'>]>", " xmlns:b='urn:b'", "xmlns=''", " a='1'", "b:",
                                     "\xef\xbb\xbf", "\xed\xa0\x80", "/Date(1539993600000+0000)/", "1.234,5-"};

static void read_file(const char *path, size_t at) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  corpus[at] = malloc(INPUT_MAX);
  if (corpus[at] == NULL) exit(2);
  length[at] = fread(corpus[at], 1, INPUT_MAX, file);
  fclose(file);
}

static size_t graft(size_t n, size_t files) {
  const size_t other = below(files), from = below(length[other]), at = below(n + 1);
  size_t count = below(length[other] - from + 1);
  if (count > INPUT_MAX - n) count = INPUT_MAX - n;
  memmove(input + at + count, input + at, n - at);
  memcpy(input + at, corpus[other] + from, count);
  return n + count;
}

static size_t mutate(size_t n, size_t files) {
  const size_t at = below(n);
  const char *token = TOKENS[below(sizeof TOKENS / sizeof *TOKENS)];
  const size_t size = strlen(token), cut = below(n - at + 1);
  switch (below(7)) {
    case 0: if (n > 0) input[at] ^= (uint8_t)(1u << below(8)); return n;
    case 1: if (n > 0) input[at] = (uint8_t)next_random(); return n;
    case 2: memmove(input + at, input + at + cut, n - at - cut); return n - cut;
    case 3: return graft(n, files);
    case 4: if (n > 0) input[at] = (uint8_t)(input[at] + 1 - 2 * below(2)); return n;
    case 5: if (n >= 4) memset(input + below(n - 3), (int)(255 * below(2)), 4); return n;
    default:
      if (n + size > INPUT_MAX) return n;
      memmove(input + at + size, input + at, n - at);
      memcpy(input + at, token, size);
      return n + size;
  }
}

static void run(size_t n, int keep) {
  ftruncate(keep, 0);
  pwrite(keep, input, n, 0);
  LLVMFuzzerTestOneInput(input, n);
}

int main(int argc, char **argv) {
  if (argc < 4 || argc - 3 > FILES_MAX) {
    fprintf(stderr, "usage: %s SEED SECONDS FILE...\n", argv[0]);
    return 2;
  }
  const size_t files = (size_t)argc - 3;
  const time_t seconds = (time_t)strtol(argv[2], NULL, 10);
  const int keep = open("last-input", O_RDWR | O_CREAT | O_TRUNC, 0600);
  uint64_t runs = 0;
  state = strtoull(argv[1], NULL, 10);
  for (size_t i = 0; i < files; i++) read_file(argv[3 + i], i);
  for (size_t i = 0; i < files; i++, runs++) {
    memcpy(input, corpus[i], length[i]);
    run(length[i], keep);
  }
  for (const time_t end = time(NULL) + seconds; time(NULL) < end;) {
    for (int burst = 0; burst < 64; burst++, runs++) {
      const size_t from = below(files);
      size_t n = length[from];
      memcpy(input, corpus[from], n);
      for (size_t changes = 1 + below(8); changes > 0; changes--) n = mutate(n, files);
      run(n, keep);
    }
  }
  close(keep);
  printf("%llu runs\n", (unsigned long long)runs);
  return 0;
}

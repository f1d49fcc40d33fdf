/* fuzz_main.c: runs the files that a list names, then mutants of them; any compiler can build it. Same seed, same inputs.
 * usage: DRIVER SEED MUTANTS LIST — before each run the input is kept in ./last-input. The search with feedback is libFuzzer's. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static void read_file(const char *path, size_t at) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  length[at] = fread(input, 1, INPUT_MAX, file);
  fclose(file);
  corpus[at] = malloc(length[at] + 1);
  if (corpus[at] == NULL) exit(2);
  memcpy(corpus[at], input, length[at]);
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
  const size_t at = below(n), cut = below(n - at + 1);
  switch (below(6)) {
    case 0: if (n > 0) input[at] ^= (uint8_t)(1u << below(8)); return n;
    case 1: if (n > 0) input[at] = (uint8_t)next_random(); return n;
    case 2: memmove(input + at, input + at + cut, n - at - cut); return n - cut;
    case 3: if (n > 0) input[at] = (uint8_t)(input[at] + 1 - 2 * below(2)); return n;
    case 4: if (n >= 4) memset(input + below(n - 3), (int)(255 * below(2)), 4); return n;
    default: return graft(n, files);
  }
}

static void run(size_t n, int keep) {
  if (ftruncate(keep, 0) != 0 || pwrite(keep, input, n, 0) != (ssize_t)n) exit(2);
  LLVMFuzzerTestOneInput(input, n);
}

/* The files that the list names, one a line. */
static size_t read_list(const char *path) {
  char line[4096];
  size_t files = 0;
  FILE *list = fopen(path, "r");
  if (list == NULL) {
    perror(path);
    exit(2);
  }
  for (; files < FILES_MAX && fgets(line, sizeof line, list) != NULL; files++) {
    line[strcspn(line, "\n")] = 0;
    read_file(line, files);
  }
  fclose(list);
  return files;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s SEED MUTANTS LIST\n", argv[0]);
    return 2;
  }
  const size_t files = read_list(argv[3]);
  const unsigned long long mutants = files == 0 ? 0 : strtoull(argv[2], NULL, 10);
  const int keep = open("last-input", O_RDWR | O_CREAT | O_TRUNC, 0600);
  state = strtoull(argv[1], NULL, 10);
  for (size_t i = 0; i < files; i++) {
    memcpy(input, corpus[i], length[i]);
    run(length[i], keep);
  }
  for (unsigned long long i = 0; i < mutants; i++) {
    const size_t from = below(files);
    size_t n = length[from];
    memcpy(input, corpus[from], n);
    for (size_t changes = 1 + below(8); changes > 0; changes--) n = mutate(n, files);
    run(n, keep);
  }
  for (size_t i = 0; i < files; i++) free(corpus[i]);
  close(keep);
  printf("%llu runs\n", files + mutants);
  return 0;
}

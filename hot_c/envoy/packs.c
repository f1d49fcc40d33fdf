/* packs.c: shared objects of packs, named and checked by digest, opened once for all configurations. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

enum { FILE_MAX = 256 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static shim_pack *open_packs; /* guarded by lock */

/* True when nobody but the owner of this process or root may write it. */
bool file_is_private(const struct stat *s) { return (s->st_uid == geteuid() || s->st_uid == 0) && (s->st_mode & 022) == 0; }

static bool named_by_digest(const char *path, const char *sha256, const char *suffix) {
  const char *slash = strrchr(path, '/');
  return path[0] == '/' && strlen(slash + 1) == 64 + strlen(suffix) && memcmp(slash + 1, sha256, 64) == 0 &&
         strcmp(slash + 65, suffix) == 0;
}

static bool in_private_folder(const char *path) {
  char folder[1024];
  size_t n = (size_t)(strrchr(path, '/') - path);
  if (n == 0 || n >= sizeof folder) return false;
  memcpy(folder, path, n);
  folder[n] = 0;
  struct stat s;
  return stat(folder, &s) == 0 && S_ISDIR(s.st_mode) && file_is_private(&s);
}

static bool has_digest(const uint8_t *bytes, size_t len, const char *sha256) {
  uint8_t digest[32];
  char text[64];
  knhk_sha256(bytes, len, digest);
  shim_hex(digest, sizeof digest, text);
  return memcmp(text, sha256, sizeof text) == 0;
}

static const uint8_t *map_file(int fd, const char *path, size_t *len, char *err) {
  struct stat s;
  if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || !file_is_private(&s)) {
    shim_fail(err, "%s: must be a regular file that only its owner may write", path);
    return NULL;
  }
  if (s.st_size <= 0 || s.st_size > FILE_MAX) {
    shim_fail(err, "%s: size must be 1 … %d bytes", path, FILE_MAX);
    return NULL;
  }
  void *map = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (map == MAP_FAILED) {
    shim_fail(err, "%s: mmap: %s", path, strerror(errno));
    return NULL;
  }
  *len = (size_t)s.st_size;
  return map;
}

const uint8_t *verified_map(const char *path, const char *sha256, const char *suffix, size_t *len, char *err) {
  if (!named_by_digest(path, sha256, suffix)) {
    shim_fail(err, "%s: must be an absolute path to a file named by its sha256 and %s", path, suffix);
    return NULL;
  }
  if (!in_private_folder(path)) {
    shim_fail(err, "%s: its folder must be one that only its owner may write", path);
    return NULL;
  }
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) {
    shim_fail(err, "%s: %s", path, strerror(errno));
    return NULL;
  }
  const uint8_t *map = map_file(fd, path, len, err);
  close(fd);
  if (map != NULL && !has_digest(map, *len, sha256)) {
    shim_fail(err, "%s: its bytes have another sha256", path);
    munmap((void *)(uintptr_t)map, *len);
    return NULL;
  }
  return map;
}

/* The variant that this processor runs best, or the one that KNHK_KERNEL names. */
static const knhk_variant *choose(const knhk_pack *api) {
  const char *wanted = getenv("KNHK_KERNEL");
  for (uint32_t i = 0; i < api->nvariants; i++) {
    const knhk_variant *v = &api->variants[i];
    if ((wanted == NULL || wanted[0] == 0 || strcmp(wanted, v->name) == 0) && v->supported()) return v;
  }
  return NULL;
}

static bool is_sound(const knhk_pack *api) {
  return api->nvariants > 0 && api->nvariants <= 16 && api->a_max >= 10 && api->a_max <= SHIM_A_MAX && api->scratch_size != NULL &&
         api->bind_size != NULL && api->bind != NULL && api->explain != NULL;
}

static bool load(shim_pack *pack, const char *path, char *err) {
  pack->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (pack->library == NULL) return shim_fail(err, "dlopen: %s", dlerror());
  pack->api = dlsym(pack->library, "knhk_pack_v1");
  if (pack->api == NULL) return shim_fail(err, "%s: no symbol knhk_pack_v1", path);
  if (pack->api->abi != KNHK_ABI_VERSION) return shim_fail(err, "%s: pack ABI %u, must be %u", path, pack->api->abi, KNHK_ABI_VERSION);
  if (!is_sound(pack->api)) return shim_fail(err, "%s: knhk_pack_v1 is out of bounds", path);
  pack->variant = choose(pack->api);
  if (pack->variant == NULL || pack->variant->decide == NULL) return shim_fail(err, "%s: no kernel variant for this processor or KNHK_KERNEL", path);
  pack->heat = dlsym(pack->library, "knhk_heat_v1");
  residency_find(pack);
  return true;
}

static shim_pack *open_new(const char *path, const char *sha256, char *err) {
  shim_pack *pack = calloc(1, sizeof *pack);
  if (pack == NULL) {
    shim_fail(err, "out of memory");
    return NULL;
  }
  if (load(pack, path, err)) {
    memcpy(pack->sha256, sha256, 64);
    return pack;
  }
  if (pack->library != NULL) dlclose(pack->library);
  free(pack);
  return NULL;
}

static shim_pack *take(const char *path, const char *sha256, char *err) {
  pthread_mutex_lock(&lock);
  shim_pack *pack = open_packs;
  while (pack != NULL && memcmp(pack->sha256, sha256, 64) != 0) pack = pack->next;
  if (pack == NULL && (pack = open_new(path, sha256, err)) != NULL) {
    pack->next = open_packs;
    open_packs = pack;
  }
  if (pack != NULL) pack->references++;
  pthread_mutex_unlock(&lock);
  return pack;
}

/* The file is checked even when the pack is open already: what lies under its name must always be it. */
shim_pack *pack_open(const char *path, const char *sha256, char *err) {
  size_t len = 0;
  const uint8_t *map = verified_map(path, sha256, ".so", &len, err);
  if (map == NULL) return NULL;
  munmap((void *)(uintptr_t)map, len);
  return take(path, sha256, err);
}

void pack_close(shim_pack *pack) {
  if (pack == NULL) return;
  pthread_mutex_lock(&lock);
  if (--pack->references == 0) {
    shim_pack **link = &open_packs;
    while (*link != pack) link = &(*link)->next;
    *link = pack->next;
    dlclose(pack->library);
    free(pack);
  }
  pthread_mutex_unlock(&lock);
}

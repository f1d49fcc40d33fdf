/* config.c: a configuration's life: rings and memory of each worker. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "shim.h"

static _Atomic uint64_t generations; /* config_new runs once per listener: the process counts, not the agent */

static size_t worker_bytes(const shim_config *config) {
  return ((config->scratch_bytes + 4095) & ~(size_t)4095) + SHIM_TEXT_BYTES + SHIM_OUT_BYTES;
}

/* Address space only: pages come with use. */
static bool give_memory(const shim_config *config, shim_worker *worker, char *err) {
  size_t size = worker_bytes(config);
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return shim_fail(err, "out of memory for a worker's scratch");
  worker->memory = worker->scratch = memory;
  worker->out = (char *)memory + size - SHIM_OUT_BYTES;
  worker->text = worker->out - SHIM_TEXT_BYTES;
  return true;
}

static bool make_workers(shim_config *config, const uint8_t boot[16], uint32_t workers, char *err) {
  uint64_t generation = atomic_fetch_add(&generations, 1) + 1;
  config->workers = calloc(workers, sizeof *config->workers);
  if (config->workers == NULL) return shim_fail(err, "out of memory for %u workers", workers);
  for (; config->nworkers < workers; config->nworkers++) {
    shim_worker *worker = &config->workers[config->nworkers];
    if (!ring_create(&worker->ring, config->ring_dir, boot, generation, config->nworkers, config->ring_bytes, err)) return false;
    ring_name_packs(&worker->ring, config->arms[ARM_STABLE].digest, config->arms[ARM_CANDIDATE].digest);
    if (!give_memory(config, worker, err)) {
      ring_close(&worker->ring, true);
      return false;
    }
  }
  return true;
}

shim_config *config_make(const char *json, size_t len, const uint8_t boot[16], uint32_t workers, bool validating, char *err) {
  shim_config *config = calloc(1, sizeof *config);
  if (config == NULL) {
    shim_fail(err, "out of memory");
    return NULL;
  }
  if (config_read(config, json, len, err) && (validating || make_workers(config, boot, workers, err))) return config;
  config_free(config, true);
  return NULL;
}

void config_free(shim_config *config, bool unseen) {
  for (uint32_t i = 0; i < config->nworkers; i++) {
    ring_close(&config->workers[i].ring, unseen);
    munmap(config->workers[i].memory, worker_bytes(config));
  }
  for (int i = 0; i < SHIM_ARMS; i++) {
    free(config->arms[i].binding_memory);
    pack_close(config->arms[i].pack);
  }
  if (config->bundle != NULL) munmap((void *)(uintptr_t)config->bundle, config->bundle_len);
  consents_close(&config->consents);
  free(config->workers);
  free(config);
}

bool config_is_stale(const shim_config *config, uint64_t now_ns) {
  return config->stale || (config->not_after_ns != 0 && now_ns >= config->not_after_ns);
}

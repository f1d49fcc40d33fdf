/* residency.c: packs and the data bundle in memory before the first request, and whether they still are; which predicates decisions touch.
 *
 * config_new reads every page of what the configuration keeps, in its order and within its budget. A worker looks once a second (mincore)
 * whether the system has taken pages back, and asks for them again without waiting. */
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "shim.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

enum { PAGE = 4096, LOOK_HERE_MS = 1000, LOOK_ABSENT_MS = 20, VECTOR = 4096 };

/* ---- ranges of memory ---------------------------------------------------------------------------- */

static shim_range pages_of(const void *at, size_t len) {
  const uintptr_t from = (uintptr_t)at & ~(uintptr_t)(PAGE - 1), to = ((uintptr_t)at + len + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
  return (shim_range){(void *)from, to - from};
}

static int add_segments(struct dl_phdr_info *info, size_t size, void *to) {
  (void)size;
  shim_pack *pack = to;
  const uintptr_t api = (uintptr_t)pack->api;
  bool mine = false;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    mine |= p->p_type == PT_LOAD && api - (info->dlpi_addr + p->p_vaddr) < p->p_memsz;
  }
  for (int i = 0; mine && i < info->dlpi_phnum && pack->nranges < SHIM_RANGES_MAX; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type == PT_LOAD && (p->p_flags & PF_R) != 0) pack->ranges[pack->nranges++] = pages_of((const void *)(info->dlpi_addr + p->p_vaddr), p->p_memsz);
  }
  return mine;
}

void residency_find(shim_pack *pack) { dl_iterate_phdr(add_segments, pack); }

/* Reads each page; for kernels that cannot be asked to. */
static void touch(shim_range r) {
  for (size_t i = 0; i < r.len; i += PAGE) (void)*(volatile const uint8_t *)((const uint8_t *)r.at + i);
}

/* False when there is no memory for it: then its pages come with use, if they come. */
static bool populate(shim_range r) {
  if (madvise(r.at, r.len, MADV_POPULATE_READ) == 0) return true;
  if (errno != EINVAL) return false;
  touch(r);
  return true;
}

static bool in_core(shim_range r) {
  unsigned char vector[VECTOR];
  for (size_t from = 0; from < r.len; from += (size_t)VECTOR * PAGE) {
    const size_t len = r.len - from < (size_t)VECTOR * PAGE ? r.len - from : (size_t)VECTOR * PAGE;
    if (mincore((uint8_t *)r.at + from, len, vector) != 0) return false;
    for (size_t i = 0; i < len / PAGE; i++)
      if ((vector[i] & 1) == 0) return false;
  }
  return true;
}

/* ---- parts of a configuration -------------------------------------------------------------------- */

/* The ranges of a part; none when the configuration has no such part. */
static size_t ranges_of(const shim_config *config, int part, const shim_range **ranges) {
  if (part == PART_BUNDLE) return *ranges = &config->bundle_range, config->bundle == NULL ? 0 : 1;
  const shim_pack *pack = config->arms[part].pack;
  return *ranges = pack == NULL ? NULL : pack->ranges, pack == NULL ? 0 : pack->nranges;
}

void residency_load(shim_config *config) {
  uint64_t used = 0;
  if (config->bundle != NULL) config->bundle_range = pages_of(config->bundle, config->bundle_len);
  for (int i = 0; i < SHIM_PARTS; i++) {
    const int part = config->preload[i];
    const shim_range *ranges;
    const size_t n = ranges_of(config, part, &ranges);
    uint64_t size = 0;
    for (size_t k = 0; k < n; k++) size += ranges[k].len;
    if (config->resident_bytes != 0 && size > config->resident_bytes - used) continue;
    used += size;
    config->kept[part] = true;
    for (size_t k = 0; k < n; k++) config->kept[part] &= populate(ranges[k]);
  }
}

static bool look(const shim_config *config, int part) {
  const shim_range *ranges;
  const size_t n = ranges_of(config, part, &ranges);
  bool here = config->kept[part];
  for (size_t k = 0; here && k < n; k++) here = in_core(ranges[k]);
  for (size_t k = 0; config->kept[part] && !here && k < n; k++) madvise(ranges[k].at, ranges[k].len, MADV_WILLNEED);
  return here;
}

bool residency_here(const shim_config *config, shim_worker *worker, int arm, uint64_t now_ns) {
  if (now_ns >= worker->look_ns) {
    const bool bundle = look(config, PART_BUNDLE);
    bool all = true;
    for (int i = 0; i < SHIM_ARMS; i++) all &= worker->here[i] = bundle && look(config, i);
    worker->look_ns = now_ns + (all ? LOOK_HERE_MS : LOOK_ABSENT_MS) * 1000000ull;
  }
  if (!worker->here[arm]) ring_count_absent(&worker->ring);
  return worker->here[arm];
}

/* ---- heat ---------------------------------------------------------------------------------------- */

void heat_sample(const shim_config *config, shim_worker *worker, int arm) {
  const shim_pack *pack = config->arms[arm].pack;
  if (pack->heat != NULL) pack->heat->count(worker->scratch, ring_heat(&worker->ring, arm), RING_HEAT_MAX);
}

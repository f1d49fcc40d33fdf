/* fuzz_bundle.c. Invariant: bytes that are no data bundle are refused, and a binding over bytes that are accepted never reads outside them. */
#define KNHK_BUILDING_PACK
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "knhk_tables.h"

/* An O of route "create" with attribute sub = "u", without a body. */
static const uint8_t O[] =
  "KNO1\0\0\0\0\0\0\0\1\0\0\0\6create"
  "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
  "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
  "\0\1\0\3sub\0\0\0\1u\0\0\0\2{}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const knhk_pack *pack = &knhk_pack_v1;
  uint8_t *bundle = malloc(size == 0 ? 1 : size), a[16384];
  if (bundle == NULL) abort();
  if (size > 0) memcpy(bundle, data, size);
  const size_t room = (pack->bind_size(bundle, size) + 63) & ~(size_t)63, work = pack->scratch_size(sizeof O - 1);
  void *memory = aligned_alloc(64, room), *scratch = aligned_alloc(64, (work + 63) & ~(size_t)63);
  if (memory == NULL || scratch == NULL) abort();
  int32_t err = 0;
  const knhk_binding *binding = pack->bind(bundle, size, memory, room, &err);
  if (binding == NULL && err != KNHK_E_BUNDLE) abort();
  if (binding != NULL) pack->variants[0].decide(binding, O, sizeof O - 1, a, sizeof a, scratch, work);
  free(bundle);
  free(memory);
  free(scratch);
  return 0;
}

/* fuzz_bundle.c. Invariant: bytes that are no data bundle are refused, and a binding over bytes that are accepted never reads outside them. */
#define KNHK_BUILDING_PACK
#include "fuzz.h"
#include "knhk_tables.h"

/* An O of route "create" with attribute sub = "u", without a body. */
static const uint8_t O[] =
  "KNO1\0\0\0\0\0\0\0\1\0\0\0\6create"
  "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
  "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
  "\0\1\0\3sub\0\0\0\1u\0\0\0\2{}";

static fuzz_room bundle_memory, binding_memory, scratch_memory, action;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const knhk_pack *pack = &knhk_pack_v1;
  uint8_t *bundle = fuzz_take(&bundle_memory, size), *a = fuzz_take(&action, pack->a_max);
  memcpy(bundle, data, size);
  const size_t room = pack->bind_size(bundle, size), work = pack->scratch_size(sizeof O - 1);
  uint8_t *memory = fuzz_take(&binding_memory, room), *scratch = fuzz_take(&scratch_memory, work);
  int32_t err = 0;
  const knhk_binding *binding = pack->bind(bundle, size, memory, room, &err);
  fuzz_demand(binding != NULL || err == KNHK_E_BUNDLE, "what is no bundle is refused as such");
  if (binding != NULL) pack->variants[0].decide(binding, O, sizeof O - 1, a, pack->a_max, scratch, work);
  return 0;
}

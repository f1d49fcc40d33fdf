/* native.h: what the cffi binding adds to the pack ABI (knhk_hot/native.cdef declares the same). */
#ifndef KNHK_NATIVE_H
#define KNHK_NATIVE_H

#include "knhk_pack.h"

/* Opens a pack by its path, which must be new to this process for new bytes (glibc knows libraries by name and inode). On NULL,
 * `error` holds the reason. `handle` is for knhk_close, after which nothing of the pack may be used. */
const knhk_pack *knhk_open(const char *path, void **handle, char *error, size_t error_len);
void knhk_close(void *handle);
/* knhk_heat_v1 of an opened pack, or NULL. */
const knhk_heat *knhk_heat_of(void *handle);

/* Calls through the variant, which cffi cannot do without a wrapper per call. The result comes to out, its A behind it; out_cap is room for both. */
void knhk_decide_into(const knhk_variant *v, const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *out, size_t out_cap, void *scratch,
                      size_t scratch_len);

/* decide_batch over n observations that lie one after the other in o. */
void knhk_decide_many(const knhk_variant *v, const knhk_binding *b, size_t n, const uint8_t *o, const size_t *o_len, uint8_t *a, size_t a_stride,
                      knhk_result *r, void *scratch, size_t scratch_len);

#endif

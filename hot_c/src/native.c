/* native.c: loading of packs for the cffi binding. Everything else of the binding is in knhk_pack.h and knhk_drain.h. */
#include "native.h"

#include <dlfcn.h>
#include <string.h>

static void copy_error(const char *text, char *error, size_t error_len) {
  const size_t n = strlen(text);
  const size_t kept = n < error_len ? n : error_len - 1;
  memcpy(error, text, kept);
  error[kept] = 0;
}

const knhk_pack *knhk_open(const char *path, void **handle, char *error, size_t error_len) {
  *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const char *why = *handle == NULL ? dlerror() : NULL;
  const knhk_pack *pack = *handle == NULL ? NULL : dlsym(*handle, "knhk_pack_v1");
  if (pack != NULL && pack->abi == KNHK_ABI_VERSION) return pack;
  if (*handle != NULL) {
    why = pack == NULL ? "it exports no knhk_pack_v1" : "its ABI version is another";
    dlclose(*handle);
    *handle = NULL;
  }
  copy_error(why == NULL ? "dlopen failed" : why, error, error_len);
  return NULL;
}

void knhk_close(void *handle) { dlclose(handle); }

const knhk_heat *knhk_heat_of(void *handle) { return dlsym(handle, "knhk_heat_v1"); }

void knhk_decide_into(const knhk_variant *v, const knhk_binding *b, const uint8_t *o, size_t o_len, uint8_t *out, size_t out_cap, void *scratch,
                      size_t scratch_len) {
  const knhk_result r = v->decide(b, o, o_len, out + sizeof r, out_cap - sizeof r, scratch, scratch_len);
  memcpy(out, &r, sizeof r);
}

#define GROUP 256

void knhk_decide_many(const knhk_variant *v, const knhk_binding *b, size_t n, const uint8_t *o, const size_t *o_len, uint8_t *a, size_t a_stride,
                      knhk_result *r, void *scratch, size_t scratch_len) {
  const uint8_t *at[GROUP];
  for (size_t done = 0; done < n;) {
    const size_t group = n - done < GROUP ? n - done : GROUP;
    for (size_t i = 0; i < group; i++) {
      at[i] = o;
      o += o_len[done + i];
    }
    v->decide_batch(b, group, at, o_len + done, a + done * a_stride, a_stride, r + done, scratch, scratch_len);
    done += group;
  }
}

/* parse.c: filter_config JSON (formats/agent.md) -> shim_config, its packs bound to its bundle. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <yyjson.h>

#include "shim.h"

enum { MEMORY_MAX = 1 << 30, RING_MIN = 4 << 20, RING_MAX = 1 << 30, SALT_MIN = 8 };

static const char *const KEYS[] = {"version", "point", "epoch", "region", "regionIndex", "ringDir", "ringBytes", "generation", "baseline",
    "mode", "weight", "salt", "stale", "stable", "candidate", "bundle", "evaluator", "stickyAttribute", "attributes", "agentCluster",
    "parkTimeoutMs", "durableTimeoutMs", "agentGraceSeconds", "failure", "problemBase", "notAfterNs", "residency", "consent",
    NULL};
static const char *const PACK_KEYS[] = {"path", "sha256", "digest", "name", "version", "durability", NULL};
static const char *const BUNDLE_KEYS[] = {"path", "sha256", NULL};
static const char *const RESIDENCY_KEYS[] = {"bytes", "absent", "preload", NULL};
static const char *const CONSENT_KEYS[] = {"subject", "purposes", "path", NULL};
static const char *const ATTRIBUTE_KEYS[] = {"name", "filterState", NULL};

static bool known(const char *const *keys, const char *key) {
  while (*keys != NULL && strcmp(*keys, key) != 0) keys++;
  return *keys != NULL;
}

/* All of keys and no others, each once. */
static bool has_keys(yyjson_val *object, const char *const *keys, const char *where, char *err) {
  if (!yyjson_is_obj(object)) return shim_fail(err, "%s: must be an object", where);
  size_t count = 0, i, n;
  yyjson_val *key, *value;
  yyjson_obj_foreach(object, i, n, key, value) {
    if (!known(keys, yyjson_get_str(key))) return shim_fail(err, "%s: unknown member %.64s", where, yyjson_get_str(key));
  }
  for (; keys[count] != NULL; count++) {
    if (yyjson_obj_get(object, keys[count]) == NULL) return shim_fail(err, "%s: member %s is missing", where, keys[count]);
  }
  return count == n || shim_fail(err, "%s: a member occurs twice", where);
}

/* Printable ASCII without the quote and the backslash: safe in JSON, paths and header values. */
static bool is_plain(const char *text, size_t len) {
  for (size_t i = 0; i < len; i++) {
    if (text[i] < 0x21 || text[i] > 0x7e || text[i] == '"' || text[i] == '\\') return false;
  }
  return true;
}

static bool read_text(yyjson_val *object, const char *key, char *out, size_t cap, char *err) {
  yyjson_val *value = yyjson_obj_get(object, key);
  size_t len = yyjson_get_len(value);
  if (!yyjson_is_str(value) || len == 0 || len >= cap || !is_plain(yyjson_get_str(value), len))
    return shim_fail(err, "%s: must be 1 … %zu printable ASCII characters", key, cap - 1);
  memcpy(out, yyjson_get_str(value), len + 1);
  return true;
}

static bool read_number(yyjson_val *object, const char *key, uint64_t min, uint64_t max, uint64_t *out, char *err) {
  yyjson_val *value = yyjson_obj_get(object, key);
  *out = yyjson_get_uint(value);
  if (!yyjson_is_uint(value) || *out < min || *out > max)
    return shim_fail(err, "%s: must be a whole number from %llu to %llu", key, (unsigned long long)min, (unsigned long long)max);
  return true;
}

static bool read_choice(yyjson_val *object, const char *key, const char *const *choices, int *out, char *err) {
  const char *text = yyjson_get_str(yyjson_obj_get(object, key));
  for (*out = 0; text != NULL && choices[*out] != NULL; ++*out) {
    if (strcmp(choices[*out], text) == 0) return true;
  }
  return shim_fail(err, "%s: must be one of its names (%s, …)", key, choices[0]);
}

/* n bytes in hexadecimal, or zeros for null or "". */
static bool read_digest(yyjson_val *object, const char *key, uint8_t *out, size_t n, bool optional, char *err) {
  yyjson_val *value = yyjson_obj_get(object, key);
  memset(out, 0, n);
  if (optional && (yyjson_is_null(value) || (yyjson_is_str(value) && yyjson_get_len(value) == 0))) return true;
  if (!yyjson_is_str(value) || !shim_unhex(yyjson_get_str(value), yyjson_get_len(value), out, n))
    return shim_fail(err, "%s: must be %zu lower-case hexadecimal digits", key, 2 * n);
  return true;
}

static bool read_salt(shim_config *config, yyjson_val *root, char *err) {
  yyjson_val *value = yyjson_obj_get(root, "salt");
  config->salt_len = yyjson_get_len(value) / 2;
  if (!yyjson_is_str(value) || config->salt_len < SALT_MIN || config->salt_len > sizeof config->salt ||
      !shim_unhex(yyjson_get_str(value), yyjson_get_len(value), config->salt, config->salt_len))
    return shim_fail(err, "salt: must be %d to %zu bytes in lower-case hexadecimal", SALT_MIN, sizeof config->salt);
  return true;
}

static const char CONSENT[] = "consent.";

static bool is_attribute_name(const char *name) {
  size_t n = strlen(name);
  return n > 0 && n <= SHIM_NAME_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.-") == n;
}

/* Sources come to stand in the order that O needs; names that the shim itself gives are refused. */
static bool insert_source(shim_config *config, shim_source source, char *err) {
  if (!is_attribute_name(source.name) || strcmp(source.name, "action") == 0 || strncmp(source.name, "path.", 5) == 0 || strncmp(source.name, CONSENT, sizeof CONSENT - 1) == 0)
    return shim_fail(err, "attributes: %s cannot be the name of an attribute from filter state", source.name);
  size_t at = config->nsources;
  while (at > 0 && strcmp(config->sources[at - 1].name, source.name) > 0) at--;
  if (at > 0 && strcmp(config->sources[at - 1].name, source.name) == 0) return shim_fail(err, "attributes: %s occurs twice", source.name);
  memmove(&config->sources[at + 1], &config->sources[at], (config->nsources - at) * sizeof source);
  config->sources[at] = source;
  config->nsources++;
  return true;
}

static bool read_attributes(shim_config *config, yyjson_val *root, char *err) {
  yyjson_val *list = yyjson_obj_get(root, "attributes"), *item;
  if (!yyjson_is_arr(list) || yyjson_arr_size(list) >= SHIM_ATTRS_MAX) return shim_fail(err, "attributes: must be a list of at most %d", SHIM_ATTRS_MAX - 1);
  size_t i, n;
  yyjson_arr_foreach(list, i, n, item) {
    shim_source source;
    if (!has_keys(item, ATTRIBUTE_KEYS, "attributes", err) || !read_text(item, "name", source.name, sizeof source.name, err) ||
        !read_text(item, "filterState", source.filter_state, sizeof source.filter_state, err) || !insert_source(config, source, err))
      return false;
  }
  return true;
}

static bool read_sticky(shim_config *config, yyjson_val *root, char *err) {
  yyjson_val *value = yyjson_obj_get(root, "stickyAttribute");
  config->sticky = -1;
  if (yyjson_is_null(value) || (yyjson_is_str(value) && yyjson_get_len(value) == 0)) return true;
  for (size_t i = 0; i < config->nsources && yyjson_is_str(value); i++) {
    if (strcmp(config->sources[i].name, yyjson_get_str(value)) == 0) config->sticky = (int)i;
  }
  return config->sticky >= 0 || shim_fail(err, "stickyAttribute: must be null or the name of one of attributes");
}

static bool read_bundle(shim_config *config, yyjson_val *root, char *err) {
  yyjson_val *bundle = yyjson_obj_get(root, "bundle");
  if (yyjson_is_null(bundle)) return true;
  char path[1024], sha256[65];
  if (!has_keys(bundle, BUNDLE_KEYS, "bundle", err) || !read_text(bundle, "path", path, sizeof path, err) ||
      !read_digest(bundle, "sha256", config->bundle_digest, 32, false, err))
    return false;
  shim_hex(config->bundle_digest, 32, sha256);
  sha256[64] = 0;
  config->bundle = verified_map(path, sha256, ".bnd", &config->bundle_len, err);
  return config->bundle != NULL;
}

static bool bind_pack(shim_config *config, shim_arm *arm, char *err) {
  const knhk_pack *api = arm->pack->api;
  size_t size = api->bind_size(config->bundle, config->bundle_len);
  size_t scratch = api->scratch_size(SHIM_O_MAX);
  if (size > MEMORY_MAX || scratch > MEMORY_MAX) return shim_fail(err, "%s: needs more than %d bytes of memory", arm->label, MEMORY_MAX);
  arm->binding_memory = aligned_alloc(64, (size + 127) & ~(size_t)63);
  if (arm->binding_memory == NULL) return shim_fail(err, "%s: out of memory for the binding", arm->label);
  int32_t code = 0;
  arm->binding = api->bind(config->bundle, config->bundle_len, arm->binding_memory, size, &code);
  if (arm->binding == NULL) return shim_fail(err, "%s: the data bundle cannot be bound (%d)", arm->label, code);
  if (scratch > config->scratch_bytes) config->scratch_bytes = scratch;
  return true;
}

static bool read_pack(shim_config *config, yyjson_val *root, const char *key, shim_arm *arm, char *err) {
  yyjson_val *file = yyjson_obj_get(root, key);
  snprintf(arm->label, sizeof arm->label, "none");
  if (yyjson_is_null(file)) return true;
  static const char *const DURABILITIES[] = {"ring", "disk", "log", "region", NULL};
  char path[1024], sha256[65], name[160], version[64];
  uint8_t digest[32], image[32];
  int durability;
  if (!has_keys(file, PACK_KEYS, key, err) || !read_text(file, "path", path, sizeof path, err) || !read_text(file, "name", name, sizeof name, err) ||
      !read_text(file, "version", version, sizeof version, err) || !read_digest(file, "sha256", digest, 32, false, err) ||
      !read_digest(file, "digest", image, 32, false, err) || !read_choice(file, "durability", DURABILITIES, &durability, err))
    return false;
  shim_hex(digest, 32, sha256);
  sha256[64] = 0;
  memcpy(arm->digest, image, sizeof arm->digest);
  arm->durability = (uint8_t)durability;
  snprintf(arm->label, sizeof arm->label, "%s@%s", name, version);
  arm->pack = pack_open(path, sha256, err);
  return arm->pack != NULL && bind_pack(config, arm, err);
}

static bool read_preload(shim_config *config, yyjson_val *list, char *err) {
  static const char *const PARTS[] = {"stable", "candidate", "bundle"};
  bool seen[SHIM_PARTS] = {false};
  size_t i, n;
  yyjson_val *item;
  if (!yyjson_is_arr(list) || yyjson_arr_size(list) != SHIM_PARTS) return shim_fail(err, "residency preload: must be stable, candidate and bundle in some order");
  yyjson_arr_foreach(list, i, n, item) {
    int part = SHIM_PARTS - 1;
    while (part >= 0 && !yyjson_equals_str(item, PARTS[part])) part--;
    if (part < 0 || seen[part]) return shim_fail(err, "residency preload: must be stable, candidate and bundle in some order");
    seen[part] = true;
    config->preload[i] = (uint8_t)part;
  }
  return true;
}

static bool read_residency(shim_config *config, yyjson_val *root, char *err) {
  static const char *const ABSENT[] = {"Decide", "Park", NULL};
  yyjson_val *residency = yyjson_obj_get(root, "residency");
  int absent;
  if (!has_keys(residency, RESIDENCY_KEYS, "residency", err) || !read_number(residency, "bytes", 0, 1ull << 40, &config->resident_bytes, err) ||
      !read_choice(residency, "absent", ABSENT, &absent, err) || !read_preload(config, yyjson_obj_get(residency, "preload"), err))
    return false;
  config->park_absent = absent == 1;
  return true;
}

/* Of each purpose the name, to which consent. is put before. */
static bool read_purposes(shim_consents *consents, yyjson_val *list, char *err) {
  size_t i, n;
  yyjson_val *item;
  if (!yyjson_is_arr(list) || yyjson_arr_size(list) == 0 || yyjson_arr_size(list) > SHIM_PURPOSES_MAX)
    return shim_fail(err, "consent purposes: must be a list of 1 to %d names", SHIM_PURPOSES_MAX);
  yyjson_arr_foreach(list, i, n, item) {
    char *name = consents->names[i];
    int len = snprintf(name, sizeof consents->names[i], "%s%s", CONSENT, yyjson_is_str(item) ? yyjson_get_str(item) : "");
    if (len <= (int)sizeof CONSENT - 1 || len > SHIM_NAME_MAX || !is_attribute_name(name)) return shim_fail(err, "consent purposes: must be names of attributes");
    for (size_t before = 0; before < i; before++) {
      if (strcmp(consents->names[before], name) == 0) return shim_fail(err, "consent purposes: %s occurs twice", name);
    }
  }
  consents->npurposes = yyjson_arr_size(list);
  return true;
}

static bool read_consent(shim_config *config, yyjson_val *root, char *err) {
  yyjson_val *consent = yyjson_obj_get(root, "consent");
  shim_consents *consents = &config->consents;
  char path[1024];
  if (yyjson_is_null(consent)) return true;
  return has_keys(consent, CONSENT_KEYS, "consent", err) && read_text(consent, "subject", consents->subject, sizeof consents->subject, err) &&
         read_text(consent, "path", path, sizeof path, err) && read_purposes(consents, yyjson_obj_get(consent, "purposes"), err) &&
         consents_open(consents, path, err);
}

static bool read_flag(yyjson_val *root, const char *key, bool *out, char *err) {
  yyjson_val *value = yyjson_obj_get(root, key);
  *out = yyjson_is_true(value);
  return yyjson_is_bool(value) || shim_fail(err, "%s: must be true or false", key);
}

static bool read_texts(shim_config *config, yyjson_val *root, char *err) {
  return read_text(root, "point", config->point, sizeof config->point, err) &&
         read_text(root, "region", config->region, sizeof config->region, err) &&
         read_text(root, "ringDir", config->ring_dir, sizeof config->ring_dir, err) &&
         read_text(root, "agentCluster", config->agent_cluster, sizeof config->agent_cluster, err) &&
         read_text(root, "problemBase", config->problem_base, sizeof config->problem_base, err);
}

static bool read_numbers(shim_config *config, yyjson_val *root, char *err) {
  uint64_t version, epoch, region, generation, weight, timeout, settling, grace;
  if (!read_number(root, "version", 1, 1, &version, err) || !read_number(root, "epoch", 0, UINT64_MAX, &epoch, err) ||
      !read_number(root, "regionIndex", 0, UINT16_MAX, &region, err) || !read_number(root, "generation", 0, UINT64_MAX, &generation, err) ||
      !read_number(root, "weight", 0, 1000, &weight, err) || !read_number(root, "parkTimeoutMs", 1, 600000, &timeout, err) ||
      !read_number(root, "durableTimeoutMs", 1, 600000, &settling, err) ||
      !read_number(root, "agentGraceSeconds", 1, 86400, &grace, err) || !read_number(root, "notAfterNs", 0, UINT64_MAX, &config->not_after_ns, err) ||
      !read_number(root, "ringBytes", RING_MIN, RING_MAX, &config->ring_bytes, err))
    return false;
  if ((config->ring_bytes & (config->ring_bytes - 1)) != 0) return shim_fail(err, "ringBytes: must be a power of two");
  config->region_index = (uint16_t)region;
  config->weight = (uint32_t)weight;
  config->park_timeout_ms = (uint32_t)timeout;
  config->durable_timeout_ms = (uint32_t)settling;
  config->grace_s = (uint32_t)grace;
  return true;
}

static bool read_choices(shim_config *config, yyjson_val *root, char *err) {
  static const char *const BASELINES[] = {"Deny", "Admit", NULL}, *const MODES[] = {"Stable", "Shadow", "Canary", NULL},
                           *const FAILURES[] = {"Closed", "Open", NULL};
  int baseline, mode, failure;
  if (!read_choice(root, "baseline", BASELINES, &baseline, err) || !read_choice(root, "mode", MODES, &mode, err) ||
      !read_choice(root, "failure", FAILURES, &failure, err) || !read_flag(root, "stale", &config->stale, err))
    return false;
  config->baseline_admit = baseline == 1;
  config->judge_candidate = mode != 0;
  config->canary = mode == 2;
  config->fail_open = failure == 1;
  return true;
}

static bool read_root(shim_config *config, yyjson_val *root, char *err) {
  bool read = has_keys(root, KEYS, "filter_config", err) && read_texts(config, root, err) && read_numbers(config, root, err) &&
              read_choices(config, root, err) && read_salt(config, root, err) && read_digest(root, "evaluator", config->evaluator, 32, true, err) &&
              read_attributes(config, root, err) && read_sticky(config, root, err) && read_consent(config, root, err) && read_residency(config, root, err) && read_bundle(config, root, err) &&
              read_pack(config, root, "stable", &config->arms[ARM_STABLE], err) &&
              read_pack(config, root, "candidate", &config->arms[ARM_CANDIDATE], err);
  if (read && strspn(config->region, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(config->region))
    return shim_fail(err, "region: must match ^[a-z0-9-]{1,63}$");
  config->judge_candidate = config->judge_candidate && config->arms[ARM_CANDIDATE].pack != NULL;
  if (read) residency_load(config);
  return read;
}

bool config_read(shim_config *config, const char *json, size_t len, char *err) {
  yyjson_read_err at;
  yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)json, len, YYJSON_READ_NOFLAG, NULL, &at);
  if (doc == NULL) return shim_fail(err, "filter_config: %s at byte %zu", at.msg, at.pos);
  bool read = read_root(config, yyjson_doc_get_root(doc), err);
  yyjson_doc_free(doc);
  return read;
}

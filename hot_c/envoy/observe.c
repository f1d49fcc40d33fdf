/* observe.c: what may influence a decision, from Envoy's verified sources only. */
#include <string.h>
#include <strings.h>

#include "shim.h"

static const knhk_buf NAMESPACE = SHIM_TEXT("knhk");
static const char CAPTURE[] = "capture.";

/* ---- canonical bytes ---------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *at, const void *bytes, size_t n) {
  if (n != 0) memcpy(at, bytes, n);
  return at + n;
}

static uint8_t *put_be(uint8_t *at, uint64_t value, size_t n) {
  for (size_t i = 0; i < n; i++) at[i] = (uint8_t)(value >> (8 * (n - 1 - i)));
  return at + n;
}

static uint8_t *put_sized(uint8_t *at, size_t length_bytes, knhk_buf value) { return put(put_be(at, value.n, length_bytes), value.p, value.n); }

size_t observation_size(const shim_config *config, const shim_observation *seen) {
  size_t n = 4 + 8 + 2 + strlen(config->region) + 2 + seen->route.n + 64 + 2 + 4 + seen->body_len;
  for (size_t i = 0; i < seen->nattributes; i++) n += 6 + seen->attributes[i].name.n + seen->attributes[i].value.n;
  return n;
}

void observation_write(const shim_config *config, const shim_observation *seen, uint8_t *out) {
  out = put_be(put(out, "KNO1", 4), seen->time_ns, 8);
  out = put_sized(out, 2, (knhk_buf){config->region, strlen(config->region)});
  out = put_sized(out, 2, seen->route);
  out = put(put(out, config->bundle_digest, 32), config->evaluator, 32);
  out = put_be(out, seen->nattributes, 2);
  for (size_t i = 0; i < seen->nattributes; i++) out = put_sized(put_sized(out, 2, seen->attributes[i].name), 4, seen->attributes[i].value);
  out = put_be(out, seen->body_len, 4);
  for (size_t i = 0; i < seen->nchunks; i++) out = put(out, seen->chunks[i].p, seen->chunks[i].n);
}

/* ---- attributes ---------------------------------------------------------------------------------- */

/* RFC 3629: shortest forms, no surrogates, up to U+10FFFF. */
static bool is_utf8(knhk_buf text) {
  const uint8_t *p = (const uint8_t *)text.p, *end = p + text.n;
  while (p < end) {
    uint32_t c = *p++;
    if (c < 0x80) continue;
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    if (c < 0xc2 || c > 0xf4 || end - p < more) return false;
    uint32_t least = more == 1 ? 0x80 : more == 2 ? 0x800 : 0x10000;
    for (c &= 0x3fu >> more; more > 0; more--, p++) {
      if ((*p & 0xc0) != 0x80) return false;
      c = c << 6 | (*p & 0x3f);
    }
    if (c < least || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return false;
  }
  return true;
}

shim_reason observe_insert(shim_observation *seen, shim_attribute attribute) {
  if (seen->nattributes == SHIM_ATTRS_MAX || attribute.value.n > SHIM_VALUE_MAX || !is_utf8(attribute.value)) return REASON_ATTRIBUTE;
  size_t at = seen->nattributes;
  for (; at > 0; at--) {
    const knhk_buf *before = &seen->attributes[at - 1].name;
    size_t common = before->n < attribute.name.n ? before->n : attribute.name.n;
    int order = memcmp(before->p, attribute.name.p, common);
    if (order == 0 && before->n == attribute.name.n) return REASON_ATTRIBUTE;
    if (order < 0 || (order == 0 && before->n < attribute.name.n)) break;
  }
  memmove(&seen->attributes[at + 1], &seen->attributes[at], (seen->nattributes - at) * sizeof attribute);
  seen->attributes[at] = attribute;
  seen->nattributes++;
  return REASON_NONE;
}

static shim_reason take_sources(const shim_request *request, shim_observation *seen, knhk_buf *sticky) {
  const shim_config *config = request->config;
  for (size_t i = 0; i < config->nsources; i++) {
    const shim_source *source = &config->sources[i];
    knhk_buf value = {NULL, 0}, name = {source->name, strlen(source->name)};
    if (!cb_http_get_filter_state_bytes(request->envoy, (knhk_buf){source->filter_state, strlen(source->filter_state)}, &value) || value.n == 0) continue;
    if (strcmp(source->name, "peer") == 0 && memchr(value.p, ',', value.n) != NULL) return REASON_PEER;
    shim_reason reason = observe_insert(seen, (shim_attribute){name, value});
    if (reason != REASON_NONE) return reason;
    if ((int)i == config->sticky) *sticky = value;
  }
  return REASON_NONE;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes a path segment, as the application will; false when it hides a slash or a control character, has a parameter (RFC 3986
 * 3.3: many frameworks drop ";v=1", others keep it), or is too long. */
static bool decode(knhk_buf segment, char *out, size_t *len) {
  *len = 0;
  for (size_t i = 0; i < segment.n; i++) {
    int c = (uint8_t)segment.p[i];
    if (c == '%') {
      int high = i + 2 < segment.n ? hex_digit(segment.p[i + 1]) : -1, low = i + 2 < segment.n ? hex_digit(segment.p[i + 2]) : -1;
      if (high < 0 || low < 0) return false;
      c = high << 4 | low;
      i += 2;
      if (c == '/' || c == '\\') return false;
    } else if (c == ';') {
      return false;
    }
    if (c < 0x20 || c == 0x7f || *len == SHIM_VALUE_MAX) return false;
    out[(*len)++] = (char)c;
  }
  return true;
}

/* Segment number `index` of the path, from 0, without the query. */
static bool segment_of(knhk_buf path, size_t index, knhk_buf *out) {
  const char *p = path.p, *end = path.p + path.n;
  for (const char *q = p; q < end; q++) {
    if (*q == '?' || *q == '#') end = q;
  }
  for (size_t i = 0; p < end && *p == '/'; i++) {
    const char *next = memchr(p + 1, '/', (size_t)(end - p - 1));
    if (next == NULL) next = end;
    if (i == index) {
      *out = (knhk_buf){p + 1, (size_t)(next - p - 1)};
      return true;
    }
    p = next;
  }
  return false;
}

static bool metadata(const shim_request *request, knhk_buf key, knhk_buf *out) {
  return cb_http_get_metadata_string(request->envoy, ENVOY_METADATA_ROUTE, NAMESPACE, key, out);
}

static bool small_number(knhk_buf text, size_t *out) {
  *out = 0;
  for (size_t i = 0; i < text.n; i++) {
    if (text.p[i] < '0' || text.p[i] > '9') return false;
    *out = *out * 10 + (size_t)(text.p[i] - '0');
  }
  return text.n > 0 && text.n <= 3;
}

/* capture.NAME -> attribute path.NAME. Its name is written into text, before the value. */
static shim_reason take_capture(const shim_request *request, knhk_buf key, knhk_buf path, char *text, shim_observation *seen, size_t *used) {
  const size_t prefix = sizeof CAPTURE - 1;
  knhk_buf number, segment;
  size_t index, n = key.n - prefix, len;
  if (n == 0 || n + 5 > SHIM_NAME_MAX) return REASON_ATTRIBUTE;
  if (!metadata(request, key, &number) || !small_number(number, &index) || !segment_of(path, index, &segment)) return REASON_ATTRIBUTE;
  memcpy(text, "path.", 5);
  memcpy(text + 5, key.p + prefix, n);
  if (!decode(segment, text + 5 + n, &len)) return REASON_ATTRIBUTE;
  *used = 5 + n + len;
  return observe_insert(seen, (shim_attribute){{text, 5 + n}, {text + 5 + n, len}});
}

static shim_reason take_captures(const shim_request *request, shim_observation *seen) {
  size_t n = cb_http_get_metadata_keys_count(request->envoy, ENVOY_METADATA_ROUTE, NAMESPACE), used = 0, left = SHIM_TEXT_BYTES;
  knhk_buf keys[SHIM_ATTRS_MAX], path;
  if (n == 0) return REASON_NONE;
  if (n > SHIM_ATTRS_MAX || !cb_http_get_metadata_keys(request->envoy, ENVOY_METADATA_ROUTE, NAMESPACE, keys)) return REASON_ATTRIBUTE;
  char *text = request->worker->text;
  for (size_t i = 0; i < n; i++) {
    if (keys[i].n < sizeof CAPTURE - 1 || memcmp(keys[i].p, CAPTURE, sizeof CAPTURE - 1) != 0) continue;
    if (left < SHIM_NAME_MAX + SHIM_VALUE_MAX || !cb_http_get_header(request->envoy, ENVOY_HEADER_REQUEST, SHIM_TEXT(":path"), &path, 0, NULL)) return REASON_ATTRIBUTE;
    shim_reason reason = take_capture(request, keys[i], path, text, seen, &used);
    if (reason != REASON_NONE) return reason;
    text += used;
    left -= used;
  }
  return REASON_NONE;
}

shim_reason observe_attributes(const shim_request *request, shim_observation *seen, knhk_buf *sticky) {
  knhk_buf action = {NULL, 0};
  shim_reason reason = REASON_NONE;
  if (metadata(request, SHIM_TEXT("action"), &action) && action.n != 0) reason = observe_insert(seen, (shim_attribute){SHIM_TEXT("action"), action});
  if (reason == REASON_NONE) reason = take_captures(request, seen);
  if (reason == REASON_NONE) reason = take_sources(request, seen, sticky);
  if (reason == REASON_NONE) reason = observe_consents(&request->config->consents, seen);
  return reason;
}

/* ---- headers ------------------------------------------------------------------------------------- */

static size_t header(const shim_request *request, knhk_buf name, knhk_buf *value) {
  size_t count = 0;
  *value = (knhk_buf){NULL, 0};
  bool found = cb_http_get_header(request->envoy, ENVOY_HEADER_REQUEST, name, value, 0, &count);
  return found ? (count == 0 ? 1 : count) : 0;
}

static knhk_buf trim(knhk_buf text) {
  while (text.n > 0 && (*text.p == ' ' || *text.p == '\t')) text = (knhk_buf){text.p + 1, text.n - 1};
  while (text.n > 0 && (text.p[text.n - 1] == ' ' || text.p[text.n - 1] == '\t')) text.n--;
  return text;
}

/* The text before the first separator; the rest is left in *text. */
static knhk_buf split(knhk_buf *text, char separator) {
  const char *at = text->n == 0 ? NULL : memchr(text->p, separator, text->n);
  knhk_buf head = {text->p, at == NULL ? text->n : (size_t)(at - text->p)};
  *text = at == NULL ? (knhk_buf){text->p, 0} : (knhk_buf){at + 1, text->n - head.n - 1};
  return trim(head);
}

static bool equal_nocase(knhk_buf a, knhk_buf b) { return a.n == b.n && (a.n == 0 || strncasecmp(a.p, b.p, a.n) == 0); }

/* True when the media type is in the list and has no parameter but charset=utf-8: another charset would be read
 * otherwise by the application than by us. */
static bool is_listed(knhk_buf type, knhk_buf list) {
  knhk_buf essence = split(&type, ';'), parameter = trim(type);
  if (parameter.n != 0 && !equal_nocase(parameter, SHIM_TEXT("charset=utf-8")) && !equal_nocase(parameter, SHIM_TEXT("charset=\"utf-8\""))) return false;
  while (list.n != 0) {
    knhk_buf entry = split(&list, ',');
    if (entry.n != 0 && equal_nocase(entry, essence)) return true;
  }
  return false;
}

static bool is_too_long(knhk_buf length) {
  size_t value = 0;
  for (size_t i = 0; i < length.n && value <= SHIM_BODY_MAX; i++) value = value * 10 + (size_t)(length.p[i] - '0');
  return value > SHIM_BODY_MAX;
}

static shim_reason check_media(shim_request *request, bool eos) {
  knhk_buf list = SHIM_TEXT("application/json"), type, length;
  size_t types = header(request, SHIM_TEXT("content-type"), &type);
  metadata(request, SHIM_TEXT("media"), &list);
  request->body_allowed = list.n != 0;
  if (types > 1 || (type.n != 0 && memchr(type.p, ',', type.n) != NULL)) return REASON_REPEATED; /* Envoy joins copies by commas */
  if (header(request, SHIM_TEXT("content-length"), &length) == 1 && is_too_long(length)) return REASON_TOO_LARGE;
  if (request->body_allowed && !is_listed(type, list) && (types != 0 || !eos)) return REASON_MEDIA;
  return REASON_NONE;
}

static shim_reason check_decision(shim_request *request) {
  knhk_buf value;
  size_t count = header(request, SHIM_TEXT("knhk-decision"), &value);
  if (count > 1) return REASON_REPEATED;
  request->resumed = count == 1;
  return count == 0 || shim_unhex(value.p, value.n, request->decision, sizeof request->decision) ? REASON_NONE : REASON_DECISION;
}

static shim_reason check_route(shim_request *request) {
  knhk_buf route, query, path, candidate;
  if (!metadata(request, SHIM_TEXT("route"), &route) || route.n == 0 || route.n > SHIM_ROUTE_MAX || !is_utf8(route)) return REASON_UNMATCHED;
  memcpy(request->route, route.p, route.n);
  request->route[route.n] = 0;
  request->tells_candidate = metadata(request, SHIM_TEXT("candidate"), &candidate) && shim_equal(candidate, SHIM_TEXT("Tell"));
  if (metadata(request, SHIM_TEXT("query"), &query) && shim_equal(query, SHIM_TEXT("Allow"))) return REASON_NONE;
  return header(request, SHIM_TEXT(":path"), &path) == 1 && memchr(path.p, '?', path.n) == NULL ? REASON_NONE : REASON_QUERY;
}

shim_reason observe_headers(shim_request *request, bool eos) {
  knhk_buf value;
  if (header(request, SHIM_TEXT("upgrade"), &value) != 0) return REASON_UPGRADE;
  if (header(request, SHIM_TEXT(":method"), &value) != 1 || shim_equal(value, SHIM_TEXT("CONNECT"))) return REASON_UPGRADE;
  shim_reason reason = check_route(request);
  if (reason == REASON_NONE && header(request, SHIM_TEXT("content-encoding"), &value) != 0) reason = REASON_ENCODING;
  if (reason == REASON_NONE) reason = check_decision(request);
  if (reason == REASON_NONE) reason = check_media(request, eos);
  return reason;
}

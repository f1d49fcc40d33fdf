/* leaves.h: leaves as they are appended to a log (formats/log.md): {key 17, length u16, leaf 118}, one after another. */
#ifndef KNHK_LEAVES_H
#define KNHK_LEAVES_H

#include <stddef.h>
#include <stdint.h>

#define KNHK_KEY_SIZE 17
#define KNHK_LEAF_SIZE 118
#define KNHK_ENTRY_SIZE 137
#define KNHK_LEAF_FIELDS 6 /* bytes at the beginning of a leaf that have few values: version, kind, class, verdict, mode, flags */

/* How many of n items at `items` are, from the first on, leaves without fault with keys of their own: n when all are. Byte i of a leaf, for
 * i < KNHK_LEAF_FIELDS, may be b where allowed[256 i + b] is not 0. */
size_t knhk_sound_leaves(const uint8_t *items, size_t n, const uint8_t *allowed);

#endif /* KNHK_LEAVES_H */

/* crc.h: CRC-32 of IEEE 802.3 (reflected, polynomial 0xedb88320), the checksum of frames (formats/frame.md). */
#ifndef KNHK_CRC_H
#define KNHK_CRC_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32 of what `before` is the CRC-32 of, followed by n bytes at p; 0 before the first. By carry-less multiplication where the processor has
 * it, else by tables: the same number. */
uint32_t knhk_crc32(uint32_t before, const uint8_t *p, size_t n);

/* The same by tables alone: the reference. */
uint32_t knhk_crc32_scalar(uint32_t before, const uint8_t *p, size_t n);

#endif /* KNHK_CRC_H */

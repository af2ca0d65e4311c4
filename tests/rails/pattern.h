/* The bytes that transfers are checked with, as src/bin/tent/pattern.rs makes them: every 8-byte word tells where in
 * the memory it belongs and in which run, so that a lost, doubled, shifted, stale or late piece shows. */
#ifndef RAILS_PATTERN_H
#define RAILS_PATTERN_H

#include <stdint.h>
#include <string.h>

static inline uint64_t pattern_word(uint64_t seed, uint64_t index) {
    uint64_t x = seed * 0xd6e8feb86659fd93u + index * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 32);
}

static inline uint8_t pattern_byte(uint64_t seed, uint64_t at) {
    return (uint8_t)(pattern_word(seed, at / 8) >> (at % 8 * 8));
}

/* Writes the pattern of the bytes `offset` to `offset + length` of `memory`. */
static void fill(uint8_t *memory, uint64_t seed, uint64_t offset, uint64_t length) {
    uint64_t end = offset + length;
    for (; offset < end && offset % 8; offset++) memory[offset] = pattern_byte(seed, offset);
    for (; offset + 8 <= end; offset += 8) {
        uint64_t word = pattern_word(seed, offset / 8);
        memcpy(memory + offset, &word, 8);
    }
    for (; offset < end; offset++) memory[offset] = pattern_byte(seed, offset);
}

/* How many of these bytes are not the pattern's. Every byte is looked at. */
static uint64_t wrong(const uint8_t *memory, uint64_t seed, uint64_t offset, uint64_t length) {
    uint64_t end = offset + length, bad = 0, word;
    for (; offset < end && offset % 8; offset++) bad += memory[offset] != pattern_byte(seed, offset);
    for (; offset + 8 <= end; offset += 8) {
        memcpy(&word, memory + offset, 8);
        if (word == pattern_word(seed, offset / 8)) continue;
        for (uint64_t at = offset; at < offset + 8; at++) bad += memory[at] != pattern_byte(seed, at);
    }
    for (; offset < end; offset++) bad += memory[offset] != pattern_byte(seed, offset);
    return bad;
}

#endif

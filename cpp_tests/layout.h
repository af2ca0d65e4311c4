/* How the tests cut a window into pieces: from one seed, both processes compute the same list, so each
 * can check every byte that the other has moved, and every byte between that must not have moved. */
#ifndef CPP_TESTS_LAYOUT_H
#define CPP_TESTS_LAYOUT_H

#include "check.h"

#define GUARD ((size_t)64 << 10) /* untouched bytes checked after the last piece */

typedef struct {
    uint64_t src; /* offset in the window of the bytes' source */
    uint64_t dst; /* offset in the window of their destination */
    uint64_t len;
} piece_t;

typedef struct {
    uint64_t base; /* where the window begins in both regions */
    uint64_t seed;
    uint64_t count;
    uint64_t min, max; /* lengths */
} layout_t;

typedef struct {
    uint64_t state;
} dice_t;

static inline uint64_t dice(dice_t *d, uint64_t below) {
    d->state += 1;
    return below ? mix64(d->state) % below : 0;
}

/* The pieces, in order of destination; `*span` is the end of what both sides touch. Gaps of 1 to 63
 * bytes make every alignment occur, of source and destination independently. */
static inline piece_t *layout_pieces(const layout_t *l, uint64_t *span) {
    dice_t d = {l->seed * 7919};
    uint64_t src = 0, dst = 0;
    piece_t *pieces = (piece_t *)calloc(l->count + 1, sizeof *pieces);
    CHECK(pieces != NULL);
    for (uint64_t i = 0; i < l->count; i++) {
        src += dice(&d, 64);
        dst += 1 + dice(&d, 63);
        pieces[i].src = src;
        pieces[i].dst = dst;
        pieces[i].len = l->min + dice(&d, l->max - l->min + 1);
        src += pieces[i].len;
        dst += pieces[i].len;
    }
    *span = src > dst ? src : dst;
    return pieces;
}

/* Submission order: any, so that order never helps. */
static inline void layout_shuffle(piece_t *pieces, uint64_t count, uint64_t seed) {
    dice_t d = {seed * 104729};
    for (uint64_t i = count; i > 1; i--) {
        uint64_t j = dice(&d, i);
        piece_t t = pieces[i - 1];
        pieces[i - 1] = pieces[j];
        pieces[j] = t;
    }
}

/* Checks a region of pattern `around` into which the pieces of pattern `moved` have landed, then makes
 * it `around` again. NULL, or the text of what is wrong. `len` is the region's. */
static inline const char *layout_verify(uint8_t *region, size_t len, const layout_t *l, uint64_t around,
                                        uint64_t moved) {
    static __thread char text[200];
    const char *wrong = NULL;
    uint64_t span, at = l->base;
    piece_t *pieces = layout_pieces(l, &span);
    uint64_t end = l->base + span + GUARD < len ? l->base + span + GUARD : len;
    for (uint64_t i = 0; i <= l->count && !wrong; i++) {
        uint64_t dst = i < l->count ? l->base + pieces[i].dst : end;
        int64_t bad = pattern_diff(region + at, around, at, dst - at);
        if (bad >= 0) {
            snprintf(text, sizeof text, "stray byte at %" PRIu64 ", before piece %" PRIu64 " of %" PRIu64,
                     at + (uint64_t)bad, i, l->count);
            wrong = text;
            break;
        }
        if (i == l->count) break;
        bad = pattern_diff(region + dst, moved, l->base + pieces[i].src, pieces[i].len);
        if (bad >= 0) {
            snprintf(text, sizeof text, "wrong byte %" PRId64 " in piece %" PRIu64 " of %" PRIu64
                     " (length %" PRIu64 ", at %" PRIu64 ")", bad, i, l->count, pieces[i].len, dst);
            wrong = text;
        }
        at = dst + pieces[i].len;
    }
    pattern_fill(region + l->base, around, l->base, end - l->base);
    free(pieces);
    return wrong;
}

#endif

/* The gradient of a 3x3 convolution's weights, on processors with matrix tiles (AMX), for bfloat16 and channels last.
 *
 *     dW[o][tap][c] = sum over pixels p of g[p][o] * x[p + tap][c]
 *
 * Images lie one behind the other on a grid that has one column and one row of zeros more than each; on it a tap is an
 * offset, the same for all pixels. So dW[tap] is one product of matrices, of the gradients transposed and of pixels from
 * the tap's offset on. PyTorch's own way takes up to 5 times as long, the longer the fewer pixels a map has.
 */
#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__)
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "threads.h"

enum { TILE = 16, STEP = 32 };  /* rows of a tile; pixels that one instruction adds up */
enum { PIXELS = 768 };          /* about so many are packed at a time: they stay in the second cache */
enum { ONE = 0x3f80, WORD = 32 }; /* 1 in bfloat16; numbers that a vector, and a word of bits, holds */
enum { WANTED = 0x1023, TILES = 18 }; /* Linux: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */

struct config {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64)));

struct shape {
    int64_t images, side_y, side_x, inputs, outputs;
    int64_t width, image, group, pixels; /* of the grid: row, image, images at a time, pixels of those in whole steps */
};

static int64_t whole(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

/* Transpose 16x16 numbers of 32 bits, in four rounds of exchanges between rows. */
static inline void transpose(__m512i *row) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            row[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            row[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int half = 0; half < 16; half += 8)
        for (int i = 0; i < 4; i++) {
            t[half + i] = _mm512_shuffle_i32x4(row[half + i], row[half + i + 4], 0x88);
            t[half + i + 4] = _mm512_shuffle_i32x4(row[half + i], row[half + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        row[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* g[p][o] to tiles of 16 o by 32 p, one step of pixels behind the other; zeros between the images. */
static void pack_gradient(const struct shape *s, const uint16_t *gradient, int64_t images, uint16_t *grid, uint16_t *packed) {
    for (int64_t o = 0; o < s->outputs; o += TILE) {
        int64_t many = s->outputs - o < TILE ? s->outputs - o : TILE;
        memset(grid, 0, s->pixels * TILE * sizeof *grid);
        for (int64_t image = 0; image < images; image++)
            for (int64_t y = 0; y < s->side_y; y++) {
                const uint16_t *from = gradient + ((image * s->side_y + y) * s->side_x) * s->outputs + o;
                uint16_t *to = grid + (image * s->image + y * s->width) * TILE;
                if (many == TILE) /* of a length that the compiler knows */
                    for (int64_t x = 0; x < s->side_x; x++) memcpy(to + x * TILE, from + x * s->outputs, TILE * sizeof *grid);
                else
                    for (int64_t x = 0; x < s->side_x; x++) memcpy(to + x * TILE, from + x * s->outputs, many * sizeof *grid);
            }
        for (int64_t p = 0; p < s->pixels; p += STEP) {
            __m512i row[16];
            for (int pair = 0; pair < 16; pair++) {
                const __m256i *two = (const __m256i *)(grid + (p + 2 * pair) * TILE);
                __m512i first = _mm512_cvtepu16_epi32(_mm256_load_si256(two)), second = _mm512_cvtepu16_epi32(_mm256_load_si256(two + 1));
                row[pair] = _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
            }
            transpose(row);
            for (int n = 0; n < TILE; n++) _mm512_store_si512(packed + o * s->pixels + p * TILE + n * STEP, row[n]);
        }
    }
}

/* Spikes of 2 tiles of channels, `many` of them real, from the bit `at` on. */
static inline __m512i spikes(const uint32_t *bits, int64_t at, int64_t many) {
    uint64_t words = bits[at / WORD] | (uint64_t)bits[at / WORD + 1] << WORD;
    return _mm512_maskz_set1_epi16((__mmask32)(words >> at % WORD) & (__mmask32)((1ull << many) - 1), ONE);
}

/* x[p][c] for 2 tiles of channels to pairs of neighbouring pixels, as the tiles want them: from even and from odd ones.
 * x are values, or bits where it is NULL. */
static void pack_pixels(const struct shape *s, const uint16_t *x, const uint32_t *bits, int64_t first, int64_t images,
                        int64_t channel, uint16_t *grid, uint32_t *pairs) {
    const int64_t many = s->inputs - channel < 2 * TILE ? s->inputs - channel : 2 * TILE;
    const int64_t size = s->pixels + 2 * s->width + 4; /* a row and a pixel before, and behind */
    memset(grid, 0, size * 2 * TILE * sizeof *grid);
    for (int64_t image = 0; image < images; image++)
        for (int64_t y = 0; y < s->side_y; y++) {
            const int64_t from = (((first + image) * s->side_y + y) * s->side_x) * s->inputs + channel;
            uint16_t *to = grid + (image * s->image + (y + 1) * s->width + 1) * 2 * TILE;
            if (!x)
                for (int64_t at = 0; at < s->side_x; at++)
                    _mm512_storeu_si512(to + at * 2 * TILE, spikes(bits, from + at * s->inputs, many));
            else if (many == 2 * TILE)
                for (int64_t at = 0; at < s->side_x; at++) memcpy(to + at * 2 * TILE, x + from + at * s->inputs, 2 * TILE * sizeof *grid);
            else
                for (int64_t at = 0; at < s->side_x; at++) memcpy(to + at * 2 * TILE, x + from + at * s->inputs, many * sizeof *grid);
        }
    for (int64_t odd = 0; odd < 2; odd++) {
        uint32_t *to = pairs + odd * (size / 2) * 2 * TILE;
        for (int64_t pair = 0; pair < (size - odd) / 2; pair++) {
            const uint16_t *restrict first = grid + (2 * pair + odd) * 2 * TILE, *restrict second = first + 2 * TILE;
            uint32_t *restrict out = to + pair * 2 * TILE;
            for (int c = 0; c < 2 * TILE; c++) out[c] = first[c] | (uint32_t)second[c] << 16;
        }
    }
}

/* Add products of 2x2 tiles, or 1x2 where `outputs` end, over all packed pixels. */
static void multiply(const struct shape *s, const uint16_t *gradient, const uint32_t *pairs, float *sums, int64_t stride, int two) {
    const int64_t next = TILE * stride;
    _tile_loadd(0, sums, stride * 4);
    _tile_loadd(1, sums + TILE, stride * 4);
    if (two) {
        _tile_loadd(2, sums + next, stride * 4);
        _tile_loadd(3, sums + next + TILE, stride * 4);
    }
    for (int64_t p = 0; p < s->pixels; p += STEP) {
        const uint32_t *b = pairs + p / 2 * 2 * TILE;
        _tile_loadd(4, gradient + p * TILE, STEP * 2);
        _tile_loadd(6, b, 2 * TILE * 4);
        _tile_loadd(7, b + TILE, 2 * TILE * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_loadd(5, gradient + (s->pixels + p) * TILE, STEP * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, stride * 4);
    _tile_stored(1, sums + TILE, stride * 4);
    if (two) {
        _tile_stored(2, sums + next, stride * 4);
        _tile_stored(3, sums + next + TILE, stride * 4);
    }
}

/* Zeros and ones to bits; 1 where there is anything else. */
int to_bits(const uint16_t *x, int64_t size, uint32_t *bits) {
    int other = 0;
#pragma omp parallel for reduction(| : other)
    for (int64_t word = 0; word < whole(size, WORD) / WORD; word++) {
        int64_t many = size - word * WORD;
        __mmask32 valid = many < WORD ? (1u << many) - 1 : ~0u;
        __m512i v = _mm512_maskz_loadu_epi16(valid, x + word * WORD);
        bits[word] = _mm512_test_epi16_mask(v, v);
        other |= bits[word] != _mm512_cmpeq_epi16_mask(v, _mm512_set1_epi16(ONE));
    }
    return other;
}

/* Whether this process may use the tiles; the system wants to be asked before. */
int available(void) { return syscall(SYS_arch_prctl, WANTED, TILES) == 0; }

/* Add to dW (O, 3, 3, C) that of the images from `first` on: of their gradient (B, Y, X, O), and of the x (…, Y, X, C) of all
 * images, or of its bits where x is NULL. 1 without memory. Only where the tiles are available. */
int weight_gradient(const uint16_t *x, const uint32_t *bits, const uint16_t *gradient, int64_t first, int64_t images, int64_t side_y, int64_t side_x,
                    int64_t inputs, int64_t outputs, float *out) {
    struct shape s = {images, side_y, side_x, inputs, outputs, side_x + 1, (side_y + 1) * (side_x + 1)};
    s.group = s.image < PIXELS ? PIXELS / s.image : 1;
    if (s.group > images) s.group = images;
    s.pixels = whole(s.group * s.image, STEP);
    const int64_t channels = whole(inputs, 2 * TILE), neurons = whole(outputs, TILE), stride = 9 * channels;
    const int64_t size = s.pixels + 2 * s.width + 4, groups = (images + s.group - 1) / s.group;
    int threads = omp_get_max_threads(), failed = 0;
    float *sums = NULL;
    if (posix_memalign((void **)&sums, 64, sizeof(float) * threads * neurons * stride)) return 1;
    memset(sums, 0, sizeof(float) * threads * neurons * stride);
#pragma omp parallel reduction(| : failed)
    {
        int64_t number = omp_get_thread_num(), many = omp_get_num_threads();
        float *mine = sums + number * neurons * stride;
        uint16_t *packed = NULL, *grid = NULL;
        uint32_t *pairs = NULL;
        failed |= posix_memalign((void **)&packed, 64, neurons * s.pixels * 2) != 0;
        failed |= posix_memalign((void **)&grid, 64, size * 2 * TILE * 2) != 0;
        failed |= posix_memalign((void **)&pairs, 64, size * 2 * TILE * 4) != 0;
        struct config before, tiles = {.palette = 1};
        for (int tile = 0; tile < 8; tile++) tiles.bytes[tile] = 64, tiles.rows[tile] = TILE;
        _tile_storeconfig(&before); /* others on this thread may count on theirs */
        _tile_loadconfig(&tiles);
        for (int64_t group = groups * number / many; !failed && group < groups * (number + 1) / many; group++) {
            int64_t from = group * s.group, count = images - from < s.group ? images - from : s.group;
            pack_gradient(&s, gradient + from * side_y * side_x * outputs, count, grid, packed);
            for (int64_t c = 0; c < channels; c += 2 * TILE) {
                pack_pixels(&s, x, bits, first + from, count, c, grid, pairs);
                for (int64_t tap = 0; tap < 9; tap++) {
                    int64_t offset = tap / 3 * s.width + tap % 3;
                    const uint32_t *b = pairs + (offset % 2 * (size / 2) + offset / 2) * 2 * TILE;
                    for (int64_t o = 0; o < neurons; o += 2 * TILE)
                        multiply(&s, packed + o * s.pixels, b, mine + o * stride + tap * channels + c, stride, o + TILE < neurons);
                }
            }
        }
        if (before.palette) _tile_loadconfig(&before);
        else _tile_release();
        free(packed), free(grid), free(pairs);
    }
    for (int64_t o = 0; o < outputs && !failed; o++)
        for (int64_t tap = 0; tap < 9; tap++)
            for (int64_t c = 0; c < inputs; c++) {
                float sum = 0;
                for (int thread = 0; thread < threads; thread++) sum += sums[(thread * neurons + o) * stride + tap * channels + c];
                out[(o * 9 + tap) * inputs + c] += sum;
            }
    free(sums);
    return failed;
}
#else
int available(void) { return 0; }
#endif

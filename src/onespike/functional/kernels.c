/* Batch norm and firing of channels-last tensors: rows of pixels with C channels each. Sums are taken in double over
 * blocks of rows, and over threads in their order: the same input gives the same bits, whenever the number of threads is
 * the same.
 *
 *     x = (I - mean) * scale          scale = 1 / deviation
 *     S[k] = 1 where I > limit[k]     the limit of neuron k of a channel; P neurons share a current
 *     dx = sum over k of dS[k] * h((I - limit[k]) * scale / width) / width
 *     dI = scale * (dx - mean(dx) - x * mean(dx * x))
 */
#include "tensors.h"

/* sums[0] = sum of I - pivot, sums[1] = sum of their squares, for each channel. */
int moments(const stored *x, int64_t rows, int64_t channels, const real *pivot, double *sums) {
    int threads = omp_get_max_threads();
    double *partial = calloc((size_t)threads * 2 * channels, sizeof(double));
    if (!partial) return 1;
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        double *mine = partial + omp_get_thread_num() * 2 * channels;
        real center[channels], a[channels], b[channels];
        memcpy(center, pivot, sizeof center);
        for (int64_t from = begin; from < end; from += BLOCK) {
            int64_t to = from + BLOCK < end ? from + BLOCK : end;
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            for (int64_t row = from; row < to; row++)
                for (int64_t c = 0; c < channels; c++) {
                    real d = get(x[row * channels + c]) - center[c];
                    a[c] += d;
                    b[c] += d * d;
                }
            for (int64_t c = 0; c < channels; c++) mine[c] += a[c], mine[channels + c] += b[c];
        }
    }
    add_up(partial, threads, 2 * channels, sums);
    free(partial);
    return 0;
}

/* y = x * scale + shift, for each channel. */
int affine(const stored *x, int64_t rows, int64_t channels, const real *scale, const real *shift, stored *y) {
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        for (int64_t row = begin; row < end; row++)
            for (int64_t c = 0; c < channels; c++)
                y[row * channels + c] = put(get(x[row * channels + c]) * scale[c] + shift[c]);
    }
    return 0;
}

/* s[k] = 1 where x > limit[k], else 0, for the neurons k of each channel. */
int fire(const stored *x, int64_t rows, int64_t channels, int64_t population, const real *limit, stored *s) {
    const stored one = put(1);
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        for (int64_t row = begin; row < end; row++)
            for (int64_t k = 0; k < population; k++)
                for (int64_t c = 0; c < channels; c++) {
                    int64_t n = k * channels + c;
                    s[row * population * channels + n] = get(x[row * channels + c]) > limit[n] ? one : (stored)0;
                }
    }
    return 0;
}

/* s = how many of a channel's neurons k fire: those for which x > limit[k]. */
int fire_tied(const stored *x, int64_t rows, int64_t channels, int64_t population, const real *limit, stored *s) {
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        real fired[channels];
        for (int64_t row = begin; row < end; row++) {
            memset(fired, 0, sizeof fired);
            for (int64_t k = 0; k < population; k++)
                for (int64_t c = 0; c < channels; c++)
                    fired[c] += get(x[row * channels + c]) > limit[k * channels + c] ? (real)1 : (real)0;
            for (int64_t c = 0; c < channels; c++) s[row * channels + c] = put(fired[c]);
        }
    }
    return 0;
}

/* The gradient has a value for each neuron, those of neuron k + 1 `apart` = C behind those of neuron k; or, where a
 * channel's neurons are tied, one for all of them, and `apart` is 0. */
struct backward {
    const stored *x, *gradient;
    int64_t rows, channels, population, apart;
    const real *mean, *scale, *limit; /* of each channel, channel, neuron */
    real width;
};

static inline __attribute__((always_inline)) void sums_of(
    const int kind, const struct backward *b, int64_t begin, int64_t end, double *sums) {
    const int64_t channels = b->channels, neurons = b->population * channels, wide = channels + (b->population - 1) * b->apart;
    real first[neurons], second[neurons], steep[channels];
    for (int64_t c = 0; c < channels; c++) steep[c] = b->scale[c] / b->width;
    for (int64_t from = begin; from < end; from += BLOCK) {
        int64_t to = from + BLOCK < end ? from + BLOCK : end;
        memset(first, 0, sizeof first);
        memset(second, 0, sizeof second);
        for (int64_t row = from; row < to; row++)
            for (int64_t k = 0; k < b->population; k++) {
                const stored *restrict x = b->x + row * channels, *restrict g = b->gradient + row * wide + k * b->apart;
                const real *restrict limit = b->limit + k * channels, *restrict mean = b->mean;
                real *restrict one = first + k * channels, *restrict two = second + k * channels;
                for (int64_t c = 0; c < channels; c++) {
                    real current = get(x[c]);
                    real dx = get(g[c]) * derivative(kind, (current - limit[c]) * steep[c]);
                    one[c] += dx;
                    two[c] += dx * (current - mean[c]);
                }
            }
        for (int64_t n = 0; n < neurons; n++) sums[n] += first[n], sums[neurons + n] += second[n];
    }
}

static inline __attribute__((always_inline)) void currents_of(
    const int kind, const struct backward *b, int64_t begin, int64_t end, const real *restrict factor,
    const real *restrict offset, const real *restrict slope, stored *restrict out) {
    const int64_t channels = b->channels, wide = channels + (b->population - 1) * b->apart;
    const real *restrict mean = b->mean, *restrict scale = b->scale, *restrict threshold = b->limit;
    const real share = 1 / b->width;
    real steep[channels], gain[channels], base[channels], rate[channels];
    real others[channels]; /* what a channel's neurons but the first add to dx */
    for (int64_t c = 0; c < channels; c++) { /* dI = gain * dx - base - rate * I */
        steep[c] = scale[c] * share, others[c] = 0;
        gain[c] = factor[c] * share, rate[c] = factor[c] * slope[c] * scale[c];
        base[c] = factor[c] * offset[c] - rate[c] * mean[c];
    }
    for (int64_t row = begin; row < end; row++) {
        const stored *restrict x = b->x + row * channels, *restrict first = b->gradient + row * wide;
        for (int64_t k = 1; k < b->population; k++) {
            const stored *restrict g = first + k * b->apart;
            const real *restrict limit = b->limit + k * channels;
            if (k == 1) memset(others, 0, sizeof others);
            for (int64_t c = 0; c < channels; c++)
                others[c] += get(g[c]) * derivative(kind, (get(x[c]) - limit[c]) * steep[c]);
        }
        for (int64_t c = 0; c < channels; c++) {
            real current = get(x[c]);
            real dx = others[c] + get(first[c]) * derivative(kind, (current - threshold[c]) * steep[c]);
            out[row * channels + c] = put(gain[c] * dx - base[c] - rate[c] * current);
        }
    }
}

#define ARGUMENTS                                                                                                  \
    int kind, const stored *x, const stored *gradient, int64_t rows, int64_t channels, int64_t population,         \
        int64_t apart, const real *mean, const real *scale, const real *limit, double width
#define PACKED {x, gradient, rows, channels, population, apart, mean, scale, limit, (real)width}

/* sums[0][n] = sum of dx[n], sums[1][n] = sum of dx[n] * x, for each neuron n. */
int backward_sums(ARGUMENTS, double *sums) {
    const struct backward b = PACKED;
    int threads = omp_get_max_threads();
    int64_t neurons = population * channels;
    double *partial = calloc((size_t)threads * 2 * neurons, sizeof(double));
    if (!partial) return 1;
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        double *mine = partial + omp_get_thread_num() * 2 * neurons;
#define CALL(kind) sums_of(kind, &b, begin, end, mine)
        EACH_KIND(kind, CALL)
#undef CALL
    }
    add_up(partial, threads, 2 * neurons, sums);
    free(partial);
    for (int64_t n = 0; n < neurons; n++) {
        sums[n] /= width;
        sums[neurons + n] *= scale[n % channels] / width;
    }
    return 0;
}

/* dI = factor * (dx - offset - x * slope), for each channel. */
int backward_currents(ARGUMENTS, const real *factor, const real *offset, const real *slope, stored *out) {
    const struct backward b = PACKED;
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
#define CALL(kind) currents_of(kind, &b, begin, end, factor, offset, slope, out)
        EACH_KIND(kind, CALL)
#undef CALL
    }
    return 0;
}

/* The largest of 2x2 pixels, and which of the four it is, the first of equals; a NaN is the largest, as in PyTorch. */
int pool(const stored *x, int64_t images, int64_t side_y, int64_t side_x, int64_t channels, stored *y, uint8_t *which) {
    const int64_t out_y = side_y / 2, out_x = side_x / 2;
#pragma omp parallel for
    for (int64_t row = 0; row < images * out_y; row++) {
        const stored *top = x + ((row / out_y * side_y) + 2 * (row % out_y)) * side_x * channels;
        for (int64_t column = 0; column < out_x; column++) {
            const stored *from = top + 2 * column * channels, *places[4] = {from, from + channels,
                from + side_x * channels, from + (side_x + 1) * channels};
            stored *out = y + (row * out_x + column) * channels;
            uint8_t *winner = which + (row * out_x + column) * channels;
            for (int64_t c = 0; c < channels; c++) {
                stored most = places[0][c];
                uint8_t first = 0;
                for (uint8_t k = 1; k < 4; k++) {
                    real value = get(places[k][c]);
                    int more = value > get(most) || value != value;
                    most = more ? places[k][c] : most;
                    first = more ? k : first;
                }
                out[c] = most;
                winner[c] = first;
            }
        }
    }
    return 0;
}

/* The gradient of those pixels: that of the largest, and 0; `dx` is zero where no window reaches. */
int pool_backward(const stored *dy, const uint8_t *which, int64_t images, int64_t side_y, int64_t side_x, int64_t channels, stored *dx) {
    const int64_t out_y = side_y / 2, out_x = side_x / 2;
#pragma omp parallel for
    for (int64_t row = 0; row < images * out_y; row++) {
        stored *top = dx + ((row / out_y * side_y) + 2 * (row % out_y)) * side_x * channels;
        for (int64_t column = 0; column < out_x; column++) {
            const stored *gradient = dy + (row * out_x + column) * channels;
            const uint8_t *winner = which + (row * out_x + column) * channels;
            for (int k = 0; k < 4; k++) {
                stored *to = top + (2 * column + k % 2 + k / 2 * side_x) * channels;
                for (int64_t c = 0; c < channels; c++) to[c] = winner[c] == k ? gradient[c] : (stored)0;
            }
        }
    }
    return 0;
}

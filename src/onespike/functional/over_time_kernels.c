/* Batch norm and firing over T time steps of channels-last tensors: currents (T, rows, C), and P neurons for each.
 *
 *     V[t][k] = (I[t] - mean) * scale + shift[k] + decay * V[t-1][k] * (1 - S[t-1][k])
 *     S[t][k] = 1 where V[t][k] > threshold, else 0
 *
 * Potentials are those of one pixel, of all its steps: they stay in the first cache, and are computed again on the way back.
 *
 *     back[t] = decay * dV[t+1]                       what the step behind sends back to V[t] * (1 - S[t])
 *     dV[t] = (dS[t] - back[t] * V[t]) * h((V[t] - threshold) / width) / width + back[t] * (1 - S[t])
 *     dx[t] = sum over k of dV[t][k]
 */
#include "tensors.h"

struct neurons {
    const stored *x;
    int64_t steps, stride, rows, channels, population; /* stride: from a step's currents to the next one's, 0 if they are the same */
    const real *mean, *scale, *shift;                  /* of each channel, channel, neuron */
    real threshold, decay;
};

#define ARGUMENTS                                                                                                  \
    const stored *x, int64_t steps, int64_t stride, int64_t rows, int64_t channels, int64_t population,            \
        const real *mean, const real *scale, const real *shift, double threshold, double decay
#define PACKED {x, steps, stride, rows, channels, population, mean, scale, shift, (real)threshold, (real)decay}

/* v[t + 1] = the potentials at step t of the neurons k of a row's channels; v[0], those before the first, are 0. */
static inline void charge(const struct neurons *n, int64_t row, int64_t k, real *v) {
    const int64_t channels = n->channels;
    const real *restrict mean = n->mean, *restrict scale = n->scale, *restrict shift = n->shift + k * channels;
    const real threshold = n->threshold, decay = n->decay;
    memset(v, 0, channels * sizeof *v);
    for (int64_t t = 0; t < n->steps; t++) {
        const stored *restrict x = n->x + t * n->stride + row * channels;
        const real *restrict before = v + t * channels;
        real *restrict now = v + (t + 1) * channels;
        for (int64_t c = 0; c < channels; c++) {
            real kept = before[c] > threshold ? (real)0 : before[c];
            now[c] = (get(x[c]) - mean[c]) * scale[c] + shift[c] + decay * kept;
        }
    }
}

int fire_over_time(ARGUMENTS, stored *s) {
    const struct neurons n = PACKED;
    const stored one = put(1);
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        real v[(steps + 1) * channels];
        for (int64_t row = begin; row < end; row++)
            for (int64_t k = 0; k < population; k++) {
                charge(&n, row, k, v);
                for (int64_t t = 0; t < steps; t++) {
                    const real *restrict now = v + (t + 1) * channels;
                    stored *restrict out = s + ((t * rows + row) * population + k) * channels;
                    for (int64_t c = 0; c < channels; c++) out[c] = now[c] > n.threshold ? one : (stored)0;
                }
            }
    }
    return 0;
}

static inline __attribute__((always_inline)) void back_in_time(
    const int kind, const struct neurons *n, const stored *gradient, real width, int64_t begin, int64_t end, double *sums, stored *out) {
    const int64_t channels = n->channels, neurons = n->population * channels, steps = n->steps;
    const real *restrict mean = n->mean;
    const real threshold = n->threshold, decay = n->decay, per_width = 1 / width;
    real v[(steps + 1) * channels], dx[steps * channels], back[channels], first[neurons], second[neurons];
    for (int64_t from = begin; from < end; from += BLOCK) {
        int64_t to = from + BLOCK < end ? from + BLOCK : end;
        memset(first, 0, sizeof first);
        memset(second, 0, sizeof second);
        for (int64_t row = from; row < to; row++) {
            memset(dx, 0, sizeof dx);
            for (int64_t k = 0; k < n->population; k++) {
                charge(n, row, k, v);
                memset(back, 0, sizeof back);
                real *restrict one = first + k * channels, *restrict two = second + k * channels;
                for (int64_t t = steps - 1; t >= 0; t--) {
                    const stored *restrict x = n->x + t * n->stride + row * channels;
                    const stored *restrict g = gradient + ((t * n->rows + row) * n->population + k) * channels;
                    const real *restrict now = v + (t + 1) * channels;
                    real *restrict sum = dx + t * channels;
                    for (int64_t c = 0; c < channels; c++) {
                        real steep = derivative(kind, (now[c] - threshold) * per_width) * per_width;
                        real dv = (get(g[c]) - back[c] * now[c]) * steep + (now[c] > threshold ? (real)0 : back[c]);
                        back[c] = decay * dv;
                        sum[c] += dv;
                        one[c] += dv;
                        two[c] += dv * (get(x[c]) - mean[c]);
                    }
                }
            }
            for (int64_t t = 0; t < steps; t++)
                for (int64_t c = 0; c < channels; c++) out[(t * n->rows + row) * channels + c] = put(dx[t * channels + c]);
        }
        for (int64_t i = 0; i < neurons; i++) sums[i] += first[i], sums[neurons + i] += second[i];
    }
}

/* dx; sums[0][n] = sum of dV[n], sums[1][n] = sum of dV[n] * x, for each neuron n, over all steps. */
int backward_over_time(ARGUMENTS, int kind, const stored *gradient, double width, double *sums, stored *out) {
    const struct neurons n = PACKED;
    int threads = omp_get_max_threads();
    int64_t size = 2 * population * channels;
    double *partial = calloc((size_t)threads * size, sizeof(double));
    if (!partial) return 1;
#pragma omp parallel
    {
        int64_t begin, end;
        share(rows, &begin, &end);
        double *mine = partial + omp_get_thread_num() * size;
#define CALL(kind) back_in_time(kind, &n, gradient, (real)width, begin, end, mine, out)
        EACH_KIND(kind, CALL)
#undef CALL
    }
    add_up(partial, threads, size, sums);
    free(partial);
    for (int64_t i = size / 2; i < size; i++) sums[i] *= scale[i % channels];
    return 0;
}

/* dI = scale * (dx - offset - x * slope), for each channel, in the place of dx. */
int normalise_over_time(const stored *x, int64_t steps, int64_t stride, int64_t rows, int64_t channels, const real *mean,
                        const real *scale, const real *offset, const real *slope, stored *dx) {
#pragma omp parallel
    {
        int64_t begin, end;
        share(steps * rows, &begin, &end);
        real base[channels], rate[channels]; /* dI = scale * dx - base - rate * I */
        for (int64_t c = 0; c < channels; c++) {
            rate[c] = scale[c] * slope[c] * scale[c];
            base[c] = scale[c] * offset[c] - rate[c] * mean[c];
        }
        for (int64_t row = begin; row < end; row++) {
            const stored *restrict current = x + row / rows * stride + row % rows * channels;
            stored *restrict out = dx + row * channels;
            for (int64_t c = 0; c < channels; c++) out[c] = put(scale[c] * get(out[c]) - base[c] - rate[c] * get(current[c]));
        }
    }
    return 0;
}

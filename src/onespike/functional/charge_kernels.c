/* Charging and firing, one window after the other, of N values that lie alike in each window.
 *
 *     V[v] = I[v] + decay * Omega(X[v - behind], V[v-1])     Omega(X, Y) = 2 sin(angle X) cos(angle Y)
 *     S[v] = 1 where V[v] > threshold, else 0
 *
 *     dV[v] = dS[v] * h((V[v] - threshold) / width) / width + what V and the window behind send back
 *     dX = decay * angle * dV * (p + m)     dY = decay * angle * dV * (p - m)     p, m = cos(angle X +- angle Y)
 *
 * The first window meets no V before it. Where X is its own (`behind` is 0) it meets X of the second window; else nothing
 * comes in. A chunk of values goes through all windows while it is in the first cache.
 */
#include "tensors.h"

enum { CHUNK = 1024 };

#define SINGLE (sizeof(real) == 4)
static const real PI_HIGH = SINGLE ? 3.14159274101257324 : 3.141592653589793116;
static const real PI_LOW = SINGLE ? -8.74227800037e-8 : 1.2246467991473532e-16;

static inline real nearest(real x) { return SINGLE ? (real)__builtin_rintf(x) : (real)__builtin_rint(x); }

/* sin(x - shift pi), by Taylor's series around the nearest multiple of pi, at most pi/2 away. Where x is too large to say how
 * far away it is, the result is at least between -1 and 1. */
static inline real wave(real x, real shift) {
    const real half = (real)1.5707963267948966;
    real turns = nearest(x * (real)0.3183098861837907 - shift);
    real r = (x - (turns + shift) * PI_HIGH) - (turns + shift) * PI_LOW;
    r = r > half ? half : r < -half ? -half : r;
    real square = r * r, sum = (real)(-1 / 39916800.0);
    if (!SINGLE) {
        sum = (real)(1 / 51090942171709440000.0);
        sum = sum * square - (real)(1 / 121645100408832000.0);
        sum = sum * square + (real)(1 / 355687428096000.0);
        sum = sum * square - (real)(1 / 1307674368000.0);
        sum = sum * square + (real)(1 / 6227020800.0);
        sum = sum * square - (real)(1 / 39916800.0);
    }
    sum = sum * square + (real)(1 / 362880.0);
    sum = sum * square - (real)(1 / 5040.0);
    sum = sum * square + (real)(1 / 120.0);
    sum = sum * square - (real)(1 / 6.0);
    real odd = turns - 2 * nearest(turns * (real)0.5); /* -1, 0 or 1 */
    return (r + r * square * sum) * (1 - 2 * odd * odd);
}

static inline real sine(real x) { return wave(x, 0); }
static inline real cosine(real x) { return -wave(x, (real)0.5); }

struct windows {
    const stored *beside; /* X */
    int64_t count, size, behind;
    real decay, angle, threshold;
};

/* The two that meet in a window, from a value on; says whether any do. */
static inline int pair(const struct windows *w, const stored *v, int64_t window, int64_t at, const stored **x, const stored **y) {
    if (window < w->behind) return 0;
    *x = w->beside + (window - w->behind) * w->size + at;
    *y = window ? v + (window - 1) * w->size + at : w->beside + (w->count > 1) * w->size + at;
    return 1;
}

#define ARGUMENTS                                                                                                       \
    const stored *beside, int64_t count, int64_t size, int64_t behind, double decay, double angle, double threshold, int kind
#define PACKED {beside, count, size, behind, (real)decay, (real)angle, (real)threshold}

/* V, and S if `kind` says that there is any firing. */
int charge(ARGUMENTS, const stored *currents, stored *v, stored *s) {
    const struct windows w = PACKED;
    const stored one = put(1);
#pragma omp parallel
    {
        int64_t begin, end;
        share(size, &begin, &end);
        for (int64_t at = begin; at < end; at += CHUNK) {
            const int64_t n = end - at < CHUNK ? end - at : CHUNK;
            for (int64_t window = 0; window < count; window++) {
                const stored *restrict i = currents + window * size + at, *x, *y;
                stored *restrict out = v + window * size + at;
                if (pair(&w, v, window, at, &x, &y))
                    for (int64_t k = 0; k < n; k++)
                        out[k] = put(get(i[k]) + w.decay * (2 * sine(w.angle * get(x[k])) * cosine(w.angle * get(y[k]))));
                else
                    memcpy(out, i, n * sizeof *out);
                if (!kind) continue;
                stored *restrict fired = s + window * size + at;
                for (int64_t k = 0; k < n; k++) fired[k] = get(out[k]) > w.threshold ? one : (stored)0;
            }
        }
    }
    return 0;
}

static inline __attribute__((always_inline)) void steep(
    const int kind, const stored *restrict v, const stored *restrict gradient, real threshold, real per_width, int64_t n, real *restrict dv) {
    for (int64_t k = 0; k < n; k++) {
        real slope = derivative(kind, (get(v[k]) - threshold) * per_width);
        dv[k] += slope > 0 ? get(gradient[k]) * slope * per_width : (real)0; /* 0 also where the gradient is infinite */
    }
}

/* dI, which is dV, and dX, of the gradients of V and of S; either may be null. */
int charge_backward(ARGUMENTS, double width, const stored *v, const stored *to_v, const stored *to_s, stored *to_i, stored *to_x) {
    const struct windows w = PACKED;
    const real per_width = 1 / (real)width, factor = w.decay * w.angle;
#pragma omp parallel
    {
        int64_t begin, end;
        share(size, &begin, &end);
        real dv[CHUNK], back[CHUNK];
        for (int64_t at = begin; at < end; at += CHUNK) {
            const int64_t n = end - at < CHUNK ? end - at : CHUNK;
            memset(back, 0, sizeof back);
            if (behind) memset(to_x + (count - 1) * size + at, 0, n * sizeof *to_x); /* no window meets the last X */
            for (int64_t window = count - 1; window >= 0; window--) {
                const int64_t here = window * size + at;
                const stored *x, *y;
                memcpy(dv, back, sizeof dv);
                if (to_v)
                    for (int64_t k = 0; k < n; k++) dv[k] += get(to_v[here + k]);
#define CALL(kind) steep(kind, v + here, to_s + here, w.threshold, per_width, n, dv)
                if (to_s) EACH_KIND(kind, CALL)
#undef CALL
                for (int64_t k = 0; k < n; k++) to_i[here + k] = put(dv[k]);
                if (!pair(&w, v, window, at, &x, &y)) continue;
                stored *dx = to_x + (window - behind) * size + at;
                for (int64_t k = 0; k < n; k++) {
                    real a = w.angle * get(x[k]), b = w.angle * get(y[k]), gradient = factor * dv[k];
                    real plus = cosine(a + b), minus = cosine(a - b);
                    dx[k] = put((plus + minus) * gradient);
                    back[k] = (plus - minus) * gradient;
                }
                if (window) continue;
                stored *other = to_x + (count > 1) * size + at; /* X of the second window, which the first has met */
                for (int64_t k = 0; k < n; k++) other[k] = put(get(other[k]) + back[k]);
            }
        }
    }
    return 0;
}

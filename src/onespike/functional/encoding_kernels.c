/* Draws from U(0, 1), and spikes where values exceed them.
 *
 * The draws are those that PyTorch takes from its generator on a CPU, number by number: the lowest 24 bits of the Mersenne
 * Twister MT19937 (Matsumoto and Nishimura 1998), divided by 2^24. Its state is what `torch.Generator.get_state` returns.
 */
#include "tensors.h"

enum { WORDS = 624, FAR = 397 };

struct generator {
    uint64_t seed;
    int32_t left, seeded; /* 1 + numbers that are left of these words */
    uint64_t next, words[WORDS];
};

static inline uint32_t twist(uint32_t here, uint32_t behind) {
    uint32_t mixed = (here & 0x80000000u) | (behind & 0x7fffffffu);
    return (mixed >> 1) ^ (-(behind & 1u) & 0x9908b0dfu);
}

/* Three loops, each of which reads words that it has not written, or has written long before: they become vector code. */
static void renew(uint32_t *words) {
    for (int i = 0; i < WORDS - FAR; i++) words[i] = words[i + FAR] ^ twist(words[i], words[i + 1]);
    for (int i = WORDS - FAR; i < WORDS - 1; i++) words[i] = words[i + FAR - WORDS] ^ twist(words[i], words[i + 1]);
    words[WORDS - 1] = words[FAR - 1] ^ twist(words[WORDS - 1], words[0]);
}

static inline uint32_t temper(uint32_t y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* The next draws of a generator, which is left as PyTorch would leave it. */
int uniform(struct generator *g, int64_t count, float *restrict out) {
    uint32_t words[WORDS];
    for (int i = 0; i < WORDS; i++) words[i] = (uint32_t)g->words[i];
    while (count > 0) {
        if (g->left <= 1) {
            renew(words);
            g->left = WORDS + 1, g->next = 0;
        }
        const uint32_t *from = words + g->next;
        const int64_t many = count < g->left - 1 ? count : g->left - 1;
        for (int64_t i = 0; i < many; i++) out[i] = (float)(int32_t)(temper(from[i]) & 0xffffffu) * 0x1p-24f;
        g->left -= many, g->next += many, out += many, count -= many;
    }
    for (int i = 0; i < WORDS; i++) g->words[i] = words[i];
    return 0;
}

/* Tensors that are `real` where they are `wide`, else `stored`; `at` is their i-th value. */
static inline real read(const void *x, const int wide, int64_t i) { return wide ? ((const real *)x)[i] : get(((const stored *)x)[i]); }
static inline void *at(const void *x, int wide, int64_t i) { return x ? (char *)x + i * (wide ? sizeof(real) : sizeof(stored)) : NULL; }

#define INLINE static inline __attribute__((always_inline))

INLINE void exceed(const int wide, const int masked, const void *x, const real *restrict u, const void *mask, int64_t n,
                   stored *restrict s, int8_t *restrict inside) {
    for (int64_t i = 0; i < n; i++) {
        real value = read(x, wide, i), distance = value - (real)0.5;
        s[i] = value > u[i] ? put(masked ? read(mask, wide, i) : 1) : (stored)0;
        inside[i] = absolute(wide ? distance : get(put(distance))) < 1;
    }
}

INLINE void pass(const int wide, const int masked, const stored *restrict gradient, const int8_t *restrict inside, const void *mask,
                 int64_t n, void *restrict to_x) {
    for (int64_t i = 0; i < n; i++) {
        real passed = get(gradient[i]) * (masked ? read(mask, wide, i) : 1) * inside[i];
        if (wide) ((real *)to_x)[i] = passed;
        else ((stored *)to_x)[i] = put(passed);
    }
}

/* What a loop is compiled for. */
#define EACH(call)                              \
    switch (2 * (wide != 0) + (mask != NULL)) { \
    case 0: call(0, 0); break;                  \
    case 1: call(0, 1); break;                  \
    case 2: call(1, 0); break;                  \
    default: call(1, 1);                        \
    }

/* s = m where x > u, else 0: m is the mask, the same for each of `count` windows of `size` values, or 1 where it is null.
 * `inside` becomes 1 where -0.5 < x < 1.5, else 0. x and m may be wide. */
int bernoulli(const void *x, int wide, const real *u, const void *mask, int64_t count, int64_t size, stored *s, int8_t *inside) {
#pragma omp parallel
    {
        int64_t begin, end;
        share(size, &begin, &end);
        for (int64_t window = 0; window < count; window++) {
            const int64_t here = window * size + begin;
#define CALL(wide, masked) exceed(wide, masked, at(x, wide, here), u + here, at(mask, wide, begin), end - begin, s + here, inside + here)
            EACH(CALL)
#undef CALL
        }
    }
    return 0;
}

/* dx = ds * m where x was inside, else 0. dx and m may be wide. */
int bernoulli_backward(const stored *gradient, int wide, const int8_t *inside, const void *mask, int64_t count, int64_t size, void *to_x) {
#pragma omp parallel
    {
        int64_t begin, end;
        share(size, &begin, &end);
        for (int64_t window = 0; window < count; window++) {
            const int64_t here = window * size + begin;
#define CALL(wide, masked) pass(wide, masked, gradient + here, inside + here, at(mask, wide, begin), end - begin, at(to_x, wide, here))
            EACH(CALL)
#undef CALL
        }
    }
    return 0;
}

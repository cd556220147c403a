/* GELU of bf16 values, x Phi(x), and its gradient: Phi is the normal distribution, which goes by the complementary error
 * function: Abramowitz and Stegun 7.1.26, within 2e-7.
 */
#include "tensors.h"

/* e^x for x <= 0: two to a whole number, by its bits, times two to at most a half, by a polynomial. */
static inline float exponential(float x) {
    float y = x * 1.44269504f;
    y = y < -127 ? -127 : y; /* whose bits are those of 0 */
    int whole = (int)(y - 0.5f);
    float z = y - whole;
    union { uint32_t bits; float value; } power = {(uint32_t)(whole + 127) << 23};
    float above = 0.240226462f + z * (0.0555041087f + z * (0.00961812911f + z * 0.00133335581f));
    return power.value * (1 + z * (0.693147182f + z * above));
}

/* Phi(x), and e^(-x^2 / 2). */
static inline float normal(float x, float *bell) {
    float size = absolute(x) * 0.707106781f, t = 1 / (1 + 0.3275911f * size);
    *bell = exponential(-size * size);
    float tail = 0.5f * *bell * t
        * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return x < 0 ? tail : 1 - tail;
}

int gelu(const stored *x, int64_t count, stored *out) {
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++) {
        float bell, value = get(x[i]);
        out[i] = put(value * normal(value, &bell));
    }
    return 0;
}

/* dx = gradient * (Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)) */
int gelu_backward(const stored *gradient, const stored *x, int64_t count, stored *dx) {
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++) {
        float bell, value = get(x[i]), phi = normal(value, &bell);
        dx[i] = put(get(gradient[i]) * (phi + value * bell * 0.398942280f));
    }
    return 0;
}

/* A function of bf16 numbers and its gradient: the 16 bits of a number say where they stand in a table. */
#include "tensors.h"

/* y = f(x): the table has the bits of y. */
int look_up(const uint16_t *restrict x, const uint32_t *restrict table, int64_t count, uint16_t *restrict y) {
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++) y[i] = (uint16_t)table[x[i]];
    return 0;
}

/* dx = dy f'(x): the table has f'(x). */
int look_up_gradient(const stored *restrict dy, const uint16_t *restrict x, const float *restrict table, int64_t count, stored *restrict dx) {
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++) dx[i] = put(get(dy[i]) * table[x[i]]);
    return 0;
}

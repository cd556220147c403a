/* What the kernels for channels-last tensors share: the type of a tensor, which `kernels.py` defines and compiles a file for,
 * the surrogates' derivatives, and how rows are shared between threads.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "threads.h"

#ifdef BF16
typedef uint16_t stored;
typedef float real;
static inline real get(stored x) {
    union { uint32_t bits; float value; } v = {(uint32_t)x << 16};
    return v.value;
}
static inline stored put(real x) { /* round to nearest, ties to even; a NaN stays one */
    union { float value; uint32_t bits; } v = {x};
    uint32_t rounded = (v.bits + 0x7fff + ((v.bits >> 16) & 1)) >> 16;
    return (stored)(x != x ? 0x7fc0 : rounded);
}
#else
typedef REAL stored;
typedef REAL real;
static inline real get(stored x) { return x; }
static inline stored put(real x) { return x; }
#endif

enum { BLOCK = 256 };                    /* rows whose sums are taken in `real` */
enum { LINEAR, RECTANGLE, TRIANGLE };    /* the derivative h: that of a batch norm alone, and surrogates */

static inline real absolute(real x) { return sizeof(real) == 4 ? (real)__builtin_fabsf(x) : (real)__builtin_fabs(x); }

static inline real derivative(const int kind, real d) {
    if (kind == RECTANGLE) return absolute(d) < (real)0.5 ? (real)1 : (real)0;
    real slant = 1 - absolute(d);
    if (kind == TRIANGLE) return slant > 0 ? slant : (real)0;
    return 1;
}

/* This thread's share of the rows. */
static void share(int64_t rows, int64_t *begin, int64_t *end) {
    int64_t threads = omp_get_num_threads(), number = omp_get_thread_num();
    *begin = rows * number / threads;
    *end = rows * (number + 1) / threads;
}

/* Add up what the threads found, in their order. */
static void add_up(const double *partial, int threads, int64_t size, double *sums) {
    memset(sums, 0, size * sizeof(double));
    for (int thread = 0; thread < threads; thread++)
        for (int64_t i = 0; i < size; i++) sums[i] += partial[thread * size + i];
}

/* What a loop is compiled for, once for each `kind`: a constant inside it, so that it becomes vector code. */
#define EACH_KIND(kind, call)                  \
    switch (kind) {                            \
    case LINEAR: call(LINEAR); break;          \
    case RECTANGLE: call(RECTANGLE); break;    \
    default: call(TRIANGLE);                   \
    }

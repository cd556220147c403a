/* kernel: window */
typedef struct {
    int height, width, channels;           /* of what it reads */
    int rows, columns, out;                /* of what it makes */
    int kernel[2], stride[2], padding[2], dilation[2];
} window;

/* kernel: lowest */
/* The place of the lowest bit that is set. */
static int lowest(uint32_t word)
{
#ifdef __GNUC__
    return __builtin_ctz(word);
#else
    int place = 0;
    while (!(word >> place & 1u))
        place++;
    return place;
#endif
}

/* kernel: tap */
/* The pixel under a tap of the window of pixel p; -1 outside of the map. */
static int tap(const window *w, int p, int row, int column)
{
    int x = p % w->columns * w->stride[1] - w->padding[1] + column * w->dilation[1];
    int y = p / w->columns % w->rows * w->stride[0] - w->padding[0] + row * w->dilation[0];
    if (y < 0 || y >= w->height || x < 0 || x >= w->width)
        return -1;
    return (p / w->columns / w->rows * w->height + y) * w->width + x;
}

/* kernel: conv_bits */
/* Add a row of weights for each spike in the window. Channel c has the rows of channel c % own: weights of `reach` output
   channels, from `first` on, such as those of its group. */
static void NAME(const window *w, const WEIGHT *weights, int reach, const uint16_t *first, int own,
                 const uint32_t *bits, int p, NUMBER *out)
{
    int words = (w->channels + 31) / 32;
    for (int o = 0; o < w->out; o++)
        out[o] = 0;
    for (int t = 0; t < w->kernel[0] * w->kernel[1]; t++) {
        int q = tap(w, p, t / w->kernel[1], t % w->kernel[1]);
        for (int i = 0; q >= 0 && i < words; i++)
            for (uint32_t left = bits[q * words + i]; left; left &= left - 1) {
                int c = (32 * i + lowest(left)) % own;
                const WEIGHT *row = weights + (t * own + c) * reach;
                NUMBER *to = first ? out + first[c] : out;
                for (int o = 0; o < reach; o++)
                    to[o] += row[o];
            }
    }
}

/* kernel: conv_numbers */
/* Numbers that are not 0, as half of those behind a ReLU are, times rows of weights: of `reach` output channels, from
   `first` on, such as those of a group. */
static void NAME(const window *w, const WEIGHT *weights, int reach, const uint16_t *first, const NUMBER *in, int p,
                 NUMBER *out)
{
    for (int o = 0; o < w->out; o++)
        out[o] = 0;
    for (int t = 0; t < w->kernel[0] * w->kernel[1]; t++) {
        int q = tap(w, p, t / w->kernel[1], t % w->kernel[1]);
        for (int c = 0; q >= 0 && c < w->channels; c++) {
            const WEIGHT *row = weights + (t * w->channels + c) * reach;
            NUMBER number = in[q * w->channels + c], *to = first ? out + first[c] : out;
            if (number != 0)
                for (int o = 0; o < reach; o++)
                    to[o] += number * row[o];
        }
    }
}

/* kernel: conv_pixels */
/* The image as the network normalises it: weights times bytes, times a factor for each group of channels, and what a
   tap inside of the image adds. `sums` has room for the output channels. */
static void conv_pixels(const window *w, const int8_t *weights, const uint8_t *group, int groups,
                        const int64_t *factors, const int64_t *taps, const uint8_t *image, int p, int32_t *sums,
                        int64_t *out)
{
    int count = w->kernel[0] * w->kernel[1];
    for (int o = 0; o < w->out; o++)
        out[o] = 0;
    for (int t = 0; t < count; t++)
        for (int o = 0; tap(w, p, t / w->kernel[1], t % w->kernel[1]) >= 0 && o < w->out; o++)
            out[o] += taps[t * w->out + o];
    for (int g = 0; g < groups; g++) {
        for (int o = 0; o < w->out; o++)
            sums[o] = 0;
        for (int t = 0; t < count; t++) {
            int q = tap(w, p, t / w->kernel[1], t % w->kernel[1]);
            for (int c = 0; q >= 0 && c < w->channels; c++) {
                const int8_t *row = weights + (t * w->channels + c) * w->out;
                for (int o = 0; group[c] == g && o < w->out; o++)
                    sums[o] += image[q * w->channels + c] * row[o];
            }
        }
        for (int o = 0; o < w->out; o++)
            out[o] += sums[o] * factors[g * w->out + o];
    }
}

/* kernel: times */
/* a * b / 2^60, of |a| < 2^61 and |b| <= 2^60, without overflow. */
static int64_t times(int64_t a, int64_t b)
{
    const int64_t unit = (int64_t)1 << 30;
    int64_t high = a / unit, low = a % unit, first = b / unit, second = b % unit;
    return high * first + (high * second + low * first + low * second / unit) / unit;
}

/* kernel: scaled */
/* value * factor / 2^bits. */
static int64_t scaled(int64_t value, int64_t factor, int bits)
{
    if (bits < 60)
        return times(value * ((int64_t)1 << (60 - bits)), factor);
    return times(value, factor) / ((int64_t)1 << (bits - 60));
}

/* kernel: sine */
/* The sine of an angle in turns, of which 64 bits are behind the point; 2^60 is 1. */
static int64_t sine(uint64_t turns)
{
    const int64_t one = (int64_t)1 << 60;
    uint64_t quarter = (turns + ((uint64_t)1 << 61)) >> 62;
    uint64_t rest = turns - (quarter << 62);
    int64_t angle = rest >> 63 ? -(int64_t)(~rest + 1) : (int64_t)rest;
    int64_t sine = one, cosine = one, square;
    angle = times(angle, INT64_C(452751216129820178)); /* radians: 2 pi / 16 * 2^60 */
    square = times(angle, angle);
    for (int k = 9; k > 0; k--) {
        sine = one - times(square, sine) / (2 * k * (2 * k + 1));
        cosine = one - times(square, cosine) / (2 * k * (2 * k - 1));
    }
    sine = quarter & 1 ? cosine : times(sine, angle);
    return quarter & 2 ? -sine : sine;
}

/* kernel: unpack */
/* Bits as numbers. */
static void unpack(const uint32_t *bits, int channels, int32_t *out)
{
    for (int c = 0; c < channels; c++)
        out[c] = (int32_t)(bits[c / 32] >> c % 32 & 1u);
}

/* kernel: put */
/* Set a bit if it is set elsewhere. */
static void put(uint32_t *to, int bit, const uint32_t *from, int other)
{
    to[bit / 32] |= (from[other / 32] >> other % 32 & 1u) << bit % 32;
}

/* kernel: fire */
/* Pack spikes: 1 where a value exceeds its threshold, turned round where `inverted`. */
static void NAME(const NUMBER *in, const uint16_t *chosen, const NUMBER *thresholds, const uint32_t *inverted,
                 int count, uint32_t *out)
{
    for (int i = 0; i < (count + 31) / 32; i++) {
        uint32_t word = 0;
        for (int c = 32 * i; c < count && c < 32 * i + 32; c++)
            word |= (uint32_t)(in[chosen[c]] > thresholds[c]) << c % 32;
        out[i] = word ^ inverted[i];
    }
}

/* kernel: gelu */
static float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.707106781f));
}

/* kernel: sigmoid */
static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* kernel: reciprocal */
static float reciprocal(float x)
{
    return 1.0f / x;
}

/* kernel: clamp */
static float clamp(float x, float least, float most)
{
    x = x > least ? x : least;
    return x < most ? x : most;
}

/* kernel: dot */
/* The product of two rows. */
static float dot(const float *a, const float *b, int count)
{
    float sum = 0;
    for (int i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

// The passes of a kernel around its products, each in one walk over memory: what passes.py computes by several operators of
// PyTorch, to the same bits. No sum is here, and no operation is contracted, so that each result is rounded as IEEE 754 says.
#include <math.h>
#include <stdint.h>
#include <string.h>

#define GRAIN 32768 // values of one thread at the least, as in PyTorch
#define TILE 512    // multipliers in a row: channels are few, and a short loop is slow

static inline float clamped(float v, float lo, float hi) { // keeps a NaN
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

// The larger of two, and a NaN if there is one.
static inline float larger(float a, float b) { return a != a ? a : (b > a || b != b) ? b : a; }

// v = clamp(round(v * multiplier), lo, hi) and bytes = v - first, which may be NULL.
static inline void requantize_row(float *restrict v, const float *restrict multiplier, uint8_t *restrict bytes, int64_t size,
                                  float lo, float hi, int32_t first) {
    if (bytes)
        for (int64_t i = 0; i < size; i++) {
            v[i] = clamped(rintf(v[i] * multiplier[i]), lo, hi);
            bytes[i] = (uint8_t)((int32_t)v[i] - first);
        }
    else
        for (int64_t i = 0; i < size; i++)
            v[i] = clamped(rintf(v[i] * multiplier[i]), lo, hi);
}

// The same for rows of channels, in place.
void requantize(float *restrict v, const float *restrict multiplier, uint8_t *restrict bytes, int64_t rows, int64_t channels,
                float lo, float hi, int32_t first) {
    float tile[2 * TILE];
    const int64_t together = channels >= TILE ? 1 : 2 * TILE / channels, width = together * channels, blocks = rows / together;
    if (channels < TILE) {
        for (int64_t i = 0; i < together; i++)
            memcpy(tile + i * channels, multiplier, channels * sizeof(float));
        multiplier = tile;
    }
#pragma omp parallel for if (rows * channels > GRAIN)
    for (int64_t block = 0; block < blocks; block++)
        requantize_row(v + block * width, multiplier, bytes ? bytes + block * width : NULL, width, lo, hi, first);
    const int64_t done = blocks * width;
    requantize_row(v + done, multiplier, bytes ? bytes + done : NULL, rows * channels - done, lo, hi, first);
}

// found = clamp(round(v), lo, hi).
void round_clamp(float *restrict found, const float *restrict v, int64_t size, float lo, float hi) {
#pragma omp parallel for if (size > GRAIN)
    for (int64_t i = 0; i < size; i++)
        found[i] = clamped(rintf(v[i]), lo, hi);
}

// found = clamp(round(a * b * factor), lo, hi): b has one row of channels for each image.
void product(float *restrict found, const float *restrict a, const float *restrict b, const float *factor, int64_t images,
             int64_t rows, int64_t channels, float lo, float hi) {
    const float f = *factor;
#pragma omp parallel for if (images * rows * channels > GRAIN)
    for (int64_t row = 0; row < images * rows; row++) {
        const float *one = b + row / rows * channels;
        for (int64_t c = 0; c < channels; c++)
            found[row * channels + c] = clamped(rintf(a[row * channels + c] * one[c] * f), lo, hi);
    }
}

// The gradients of a product: of_a = grad * factor * b, and of_b = grad * factor * a, not yet summed over the rows.
void product_gradients(float *restrict of_a, float *restrict of_b, const float *restrict grad, const float *restrict a,
                       const float *restrict b, const float *factor, int64_t images, int64_t rows, int64_t channels) {
    const float f = *factor;
#pragma omp parallel for if (images * rows * channels > GRAIN)
    for (int64_t row = 0; row < images * rows; row++) {
        const float *one = b + row / rows * channels;
        for (int64_t c = 0; c < channels; c++) {
            const float g = grad[row * channels + c] * f;
            of_a[row * channels + c] = g * one[c];
            of_b[row * channels + c] = g * a[row * channels + c];
        }
    }
}

// found = table[index], of 256 entries.
void look_up(float *restrict found, const uint8_t *restrict index, const float *restrict table, int64_t size) {
#pragma omp parallel for if (size > GRAIN)
    for (int64_t i = 0; i < size; i++)
        found[i] = table[index[i]];
}

// found = table[index] * grad.
void look_up_times(float *restrict found, const uint8_t *restrict index, const float *restrict table,
                   const float *restrict grad, int64_t size) {
#pragma omp parallel for if (size > GRAIN)
    for (int64_t i = 0; i < size; i++)
        found[i] = table[index[i]] * grad[i];
}

// found = x - lo in a byte.
void to_bytes(uint8_t *restrict found, const float *restrict x, int64_t size, int32_t lo) {
#pragma omp parallel for if (size > GRAIN)
    for (int64_t i = 0; i < size; i++)
        found[i] = (uint8_t)((int32_t)x[i] - lo);
}

// found = bytes + lo.
void from_bytes(float *restrict found, const uint8_t *restrict bytes, int64_t size, int32_t lo) {
#pragma omp parallel for if (size > GRAIN)
    for (int64_t i = 0; i < size; i++)
        found[i] = (float)((int32_t)bytes[i] + lo);
}

// found = the gradient where lo < saved < hi, else 0.
void mask_by_bytes(float *restrict found, const float *restrict grad, const uint8_t *restrict saved, int64_t size, int32_t lo,
                   int32_t hi) {
#pragma omp parallel for if (size > GRAIN)
    for (int64_t i = 0; i < size; i++)
        found[i] = saved[i] > lo && saved[i] < hi ? grad[i] : 0.0f;
}

// The largest magnitude of some values; a NaN if there is one, whose bits are above those of infinity.
static float peak_of(const float *w, int64_t size) {
    int32_t largest = 0;
    for (int64_t i = 0; i < size; i++) {
        int32_t bits;
        memcpy(&bits, w + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float peak;
    memcpy(&peak, &largest, sizeof peak);
    return peak;
}

// The scale, integers, bias and multiplier of each channel; bias and b_int may be NULL.
void weight_integers(const float *restrict w, const float *restrict bias, int64_t channels, int64_t size,
                     const float *input_scale, const float *output_scale, float qmax, float smallest, float bias_limit,
                     int32_t per_channel, float *restrict scale, int8_t *restrict w_int, float *restrict b_int,
                     float *restrict multiplier) {
    const float s_x = *input_scale, s_y = *output_scale, limit = s_x * bias_limit;
#pragma omp parallel for if (channels * size > GRAIN)
    for (int64_t c = 0; c < channels; c++) {
        float s = peak_of(w + c * size, size) / qmax;
        scale[c] = s < smallest ? smallest : s;
    }
    if (!per_channel)
        for (int64_t c = 1; c < channels; c++)
            scale[0] = larger(scale[0], scale[c]);
    if (bias) {
        if (per_channel)
            for (int64_t c = 0; c < channels; c++)
                scale[c] = larger(scale[c], fabsf(bias[c]) / limit);
        else
            for (int64_t c = 0; c < channels; c++)
                scale[0] = larger(scale[0], fabsf(bias[c]) / limit);
    }
    if (!per_channel)
        for (int64_t c = 1; c < channels; c++)
            scale[c] = scale[0];
#pragma omp parallel for if (channels * size > GRAIN)
    for (int64_t c = 0; c < channels; c++) {
        const float s = scale[c], s_b = s * s_x;
        for (int64_t i = 0; i < size; i++)
            w_int[c * size + i] = (int8_t)(int32_t)rintf(w[c * size + i] / s);
        if (bias)
            b_int[c] = rintf(bias[c] / s_b);
        multiplier[c] = s_b / s_y;
    }
}

// found = round(w / scale) * factor; factor may be NULL.
void rounded_weight(float *restrict found, const float *restrict w, const float *restrict scale, const float *restrict factor,
                    int64_t channels, int64_t size) {
#pragma omp parallel for if (channels * size > GRAIN)
    for (int64_t c = 0; c < channels; c++) {
        const float s = scale[c], f = factor ? factor[c] : 1.0f;
        for (int64_t i = 0; i < size; i++)
            found[c * size + i] = rintf(w[c * size + i] / s) * f;
    }
}

/* Matrix products with product and sum rounded at every step, to nearest even, in a float format that
 * is known at run time: what a compiler makes of a plain loop is this machine's limit.
 *
 * A magnitude is rounded by adding and subtracting a power of two, of which a gap of the format is
 * the last place. Sums beyond the largest value become infinite.
 */

#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t least, most, up, largest; /* exponent fields, what is added to them, a bit pattern */
} Format;

static inline uint32_t bits_of(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static inline float float_of(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }

static inline float rounded(float x, Format f) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff, field = magnitude & 0x7f800000;
    field = field < f.least ? f.least : field;
    field = field > f.most ? f.most : field;
    float magic = float_of(field + f.up);
    uint32_t result = bits_of((float_of(magnitude) + magic) - magic);
    result = result > f.largest && magnitude <= 0x7f800000 ? 0x7f800000 : result;
    return float_of(result | (bits & 0x80000000));
}

/* c[m, n] = a[m, k] @ b[k, n] */
void accumulate(const float *a, const float *b, float *restrict c, int m, int k, int n,
                uint32_t least, uint32_t most, uint32_t up, uint32_t largest) {
    Format f = {least, most, up, largest};
#pragma omp parallel for schedule(static)
    for (int i = 0; i < m; i++) {
        float *row = c + (long)i * n;
        memset(row, 0, n * sizeof(float));
        for (int l = 0; l < k; l++) {
            float x = a[(long)i * k + l];
            const float *y = b + (long)l * n;
            for (int j = 0; j < n; j++) row[j] = rounded(row[j] + rounded(x * y[j], f), f);
        }
    }
}

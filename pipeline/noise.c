/*
 * torch's normal distributions, value for value.
 *
 * torch has three CPU paths and all of them are visible in a picture: fewer than 16 values come
 * from Box-Muller in F64 with a cached second value; 16 and more from an AVX2 kernel whose
 * logarithm, sine and cosine are the single-precision Cephes polynomials, contracted to FMAs by
 * its compiler, so they are written as fmaf() here, in its order; and a rest of n mod 16 is
 * made by drawing the last 16 values again.
 */
#include "pipeline/noise.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/base/dtype.h"

enum { GROUP = 16, HALF = GROUP / 2, PHILOX_BLOCK = 256 };

static const char *const rng_names[NB_RNG_COUNT] = {"torch-cpu", "torch-cuda"};
static const char *const noise_names[NB_NOISE_COUNT] = {"default", "f32", "f16", "bf16",
                                                        "bf16-8bit"};

const char *nb_rng_name(nb_rng_kind kind)
{
    assert(kind < NB_RNG_COUNT);
    return rng_names[kind];
}

const char *nb_noise_name(nb_noise_dtype dtype)
{
    assert(dtype < NB_NOISE_COUNT);
    return noise_names[dtype];
}

nb_rng_kind nb_rng_from_name(const char *name)
{
    int i = 0;
    while (i < NB_RNG_COUNT && strcmp(name, rng_names[i]) != 0) i++;
    return (nb_rng_kind)i;
}

nb_noise_dtype nb_noise_from_name(const char *name)
{
    int i = 0;
    while (i < NB_NOISE_COUNT && strcmp(name, noise_names[i]) != 0) i++;
    return (nb_noise_dtype)i;
}

void nb_generator_init(nb_generator *g, nb_rng_kind kind, uint64_t seed)
{
    assert(kind < NB_RNG_COUNT);
    *g = (nb_generator){.kind = kind,
                        .seed = seed,
                        .sms = NB_RNG_DEFAULT_SMS,
                        .sm_threads = NB_RNG_DEFAULT_SM_THREADS};
    nb_mt19937_init(&g->mt, (uint32_t)seed);
}

/* ---- CPU, 16 values and more --------------------------------------------------------------
 */

/* ln x for normal x > 0. */
static inline float cephes_log(float x)
{
    uint32_t bits = nb_f32_bits(x);
    float e = (float)((int32_t)(bits >> 23) - 126);
    x = nb_f32_from_bits((bits & 0x007fffffu) | 0x3f000000u);
    int low = x < 0.707106781186547524f;
    float twice = low ? x : 0.0f;
    x = (x - 1.0f) + twice;
    e -= low ? 1.0f : 0.0f;
    float z = x * x;
    float y = 7.0376836292e-2f;
    y = fmaf(y, x, -1.1514610310e-1f);
    y = fmaf(y, x, 1.1676998740e-1f);
    y = fmaf(y, x, -1.2420140846e-1f);
    y = fmaf(y, x, 1.4249322787e-1f);
    y = fmaf(y, x, -1.6668057665e-1f);
    y = fmaf(y, x, 2.0000714765e-1f);
    y = fmaf(y, x, -2.4999993993e-1f);
    y = fmaf(y, x, 3.3333331174e-1f);
    y *= x;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(-z, 0.5f, y);
    return fmaf(e, 0.693359375f, x + y);
}

/* Sine and cosine of x >= 0. */
static inline void cephes_sincos(float x, float *sine, float *cosine)
{
    int32_t q = ((int32_t)(x * 1.27323954473516f) + 1) & ~1;
    float octant = (float)q;
    x = fmaf(octant, -0.78515625f, x);
    x = fmaf(octant, -2.4187564849853515625e-4f, x);
    x = fmaf(octant, -3.77489497744594108e-8f, x);
    float z = x * x;
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f) * z;
    c = fmaf(c, z, z * -0.5f) + 1.0f;
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f) * z;
    s = fmaf(s, x, x);
    int swap = (q & 2) != 0;
    float sin_value = swap ? c : s, cos_value = swap ? s : c;
    *sine = q & 4 ? -sin_value : sin_value;
    *cosine = (q - 2) & 4 ? cos_value : -cos_value;
}

static float uniform24(nb_generator *g)
{
    return (float)(nb_mt19937_next(&g->mt) & 0xffffffu) * 0x1p-24f;
}

/* Sixteen uniforms in place to sixteen normals. Adding 0 does what torch's "times 1 plus 0"
 * does to negative zeros. */
static void box_muller_16(float *v)
{
    for (int j = 0; j < HALF; j++) {
        float r = sqrtf(-2.0f * cephes_log(1.0f - v[j]));
        float sine, cosine;
        cephes_sincos(6.283185307179586f * v[j + HALF], &sine, &cosine);
        v[j] = r * cosine + 0.0f;
        v[j + HALF] = r * sine + 0.0f;
    }
}

/* For F32 torch first fills the whole of `out` with uniforms; for the 16-bit types it works
 * through a buffer of 16, so that a rest costs no uniforms that are then thrown away. */
static void normal_fill(nb_generator *g, nb_noise_dtype dtype, float *out, int64_t n)
{
    int64_t drawn = dtype == NB_NOISE_F32 ? n : n - n % GROUP;
    for (int64_t i = 0; i < drawn; i++) out[i] = uniform24(g);
    for (int64_t i = 0; i + GROUP <= n; i += GROUP) box_muller_16(out + i);
    if (n % GROUP) {
        float *last = out + n - GROUP;
        for (int i = 0; i < GROUP; i++) last[i] = uniform24(g);
        box_muller_16(last);
    }
}

/* ---- CPU, fewer than 16 values ------------------------------------------------------------
 */

static double uniform53(nb_generator *g)
{
    uint64_t high = nb_mt19937_next(&g->mt);
    uint64_t bits = high << 32 | nb_mt19937_next(&g->mt);
    return (double)(bits & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

static double normal_double(nb_generator *g)
{
    if (g->has_next) {
        g->has_next = 0;
        return g->next;
    }
    double u1 = uniform53(g), u2 = uniform53(g);
    double r = sqrt(-2.0 * log1p(-u2)), theta = 2.0 * 3.14159265358979323846 * u1;
    g->next = r * sin(theta);
    g->has_next = 1;
    return r * cos(theta);
}

/* ---- CPU, the bfloat16 field of torch <= 2.11 ---------------------------------------------
 */

static float bf16_from_double(double x)
{
    return nb_round_bf16((float)x);
}

static void box_muller_16_8bit(float *v)
{
    for (int j = 0; j < HALF; j++) {
        float ln = bf16_from_double(log(1.0 - (double)v[j]));
        float r = bf16_from_double(sqrt(-2.0 * (double)ln));
        float theta =
            nb_round_bf16((float)(2.0 * 3.14159265358979323846 * (double)v[j + HALF]));
        float cosine = bf16_from_double(cos((double)theta));
        float sine = bf16_from_double(sin((double)theta));
        v[j] = nb_round_bf16(r * cosine);
        v[j + HALF] = nb_round_bf16(r * sine);
    }
}

static nb_status fill_8bit(nb_generator *g, float *out, int64_t n)
{
    if (g->kind != NB_RNG_TORCH_CPU)
        return nb_fail(NB_E_USAGE, "noise bf16-8bit exists for the generator torch-cpu only");
    if (n % GROUP)
        return nb_fail(NB_E_USAGE, "noise bf16-8bit wants a multiple of 16 values, got %lld",
                       (long long)n);
    for (int64_t i = 0; i < n; i++) out[i] = (float)(nb_mt19937_next(&g->mt) & 0xffu) / 256.0f;
    for (int64_t i = 0; i < n; i += GROUP) box_muller_16_8bit(out + i);
    return NB_OK;
}

/* ---- CUDA ---------------------------------------------------------------------------------
 */

/* Component `index` (0 .. 3) of curand's normal4: words in pairs, sine first. */
static float curand_normal(const uint32_t words[4], int index)
{
    const float unit = 2.3283064e-10f, turn = 2.3283064e-10f * 6.2831855f;
    const uint32_t *pair = words + (index & 2);
    float u = fmaf((float)pair[0], unit, unit / 2);
    float v = fmaf((float)pair[1], turn, turn / 2);
    float s = sqrtf(-2.0f * logf(u));
    return s * (index & 1 ? cosf(v) : sinf(v));
}

/* A grid of `threads` strides over the values; each of its threads keeps its own counter, and
 * uses the four words of one counter for four values that are `threads` apart. */
static void philox_fill(nb_generator *g, float *out, int64_t n)
{
    int64_t blocks = (n + PHILOX_BLOCK - 1) / PHILOX_BLOCK;
    int64_t most = (int64_t)g->sms * (g->sm_threads / PHILOX_BLOCK);
    int64_t threads = PHILOX_BLOCK * (blocks < most ? blocks : most);
    const uint32_t key[2] = {(uint32_t)g->seed, (uint32_t)(g->seed >> 32)};
    for (int64_t thread = 0; thread < threads && thread < n; thread++) {
        uint32_t words[4];
        for (int64_t i = thread, q = 0; i < n; i += threads, q++) {
            if (q % 4 == 0) {
                uint64_t block = g->offset / 4 + (uint64_t)(q / 4);
                const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32),
                                             (uint32_t)thread,
                                             (uint32_t)((uint64_t)thread >> 32)};
                nb_philox4x32(counter, key, words);
            }
            out[i] = curand_normal(words, (int)(q % 4));
        }
    }
    g->offset += 4 * (uint64_t)((n - 1) / (4 * threads) + 1);
}

/* ---- all of them --------------------------------------------------------------------------
 */

static void round_values(float *out, int64_t n, nb_noise_dtype dtype)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = dtype == NB_NOISE_BF16 ? nb_round_bf16(out[i])
                                        : nb_f32_from_f16(nb_f16_from_f32(out[i]));
}

nb_status nb_generator_randn(nb_generator *g, nb_noise_dtype dtype, float *out, int64_t n)
{
    assert(dtype > NB_NOISE_DEFAULT && dtype < NB_NOISE_COUNT && n >= 0);
    if (n == 0) return NB_OK;
    if (dtype == NB_NOISE_BF16_8BIT) return fill_8bit(g, out, n);
    if (g->kind == NB_RNG_TORCH_CUDA)
        philox_fill(g, out, n);
    else if (n >= GROUP)
        normal_fill(g, dtype, out, n);
    else
        for (int64_t i = 0; i < n; i++) out[i] = (float)normal_double(g);
    if (dtype != NB_NOISE_F32) round_values(out, n, dtype);
    return NB_OK;
}

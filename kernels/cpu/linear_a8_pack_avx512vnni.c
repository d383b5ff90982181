/* Rounding of x and W to 8 bits, x into lanes. */
#include "kernels/cpu/linear_a8.h"
#include "kernels/cpu/panel_avx512.h"
#include "kernels/cpu/transpose_avx512.h"

enum { UNITS = NB_A8_GROUP / 4, LANES = 16, OFFSET = 128 };

/* Of the largest magnitudes' bits, NaN being the largest: what nb_a8_scale_of() gives. */
static void scales_of(__m512i largest, __m512 *up, __m512 *down)
{
    const __m512 most = _mm512_set1_ps(NB_A8_MOST);
    __m512 a = _mm512_castsi512_ps(largest);
    __mmask16 finite = _mm512_cmp_ps_mask(a, _mm512_set1_ps(FLT_MAX), _CMP_LE_OQ);
    __mmask16 counts =
        _mm512_mask_cmp_ps_mask(finite, a, _mm512_set1_ps(NB_A8_SMALLEST), _CMP_GE_OQ);
    *up = _mm512_maskz_div_ps(counts, most, a);
    *down = _mm512_maskz_div_ps(counts, a, most);
    *down = _mm512_mask_blend_ps(finite, _mm512_set1_ps(NAN), *down);
}

static __m512i magnitude(__m512 x)
{
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

/* Not-a-number times 0 is no integer, but then the mask is not set. */
static __m512i round_lanes(__m512 x, __m512 up)
{
    __mmask16 counts = _mm512_cmp_ps_mask(up, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_maskz_cvtps_epi32(counts, _mm512_mul_ps(x, up));
}

/* 4 vectors of integers as the bytes of one. */
static __m512i join4(const __m512i q[4])
{
    const __m512i byte = _mm512_set1_epi32(255);
    __m512i low = _mm512_or_si512(_mm512_and_si512(q[0], byte),
                                  _mm512_slli_epi32(_mm512_and_si512(q[1], byte), 8));
    __m512i high = _mm512_or_si512(_mm512_and_si512(q[2], byte), _mm512_slli_epi32(q[3], 8));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* x[16 rows][columns 0 ... 15] as columns; masked loads read nothing that is not there. */
static inline __attribute__((always_inline)) void
load_columns(__m512 r[16], const float *x, int64_t stride, int64_t n_rows, int64_t k)
{
    __mmask16 columns = k > 0 ? nb_first_lanes(k) : 0;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_maskz_loadu_ps(i < n_rows ? columns : 0,
                                     i < n_rows && k > 0 ? x + i * stride : x);
    nb_transpose16_avx512(r);
}

/* A group of 16 rows into lanes `lane` ... of `lanes`. */
static void pack_group(char *out, int lanes, int lane, const float *x, int64_t stride,
                       int64_t n_rows, int64_t k)
{
    const __m512i ones = _mm512_set1_epi8(1);
    __m512 r[NB_A8_GROUP], up, down;
    __m512i largest = _mm512_setzero_si512(), sum = _mm512_setzero_si512();
    load_columns(r, x, stride, n_rows, k);
    load_columns(r + 16, k > 16 ? x + 16 : x, stride, n_rows, k - 16);
#pragma GCC unroll 32
    for (int i = 0; i < NB_A8_GROUP; i++) largest = _mm512_max_epu32(largest, magnitude(r[i]));
    scales_of(largest, &up, &down);
#pragma GCC unroll 8
    for (int u = 0; u < UNITS; u++) {
        __m512i q[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) q[i] = round_lanes(r[u * 4 + i], up);
        __m512i bytes = join4(q);
        sum = _mm512_dpbusd_epi32(sum, ones, bytes);
        _mm512_storeu_si512(out + (u * lanes + lane) * 4, bytes);
    }
    out += NB_A8_GROUP * lanes;
    _mm512_storeu_ps(out + lane * 4, down);
    _mm512_storeu_si512(out + (lanes + lane) * 4,
                        _mm512_mullo_epi32(sum, _mm512_set1_epi32(-OFFSET)));
}

/* One row: 32 columns of it are 2 vectors. */
static void pack_row(char *out, const float *x, int64_t k)
{
    __m512 r[2], up, down;
    r[0] = _mm512_maskz_loadu_ps(k > 0 ? nb_first_lanes(k) : 0, x);
    r[1] = _mm512_maskz_loadu_ps(k > 16 ? nb_first_lanes(k - 16) : 0, k > 16 ? x + 16 : x);
    unsigned largest =
        _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(r[0]), magnitude(r[1])));
    scales_of(_mm512_set1_epi32((int)largest), &up, &down);
    int start = 0;
    for (int i = 0; i < 2; i++) {
        __m512i q = round_lanes(r[i], up);
        start -= OFFSET * _mm512_reduce_add_epi32(q);
        _mm_storeu_si128((void *)(out + 16 * i), _mm512_cvtepi32_epi8(q));
    }
    float scale = _mm512_cvtss_f32(down);
    memcpy(out + NB_A8_GROUP, &scale, sizeof scale);
    memcpy(out + NB_A8_GROUP + sizeof scale, &start, sizeof start);
}

void nb_a8_pack_avx512vnni(void *out, int lanes, const float *x, int64_t stride, int64_t n_rows,
                           int64_t k)
{
    char *to = out;
    int64_t padded = (k + NB_A8_STEP - 1) / NB_A8_STEP * NB_A8_STEP;
    for (int64_t at = 0; at < padded; at += NB_A8_GROUP) {
        const float *from = at < k ? x + at : x;
        if (lanes == 1) pack_row(to, from, k - at);
        for (int lane = 0; lanes > 1 && lane < lanes; lane += LANES)
            pack_group(to, lanes, lane, lane < n_rows ? from + lane * stride : x, stride,
                       n_rows - lane, k - at);
        to += lanes * (NB_A8_GROUP + NB_A8_SUMS_BYTES);
    }
}

/* --- W --- */

/* A group of 256 floats, `k` of them there and zeros up to a chunk, into chunks. */
static void round_group(const float *x, int64_t k, char *out, int64_t stride, float *scale)
{
    __m512i largest = _mm512_setzero_si512();
    __m512 up, down;
    for (int64_t i = 0; i < k; i += LANES)
        largest = _mm512_max_epu32(largest, magnitude(_mm512_load_ps(x + i)));
    scales_of(_mm512_set1_epi32((int)_mm512_reduce_max_epu32(largest)), &up, &down);
    *scale = _mm512_cvtss_f32(down);
    for (int64_t i = 0; i < k; i += NB_A8_STEP, out += stride)
        for (int64_t j = 0; j < NB_A8_STEP; j += LANES) {
            __m128i q = _mm512_cvtepi32_epi8(round_lanes(_mm512_load_ps(x + i + j), up));
            _mm_store_si128((void *)(out + j), _mm_xor_si128(q, _mm_set1_epi8(-OFFSET)));
        }
}

static void decode_floats(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                          int64_t stride, float *scales, int64_t scale_stride)
{
    _Alignas(64) float x[NB_A8_BLOCK];
    int64_t whole = count / NB_A8_STEP * NB_A8_STEP;
    if (whole < count) memset(x + whole, 0, NB_A8_STEP * sizeof *x);
    nb_panel_f32_avx512(w, row, k0, count, x, LANES * sizeof *x);
    for (int64_t at = 0; at < count; at += NB_A8_WEIGHT_GROUP, scales += scale_stride) {
        int64_t k = count - at < NB_A8_WEIGHT_GROUP ? count - at : NB_A8_WEIGHT_GROUP;
        round_group(x + at, k, out + at / NB_A8_STEP * stride, stride, scales);
    }
}

/* The largest of each 8 bytes, everywhere among them. */
static __m512i largest_of_8(__m512i x)
{
    x = _mm512_max_epu8(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
    x = _mm512_max_epu8(x, _mm512_or_si512(_mm512_srli_epi32(x, 16), _mm512_slli_epi32(x, 16)));
    return _mm512_max_epu8(x,
                           _mm512_or_si512(_mm512_srli_epi16(x, 8), _mm512_slli_epi16(x, 8)));
}

/* E4M3 times 2^-8 of 16 bytes that hold no NaN. */
static __m512 load_e4m3(const uint8_t *codes)
{
    __m256i c = _mm256_cvtepu8_epi16(_mm_load_si128((const void *)codes));
    __m256i sign = _mm256_slli_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0x80)), 8);
    __m256i half = _mm256_slli_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0x7f)), 7);
    return _mm512_cvtph_ps(_mm256_or_si256(sign, half));
}

/* What nb_a8_multiplier() says for the blocks of NB_A8_BLOCK columns, `n` of them there, as
 * often as there are 16 columns; and the largest scale of each group. */
typedef struct multipliers {
    _Alignas(64) int16_t m[NB_A8_BLOCK / 16];
    uint8_t largest[NB_A8_BLOCK_SCALES];
} multipliers;

static void multiply_nvfp4(multipliers *out, const uint8_t *scales, int64_t n)
{
    _Alignas(64) uint8_t codes[64], mosts[64];
    __m512i c = _mm512_maskz_loadu_epi8(n >= 64 ? ~0ull : (1ull << n) - 1, scales);
    __m512i most = largest_of_8(_mm512_and_si512(c, _mm512_set1_epi8(0x7f)));
    most = _mm512_max_epu8(most, _mm512_shuffle_epi32(most, _MM_PERM_BADC));
    _mm512_store_si512(codes, c);
    _mm512_store_si512(mosts, most);
    for (int i = 0; i < NB_A8_BLOCK_SCALES; i++) {
        __m512 v = load_e4m3(codes + 16 * i), g = load_e4m3(mosts + 16 * i);
        __mmask16 some = _mm512_cmp_ps_mask(g, _mm512_setzero_ps(), _CMP_GT_OQ);
        __m512 m = _mm512_mul_ps(v, _mm512_div_ps(_mm512_set1_ps(NB_A8_MULTIPLIER), g));
        _mm256_store_si256((void *)(out->m + 16 * i),
                           _mm512_cvtepi32_epi16(_mm512_maskz_cvtps_epi32(some, m)));
        out->largest[i] = mosts[16 * i];
    }
}

/* 2^-31 of the multiplier is 0, as less is. */
static void multiply_mxfp4(multipliers *out, const uint8_t *scales, int64_t n)
{
    _Alignas(64) uint8_t less[64], mosts[64];
    __mmask64 there = (1ull << n) - 1;
    __m512i c = _mm512_maskz_loadu_epi8(there, scales), most = largest_of_8(c);
    __m512i difference = _mm512_min_epu8(_mm512_subs_epu8(most, c), _mm512_set1_epi8(31));
    _mm512_store_si512(less, difference);
    _mm512_store_si512(mosts, most);
    for (int i = 0; i < NB_A8_BLOCK_SCALES; i++) {
        __m256i d = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(less + 8 * i)));
        __m256i exponent = _mm256_sub_epi32(_mm256_set1_epi32(127), d);
        __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
        __m256i m = _mm256_cvtps_epi32(_mm256_mul_ps(power, _mm256_set1_ps(NB_A8_MULTIPLIER)));
        m = _mm256_or_si256(m, _mm256_slli_epi32(m, 16));
        _mm256_store_si256((void *)(out->m + 16 * i), m);
        out->largest[i] = mosts[8 * i];
    }
}

/* 64 columns out of `bytes` that hold two codes each; m of their 4 times 16. */
static __m512i round_codes(__m256i bytes, const int16_t *m, int high_first)
{
    const __m512i values = _mm512_broadcast_i64x4(_mm256_setr_epi16(
        0, 16, 32, 48, 64, 96, 128, 192, 0, -16, -32, -48, -64, -96, -128, -192));
    const __m512i of_16 = _mm512_setr_epi32(0x01000100, 0x01000100, 0x01000100, 0x01000100,
                                            0x03020302, 0x03020302, 0x03020302, 0x03020302,
                                            0x05040504, 0x05040504, 0x05040504, 0x05040504,
                                            0x07060706, 0x07060706, 0x07060706, 0x07060706);
    int64_t four;
    memcpy(&four, m, sizeof four);
    __m512i m_of = _mm512_shuffle_epi8(_mm512_set1_epi64(four), of_16);
    __m512i words = _mm512_cvtepu8_epi16(bytes);
    __m512i low = _mm512_permutexvar_epi16(words, values);
    __m512i high = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), values);
    low = _mm512_mulhrs_epi16(low, m_of);
    high = _mm512_mulhrs_epi16(high, m_of);
    __m512i even = high_first ? high : low, odd = high_first ? low : high;
    __m512i q = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, even, _mm512_slli_epi16(odd, 8));
    return _mm512_xor_si512(q, _mm512_set1_epi8(-OFFSET));
}

static void decode_fp4(const nb_weight *w, int64_t row, int64_t k0, int64_t count, char *out,
                       int64_t stride, float *scales, int64_t scale_stride)
{
    int bits = nb_weight_block_bits(w);
    const uint8_t *codes = (const uint8_t *)w->data + (row * w->k + k0) / 2;
    const uint8_t *block_scales = (const uint8_t *)w->scales + ((row * w->k + k0) >> bits);
    multipliers mult = {.m = {0}};
    if (w->scale_kind == NB_SCALE_MXFP4)
        multiply_mxfp4(&mult, block_scales, count >> bits);
    else
        multiply_nvfp4(&mult, block_scales, count >> bits);
    for (int64_t at = 0; at < count; at += NB_A8_STEP, out += stride) {
        __mmask32 there =
            count - at >= NB_A8_STEP ? ~0u : (1u << (uint32_t)((count - at) / 2)) - 1;
        __m256i bytes = _mm256_maskz_loadu_epi8(there, codes + at / 2);
        _mm512_store_si512(out, round_codes(bytes, mult.m + at / 16, w->high_first));
    }
    for (int64_t i = 0; i * NB_A8_WEIGHT_GROUP < count; i++)
        scales[i * scale_stride] = nb_a8_fp4_scale(w, mult.largest[i]);
}

void nb_a8_decode_avx512vnni(const nb_weight *w, int64_t row, int64_t k0, int64_t count,
                             void *out, int64_t stride, float *scales, int64_t scale_stride)
{
    if (w->dtype == NB_DTYPE_F4_E2M1X2)
        decode_fp4(w, row, k0, count, out, stride, scales, scale_stride);
    else
        decode_floats(w, row, k0, count, out, stride, scales, scale_stride);
}

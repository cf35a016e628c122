// Products of float matrices in fixed point on the int8 matrix tiles: twice the rate of the bf16 tiles, half the memory.
// A row of the left operand (a column of the right one) is scaled by its largest magnitude to integers of 24 bits,
// which are three signed digits of 8; of the nine products of digits the six largest count, summed exactly.
//
// What is lost is relative to the row's and the column's largest elements, m and n: about sqrt(inner dimension) m n
// 2^-25 of an element. Arithmetic in float32 loses 2^-24 of S, the sum of its terms' magnitudes, and so an element
// counts as good where S >= sqrt(inner dimension) m n / 4; S is summed beside, from the first digits' magnitudes. For a
// block with other elements (outliers, features of uneven scale) the caller takes the bf16 tiles (amx_gemm.h).
//
// A block is 32 rows (or columns) by 64 inner elements: a digit of it takes two tiles of 16 x 16 words, and a word
// holds the inner elements j, j + 16, j + 32, j + 48 of a step. Operands lie as [digit, then magnitude][step][tile].
#pragma once

#include "common/amx_gemm.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

inline constexpr int64_t FIXED_DEEP = 64;            // inner elements of a step
inline constexpr int64_t FIXED_MOST = 1 << 14;       // inner elements whose sums fit 32 bits

RE_INLINE int64_t fixed_steps(int64_t n) { return (n + FIXED_DEEP - 1) / FIXED_DEEP; }
RE_INLINE int64_t fixed_size(int64_t n) { return 4 * fixed_steps(n) * BLOCK_WORDS; }  // words of 32 rows of n

// The least S of a good element, in units of its largest digits' product.
RE_INLINE int32_t fixed_least(int64_t n) {
  return static_cast<int32_t>(127.f * 127.f / 4.f * __builtin_sqrtf(static_cast<float>(n)));
}

// Four vectors of integers below 2^23 in magnitude (as floats) to words of their digits, `digit` floats apart.
RE_INLINE void digit_words(vf a, vf b, vf c, vf d, float* to, int64_t digit) {
  const __m512i bias = _mm512_set1_epi32(0x808080), low = _mm512_set1_epi32(0xffff), byte = _mm512_set1_epi32(0xff);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xff000000u));
  const auto digits = [bias](vf x) { return _mm512_xor_si512(_mm512_add_epi32(_mm512_cvtps_epi32(x), bias), bias); };
  const auto choose = [](__m512i mask, __m512i x, __m512i y) { return _mm512_ternarylogic_epi32(mask, x, y, 0xca); };
  const __m512i p = digits(a), q = digits(b), r = digits(c), s = digits(d);
  const __m512i pairs = _mm512_set4_epi32(0x0f0d0e0c, 0x0b090a08, 0x07050604, 0x03010200);  // bytes 0 2 1 3 of a word
  const __m512i e = _mm512_shuffle_epi8(choose(low, p, _mm512_slli_epi32(q, 16)), pairs);
  const __m512i f = _mm512_shuffle_epi8(choose(low, r, _mm512_slli_epi32(s, 16)), pairs);
  const __m512i g = choose(byte, _mm512_srli_epi32(p, 16), _mm512_srli_epi32(q, 8)), h = choose(high, _mm512_slli_epi32(s, 8), r);
  const __m512i first = choose(low, g, h);
  _mm512_storeu_si512(to, first);
  _mm512_storeu_si512(to + 3 * digit, _mm512_abs_epi8(first));
  _mm512_storeu_si512(to + digit, choose(low, _mm512_srli_epi32(e, 16), f));
  _mm512_storeu_si512(to + 2 * digit, choose(low, e, _mm512_slli_epi32(f, 16)));
}

// How vectors of floats become integers, a lane each.
struct FixedScale {
  vf times, unit;  // integer = x times; x = integer / 2^16 unit
  bool fits;       // in all lanes; zeros fit

  FixedScale(vf most, vf squares) {
    const __mmask16 zero = _mm512_cmp_ps_mask(squares, vf{}, _CMP_EQ_OQ) & _mm512_cmp_ps_mask(most, vf{}, _CMP_EQ_OQ);
    const __mmask16 fit = _mm512_cmp_ps_mask(most, splat(1e-15f), _CMP_GE_OQ) & _mm512_cmp_ps_mask(most, splat(1e15f), _CMP_LE_OQ) &
                          _mm512_cmp_ps_mask(squares, squares, _CMP_ORD_Q);
    times = _mm512_maskz_div_ps(fit, splat(127.f * 65536.f), most);
    unit = _mm512_maskz_mul_ps(fit, most, splat(1.f / 127.f));
    fits = static_cast<__mmask16>(fit | zero) == 0xffff;
  }
};

// Rows id(0), ..., id(count - 1), at most 32, of m as left operand; unit: one of each row. Returns
// whether all rows fit.
template <class Id>
RE_INLINE bool pack_fixed_rows(const recengine::Matrix& m, Id&& id, int64_t count, int64_t width, float* to, float* unit) {
  alignas(64) float buffer[FIXED_DEEP], most[BLOCK] = {}, squares[BLOCK] = {}, times[BLOCK];
  const int64_t steps = fixed_steps(width), digit = steps * BLOCK_WORDS;
  const auto piece = [&](int64_t r, int64_t s) -> const float* {
    const int64_t at = s * FIXED_DEEP, n = width - at < FIXED_DEEP ? width - at : FIXED_DEEP;
    const float* from = read_row(shifted(m, 0, at), id(r), n, buffer);
    if (n == FIXED_DEEP) return from;
    if (from != buffer) std::memcpy(buffer, from, sizeof(float) * static_cast<size_t>(n));
    std::memset(buffer + n, 0, sizeof(float) * static_cast<size_t>(FIXED_DEEP - n));
    return buffer;
  };
  if (count > BLOCK) count = BLOCK;
  for (int64_t r = 0; r < count; ++r) {
    vf top[2] = {}, sum[2] = {};
    for (int64_t s = 0; s < steps; ++s) {
      const float* from = piece(r, s);
      for (int i = 0; i < 4; ++i) {
        const vf x = load(from + 16 * i);
        top[i % 2] = _mm512_max_ps(top[i % 2], _mm512_abs_ps(x));
        sum[i % 2] += x * x;
      }
    }
    most[r] = _mm512_reduce_max_ps(_mm512_max_ps(top[0], top[1]));
    squares[r] = _mm512_reduce_add_ps(sum[0] + sum[1]);
  }
  bool fits = true;
  for (int64_t r = 0; r < BLOCK; r += W) {
    const FixedScale scale(load(most + r), load(squares + r));
    store(times + r, scale.times);
    store(unit + r, scale.unit);
    fits = fits && scale.fits;
  }
  for (int64_t r = 0; r < BLOCK; ++r) {
    float* line = to + r / 16 * 256 + r % 16 * 16;
    const vf t = splat(times[r]);
    for (int64_t s = 0; s < steps; ++s, line += BLOCK_WORDS) {
      if (times[r] != 0.f) {
        const float* from = piece(r, s);
        digit_words(load(from) * t, load(from + 16) * t, load(from + 32) * t, load(from + 48) * t, line, digit);
      } else {
        for (int64_t i = 0; i < 4; ++i) store(line + i * digit, vf{});
      }
    }
  }
  return fits;
}

// The same rows as columns of a right operand.
template <class Id>
RE_INLINE bool pack_fixed_rows_across(const recengine::Matrix& m, Id&& id, int64_t count, int64_t width, float* to, float* unit) {
  const bool fits = pack_fixed_rows(m, id, count, width, to, unit);
  for (int64_t t = 0; t < 8 * fixed_steps(width); ++t, to += 256) transpose_block(to, 16, to, 16);
  return fits;
}

// Columns [col, col + 32) of the first `depth` rows of m, which has `cols`, as right operand.
RE_NOINLINE bool pack_fixed_columns(const recengine::Matrix& m, int64_t depth, int64_t col, int64_t cols, float* to, float* unit) {
  alignas(64) static constexpr float zeros[BLOCK] = {};
  alignas(64) float buffer[4][BLOCK] = {};
  const int64_t n = cols - col < BLOCK ? cols - col : BLOCK, digit = fixed_steps(depth) * BLOCK_WORDS;
  const recengine::Matrix part = shifted(m, 0, col);
  const auto row = [&](int64_t k, int place) -> const float* {
    if (k >= depth) return zeros;
    const float* from = read_row(part, k, n, buffer[place]);
    if (n < BLOCK && from != buffer[place]) {
      std::memcpy(buffer[place], from, sizeof(float) * static_cast<size_t>(n));
      return buffer[place];
    }
    return from;
  };
  vf top[2] = {}, sum[2] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const float* from = row(k, 0);
    for (int i = 0; i < 2; ++i) {
      const vf x = load(from + 16 * i);
      top[i] = _mm512_max_ps(top[i], _mm512_abs_ps(x));
      sum[i] += x * x;
    }
  }
  const FixedScale scale[2] = {FixedScale(top[0], sum[0]), FixedScale(top[1], sum[1])};
  for (int i = 0; i < 2; ++i) store(unit + 16 * i, scale[i].unit);
  for (int64_t k = 0; k < depth; k += FIXED_DEEP, to += BLOCK_WORDS)
    for (int64_t j = 0; j < 16; ++j) {
      const float* from[4];
      for (int q = 0; q < 4; ++q) from[q] = row(k + j + 16 * q, q);
      for (int i = 0; i < 2; ++i) {
        const vf t = scale[i].times;
        digit_words(load(from[0] + 16 * i) * t, load(from[1] + 16 * i) * t, load(from[2] + 16 * i) * t, load(from[3] + 16 * i) * t,
                    to + i * 256 + j * 16, digit);
      }
    }
  return scale[0].fits && scale[1].fits;
}

// C[4][32][32], integers: the products of digits whose places add up to 0, 1 and 2, then S. beside() as block_product's,
// 7 * steps times.
template <class Beside>
RE_INLINE void fixed_product(int64_t steps, const float* A, const float* B, float* C, Beside&& beside) {
  const int64_t digit = steps * BLOCK_WORDS, line = 64, row = 128;
  for (int64_t level = 0; level < 4; ++level, C += BLOCK * BLOCK) {
    asm volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" ::: "memory");
    for (int64_t i = level == 3 ? 3 : 0; i <= level; ++i) {
      const float *a = A + i * digit, *b = B + (level == 3 ? 3 : level - i) * digit;
      for (int64_t s = 0; s < steps; ++s, a += BLOCK_WORDS, b += BLOCK_WORDS) {
        asm volatile(
            "tileloadd (%0,%2,1), %%tmm4\n\t"
            "tileloadd (%1,%2,1), %%tmm6\n\t"
            "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\t"
            "tileloadd 1024(%1,%2,1), %%tmm7\n\t"
            "tdpbssd %%tmm7, %%tmm4, %%tmm1\n\t"
            "tileloadd 1024(%0,%2,1), %%tmm5\n\t"
            "tdpbssd %%tmm6, %%tmm5, %%tmm2\n\t"
            "tdpbssd %%tmm7, %%tmm5, %%tmm3" ::"r"(a),
            "r"(b), "r"(line)
            : "memory");
        beside();
      }
    }
    asm volatile(
        "tilestored %%tmm0, (%0,%2,1)\n\t"
        "tilestored %%tmm1, 64(%0,%2,1)\n\t"
        "tilestored %%tmm2, (%1,%2,1)\n\t"
        "tilestored %%tmm3, 64(%1,%2,1)" ::"r"(C),
        "r"(C + 16 * BLOCK), "r"(row)
        : "memory");
  }
}

// The elements at `at` of such a product as floats; unit: those of their row and columns multiplied. Where S is below
// `least` a lane of bad is set (not where a unit is zero: all zero is exact).
RE_INLINE vf fixed_value(const float* C, int64_t at, vf unit, int32_t least, __mmask16& bad) {
  const auto level = [=](int64_t i) { return _mm512_loadu_si512(C + i * BLOCK * BLOCK + at); };
  const auto value = [=](int64_t i) -> vf { return _mm512_cvtepi32_ps(level(i)); };
  constexpr float place = 1.f / 256.f;
  bad |= _mm512_mask_cmplt_epi32_mask(_mm512_cmp_ps_mask(unit, vf{}, _CMP_NEQ_UQ), level(3), _mm512_set1_epi32(least));
  return (value(0) + (value(1) + value(2) * place) * place) * unit;
}

}  // namespace KERN_NS
#endif

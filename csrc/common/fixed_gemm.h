// Products of float matrices in fixed point on the int8 matrix tiles: twice the rate of the bf16 tiles, half the memory.
// A row of the left operand (a column of the right one) is scaled by its largest magnitude to integers of 24 bits,
// which are three signed digits of 8; of the nine products of digits the six largest count, summed exactly, or eight of
// them where six are too coarse.
//
// What is lost is relative to the row's and the column's largest elements, m and n: of an inner element about
// 2^-25 m n with six products, 2^-25 (m |b| + n |a|) with eight. An operand keeps the sums over its rows of the squares
// (a / m)^2 at every inner element; from two operands' sums follows, before they are multiplied, what their product
// loses by expectation against its norm (FixedLevels). Where that is too much (features of uneven scale, infinities)
// the caller takes the bf16 tiles (bf16_tiles.h).
//
// A block is 32 rows (or columns) by 64 inner elements: a digit of it takes two tiles of 16 x 16 words, and a word
// holds the inner elements j, j + 16, j + 32, j + 48 of a step. An operand: digits [digit][step][tile], squares [inner
// element], units [row], then the squares' sum, the number of rows that are not zero and the least sum of one of them.
#pragma once

#include "common/bf16_tiles.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

inline constexpr int64_t FIXED_DEEP = 64;       // inner elements of a step
inline constexpr int64_t FIXED_MOST = 1 << 14;  // inner elements whose sums fit 32 bits
inline constexpr int64_t FIXED_LEVELS = 4;      // places of digits' products that are summed apart, at most
inline constexpr float FIXED_TOP = 127.f * 65536.f;

RE_INLINE int64_t fixed_steps(int64_t n) { return (n + FIXED_DEEP - 1) / FIXED_DEEP; }

// An operand of 32 rows (columns) of n inner elements in memory.
struct FixedOperand {
  float* digits;
  int64_t steps;

  FixedOperand(float* at, int64_t n) : digits(at), steps(fixed_steps(n)) {}
  static RE_INLINE int64_t size(int64_t n) { return fixed_steps(n) * (3 * BLOCK_WORDS + FIXED_DEEP) + BLOCK + 16; }
  int64_t digit() const { return steps * BLOCK_WORDS; }
  float* squares() const { return digits + 3 * digit(); }
  float* units() const { return squares() + steps * FIXED_DEEP; }
  float& total() const { return units()[BLOCK]; }
  float& count() const { return units()[BLOCK + 1]; }
  float& least() const { return units()[BLOCK + 2]; }

  // How many places of digits' products (FixedLevels) rows with outliers ask for, elements beside which the others lose
  // digits; 0 where no number of them will do. The largest element squared by the mean square is about 15 for normal
  // numbers. What six products lose grows by its root, what eight lose is the rounding of the elements alone.
  int64_t needed() const {
    constexpr float few = 80.f, many = 400.f, share = 0.5f;  // the largest squared by the sum of squares
    constexpr float top = FIXED_TOP * FIXED_TOP;
    const float most = top * static_cast<float>(steps * FIXED_DEEP);
    if (few * least() >= most) return 3;
    return many * least() >= most && share * least() >= top ? 4 : 0;
  }
};

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
  _mm512_storeu_si512(to, choose(low, g, h));
  _mm512_storeu_si512(to + digit, choose(low, _mm512_srli_epi32(e, 16), f));
  _mm512_storeu_si512(to + 2 * digit, choose(low, e, _mm512_slli_epi32(f, 16)));
}

// How rows (a lane each) of largest magnitude `most` become integers, x times; their units; how many are not zero.
// Rows out of range get a unit of NaN, which no product passes.
RE_INLINE vf fixed_times(vf most, float* unit, float& count) {
  const __mmask16 some = _mm512_cmp_ps_mask(most, vf{}, _CMP_NEQ_UQ);
  const __mmask16 fit = _mm512_cmp_ps_mask(most, splat(1e-15f), _CMP_GE_OQ) & _mm512_cmp_ps_mask(most, splat(1e15f), _CMP_LE_OQ);
  store(unit, _mm512_mask_mov_ps(most * (1.f / 127.f), static_cast<__mmask16>(some & ~fit), splat(__builtin_nanf(""))));
  count += static_cast<float>(__builtin_popcount(some));
  return _mm512_maskz_div_ps(fit, splat(FIXED_TOP), most);
}

RE_INLINE void fixed_close(const FixedOperand& to) {
  vf sum{};
  for (int64_t k = 0; k < to.steps * FIXED_DEEP; k += W) sum += load(to.squares() + k);
  const vf first = load(to.units()), second = load(to.units() + 16);
  to.total() = _mm512_cmp_ps_mask(first, second, _CMP_UNORD_Q) ? __builtin_nanf("") : hsum(sum);
}

// Rows row(0), ..., row(count - 1), at most 32, each 64 * steps floats, as left operand.
template <class Row>
RE_INLINE void pack_fixed_rows(Row&& row, int64_t count, const FixedOperand& to) {
  alignas(64) float most[BLOCK] = {}, times[BLOCK];
  const int64_t steps = to.steps, digit = to.digit();
  if (count > BLOCK) count = BLOCK;
  std::memset(to.squares(), 0, sizeof(float) * static_cast<size_t>(steps * FIXED_DEEP));
  to.count() = 0.f;
  float least = 1e30f;
  for (int64_t half = 0; half < BLOCK; half += 16) {
    for (int64_t r = half; r < half + 16 && r < count; ++r) {
      const float* from = row(r);
      vf top[4] = {};
      for (int64_t s = 0; s < steps; ++s, from += FIXED_DEEP)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) top[i] = _mm512_max_ps(top[i], _mm512_abs_ps(load(from + 16 * i)));
      most[r] = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])));
    }
    store(times + half, fixed_times(load(most + half), to.units() + half, to.count()));
    for (int64_t r = half; r < half + 16; ++r) {
      float *line = to.digits + half * 16 + r % 16 * 16, *square = to.squares();
      if (r >= count || times[r] == 0.f) {
        for (int64_t i = 0; i < 3; ++i)
          for (int64_t s = 0; s < steps; ++s) store(line + i * digit + s * BLOCK_WORDS, vf{});
        continue;
      }
      const vf t = splat(times[r]);
      const float* from = row(r);
      vf sum[4] = {};
      for (int64_t s = 0; s < steps; ++s, from += FIXED_DEEP, line += BLOCK_WORDS, square += FIXED_DEEP) {
        vf v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          v[i] = load(from + 16 * i) * t;
          store(square + 16 * i, load(square + 16 * i) + v[i] * v[i]);
          sum[i] += v[i] * v[i];
        }
        digit_words(v[0], v[1], v[2], v[3], line, digit);
      }
      const float own = hsum((sum[0] + sum[1]) + (sum[2] + sum[3]));
      least = own < least ? own : least;
    }
  }
  to.least() = least;
  fixed_close(to);
}

// A left operand becomes a right one and the other way round: rows of words become columns.
RE_NOINLINE void turn_fixed(const FixedOperand& to) {
  for (int64_t t = 0; t < 6 * to.steps; ++t) transpose_block(to.digits + t * 256, 16, to.digits + t * 256, 16);
}

// 32 columns of the rows row(0), ..., row(depth - 1) as right operand; rows are the inner dimension.
template <class Row>
RE_INLINE void pack_fixed_columns(Row&& row, int64_t depth, const FixedOperand& to) {
  alignas(64) static constexpr float zeros[BLOCK] = {};
  const int64_t digit = to.digit();
  vf top[4] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const float* from = row(k);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) top[i] = _mm512_max_ps(top[i], _mm512_abs_ps(load(from + 16 * i)));
  }
  to.count() = 0.f;
  const vf times[2] = {fixed_times(top[0], to.units(), to.count()), fixed_times(top[1], to.units() + 16, to.count())};
  float* at = to.digits;
  vf sums[2] = {};
  for (int64_t k = 0; k < depth; k += FIXED_DEEP, at += BLOCK_WORDS) {
    vf squares[4][16];
    for (int64_t j = 0; j < 16; ++j) {
      vf v[2][4];
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const int64_t id = k + j + 16 * q;
        const float* from = id < depth ? row(id) : zeros;
        v[0][q] = load(from) * times[0];
        v[1][q] = load(from + 16) * times[1];
        sums[0] += v[0][q] * v[0][q];
        sums[1] += v[1][q] * v[1][q];
        squares[q][j] = v[0][q] * v[0][q] + v[1][q] * v[1][q];
      }
      for (int i = 0; i < 2; ++i) digit_words(v[i][0], v[i][1], v[i][2], v[i][3], at + i * 256 + j * 16, digit);
    }
    for (int q = 0; q < 4; ++q) store(to.squares() + k + 16 * q, sum_each(squares[q]));
  }
  const auto some = [](vf sum) { return _mm512_mask_mov_ps(sum, _mm512_cmp_ps_mask(sum, vf{}, _CMP_EQ_OQ), splat(1e30f)); };
  to.least() = _mm512_reduce_min_ps(_mm512_min_ps(some(sums[0]), some(sums[1])));
  fixed_close(to);
}

// How many places of digits' products it takes that the error of products, relative to their norm, is expected below
// 1e-6: 3, 4, or 0 where no number of them will do.
struct FixedLevels {
  int64_t needed = 3;

  RE_INLINE void also(int64_t own) { needed = own == 0 || needed == 0 ? 0 : own > needed ? own : needed; }
  RE_INLINE void also(const FixedOperand& a, const FixedOperand& b) {
    constexpr float per_top = 1.f / (FIXED_TOP * FIXED_TOP), most = 1e-12f;
    constexpr float rounded = 0.29f * 0.29f * per_top;  // a digit's rounding, squared, in units of the last one
    constexpr float left_out = 7723.f * 256.f;          // by six products: two of digits in [-128, 127], at the fourth place
    const int64_t n = a.steps * FIXED_DEEP;
    const vf unit = splat(per_top * most);
    vf sum[4] = {};
    for (int64_t k = 0; k < n; k += 4 * W)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sum[i] += load(a.squares() + k + i * W) * (load(b.squares() + k + i * W) * unit);
    const float square = hsum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    const float rounding = rounded * (a.count() * b.total() + b.count() * a.total());
    const float places = a.count() * b.count() * static_cast<float>(n) * (left_out * (left_out * per_top));
    also(rounding + places <= square ? 3 : rounding <= square ? 4 : 0);
  }
};

// C[level][32][32], integers: the products of digits whose places add up to 0, 1 and so on. So many steps at a time that
// both operands stay in the first-level cache. beside() is called at least 6 * steps times.
template <class Beside>
RE_INLINE void fixed_product(int64_t levels, const FixedOperand& A, const FixedOperand& B, float* C, Beside&& beside) {
  constexpr int64_t MOST = 4;
  const int64_t digit = A.digit(), line = 64, row = 128;
  for (int64_t from = 0; from < A.steps; from += MOST) {
    const int64_t steps = A.steps - from < MOST ? A.steps - from : MOST;
    for (int64_t level = 0; level < levels; ++level) {
      float *upper = C + level * BLOCK * BLOCK, *lower = upper + 16 * BLOCK;
      if (from == 0)
        asm volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" ::: "memory");
      else
        asm volatile(
            "tileloadd (%0,%2,1), %%tmm0\n\t"
            "tileloadd 64(%0,%2,1), %%tmm1\n\t"
            "tileloadd (%1,%2,1), %%tmm2\n\t"
            "tileloadd 64(%1,%2,1), %%tmm3" ::"r"(upper),
            "r"(lower), "r"(row)
            : "memory");
      const int64_t last = level < 3 ? level : 2;
      for (int64_t i = level - last; i <= last; ++i) {
        const float* a = A.digits + i * digit + from * BLOCK_WORDS;
        const float* b = B.digits + (level - i) * digit + from * BLOCK_WORDS;
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
          "tilestored %%tmm3, 64(%1,%2,1)" ::"r"(upper),
          "r"(lower), "r"(row)
          : "memory");
    }
  }
}

// What such a product left, as floats.
struct FixedResult {
  const float *C = nullptr, *rows = nullptr, *columns = nullptr;
  bool deep = false;  // of four levels

  RE_INLINE vf at(int64_t row, int64_t col) const {
    const float* from = C + row * BLOCK + col;
    const auto level = [=](int64_t i) -> vf { return _mm512_cvtepi32_ps(_mm512_loadu_si512(from + i * BLOCK * BLOCK)); };
    constexpr float place = 1.f / 256.f;
    vf third = level(2);
    if (deep) third += level(3) * place;
    return (level(0) + (level(1) + third * place) * place) * (splat(rows[row]) * load(columns + col));
  }
};

}  // namespace KERN_NS
#endif

// Products of float matrices by units that multiply bf16 numbers: matrix tiles (bf16_tiles.h) or dot products of
// vectors (bf16_dots.h), each a class with the product of blocks that this file lays out. A float is the sum of up to
// three bf16 numbers (8 bits each of its 24): operands that are bfloat16 already take one part, others two (relative
// error about 2^-18) or three (exact). Of the products of two split operands those of parts i + j <= 2 count: what is
// left out is below 2^-22 of a term.
//
// A block is 32 x 32 elements of one operand: two tiles of 16 x 16 words of two bf16. As left operand
// a tile holds 16 rows, as right operand 16 columns; the inner dimension goes in steps of 32, and a word holds
// the inner elements j and j + 16 of a step. The parts of a block lie behind one another.
#pragma once

#include "common/amx.h"
#include "common/gemm.h"
#include "common/rows.h"
#include "common/small_gemm.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

inline constexpr int64_t BLOCK = 32;         // rows, columns and inner elements of a block
inline constexpr int64_t BLOCK_WORDS = 512;  // 32-bit words (floats of scratch) of one part of a block

RE_INLINE int64_t in_blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

RE_INLINE vu bits_of(vf x) { return reinterpret_cast<vu>(x); }
RE_INLINE vf top_half(vf x) { return reinterpret_cast<vf>(bits_of(x) & 0xffff0000u); }
RE_INLINE vf nearest_half(vf x) { return reinterpret_cast<vf>((bits_of(x) + 0x8000u) & 0xffff0000u); }

// One word of two bf16, from the upper halves of two floats. (The mask matters where a part is subnormal; the tiles read those as zero.)
RE_INLINE vf word(vf low, vf high) {
  return reinterpret_cast<vf>((bits_of(low) >> 16) | (bits_of(high) & 0xffff0000u));
}

// Rows of words become columns, in both tiles of every part of a block.
template <int PARTS>
RE_INLINE void transpose_block_words(float* block) {
  for (int t = 0; t < 2 * PARTS; ++t, block += 256) transpose_block(block, 16, block, 16);
}

// The words of the next part of four vectors, then those of what is left of them.
template <int PARTS, int LEFT_OVER>
RE_INLINE void pack_words(vf a, vf b, vf c, vf d, float* left, float* right) {
  constexpr bool nearest = PARTS < 3, last = LEFT_OVER == 1;
  const auto part = [](vf x) { return nearest ? nearest_half(x) : last ? x : top_half(x); };
  const vf a0 = part(a), b0 = part(b), c0 = part(c), d0 = part(d);
  if (left) {
    store(left, word(a0, b0));
    store(left + 256, word(c0, d0));
  }
  if (right) {
    store(right, word(a0, c0));
    store(right + 256, word(b0, d0));
  }
  if constexpr (!last)
    pack_words<PARTS, LEFT_OVER - 1>(a - a0, b - b0, c - c0, d - d0, left ? left + BLOCK_WORDS : nullptr,
                                     right ? right + BLOCK_WORDS : nullptr);
}

// A 32 x 32 piece of a matrix (rows ld apart) as left operand and, unless null, as right operand: rows are
// the left operand's rows and the right operand's inner dimension.
template <int PARTS>
RE_NOINLINE void pack_block(const float* from, int64_t ld, float* left, float* right) {
  for (int64_t r = 0; r < 16; ++r, from += ld) {
    const float* next = from + 16 * ld;
    vf a = load(from), b = load(from + 16), c = load(next), d = load(next + 16);
    pack_words<PARTS, PARTS>(a, b, c, d, left ? left + r * 16 : nullptr, right ? right + r * 16 : nullptr);
  }
}

// The same piece transposed: its columns as rows of a left operand or, from its rows, columns of a right one.
template <int PARTS>
RE_NOINLINE void pack_block_across(const float* from, int64_t ld, float* left, float* right) {
  pack_block<PARTS>(from, ld, right, left);
  if (left) transpose_block_words<PARTS>(left);
  if (right) transpose_block_words<PARTS>(right);
}

// Columns [col, col + 32) of 32 rows of m, row i being id(i), rows of `to` 32 apart; what does not exist is zero.
template <class Id>
RE_INLINE void stage_block(const recengine::Matrix& m, Id&& id, int64_t count, int64_t col, int64_t width, float* to) {
  const recengine::Matrix part = shifted(m, 0, col);
  const int64_t n = width - col < BLOCK ? width - col : BLOCK;
  for (int64_t i = 0; i < BLOCK; ++i, to += BLOCK) {
    if (i >= count || n < BLOCK) std::memset(to, 0, sizeof(float) * BLOCK);
    if (i >= count) continue;
    const float* from = read_row(part, id(i), n, to);
    if (from != to) std::memcpy(to, from, sizeof(float) * static_cast<size_t>(n));
  }
}

// pack_block from 32 rows of floats, wherever they lie.
template <int PARTS>
RE_NOINLINE void pack_float_rows(const float* const* row, float* left, float* right) {
  for (int64_t r = 0; r < 16; ++r) {
    const float *p = row[r], *q = row[r + 16];
    vf a = load(p), b = load(p + 16), c = load(q), d = load(q + 16);
    pack_words<PARTS, PARTS>(a, b, c, d, left ? left + r * 16 : nullptr, right ? right + r * 16 : nullptr);
  }
}

// pack_block<1> from 32 rows of bfloat16: the halves of a row (left) or of two rows (right) side by side.
RE_NOINLINE void pack_bf16_rows(const uint16_t* const* row, float* left, float* right) {
  alignas(64) uint16_t low[32], high[32];
  for (int i = 0; i < 32; ++i) {
    low[i] = static_cast<uint16_t>(i % 2 * 32 + i / 2);
    high[i] = static_cast<uint16_t>(i % 2 * 32 + 16 + i / 2);
  }
  alignas(64) uint16_t halves[32];
  for (int i = 0; i < 32; ++i) halves[i] = static_cast<uint16_t>(i % 2 * 16 + i / 2);
  const __m512i both = _mm512_load_si512(halves), first = _mm512_load_si512(low), second = _mm512_load_si512(high);
  for (int64_t r = 0; r < 16; ++r) {
    const __m512i a = _mm512_loadu_si512(row[r]), b = _mm512_loadu_si512(row[r + 16]);
    if (left) {
      _mm512_storeu_si512(left + r * 16, _mm512_permutexvar_epi16(both, a));
      _mm512_storeu_si512(left + 256 + r * 16, _mm512_permutexvar_epi16(both, b));
    }
    if (right) {
      _mm512_storeu_si512(right + r * 16, _mm512_permutex2var_epi16(a, first, b));
      _mm512_storeu_si512(right + 256 + r * 16, _mm512_permutex2var_epi16(a, second, b));
    }
  }
}

// Columns [col, col + 32) of 32 rows of m, row i being id(i), as operands like pack_block's; what does not exist is zero.
template <int PARTS, class Id>
RE_INLINE void pack_piece(const recengine::Matrix& m, Id&& id, int64_t count, int64_t col, int64_t width, float* left,
                          float* right) {
  alignas(64) static constexpr float zeros[BLOCK] = {};
  if (m.col == 1 && width - col >= BLOCK && !m.bf16) {
    const float* row[BLOCK];
    for (int64_t i = 0; i < BLOCK; ++i) row[i] = i < count ? static_cast<const float*>(m.data) + id(i) * m.row + col : zeros;
    pack_float_rows<PARTS>(row, left, right);
  } else if (PARTS == 1 && m.col == 1 && width - col >= BLOCK) {
    const uint16_t* row[BLOCK];
    for (int64_t i = 0; i < BLOCK; ++i)
      row[i] = i < count ? static_cast<const uint16_t*>(m.data) + id(i) * m.row + col : reinterpret_cast<const uint16_t*>(zeros);
    pack_bf16_rows(row, left, right);
  } else {
    alignas(64) float buffer[BLOCK * BLOCK];
    stage_block(m, id, count, col, width, buffer);
    pack_block<PARTS>(buffer, BLOCK, left, right);
  }
}

}  // namespace KERN_NS
#endif

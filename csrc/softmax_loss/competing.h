// How a row's sampled entries compete with its target: weights with mean one from hardness and likeness, and the
// slate, the few entries that carry most of the softmax. Everything of a row happens in the first-level cache.
#pragma once

#include "common/rows.h"
#include "common/select.h"
#include "softmax_loss/kernels.h"

namespace KERN_NS {

using recengine::CompetingEntries;

namespace {

constexpr int64_t CANDIDATES = 4;  // times the slate: keys that are kept before the best of them are chosen

RE_INLINE int64_t competing_width(const CompetingEntries& p) { return (p.count + W - 1) / W * W; }
RE_INLINE int64_t competing_room(const CompetingEntries& p) { return (CANDIDATES * p.slate + W) * 2; }

// A copy of row b with zeros behind, up to a multiple of W.
RE_INLINE void read_padded(const recengine::Matrix& m, int64_t b, int64_t count, int64_t width, float* to) {
  const float* from = read_row(m, b, count, to);
  if (from != to) std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
  for (int64_t j = count; j < width; ++j) to[j] = 0.f;
}

// A float below at least `slate` of keys [count] where it finds one quickly, else minus infinity: with LANES groups of
// keys, the slate-th largest of the groups' largest lies no higher than the slate-th largest of all.
RE_INLINE float below_slate(const float* keys, int64_t width, int64_t slate) {
  constexpr int VECTORS = 4, LANES = VECTORS * W;
  const float nothing = -__builtin_inff();
  if (slate > LANES || width < 2 * LANES) return nothing;
  vf most[VECTORS];
  for (vf& v : most) v = splat(nothing);
  int64_t j = 0;
  for (; j + LANES <= width; j += LANES)
    for (int i = 0; i < VECTORS; ++i) most[i] = vmax(load(keys + j + i * W), most[i]);
  for (; j < width; j += W) most[0] = vmax(load(keys + j), most[0]);
  float falling[LANES];
  for (int i = 0; i < VECTORS; ++i) store(falling + i * W, -most[i]);
  select_smallest(falling, LANES, slate);
  const float least = -falling[slate - 1];
  return least > nothing ? next_down(least) : nothing;
}

RE_INLINE bool any_above(vf v, float least) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(v, splat(least), _CMP_GT_OQ) != 0;
#else
  return hmax(v) > least;
#endif
}

// The `slate` largest of keys [count], the earlier of two that are equal, into chosen: the id in the low half.
// Where fewer lie above minus infinity, entries that do not are the rest. Returns how many lie above.
// Past count, up to width, keys are minus infinity.
RE_INLINE int64_t choose_slate(const float* keys, int64_t count, int64_t width, int64_t slate, Key* chosen) {
  const float nothing = -__builtin_inff();
  float least = below_slate(keys, width, slate);
  int64_t n = 0;
  for (int64_t j = 0; j < width; j += W) {
    if (!any_above(load(keys + j), least)) continue;
    for (int i = 0; i < W; ++i) {  // without a branch: nobody can tell which are above
      chosen[n] = make_key(keys[j + i], static_cast<uint32_t>(j + i));
      n += keys[j + i] > least;
    }
    if (n < CANDIDATES * slate) continue;
    select_smallest(chosen, n, slate);
    n = slate;
    least = key_score(chosen[slate - 1]);
  }
  if (n > slate) select_smallest(chosen, n, slate);
  const int64_t found = n < slate ? n : slate;
  for (int64_t j = 0, i = found; i < slate && j < count; ++j)
    if (!(keys[j] > nothing)) chosen[i++] = make_key(nothing, static_cast<uint32_t>(j));
  return found;
}

}  // namespace

int64_t competing_scratch(const CompetingEntries& p) { return 3 * competing_width(p) + competing_room(p); }

void competing_row(const CompetingEntries& p, int64_t b, float positive, float* log_weight, int64_t* slate,
                   float* intensity, float* least, float* scratch) {
  const int64_t width = competing_width(p);
  float *s = scratch, *in = s + width, *g = in + width;
  Key* chosen = reinterpret_cast<Key*>(g + width);
  read_padded(p.scores, b, p.count, width, s);
  const uint8_t* live = p.live + b * p.live_row;
  for (int64_t j = 0; j < p.count; ++j) in[j] = live[j * p.live_col] ? 1.f : 0.f;
  for (int64_t j = p.count; j < width; ++j) in[j] = 0.f;
  vf members{}, total{};
  for (int64_t j = 0; j < width; j += W) {
    const vf m = load(in + j);
    members += m;
    total += load(s + j) * m;
  }
  const float entries = hsum(members), count = entries > 1.f ? entries : 1.f, mean = hsum(total) / count;
  if (p.hardness != 0.f || p.likeness_share != 0.f) {
    vf square{};
    for (int64_t j = 0; j < width; j += W) {
      const vf x = (load(s + j) - mean) * load(in + j);
      square += x * x;
    }
    const float scale = 1.f / (__builtin_sqrtf(hsum(square) / count) + 1e-6f);
    if (p.likeness_share != 0.f) read_padded(p.likeness, b, p.count, width, g);
    vf level{};
    for (int64_t j = 0; j < width; j += W) {
      const vf m = load(in + j);
      vf x = p.hardness * vsigmoid((load(s + j) - mean) * m * scale);
      if (p.likeness_share != 0.f) x += p.likeness_share * vmax(vf{}, load(g + j));
      level += x * m;
      store(g + j, x);
    }
    const vf shift = vlog(splat(1.f + hsum(level) / count));
    for (int64_t j = 0; j < width; j += W) store(g + j, (vlog(1.f + load(g + j)) - shift) * load(in + j));
  } else {
    std::memset(g, 0, sizeof(float) * static_cast<size_t>(width));
  }
  std::memcpy(log_weight, g, sizeof(float) * static_cast<size_t>(p.count));
  for (int64_t j = 0; j < width; j += W) {
    const vf key = load(g + j) + (load(s + j) - positive) * p.inverse;
    store(g + j, load(in + j) > 0.f ? key : splat(-__builtin_inff()));
  }
  const int64_t found = choose_slate(g, p.count, width, p.slate, chosen);
  float crowd = 0.f, lowest = __builtin_inff();
  for (int64_t i = 0; i < found; ++i) {
    const float x = s[key_id(chosen[i])];
    const vf each = vsigmoid(splat((x - positive) * p.inverse));
    crowd += each[0];
    lowest = x < lowest ? x : lowest;
  }
  for (int64_t i = 0; i < p.slate; ++i) slate[i] = key_id(chosen[i]);
  *intensity = found ? crowd / static_cast<float>(found) : 0.f;
  *least = found ? lowest : -1.f;
}

}  // namespace KERN_NS

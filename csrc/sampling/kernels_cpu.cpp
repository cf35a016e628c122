#include "sampling/sampling.h"

#include <cstdint>

namespace KERN_NS {

using recengine::Draws;

namespace {

constexpr uint64_t ROW = 0x9E3779B97F4A7C15, SLOT = 0xD1B54A32D192ED03, ATTEMPT = 0x8CB92BA72F3D8DD7;
constexpr uint64_t ATTEMPTS = 32;  // after so many the draw is made among the items that were not met

// The finaliser of splitmix64.
inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

inline int64_t proposal(const Draws& d, uint64_t bits) {
  const int64_t cell = static_cast<int64_t>(((bits >> 32) * static_cast<uint64_t>(d.items)) >> 32);
  if (!d.keep) return cell;
  const float u = static_cast<float>((bits & 0xFFFFFFFF) >> 8) * 5.9604644775390625e-8f;
  return u < d.keep[cell] ? cell : d.alias[cell];
}

inline bool marked(const uint64_t* marks, int64_t item) { return marks[item >> 6] >> (item & 63) & 1; }

// What cell c of an alias table keeps for itself.
inline double kept(const Draws& d, int64_t c) {
  const float keep = d.keep[c];
  return keep > 0.f ? (keep < 1.f ? keep : 1.f) : 0.0;
}

// sums[c]: what the cells up to c give to items that are not marked; of all items that is their number. Additions in the
// order of the cells, so that the bits are the same everywhere.
inline void sum_unmarked(const Draws& d, const uint64_t* marks, double* sums) {
  double sum = 0;
  for (int64_t c = 0; c < d.items; ++c) {
    if (!marked(marks, c)) sum += kept(d, c);
    if (!marked(marks, d.alias[c])) sum += 1.0 - kept(d, c);
    sums[c] = sum;
  }
}

// The item at which sums reach beyond `at`, 0 <= at < sums[items - 1]: each by its share of them.
inline int64_t unmarked_by_weight(const Draws& d, const uint64_t* marks, const double* sums, double at) {
  int64_t low = 0;
  for (int64_t high = d.items - 1; low < high;) {
    const int64_t middle = low + (high - low) / 2;
    if (sums[middle] > at)
      high = middle;
    else
      low = middle + 1;
  }
  if (marked(marks, low)) return d.alias[low];
  if (marked(marks, d.alias[low])) return low;
  return at < (low ? sums[low - 1] : 0.0) + kept(d, low) ? low : d.alias[low];
}

// Item number k (from 0) among those that are not marked.
inline int64_t unmarked(const uint64_t* marks, int64_t k) {
  for (int64_t word = 0;; ++word) {
    const int64_t here = __builtin_popcountll(~marks[word]);
    if (k < here) {
      uint64_t free = ~marks[word];
      for (; k > 0; --k) free &= free - 1;
      return word * 64 + __builtin_ctzll(free);
    }
    k -= here;
  }
}

// What takes the place of a draw that was met: the next attempts, in the end one among what is left. -1: nothing is.
// Apart from the loop over draws, in which it is rare. sums hold their values once `summed`.
[[gnu::noinline]] int64_t drawn_again(const Draws& d, uint64_t place, int64_t left, const uint64_t* marks, double* sums,
                                      bool* summed) {
  uint64_t bits = 0;
  for (uint64_t attempt = 1; attempt <= ATTEMPTS; ++attempt) {
    bits = mixed(place + attempt * ATTEMPT);
    const int64_t item = proposal(d, bits);
    if (attempt < ATTEMPTS && !marked(marks, item)) return item;
  }
  if (!d.keep) return unmarked(marks, static_cast<int64_t>(((bits >> 32) * static_cast<uint64_t>(left)) >> 32));
  if (!*summed) sum_unmarked(d, marks, sums);
  *summed = true;
  const double all = sums[d.items - 1], share = static_cast<double>(bits >> 11) * 0x1p-53;
  return all > 0 ? unmarked_by_weight(d, marks, sums, share * all) : -1;
}

}  // namespace

bool draw_row(const Draws& d, int64_t row, int64_t user, int64_t* out, uint64_t* marks, double* sums) {
  const int64_t from = user >= 0 && d.indptr ? d.indptr[user] : 0, to = user >= 0 && d.indptr ? d.indptr[user + 1] : 0;
  for (int64_t e = from; e < to; ++e) marks[d.met[e] >> 6] |= uint64_t{1} << (d.met[e] & 63);
  const uint64_t base = mixed(d.seed + static_cast<uint64_t>(row + 1) * ROW);
  bool summed = false, some = true;
  for (int64_t slot = 0; slot < d.count; ++slot) {
    const uint64_t place = base + static_cast<uint64_t>(slot + 1) * SLOT;
    int64_t item = proposal(d, mixed(place));
    if (marked(marks, item)) {
      item = drawn_again(d, place, d.items - (to - from), marks, sums, &summed);
      some = item >= 0;
      if (!some) break;
    }
    out[slot] = item;
  }
  for (int64_t e = from; e < to; ++e) marks[d.met[e] >> 6] = 0;
  return some;
}

}  // namespace KERN_NS

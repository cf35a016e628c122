#include "sampling/sampling.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <optional>
#include <vector>

#include "common/checks.h"
#include "common/worker_memory.h"

namespace recengine {
namespace {

using Maybe = std::optional<Tensor>;

template <class T>
const T* column(const char* op, const char* name, const Tensor& t, ScalarType dtype, const char* dtype_name) {
  check_dim(op, name, t, 1);
  check_dtype(op, name, t, dtype, dtype_name);
  RECENGINE_CHECK(t.numel() <= 1 || t.stride(0) == 1, op, ": ", name, " must be contiguous");
  return static_cast<const T*>(t.const_data_ptr());
}

Tensor draw_negatives(const Tensor& users, int64_t count, int64_t items, Maybe keep, Maybe alias, Maybe indptr,
                      Maybe met, int64_t seed) {
  const char* op = "draw_negatives";
  const int64_t* user = column<int64_t>(op, "users", users, ScalarType::Long, "int64");
  RECENGINE_CHECK(count >= 0, op, ": count is ", count, ", expected 0 or more");
  RECENGINE_CHECK(items >= 1 && items < (int64_t{1} << 31), op, ": items is ", items, ", expected 1 to 2^31 - 1");
  RECENGINE_CHECK(keep.has_value() == alias.has_value() && indptr.has_value() == met.has_value(), op,
                  ": keep and alias go together, and so do indptr and met");
  Draws d{items, count, nullptr, nullptr, nullptr, nullptr, static_cast<uint64_t>(seed)};
  if (keep) {
    d.keep = column<float>(op, "keep", *keep, ScalarType::Float, "float32");
    d.alias = column<int32_t>(op, "alias", *alias, ScalarType::Int, "int32");
    check_size(op, "keep", *keep, 0, items);
    check_size(op, "alias", *alias, 0, items);
    for (int64_t c = 0; c < items; ++c)
      RECENGINE_CHECK(d.alias[c] >= 0 && d.alias[c] < items, op, ": alias[", c, "] is ", d.alias[c], ", expected 0 to ",
                      items - 1);
  }
  const int64_t rows = users.numel(), known = indptr ? indptr->numel() - 1 : 0;
  if (indptr) {
    d.indptr = column<int64_t>(op, "indptr", *indptr, ScalarType::Long, "int64");
    d.met = column<int32_t>(op, "met", *met, ScalarType::Int, "int32");
    RECENGINE_CHECK(known >= 0 && d.indptr[0] == 0 && d.indptr[known] == met->numel(), op,
                    ": indptr must run from 0 to ", met->numel());
  }
  for (int64_t r = 0; r < rows; ++r) {
    RECENGINE_CHECK(user[r] >= -1 && (!indptr || user[r] < known), op, ": users[", r, "] is ", user[r],
                    ", expected -1 to ", known - 1);
    if (!indptr || user[r] < 0) continue;
    const int64_t from = d.indptr[user[r]], to = d.indptr[user[r] + 1];
    RECENGINE_CHECK(from <= to, op, ": indptr falls at ", user[r] + 1);
    RECENGINE_CHECK(to - from < items, op, ": user ", user[r], " met all ", items, " items: there is no negative to draw");
    for (int64_t e = from; e < to; ++e)
      RECENGINE_CHECK(d.met[e] >= 0 && d.met[e] < items, op, ": met[", e, "] is ", d.met[e], ", expected 0 to ", items - 1);
  }
  Tensor out = torch::stable::new_empty(users, {rows, count});
  int64_t* to = static_cast<int64_t*>(out.mutable_data_ptr());
  const size_t words = static_cast<size_t>((items + 63) / 64);
  std::atomic<int64_t> without{rows};  // the first row for which the table has nothing
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> marks(words, 0);
    // Items past the last are no items: marked for the count of free ones.
    if (items % 64) marks.back() = ~uint64_t{0} << (items % 64);
    const uint64_t tail = marks.back();
    double* sums = d.keep ? reinterpret_cast<double*>(worker_memory(2 * items)) : nullptr;
    for (int64_t r = begin; r < end; ++r) {
      if (!RECENGINE_PICK(draw_row)(d, r, user[r], to + r * count, marks.data(), sums))
        for (int64_t first = without; r < first && !without.compare_exchange_weak(first, r);) {}
      marks.back() = tail;
    }
  });
  if (without < rows)
    STD_TORCH_CHECK(false, op, ": user ", user[without], " met every item to which the alias table gives a share: there is no ",
                    "negative to draw");
  return out;
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, lib) { lib.impl("draw_negatives", TORCH_BOX(&recengine::draw_negatives)); }

#include "graph/graph.h"
#include "native_test.h"

using namespace native;
using namespace recengine;

namespace {

void check(int64_t rows, int64_t nodes, int64_t d, bool bf16, bool weighted, bool scaled) {
  Buffer dense(nodes, d, bf16, 3), out(rows, d, bf16, 1, false);
  std::vector<int64_t> indptr{0};
  std::vector<int32_t> columns;
  std::vector<float> values, row_scale, column_scale;
  std::vector<double> wanted(rows * d);
  for (int64_t c = 0; c < nodes; ++c) column_scale.push_back(normal());
  for (int64_t r = 0; r < rows; ++r) {
    row_scale.push_back(normal());
    for (int64_t e = nodes ? below(9) : 0; e > 0; --e) {
      columns.push_back(static_cast<int32_t>(below(nodes)));
      values.push_back(normal());
      const double factor = (weighted ? values.back() : 1.0) * (scaled ? double{row_scale[r]} * column_scale[columns.back()] : 1.0);
      for (int64_t j = 0; j < d; ++j) wanted[r * d + j] += factor * dense.at(columns.back(), j);
    }
    indptr.push_back(static_cast<int64_t>(columns.size()));
  }
  const SparseProduct p{indptr.data(), columns.data(), weighted ? values.data() : nullptr,
                        scaled ? row_scale.data() : nullptr, scaled ? column_scale.data() : nullptr, d};
  Scratch scratch(2 * ((d + 15) / 16 * 16));
  RECENGINE_PICK(sparse_rows)(p, dense.view(), 0, rows / 2, out.to(), scratch.get());
  RECENGINE_PICK(sparse_rows)(p, dense.view(), rows / 2, rows, out.to(), scratch.get());
  close(out, wanted, "graph rows " + std::to_string(rows) + " d" + std::to_string(d) + (bf16 ? " bf16" : ""));
}

}  // namespace

NATIVE_TEST(sparse_product_against_loops) {
  for (const bool bf16 : {false, true})
    for (const bool weighted : {false, true})
      for (const bool scaled : {false, true})
        for (const int64_t d : {1, 5, 16, 33, 64, 80, 128}) {
          check(13, 9, d, bf16, weighted, scaled);
          check(1, 1, d, bf16, weighted, scaled);
          check(4, 0, d, bf16, weighted, scaled);
        }
}

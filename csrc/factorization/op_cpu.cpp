#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "common/checks.h"
#include "factorization/kernels.h"

namespace recengine {
namespace {

using torch::stable::parallel_for;

constexpr int64_t parts = 64;          // pieces of about equal work a loop is cut into
constexpr int64_t gram_shard = 1024;   // rows a partial Gram matrix covers, whatever the thread count

// A sparse matrix of rows x n_columns: checked once, then read through raw pointers.
struct Csr {
  const int64_t* indptr;
  const int32_t* columns;
  int64_t rows;

  Csr(const char* op, const char* name, const Tensor& indptr_, const Tensor& columns_, int64_t n_columns) {
    check_dim(op, "indptr", indptr_, 1);
    check_dim(op, name, columns_, 1);
    check_dtype(op, "indptr", indptr_, ScalarType::Long, "int64");
    check_dtype(op, name, columns_, ScalarType::Int, "int32");
    RECENGINE_CHECK(indptr_.is_contiguous() && columns_.is_contiguous(), op, ": indptr and ", name, " must be contiguous");
    RECENGINE_CHECK(indptr_.size(0) >= 1, op, ": indptr is empty, expected rows + 1 offsets");
    indptr = indptr_.const_data_ptr<int64_t>();
    columns = columns_.const_data_ptr<int32_t>();
    rows = indptr_.size(0) - 1;
    const int64_t nnz = columns_.size(0);
    RECENGINE_CHECK(indptr[0] == 0 && indptr[rows] == nnz, op, ": indptr must run from 0 to ", nnz);
    for (int64_t r = 0; r < rows; ++r)
      RECENGINE_CHECK(indptr[r] <= indptr[r + 1], op, ": indptr falls at row ", r);
    int32_t low = 0, high = 0;
    for (int64_t t = 0; t < nnz; ++t) low = std::min(low, columns[t]), high = std::max(high, columns[t]);
    RECENGINE_CHECK(low >= 0 && (nnz == 0 || high < n_columns), op, ": ", name, " run from ", low, " to ", high,
                    ", expected 0 to ", n_columns - 1);
  }

  // Row bounds [n + 1] of n pieces of about equal work, where a row costs `fixed` and each entry 1.
  std::vector<int64_t> cut(int64_t n, int64_t fixed) const {
    std::vector<int64_t> bounds(n + 1, rows);
    const int64_t total = indptr[rows] + fixed * rows;
    int64_t row = 0;
    for (int64_t p = 0; p < n; ++p) {
      while (row < rows && indptr[row] + fixed * row < total * p / n) ++row;
      bounds[p] = row;
    }
    return bounds;
  }
};

void check_matrix(const char* op, const char* name, const Tensor& t) {
  check_dim(op, name, t, 2);
  check_dtype(op, name, t, ScalarType::Float, "float32");
  RECENGINE_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous");
}

void check_width(const char* op, int64_t d) {
  RECENGINE_CHECK(d > 0 && d % 16 == 0, op, ": ", d, " factors, expected a multiple of 16 (pad with zeros)");
}

void check_positive(const char* op, const char* name, double value, bool zero_too) {
  RECENGINE_CHECK(value > 0 || (zero_too && value == 0), op, ": ", name, " is ", value, ", expected ",
                  zero_too ? "zero or more" : "more than zero");
}

// --- implicit alternating least squares

Tensor gram(const Tensor& y) {
  check_matrix("gram", "y", y);
  const int64_t rows = y.size(0), d = y.size(1);
  check_width("gram", d);
  const int64_t shards = (rows + gram_shard - 1) / gram_shard;
  std::vector<float> partial(shards * d * d);
  const auto kernel = RECENGINE_PICK(gram_rows);
  const float* from = y.const_data_ptr<float>();
  parallel_for(0, shards, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      kernel(from, d, s * gram_shard, std::min(rows, (s + 1) * gram_shard), partial.data() + s * d * d);
  });
  Tensor out = torch::stable::new_empty(y, {d, d});
  float* to = out.mutable_data_ptr<float>();
  for (int64_t k = 0; k < d * d; ++k) {
    double sum = 0;
    for (int64_t s = 0; s < shards; ++s) sum += partial[s * d * d + k];
    to[k] = static_cast<float>(sum);
  }
  return out;
}

void ials_solve_(Tensor x, const Tensor& y, const Tensor& gram, const Tensor& indptr, const Tensor& columns,
                 const Tensor& weights, const Tensor& regularization, int64_t steps) {
  const char* op = "ials_solve";
  check_matrix(op, "x", x);
  check_matrix(op, "y", y);
  check_matrix(op, "gram", gram);
  const int64_t d = y.size(1);
  check_width(op, d);
  check_size(op, "x", x, 1, d);
  check_size(op, "gram", gram, 0, d);
  check_size(op, "gram", gram, 1, d);
  const Csr pairs(op, "columns", indptr, columns, y.size(0));
  check_size(op, "x", x, 0, pairs.rows);
  for (const auto& [name, t, size] : {std::tuple<const char*, const Tensor&, int64_t>{"weights", weights, columns.size(0)},
                                      {"regularization", regularization, pairs.rows}}) {
    check_dim(op, name, t, 1);
    check_dtype(op, name, t, ScalarType::Float, "float32");
    check_size(op, name, t, 0, size);
    RECENGINE_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous");
  }
  const float* lambda = regularization.const_data_ptr<float>();
  for (int64_t r = 0; r < pairs.rows; ++r)
    RECENGINE_CHECK(lambda[r] > 0, op, ": regularization[", r, "] is ", lambda[r], ", expected more than zero");
  RECENGINE_CHECK(steps >= 0, op, ": ", steps, " steps, expected zero (Cholesky) or more");

  const SolveArgs args{y.const_data_ptr<float>(),       gram.const_data_ptr<float>(), pairs.indptr, pairs.columns,
                       weights.const_data_ptr<float>(), lambda, x.mutable_data_ptr<float>(), d, steps};
  const std::vector<int64_t> bounds = pairs.cut(parts, d);
  const auto kernel = RECENGINE_PICK(solve_rows);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(solve_scratch(d));
    kernel(args, bounds[begin], bounds[end], scratch.data());
  });
}

// --- Bayesian personalised ranking

uint64_t mixed(uint64_t a, uint64_t b) {  // splitmix64's finaliser over two numbers
  uint64_t z = a + 0x9E3779B97F4A7C15ull * (b + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Items in a random order of the epoch; block b of it is order[bounds[b] .. bounds[b + 1]).
struct Blocks {
  std::vector<int32_t> order, block;
  std::vector<int64_t> bounds;

  Blocks(int64_t n_items, int64_t shards, uint64_t key) : order(n_items), block(n_items), bounds(shards + 1) {
    std::iota(order.begin(), order.end(), 0);
    for (int64_t t = n_items - 1; t > 0; --t) {
      const uint64_t drawn = mixed(key, static_cast<uint64_t>(t)) >> 32;
      std::swap(order[t], order[(drawn * static_cast<uint64_t>(t + 1)) >> 32]);
    }
    for (int64_t b = 0; b <= shards; ++b) bounds[b] = n_items * b / shards;
    for (int64_t b = 0; b < shards; ++b)
      for (int64_t t = bounds[b]; t < bounds[b + 1]; ++t) block[order[t]] = static_cast<int32_t>(b);
  }
};

void bpr_epoch_(Tensor users, Tensor items, Tensor bias, const Tensor& indptr, const Tensor& columns, int64_t seed,
                int64_t epoch, int64_t shards, double rate, double reg_user, double reg_item, double reg_bias) {
  const char* op = "bpr_epoch";
  check_matrix(op, "users", users);
  check_matrix(op, "items", items);
  check_dim(op, "bias", bias, 1);
  check_dtype(op, "bias", bias, ScalarType::Float, "float32");
  const int64_t n_items = items.size(0), d = items.size(1);
  check_width(op, d);
  check_size(op, "users", users, 1, d);
  check_size(op, "bias", bias, 0, n_items);
  RECENGINE_CHECK(bias.is_contiguous(), op, ": bias must be contiguous");
  const Csr pairs(op, "columns", indptr, columns, n_items);
  check_size(op, "users", users, 0, pairs.rows);
  RECENGINE_CHECK(shards >= 1 && shards <= n_items, op, ": ", shards, " shards, expected 1 to the number of items");
  check_positive(op, "rate", rate, false);
  check_positive(op, "reg_user", reg_user, true);
  check_positive(op, "reg_item", reg_item, true);
  check_positive(op, "reg_bias", reg_bias, true);

  const uint64_t key = mixed(static_cast<uint64_t>(seed), static_cast<uint64_t>(epoch));
  const Blocks blocks(n_items, shards, key);
  const std::vector<int64_t> user_bounds = pairs.cut(shards, 0);
  std::vector<Pair> bucket(columns.size(0));
  std::vector<int64_t> starts(shards * (shards + 1));
  parallel_for(0, shards, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {  // counting sort of the shard's pairs by item block
      int64_t* start = starts.data() + s * (shards + 1);
      const int64_t first = user_bounds[s], last = user_bounds[s + 1];
      for (int64_t t = pairs.indptr[first]; t < pairs.indptr[last]; ++t) ++start[blocks.block[pairs.columns[t]] + 1];
      start[0] = pairs.indptr[first];
      for (int64_t b = 0; b < shards; ++b) start[b + 1] += start[b];
      std::vector<int64_t> next(start, start + shards);
      for (int64_t u = first; u < last; ++u)
        for (int64_t t = pairs.indptr[u]; t < pairs.indptr[u + 1]; ++t)
          bucket[next[blocks.block[pairs.columns[t]]]++] = {static_cast<int32_t>(u), pairs.columns[t]};
    }
  });

  StratumArgs shared{};
  shared.indptr = pairs.indptr;
  shared.columns = pairs.columns;
  shared.users = users.mutable_data_ptr<float>();
  shared.items = items.mutable_data_ptr<float>();
  shared.bias = bias.mutable_data_ptr<float>();
  shared.d = d;
  shared.rate = static_cast<float>(rate);
  shared.reg_user = static_cast<float>(reg_user);
  shared.reg_item = static_cast<float>(reg_item);
  shared.reg_bias = static_cast<float>(reg_bias);
  const auto kernel = RECENGINE_PICK(train_stratum);
  for (int64_t round = 0; round < shards; ++round) {
    parallel_for(0, shards, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const int64_t b = (s + round) % shards;
        const int64_t* start = starts.data() + s * (shards + 1);
        StratumArgs args = shared;
        args.pairs = bucket.data() + start[b];
        args.n = start[b + 1] - start[b];
        args.candidates = blocks.order.data() + blocks.bounds[b];
        args.n_candidates = blocks.bounds[b + 1] - blocks.bounds[b];
        args.key = mixed(key, static_cast<uint64_t>((s + 1) * shards + b) << 32);
        kernel(args);
      }
    });
  }
}

// --- item-item matrices

template <class T, class Kernel>
void count_pairs(Tensor& out, const Csr& rows, const Csr& transposed, int64_t first, Kernel kernel) {
  const int64_t n = transposed.rows, size = out.size(0);
  T* to = out.mutable_data_ptr<T>();
  parallel_for(0, size, 4, [&](int64_t begin, int64_t end) {
    std::fill(to + begin * n, to + end * n, T(0));
    kernel(rows.indptr, rows.columns, transposed.indptr, transposed.columns, n, first + begin, first + end, to + begin * n);
  });
}

void cooccurrence_(Tensor out, const Tensor& indptr, const Tensor& columns, const Tensor& t_indptr,
                   const Tensor& t_columns, int64_t first) {
  const char* op = "cooccurrence";
  check_dim(op, "out", out, 2);
  RECENGINE_CHECK(out.is_contiguous(), op, ": out must be contiguous");
  const int64_t n = out.size(1);
  check_size(op, "t_indptr", t_indptr, 0, n + 1);
  const Csr rows(op, "columns", indptr, columns, n);
  const Csr transposed(op, "t_columns", t_indptr, t_columns, rows.rows);
  RECENGINE_CHECK(first >= 0 && first + out.size(0) <= n, op, ": rows ", first, " to ", first + out.size(0),
                  " asked for, expected within 0 to ", n);
  if (out.scalar_type() == ScalarType::Double) {
    count_pairs<double>(out, rows, transposed, first, RECENGINE_PICK(count_pairs_f64));
  } else {
    check_dtype(op, "out", out, ScalarType::Float, "float32 or float64");
    count_pairs<float>(out, rows, transposed, first, RECENGINE_PICK(count_pairs_f32));
  }
}

template <class T>
struct Sweep {
  bool (*pivot)(const SweepArgs<T>&);
  void (*panel)(const SweepArgs<T>&, int64_t, int64_t);
  void (*update)(const SweepArgs<T>&, int64_t, int64_t);
  void (*store)(const SweepArgs<T>&, int64_t, int64_t);
  int64_t columns;
};

// a becomes its inverse; the number of columns swept before a block was not positive definite (n: all).
template <class T>
int64_t invert(T* a, int64_t n, const Sweep<T>& sweep) {
  constexpr int64_t band = 60;  // rows a task updates; a multiple of every tile's rows
  const int64_t wide = (n + sweep.columns - 1) / sweep.columns * sweep.columns;
  std::vector<T> pivot(sweep_block * sweep_block), packed(wide * sweep_block), product(n * sweep_block);
  const int64_t bands = (n + band - 1) / band;
  for (int64_t k0 = 0; k0 < n; k0 += sweep_block) {
    const SweepArgs<T> args{a, n, k0, std::min(n, k0 + sweep_block), pivot.data(), packed.data(), product.data()};
    if (!sweep.pivot(args)) return k0;
    parallel_for(0, n, band, [&](int64_t begin, int64_t end) { sweep.panel(args, begin, end); });
    // A long band of the triangle goes with a short one, so that every task costs the same.
    parallel_for(0, (bands + 1) / 2, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t other = bands - 1 - t;
        sweep.update(args, t * band, std::min(n, (t + 1) * band));
        if (other != t) sweep.update(args, other * band, std::min(n, (other + 1) * band));
      }
    });
    parallel_for(0, n, band, [&](int64_t begin, int64_t end) { sweep.store(args, begin, end); });
  }
  constexpr int64_t square = 64;  // mirrored a square at a time, so that neither side strides through memory
  parallel_for(0, (n + square - 1) / square, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i0 = begin * square; i0 < std::min(n, end * square); i0 += square)
      for (int64_t j0 = 0; j0 <= i0; j0 += square)
        for (int64_t i = i0; i < std::min(n, i0 + square); ++i)
          for (int64_t j = j0; j < std::min(i + 1, j0 + square); ++j) {
            const T value = -a[i * n + j];
            a[i * n + j] = a[j * n + i] = value;
          }
  });
  return n;
}

void spd_inverse_(Tensor a) {
  const char* op = "spd_inverse";
  check_dim(op, "a", a, 2);
  const int64_t n = a.size(0);
  check_size(op, "a", a, 1, n);
  RECENGINE_CHECK(a.is_contiguous(), op, ": a must be contiguous");
  int64_t done = n;
  if (a.scalar_type() == ScalarType::Double) {
    done = invert<double>(a.mutable_data_ptr<double>(), n,
                          {RECENGINE_PICK(sweep_pivot_f64), RECENGINE_PICK(sweep_panel_f64), RECENGINE_PICK(sweep_update_f64),
                           RECENGINE_PICK(sweep_store_f64), RECENGINE_PICK(sweep_columns_f64)()});
  } else {
    check_dtype(op, "a", a, ScalarType::Float, "float32 or float64");
    done = invert<float>(a.mutable_data_ptr<float>(), n,
                         {RECENGINE_PICK(sweep_pivot_f32), RECENGINE_PICK(sweep_panel_f32), RECENGINE_PICK(sweep_update_f32),
                          RECENGINE_PICK(sweep_store_f32), RECENGINE_PICK(sweep_columns_f32)()});
  }
  RECENGINE_CHECK(done == n, op, ": not positive definite at or behind row ", done);
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, m) {
  m.impl("gram", TORCH_BOX(&recengine::gram));
  m.impl("ials_solve_", TORCH_BOX(&recengine::ials_solve_));
  m.impl("bpr_epoch_", TORCH_BOX(&recengine::bpr_epoch_));
  m.impl("cooccurrence_", TORCH_BOX(&recengine::cooccurrence_));
  m.impl("spd_inverse_", TORCH_BOX(&recengine::spd_inverse_));
}

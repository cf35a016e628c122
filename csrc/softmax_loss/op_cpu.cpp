#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/isa.h"
#include "common/pages.h"
#include "common/scratch.h"
#include "common/views.h"
#include "softmax_loss/kernels.h"

RECENGINE_DECLARE(RECENGINE_SOFTMAX_LOSS_KERNELS)

namespace recengine {
namespace {

using torch::stable::new_empty;
using torch::stable::new_zeros;
using torch::stable::parallel_for;

// --- linear cross-entropy

void check_ids(const char* op, const char* name, const Tensor& ids, int64_t length) {
  check_dim(op, name, ids, 1);
  check_size(op, name, ids, 0, length);
  check_dtype(op, name, ids, ScalarType::Long, "int64");
  RECENGINE_CHECK(ids.is_cpu(), op, ": ", name, " must be on the CPU as the first argument is");
}

void check_catalogue(const char* op, const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& target,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
                     const std::optional<Tensor>& item_key) {
  check_dim(op, "hidden", hidden, 2);
  check_dim(op, "weight", weight, 2);
  check_size(op, "weight", weight, 1, hidden.size(1));
  check_float_or_bf16(op, "hidden", hidden);
  check_same_dtype(op, "weight", weight, "hidden", hidden);
  RECENGINE_CHECK(weight.is_cpu(), op, ": weight must be on the CPU as hidden is");
  if (target) check_ids(op, "target", *target, hidden.size(0));
  RECENGINE_CHECK(row_key.has_value() == item_key.has_value(), op, ": row_key and item_key come together or not at all");
  if (row_key) {
    check_ids(op, "row_key", *row_key, hidden.size(0));
    check_ids(op, "item_key", *item_key, weight.size(0));
  }
  RECENGINE_CHECK(weight.size(0) > 0, op, ": weight has no rows, expected at least one item");
  if (bias) {
    check_dim(op, "bias", *bias, 1);
    check_size(op, "bias", *bias, 0, weight.size(0));
    check_dtype(op, "bias", *bias, ScalarType::Float, "float32");
  }
}

// The rows that count, their targets and the bias, gathered once; everything a kernel call refers to.
struct Catalogue {
  CatalogueLoss p;
  std::vector<int64_t> index, target, row_key, item_key;
  std::vector<float> bias;
  CatalogueTiles tiles;
  CatalogueScratch floats;
  int64_t blocks, parts, wide, chunk;

  Catalogue(const char* op, const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& target_,
            const std::optional<Tensor>& bias_, const std::optional<Tensor>& row_key_,
            const std::optional<Tensor>& item_key_, int64_t ignore_index, double scale) {
    const int64_t rows = hidden.size(0), items = weight.size(0);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t item = target_ ? target_->const_data_ptr<int64_t>()[r * target_->stride(0)] : -1;
      if (target_ && item == ignore_index) continue;
      RECENGINE_CHECK(!target_ || (item >= 0 && item < items), op, ": target[", r, "] is ", item, ", expected 0 to ",
                      items - 1, " or ignore_index (", ignore_index, ")");
      index.push_back(r);
      target.push_back(item);
      if (row_key_) row_key.push_back(row_key_->const_data_ptr<int64_t>()[r * row_key_->stride(0)]);
    }
    if (item_key_)
      for (int64_t v = 0; v < items; ++v) item_key.push_back(item_key_->const_data_ptr<int64_t>()[v * item_key_->stride(0)]);
    if (bias_) {
      const float* b = bias_->const_data_ptr<float>();
      for (int64_t v = 0; v < items; ++v) bias.push_back(b[v * bias_->stride(0)]);
    }
    p = {view(hidden), view(weight), bias_ ? bias.data() : nullptr, index.data(), target.data(),
         row_key_ ? row_key.data() : nullptr, item_key_ ? item_key.data() : nullptr, static_cast<float>(scale), static_cast<int64_t>(index.size()), items, hidden.size(1)};
    tiles = RECENGINE_PICK(catalogue_tiles)();
    floats = RECENGINE_PICK(catalogue_scratch)(p);
    blocks = (items + tiles.items - 1) / tiles.items;
    wide = (p.width + tiles.panel - 1) / tiles.panel * tiles.panel;
    chunk = std::min(tiles.most_rows, (p.rows + tiles.row_tile - 1) / tiles.row_tile * tiles.row_tile);
    // Parts of the catalogue that are summed up on their own and then in order: a matter of shapes only,
    // so that any number of threads gives the same bits. At most 16 MB of partial sums.
    parts = std::min(blocks, std::clamp<int64_t>((int64_t{1} << 22) / std::max<int64_t>(1, chunk * wide), 8, 32));
  }
  int64_t first_block(int64_t part) const { return blocks * part / parts; }
  int64_t tiles_of_rows() const { return chunk / tiles.row_tile; }
  int64_t rows_of(int64_t start) const { return std::min(chunk, p.rows - start); }
};

void pack_chunk(const Catalogue& c, int64_t start, float* left, float* right) {
  const auto pack = RECENGINE_PICK(catalogue_pack_rows);
  const int64_t tile = c.tiles.row_tile, count = (c.rows_of(start) + tile - 1) / tile;
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      pack(c.p, start + t * tile, left + t * c.floats.left, right ? right + t * c.floats.right : nullptr);
  });
}

// logits: where they are kept for the backward pass, or null.
std::tuple<Tensor, Tensor> catalogue_forward_pass(const char* op, const Tensor& hidden, const Tensor& weight,
                                                  const std::optional<Tensor>& target, const std::optional<Tensor>& bias,
                                                  const std::optional<Tensor>& row_key, const std::optional<Tensor>& item_key,
                                                  int64_t ignore_index, double scale, float* logits) {
  check_catalogue(op, hidden, weight, target, bias, row_key, item_key);
  Tensor loss = new_zeros(hidden, {hidden.size(0)}, ScalarType::Float);
  Tensor lse = new_zeros(hidden, {hidden.size(0)}, ScalarType::Float);
  if (hidden.size(0) == 0) return {loss, lse};
  Catalogue c(op, hidden, weight, target, bias, row_key, item_key, ignore_index, scale);
  c.p.logits = logits;
  float *loss_out = loss.mutable_data_ptr<float>(), *lse_out = lse.mutable_data_ptr<float>();
  const Scratch left(c.tiles_of_rows() * c.floats.left), largest(c.parts * c.chunk), sum(c.parts * c.chunk);
  const auto forward = RECENGINE_PICK(catalogue_forward);
  const auto finish = RECENGINE_PICK(catalogue_finish);
  for (int64_t start = 0; start < c.p.rows; start += c.chunk) {
    const int64_t rows = c.rows_of(start);
    pack_chunk(c, start, left.get(), nullptr);
    parallel_for(0, c.parts, 1, [&](int64_t begin, int64_t end) {
      const Scratch own(c.floats.forward);
      for (int64_t s = begin; s < end; ++s)
        forward(c.p, left.get(), start, rows, c.first_block(s), c.first_block(s + 1), largest.get() + s * c.chunk,
                sum.get() + s * c.chunk, own.get());
    });
    parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
      const Scratch own(2 * c.wide);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t out = c.index[static_cast<size_t>(start + r)];
        finish(c.p, start + r, largest.get() + r, sum.get() + r, c.parts, c.chunk, loss_out + out, lse_out + out, own.get());
      }
    });
  }
  return {loss, lse};
}

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& target,
                                                const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
                                                const std::optional<Tensor>& item_key, int64_t ignore_index, double scale) {
  return catalogue_forward_pass("linear_cross_entropy", hidden, weight, target, bias, row_key, item_key, ignore_index, scale,
                                nullptr);
}

// Room for every row, up to a whole tile of any instruction set, and for whole steps of items; the shape says no more
// (kept_tile in catalogue.h has the order). Python's fake tensor has the same.
constexpr int64_t KEPT_ROWS = 128, KEPT_ITEMS = 192;

std::tuple<Tensor, Tensor, Tensor> learning_cross_entropy(const Tensor& hidden, const Tensor& weight,
                                                          const std::optional<Tensor>& target, const std::optional<Tensor>& bias,
                                                          const std::optional<Tensor>& row_key, const std::optional<Tensor>& item_key,
                                                          int64_t ignore_index, double scale) {
  const char* op = "learning_cross_entropy";
  check_dim(op, "hidden", hidden, 2);
  check_dim(op, "weight", weight, 2);
  check_dtype(op, "hidden", hidden, ScalarType::Float, "float32");
  const CatalogueTiles tiles = RECENGINE_PICK(catalogue_tiles)();
  RECENGINE_CHECK(tiles.row_tile <= KEPT_ROWS && KEPT_ITEMS % tiles.items == 0, op, ": no room for a tile");
  const int64_t across = (weight.size(0) + KEPT_ITEMS - 1) / KEPT_ITEMS * KEPT_ITEMS;
  Tensor logits = large_empty(hidden, {hidden.size(0) + KEPT_ROWS, across});
  const auto [loss, lse] = catalogue_forward_pass(op, hidden, weight, target, bias, row_key, item_key, ignore_index, scale,
                                                  logits.mutable_data_ptr<float>());
  return {loss, lse, logits};
}

// By the rows that count: values of a gradient that may be absent.
std::vector<float> gathered(const char* op, const char* name, const std::optional<Tensor>& t, const Catalogue& c, int64_t rows) {
  std::vector<float> values(c.index.size(), 0.f);
  if (!t) return values;
  check_dim(op, name, *t, 1);
  check_size(op, name, *t, 0, rows);
  check_dtype(op, name, *t, ScalarType::Float, "float32");
  for (size_t i = 0; i < values.size(); ++i) values[i] = t->const_data_ptr<float>()[c.index[i] * t->stride(0)];
  return values;
}

std::tuple<Tensor, Tensor, Tensor> catalogue_backward_pass(
    const char* op, const std::optional<Tensor>& loss_grad, const std::optional<Tensor>& lse_grad, const Tensor& hidden,
    const Tensor& weight, const std::optional<Tensor>& target, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& row_key, const std::optional<Tensor>& item_key, const Tensor& lse, const Tensor* logits,
    int64_t ignore_index, double scale, bool bias_grad) {
  check_catalogue(op, hidden, weight, target, bias, row_key, item_key);
  Tensor hidden_grad = new_zeros(hidden, {hidden.size(0), hidden.size(1)});
  Catalogue c(op, hidden, weight, target, bias, row_key, item_key, ignore_index, scale);
  if (logits) c.p.logits = logits->mutable_data_ptr<float>();  // read only
  const bool direct = weight.scalar_type() == ScalarType::Float;
  Tensor bias_out = new_zeros(hidden, {bias_grad ? weight.size(0) : 0}, ScalarType::Float);
  if (c.p.rows == 0) return {hidden_grad, new_zeros(weight, {weight.size(0), weight.size(1)}), bias_out};
  Tensor weight_grad = large_empty(weight, {weight.size(0), weight.size(1)});
  // Sums over chunks of rows stay in floats; a bfloat16 gradient is rounded once.
  Tensor weight_sum = direct ? weight_grad : new_empty(weight, {weight.size(0), weight.size(1)}, ScalarType::Float);
  const int64_t count = hidden.size(0);
  const std::vector<float> hit = gathered(op, "loss_grad", loss_grad, c, count);
  std::vector<float> lse_of = gathered(op, "lse", lse, c, count), spread = gathered(op, "lse_grad", lse_grad, c, count);
  for (size_t i = 0; i < spread.size(); ++i) {
    const bool empty = lse_of[i] == -INFINITY;
    spread[i] = empty ? 0.f : spread[i] + hit[i];
    if (empty) lse_of[i] = INFINITY;
  }
  const Scratch left(c.tiles_of_rows() * c.floats.left), right(c.tiles_of_rows() * c.floats.right);
  const Scratch parts(c.parts * c.chunk * c.wide);
  const auto backward = RECENGINE_PICK(catalogue_backward);
  const auto sum_parts = RECENGINE_PICK(catalogue_sum_parts);
  float* weight_to = weight_sum.mutable_data_ptr<float>();
  float* bias_to = bias_grad ? bias_out.mutable_data_ptr<float>() : nullptr;
  const MutableMatrix hidden_to = mutable_view(hidden_grad);
  for (int64_t start = 0; start < c.p.rows; start += c.chunk) {
    const int64_t rows = c.rows_of(start);
    pack_chunk(c, start, left.get(), right.get());
    parallel_for(0, c.parts, 1, [&](int64_t begin, int64_t end) {
      const Scratch own(c.floats.backward);
      for (int64_t s = begin; s < end; ++s) {
        float* part = parts.get() + s * c.chunk * c.wide;
        std::fill_n(part, c.chunk * c.wide, 0.f);
        backward(c.p, left.get(), right.get(), start, rows, c.first_block(s), c.first_block(s + 1), lse_of.data() + start,
                 spread.data() + start, hit.data() + start, part, weight_to, bias_to, start == 0, own.get());
      }
    });
    parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
      const Scratch own(c.wide);
      for (int64_t r = begin; r < end; ++r)
        sum_parts(parts.get() + r * c.wide, c.parts, c.chunk * c.wide, c.p.width, hidden_to,
                  c.index[static_cast<size_t>(start + r)], own.get());
    });
  }
  if (!direct) weight_grad = torch::stable::copy_(weight_grad, weight_sum);
  return {hidden_grad, weight_grad, bias_out};
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const std::optional<Tensor>& loss_grad, const std::optional<Tensor>& lse_grad, const Tensor& hidden, const Tensor& weight,
    const std::optional<Tensor>& target, const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
    const std::optional<Tensor>& item_key, const Tensor& lse, int64_t ignore_index, double scale, bool bias_grad) {
  return catalogue_backward_pass("linear_cross_entropy_backward", loss_grad, lse_grad, hidden, weight, target, bias, row_key,
                                 item_key, lse, nullptr, ignore_index, scale, bias_grad);
}

std::tuple<Tensor, Tensor, Tensor> learning_cross_entropy_backward(
    const std::optional<Tensor>& loss_grad, const std::optional<Tensor>& lse_grad, const Tensor& hidden, const Tensor& weight,
    const std::optional<Tensor>& target, const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
    const std::optional<Tensor>& item_key, const Tensor& lse, const Tensor& logits, int64_t ignore_index, double scale,
    bool bias_grad) {
  const char* op = "learning_cross_entropy_backward";
  check_dim(op, "hidden", hidden, 2);
  check_dim(op, "weight", weight, 2);
  check_dtype(op, "hidden", hidden, ScalarType::Float, "float32");
  check_dim(op, "logits", logits, 2);
  check_size(op, "logits", logits, 0, hidden.size(0) + KEPT_ROWS);
  check_size(op, "logits", logits, 1, (weight.size(0) + KEPT_ITEMS - 1) / KEPT_ITEMS * KEPT_ITEMS);
  check_dtype(op, "logits", logits, ScalarType::Float, "float32");
  RECENGINE_CHECK(logits.is_cpu() && logits.is_contiguous(), op,
                  ": logits must be on the CPU and contiguous, as learning_cross_entropy made them");
  return catalogue_backward_pass(op, loss_grad, lse_grad, hidden, weight, target, bias, row_key, item_key, lse, &logits,
                                 ignore_index, scale, bias_grad);
}

// --- sampled log-sum-exp

// Everything a kernel call refers to; ids are checked here, once.
struct Sampled {
  SampledLogSumExp p;
  std::vector<float> inverse;
  std::vector<int64_t> positives, exclude;

  Sampled(const char* op, const Tensor& anchors, const Tensor& table, const Tensor& negatives,
          const std::optional<Tensor>& log_weight, const std::optional<Tensor>& temperature,
          const std::optional<Tensor>& positives_, const std::optional<Tensor>& exclude_, double scale) {
    check_dim(op, "anchors", anchors, 2);
    check_dim(op, "table", table, 2);
    check_dim(op, "negatives", negatives, 2);
    check_size(op, "table", table, 1, anchors.size(1));
    check_size(op, "negatives", negatives, 0, anchors.size(0));
    check_float_or_bf16(op, "anchors", anchors);
    check_same_dtype(op, "table", table, "anchors", anchors);
    check_dtype(op, "negatives", negatives, ScalarType::Long, "int64");
    RECENGINE_CHECK(table.is_cpu() && negatives.is_cpu(), op, ": table and negatives must be on the CPU as anchors is");
    const int64_t rows = anchors.size(0), items = table.size(0), count = negatives.size(1);
    if (log_weight) {
      check_dim(op, "log_weight", *log_weight, 2);
      check_size(op, "log_weight", *log_weight, 0, rows);
      check_size(op, "log_weight", *log_weight, 1, count);
      check_dtype(op, "log_weight", *log_weight, ScalarType::Float, "float32");
    }
    inverse.assign(static_cast<size_t>(rows), static_cast<float>(scale));
    if (temperature) {
      check_dim(op, "temperature", *temperature, 1);
      check_size(op, "temperature", *temperature, 0, rows);
      check_dtype(op, "temperature", *temperature, ScalarType::Float, "float32");
      for (int64_t b = 0; b < rows; ++b) {
        const float t = temperature->const_data_ptr<float>()[b * temperature->stride(0)];
        RECENGINE_CHECK(t > 0, op, ": temperature[", b, "] is ", t, ", expected a positive number");
        inverse[static_cast<size_t>(b)] = static_cast<float>(scale) / t;
      }
    }
    for (const auto& [name, given, ids] :
         {std::tuple<const char*, const std::optional<Tensor>&, std::vector<int64_t>&>{"positives", positives_, positives},
          {"exclude", exclude_, exclude}}) {
      if (!given) continue;
      check_ids(op, name, *given, rows);
      for (int64_t b = 0; b < rows; ++b) ids.push_back(given->const_data_ptr<int64_t>()[b * given->stride(0)]);
    }
    RECENGINE_CHECK(items < INT32_MAX && rows < INT32_MAX, op, ": table and anchors must have fewer than 2^31 rows");
    p = {view(anchors), view(table), negatives.const_data_ptr<int64_t>(), negatives.stride(0), negatives.stride(1),
         positives_ ? positives.data() : nullptr, exclude_ ? exclude.data() : nullptr,
         log_weight ? log_weight->const_data_ptr<float>() : nullptr, log_weight ? log_weight->stride(0) : 0,
         log_weight ? log_weight->stride(1) : 0, inverse.data(), rows, count, anchors.size(1)};
    check_range(op, items);
  }

 private:
  void check_range(const char* op, int64_t items) const {
    const int64_t entries = p.entries(), all = p.rows * entries;
    RECENGINE_CHECK(items > 0 || all == 0, op, ": table has no rows, expected at least one item");
    std::atomic<int64_t> first{all};
    parallel_for(0, p.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        bool wrong = false;
        for (int64_t j = 0; j < p.count; ++j) {
          const int64_t n = p.negatives[b * p.negatives_row + j * p.negatives_col];
          wrong |= n < -1 || n >= items;
        }
        wrong |= p.positives && (p.positives[b] < -1 || p.positives[b] >= items);
        if (!wrong) continue;
        int64_t seen = first.load();
        while (b * entries < seen && !first.compare_exchange_weak(seen, b * entries)) {
        }
      }
    });
    if (first == all) return;
    const int64_t b = first / entries;
    for (int64_t j = 0; j < p.count; ++j) {
      const int64_t n = p.negatives[b * p.negatives_row + j * p.negatives_col];
      RECENGINE_CHECK(n >= -1 && n < items, op, ": negatives[", b, ", ", j, "] is ", n, ", expected 0 to ", items - 1,
                      ", or -1 for no entry");
    }
    RECENGINE_CHECK(false, op, ": positives[", b, "] is ", p.positives[b], ", expected 0 to ", items - 1, ", or -1 for none");
  }
};

Tensor sampled_logsumexp(const Tensor& anchors, const Tensor& table, const Tensor& negatives,
                         const std::optional<Tensor>& log_weight, const std::optional<Tensor>& temperature,
                         const std::optional<Tensor>& positives, const std::optional<Tensor>& exclude, double scale) {
  const Sampled s("sampled_logsumexp", anchors, table, negatives, log_weight, temperature, positives, exclude, scale);
  Tensor lse = new_empty(anchors, {s.p.rows}, ScalarType::Float);
  float* out = lse.mutable_data_ptr<float>();
  const auto forward = RECENGINE_PICK(sampled_forward);
  const int64_t scratch = RECENGINE_PICK(sampled_scratch)(s.p);
  parallel_for(0, s.p.rows, 4, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b) out[b] = forward(s.p, b, own.get());
  });
  return lse;
}

Tensor sampled_scores(const Tensor& anchors, const Tensor& table, const Tensor& negatives, double scale) {
  const std::optional<Tensor> none;
  const Sampled s("sampled_scores", anchors, table, negatives, none, none, none, none, scale);
  Tensor scores = new_empty(anchors, {s.p.rows, s.p.count}, ScalarType::Float);
  float* out = scores.mutable_data_ptr<float>();
  const auto kernel = RECENGINE_PICK(sampled_scores);
  const int64_t scratch = RECENGINE_PICK(sampled_scratch)(s.p);
  parallel_for(0, s.p.rows, 4, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b) kernel(s.p, b, out + b * s.p.count, own.get());
  });
  return scores;
}

// The gradient of the table: entries are put in order of their item (rows ascending within an item) by a
// counting sort over a range of items, and each item's sum is made by one thread in that order.
void table_gradient(const SampledLogSumExp& p, const float* anchors, const float* share, const Tensor& table_grad) {
  const int64_t items = table_grad.size(0), entries = p.entries();
  const MutableMatrix to = mutable_view(table_grad);
  const auto reduce = RECENGINE_PICK(sampled_table_row);
  parallel_for(0, items, 256, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> start(static_cast<size_t>(end - begin + 1), 0);
    for (int64_t b = 0; b < p.rows; ++b)
      for (int64_t j = 0; j < entries; ++j) {
        const int64_t n = p.id(b, j);
        if (n >= begin && n < end) ++start[static_cast<size_t>(n - begin + 1)];
      }
    for (size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
    std::vector<int32_t> row(static_cast<size_t>(start.back()));
    const Scratch coefficient(start.back()), own(p.width);
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t b = 0; b < p.rows; ++b)
      for (int64_t j = 0; j < entries; ++j) {
        const int64_t n = p.id(b, j);
        if (n < begin || n >= end) continue;
        const int64_t at = next[static_cast<size_t>(n - begin)]++;
        row[static_cast<size_t>(at)] = static_cast<int32_t>(b);
        coefficient.get()[at] = share[b * entries + j] * p.inverse[b];
      }
    for (int64_t n = begin; n < end; ++n) {
      const int64_t at = start[static_cast<size_t>(n - begin)], count = start[static_cast<size_t>(n - begin + 1)] - at;
      reduce(anchors, p.width, row.data() + at, coefficient.get() + at, count, n, to, own.get());
    }
  });
}

// The anchors as contiguous floats: themselves, or a copy in `copies`.
const float* plain_anchors(const Sampled& s, const Tensor& anchors, std::vector<float>& copies) {
  if (anchors.scalar_type() == ScalarType::Float && anchors.is_contiguous()) return anchors.const_data_ptr<float>();
  copies.resize(static_cast<size_t>(s.p.rows * s.p.width));
  const auto read = RECENGINE_PICK(sampled_read_anchor);
  for (int64_t b = 0; b < s.p.rows; ++b) read(s.p, b, copies.data() + b * s.p.width);
  return copies.data();
}

std::tuple<Tensor, Tensor> sampled_scores_backward(const Tensor& grad, const Tensor& anchors, const Tensor& table,
                                                   const Tensor& negatives, double scale) {
  const char* op = "sampled_scores_backward";
  const std::optional<Tensor> none;
  const Sampled s(op, anchors, table, negatives, none, none, none, none, scale);
  check_dim(op, "grad", grad, 2);
  check_size(op, "grad", grad, 0, s.p.rows);
  check_size(op, "grad", grad, 1, s.p.count);
  check_dtype(op, "grad", grad, ScalarType::Float, "float32");
  RECENGINE_CHECK(grad.is_contiguous(), op, ": grad must be contiguous");
  Tensor anchors_grad = new_empty(anchors, {s.p.rows, s.p.width});
  Tensor table_grad = new_empty(table, {table.size(0), s.p.width});
  const float* upstream = grad.const_data_ptr<float>();
  const MutableMatrix to = mutable_view(anchors_grad);
  const auto weigh = RECENGINE_PICK(sampled_weigh);
  const int64_t scratch = RECENGINE_PICK(sampled_scratch)(s.p);
  parallel_for(0, s.p.rows, 4, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b) weigh(s.p, b, upstream + b * s.p.count, to, own.get());
  });
  std::vector<float> copies;
  table_gradient(s.p, plain_anchors(s, anchors, copies), upstream, table_grad);
  return {anchors_grad, table_grad};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sampled_logsumexp_backward(
    const Tensor& grad, const Tensor& anchors, const Tensor& table, const Tensor& negatives,
    const std::optional<Tensor>& log_weight, const std::optional<Tensor>& temperature, const std::optional<Tensor>& positives,
    const std::optional<Tensor>& exclude, const Tensor& lse, double scale) {
  const char* op = "sampled_logsumexp_backward";
  const Sampled s(op, anchors, table, negatives, log_weight, temperature, positives, exclude, scale);
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"lse", lse}}) {
    check_dim(op, name, t, 1);
    check_size(op, name, t, 0, s.p.rows);
    check_dtype(op, name, t, ScalarType::Float, "float32");
  }
  const int64_t entries = s.p.entries(), width = s.p.width;
  Tensor anchors_grad = new_empty(anchors, {s.p.rows, width});
  Tensor table_grad = large_empty(table, {table.size(0), width});
  // What falls to each entry: the gradient of its log-weight (the last column, of the positive, is not returned).
  Tensor share = new_empty(anchors, {s.p.rows, entries}, ScalarType::Float);
  Tensor temperature_grad = new_empty(anchors, {temperature ? s.p.rows : 0}, ScalarType::Float);
  float* share_to = share.mutable_data_ptr<float>();
  float* temperature_to = temperature ? temperature_grad.mutable_data_ptr<float>() : nullptr;
  const bool whole = anchors.scalar_type() == ScalarType::Float && anchors.is_contiguous();
  const Scratch copies(whole ? 1 : s.p.rows * width);
  const MutableMatrix anchors_to = mutable_view(anchors_grad);
  const auto backward = RECENGINE_PICK(sampled_backward);
  const auto read = RECENGINE_PICK(sampled_read_anchor);
  const int64_t scratch = RECENGINE_PICK(sampled_scratch)(s.p);
  const float *upstream = grad.const_data_ptr<float>(), *sums = lse.const_data_ptr<float>();
  parallel_for(0, s.p.rows, 4, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b) {
      const float inverse_grad = backward(s.p, b, sums[b * lse.stride(0)], upstream[b * grad.stride(0)],
                                          share_to + b * entries, anchors_to, own.get());
      const float inverse = s.inverse[static_cast<size_t>(b)];
      if (temperature_to) temperature_to[b] = -inverse_grad * inverse * inverse / static_cast<float>(scale);
      if (!whole) read(s.p, b, copies.get() + b * width);
    }
  });
  table_gradient(s.p, whole ? anchors.const_data_ptr<float>() : copies.get(), share_to, table_grad);
  return {anchors_grad, table_grad, share, temperature_grad};
}

// --- log-sum-exp of logits that exist already

// name: what the caller calls the logits.
GivenLogits given(const char* op, const char* name, const Tensor& logits, const std::optional<Tensor>& live) {
  check_dim(op, name, logits, 2);
  check_float_or_bf16(op, name, logits);
  if (live) {
    check_dim(op, "live", *live, 2);
    for (int64_t axis : {0, 1}) check_size(op, "live", *live, axis, logits.size(axis));
    check_dtype(op, "live", *live, ScalarType::Bool, "bool");
    RECENGINE_CHECK(live->is_cpu(), op, ": live must be on the CPU as ", name, " is");
  }
  return {view(logits), live ? static_cast<const uint8_t*>(live->const_data_ptr()) : nullptr, live ? live->stride(0) : 0,
          live ? live->stride(1) : 0, logits.size(0), logits.size(1)};
}

Tensor logsumexp_rows(const Tensor& logits, const std::optional<Tensor>& live) {
  const GivenLogits p = given("logsumexp_rows", "logits", logits, live);
  Tensor lse = new_empty(logits, {p.rows}, ScalarType::Float);
  float* out = lse.mutable_data_ptr<float>();
  const auto forward = RECENGINE_PICK(given_forward);
  const int64_t scratch = RECENGINE_PICK(given_scratch)(p);
  parallel_for(0, p.rows, 16, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b) out[b] = forward(p, b, own.get());
  });
  return lse;
}

Tensor logsumexp_rows_backward(const Tensor& grad, const Tensor& logits, const std::optional<Tensor>& live,
                               const Tensor& lse) {
  const char* op = "logsumexp_rows_backward";
  const GivenLogits p = given(op, "logits", logits, live);
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"lse", lse}}) {
    check_dim(op, name, t, 1);
    check_size(op, name, t, 0, p.rows);
    check_dtype(op, name, t, ScalarType::Float, "float32");
  }
  Tensor logits_grad = new_empty(logits, {p.rows, p.count});
  const MutableMatrix to = mutable_view(logits_grad);
  const float *upstream = grad.const_data_ptr<float>(), *sums = lse.const_data_ptr<float>();
  const auto backward = RECENGINE_PICK(given_backward);
  const int64_t scratch = RECENGINE_PICK(given_scratch)(p);
  parallel_for(0, p.rows, 16, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b)
      backward(p, b, sums[b * lse.stride(0)], upstream[b * grad.stride(0)], to, own.get());
  });
  return logits_grad;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sampled_competition(const Tensor& scores, const std::optional<Tensor>& likeness,
                                                               const Tensor& live, const Tensor& positive,
                                                               double hardness, double likeness_share,
                                                               double temperature, int64_t slate) {
  const char* op = "sampled_competition";
  const GivenLogits entries = given(op, "scores", scores, live);
  check_dim(op, "positive", positive, 1);
  check_size(op, "positive", positive, 0, entries.rows);
  check_dtype(op, "positive", positive, ScalarType::Float, "float32");
  RECENGINE_CHECK(positive.is_cpu(), op, ": positive must be on the CPU as scores is");
  if (likeness) {
    check_dim(op, "likeness", *likeness, 2);
    for (int64_t axis : {0, 1}) check_size(op, "likeness", *likeness, axis, scores.size(axis));
    check_float_or_bf16(op, "likeness", *likeness);
    RECENGINE_CHECK(likeness->is_cpu(), op, ": likeness must be on the CPU as scores is");
  }
  RECENGINE_CHECK(temperature > 0, op, ": temperature must be above 0, found ", temperature);
  RECENGINE_CHECK(slate > 0, op, ": slate must be at least 1, found ", slate);
  const CompetingEntries p{entries.logits,
                           likeness ? view(*likeness) : Matrix{},
                           entries.live,
                           entries.live_row,
                           entries.live_col,
                           entries.rows,
                           entries.count,
                           std::min(slate, entries.count),
                           static_cast<float>(hardness),
                           likeness ? static_cast<float>(likeness_share) : 0.f,
                           static_cast<float>(1 / temperature)};
  Tensor weight = new_empty(scores, {p.rows, p.count}, ScalarType::Float);
  Tensor chosen = new_empty(scores, {p.rows, p.slate}, ScalarType::Long);
  Tensor intensity = new_empty(scores, {p.rows}, ScalarType::Float), least = new_empty(scores, {p.rows}, ScalarType::Float);
  float *weights = weight.mutable_data_ptr<float>(), *crowd = intensity.mutable_data_ptr<float>(),
        *lowest = least.mutable_data_ptr<float>();
  int64_t* ids = chosen.mutable_data_ptr<int64_t>();
  const float* targets = positive.const_data_ptr<float>();
  const auto row = RECENGINE_PICK(competing_row);
  const int64_t scratch = RECENGINE_PICK(competing_scratch)(p);
  parallel_for(0, p.rows, 16, [&](int64_t begin, int64_t end) {
    const Scratch own(scratch);
    for (int64_t b = begin; b < end; ++b)
      row(p, b, targets[b * positive.stride(0)], weights + b * p.count, ids + b * p.slate, crowd + b, lowest + b,
          own.get());
  });
  return {weight, chosen, intensity, least};
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&recengine::linear_cross_entropy));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&recengine::linear_cross_entropy_backward));
  m.impl("learning_cross_entropy", TORCH_BOX(&recengine::learning_cross_entropy));
  m.impl("learning_cross_entropy_backward", TORCH_BOX(&recengine::learning_cross_entropy_backward));
  m.impl("sampled_scores", TORCH_BOX(&recengine::sampled_scores));
  m.impl("sampled_scores_backward", TORCH_BOX(&recengine::sampled_scores_backward));
  m.impl("sampled_logsumexp", TORCH_BOX(&recengine::sampled_logsumexp));
  m.impl("sampled_logsumexp_backward", TORCH_BOX(&recengine::sampled_logsumexp_backward));
  m.impl("logsumexp_rows", TORCH_BOX(&recengine::logsumexp_rows));
  m.impl("logsumexp_rows_backward", TORCH_BOX(&recengine::logsumexp_rows_backward));
  m.impl("sampled_competition", TORCH_BOX(&recengine::sampled_competition));
}

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/isa.h"
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

void check_catalogue(const char* op, const Tensor& hidden, const Tensor& weight, const Tensor& target,
                     const std::optional<Tensor>& bias) {
  check_dim(op, "hidden", hidden, 2);
  check_dim(op, "weight", weight, 2);
  check_dim(op, "target", target, 1);
  check_size(op, "weight", weight, 1, hidden.size(1));
  check_size(op, "target", target, 0, hidden.size(0));
  check_float_or_bf16(op, "hidden", hidden);
  check_same_dtype(op, "weight", weight, "hidden", hidden);
  check_dtype(op, "target", target, ScalarType::Long, "int64");
  STD_TORCH_CHECK(weight.is_cpu() && target.is_cpu(), op, ": weight and target must be on the CPU as hidden is");
  STD_TORCH_CHECK(weight.size(0) > 0, op, ": weight has no rows, expected at least one item");
  if (bias) {
    check_dim(op, "bias", *bias, 1);
    check_size(op, "bias", *bias, 0, weight.size(0));
    check_dtype(op, "bias", *bias, ScalarType::Float, "float32");
  }
}

// The rows that count, their targets and the bias, gathered once; everything a kernel call refers to.
struct Catalogue {
  CatalogueLoss p;
  std::vector<int64_t> index, target;
  std::vector<float> bias;
  CatalogueTiles tiles;
  int64_t blocks, parts, wide, chunk;

  Catalogue(const char* op, const Tensor& hidden, const Tensor& weight, const Tensor& target_, const std::optional<Tensor>& bias_,
            int64_t ignore_index, double scale) {
    const int64_t rows = hidden.size(0), items = weight.size(0);
    const int64_t* y = target_.const_data_ptr<int64_t>();
    const int64_t step = target_.stride(0);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t item = y[r * step];
      if (item == ignore_index) continue;
      STD_TORCH_CHECK(item >= 0 && item < items, op, ": target[", r, "] is ", item, ", expected 0 to ", items - 1,
                      " or ignore_index (", ignore_index, ")");
      index.push_back(r);
      target.push_back(item);
    }
    if (bias_) {
      const float* b = bias_->const_data_ptr<float>();
      for (int64_t v = 0; v < items; ++v) bias.push_back(b[v * bias_->stride(0)]);
    }
    p = {view(hidden), view(weight), bias_ ? bias.data() : nullptr, index.data(), target.data(),
         static_cast<float>(scale), static_cast<int64_t>(index.size()), items, hidden.size(1)};
    tiles = RECENGINE_PICK(catalogue_tiles)();
    blocks = (items + tiles.items - 1) / tiles.items;
    wide = (p.width + tiles.panel - 1) / tiles.panel * tiles.panel;
    chunk = std::min<int64_t>(12, (p.rows + tiles.row_tile - 1) / tiles.row_tile) * tiles.row_tile;
    // Parts of the catalogue that are summed up on their own and then in order: a matter of shapes only,
    // so that any number of threads gives the same bits. At most 16 MB of partial sums.
    parts = std::min(blocks, std::clamp<int64_t>((int64_t{1} << 22) / std::max<int64_t>(1, chunk * wide), 8, 32));
  }
  int64_t first_block(int64_t part) const { return blocks * part / parts; }
  int64_t rows_of(int64_t start) const { return std::min(chunk, p.rows - start); }
};

void pack_chunk(const Catalogue& c, int64_t start, float* left, float* right) {
  const auto pack = RECENGINE_PICK(catalogue_pack_rows);
  const int64_t tile = c.tiles.row_tile, count = (c.rows_of(start) + tile - 1) / tile;
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      pack(c.p, start + t * tile, left + t * tile * c.p.width, right ? right + t * tile * c.wide : nullptr);
  });
}

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& target,
                                                const std::optional<Tensor>& bias, int64_t ignore_index, double scale) {
  const char* op = "linear_cross_entropy";
  check_catalogue(op, hidden, weight, target, bias);
  Tensor loss = new_zeros(hidden, {hidden.size(0)}, ScalarType::Float);
  Tensor lse = new_zeros(hidden, {hidden.size(0)}, ScalarType::Float);
  if (hidden.size(0) == 0) return {loss, lse};
  const Catalogue c(op, hidden, weight, target, bias, ignore_index, scale);
  float *loss_out = loss.mutable_data_ptr<float>(), *lse_out = lse.mutable_data_ptr<float>();
  const Scratch left(c.chunk * c.p.width), largest(c.parts * c.chunk), sum(c.parts * c.chunk);
  const auto forward = RECENGINE_PICK(catalogue_forward);
  const auto finish = RECENGINE_PICK(catalogue_finish);
  const int64_t scratch = RECENGINE_PICK(catalogue_scratch)(c.p).forward;
  for (int64_t start = 0; start < c.p.rows; start += c.chunk) {
    const int64_t rows = c.rows_of(start);
    pack_chunk(c, start, left.get(), nullptr);
    parallel_for(0, c.parts, 1, [&](int64_t begin, int64_t end) {
      const Scratch own(scratch);
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

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(const Tensor& grad, const Tensor& hidden, const Tensor& weight,
                                                                 const Tensor& target, const std::optional<Tensor>& bias,
                                                                 const Tensor& lse, int64_t ignore_index, double scale,
                                                                 bool bias_grad) {
  const char* op = "linear_cross_entropy_backward";
  check_catalogue(op, hidden, weight, target, bias);
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"lse", lse}}) {
    check_dim(op, name, t, 1);
    check_size(op, name, t, 0, hidden.size(0));
    check_dtype(op, name, t, ScalarType::Float, "float32");
  }
  Tensor hidden_grad = new_zeros(hidden, {hidden.size(0), hidden.size(1)});
  const Catalogue c(op, hidden, weight, target, bias, ignore_index, scale);
  const bool direct = weight.scalar_type() == ScalarType::Float;
  Tensor bias_out = new_zeros(hidden, {bias_grad ? weight.size(0) : 0}, ScalarType::Float);
  if (c.p.rows == 0) return {hidden_grad, new_zeros(weight, {weight.size(0), weight.size(1)}), bias_out};
  Tensor weight_grad = new_empty(weight, {weight.size(0), weight.size(1)});
  // Sums over chunks of rows stay in floats; a bfloat16 gradient is rounded once.
  Tensor weight_sum = direct ? weight_grad : new_empty(weight, {weight.size(0), weight.size(1)}, ScalarType::Float);
  std::vector<float> lse_of(c.index.size()), grad_of(c.index.size());
  for (size_t i = 0; i < c.index.size(); ++i) {
    lse_of[i] = lse.const_data_ptr<float>()[c.index[i] * lse.stride(0)];
    grad_of[i] = grad.const_data_ptr<float>()[c.index[i] * grad.stride(0)];
  }
  const Scratch left(c.chunk * c.p.width), right(c.chunk * c.wide), parts(c.parts * c.chunk * c.wide);
  const auto backward = RECENGINE_PICK(catalogue_backward);
  const auto sum_parts = RECENGINE_PICK(catalogue_sum_parts);
  const int64_t scratch = RECENGINE_PICK(catalogue_scratch)(c.p).backward;
  float* weight_to = weight_sum.mutable_data_ptr<float>();
  float* bias_to = bias_grad ? bias_out.mutable_data_ptr<float>() : nullptr;
  const MutableMatrix hidden_to = mutable_view(hidden_grad);
  for (int64_t start = 0; start < c.p.rows; start += c.chunk) {
    const int64_t rows = c.rows_of(start);
    pack_chunk(c, start, left.get(), right.get());
    parallel_for(0, c.parts, 1, [&](int64_t begin, int64_t end) {
      const Scratch own(scratch);
      for (int64_t s = begin; s < end; ++s) {
        float* part = parts.get() + s * c.chunk * c.wide;
        std::fill_n(part, c.chunk * c.wide, 0.f);
        backward(c.p, left.get(), right.get(), start, rows, c.first_block(s), c.first_block(s + 1), lse_of.data() + start,
                 grad_of.data() + start, part, weight_to, bias_to, start == 0, own.get());
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

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&recengine::linear_cross_entropy));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&recengine::linear_cross_entropy_backward));
}

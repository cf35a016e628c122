#include "token_mixing/token_mixing.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/pages.h"
#include "common/worker_memory.h"

namespace recengine {
namespace {

using Maybe = std::optional<Tensor>;

// Samples are cut into at most PARTS runs, by their number alone: each run sums the weight's gradient, and
// the runs are added in order.
constexpr int64_t PARTS = 64;

struct View {
  char* data = nullptr;
  int64_t sample = 0, row = 0, col = 0, size = 0;
  bool bf16 = false;

  Matrix at(int64_t b) const { return {data ? data + b * sample * size : nullptr, row, col, bf16}; }
  MutableMatrix to(int64_t b) const { return {data ? data + b * sample * size : nullptr, row, col, bf16}; }
};

View view(const Tensor& t) {
  const bool low = t.scalar_type() == ScalarType::BFloat16;
  return {static_cast<char*>(const_cast<void*>(t.const_data_ptr())), t.stride(0), t.stride(1), t.stride(2),
          low ? 2 : 4, low};
}
View view(const Maybe& t) { return t ? view(*t) : View{}; }

void check_floating(const char* op, const char* name, const Tensor& t) {
  RECENGINE_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16, op, ": ", name,
                  " must be float32 or bfloat16, found ", dtype_name(t));
}

void check_like(const char* op, const char* name, const Maybe& t, const Tensor& x, int64_t rows, int64_t width) {
  if (!t) return;
  check_dim(op, name, *t, 3);
  check_size(op, name, *t, 0, x.size(0));
  check_size(op, name, *t, 1, rows);
  check_size(op, name, *t, 2, width);
  check_dtype(op, name, *t, x.scalar_type(), "of x's dtype");
}

std::vector<float> floats(const char* op, const Maybe& weight, int64_t width) {
  if (!weight) return {};
  check_dim(op, "weight", *weight, 1);
  check_size(op, "weight", *weight, 0, width);
  check_floating(op, "weight", *weight);
  std::vector<float> copy(width);
  RECENGINE_PICK(mix_read)({weight->const_data_ptr(), 0, weight->stride(0),
                            weight->scalar_type() == ScalarType::BFloat16}, width, copy.data());
  return copy;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, Maybe residual, Maybe weight, int64_t heads, double eps,
                                           bool keep_mixed, bool own_residual) {
  const char* op = "token_mixing";
  check_dim(op, "x", x, 3);
  check_floating(op, "x", x);
  RECENGINE_CHECK(heads >= 1 && x.size(2) % heads == 0, op, ": x has ", x.size(2), " features, not a multiple of ",
                  heads, " heads");
  const int64_t samples = x.size(0), tokens = x.size(1), part = x.size(2) / heads, width = tokens * part;
  check_like(op, "residual", residual, x, heads, width);
  RECENGINE_CHECK(weight || keep_mixed, op, ": nothing to compute without weight and without keep_mixed");
  const std::vector<float> w = floats(op, weight, width);
  Tensor normed = weight ? large_empty(x, {samples, heads, width}) : torch::stable::new_empty(x, {0});
  Tensor mixed = keep_mixed ? large_empty(x, {samples, heads, width}) : torch::stable::new_empty(x, {0});
  Tensor rstd = weight ? torch::stable::new_empty(x, {samples, heads}, ScalarType::Float)
                       : torch::stable::new_empty(x, {0}, ScalarType::Float);
  RECENGINE_CHECK(!own_residual || (!residual && tokens == heads), op,
                  ": own_residual needs as many heads as tokens and no residual, found ", heads, " heads and ",
                  tokens, " tokens");
  const View in = view(x), add = own_residual ? in : view(residual), out = weight ? view(normed) : View{},
             kept = keep_mixed ? view(mixed) : View{};
  float* r = static_cast<float*>(rstd.mutable_data_ptr());
  const bool whole = in.col == 1 && in.row == heads * part;
  torch::stable::parallel_for(0, samples, 4, [&](int64_t begin, int64_t end) {
    float* work = worker_memory(mix_scratch(tokens, heads, part));
    for (int64_t b = begin; b < end; ++b) {
      MixSample sample{tokens, heads, part, in.at(b), add.at(b), weight ? w.data() : nullptr, static_cast<float>(eps)};
      if (whole && b + 1 < end) sample.next = in.data + (b + 1) * in.sample * in.size, sample.next_bytes = tokens * in.row * in.size;
      RECENGINE_PICK(mix_forward)(sample, out.to(b), kept.to(b), weight ? r + b * heads : nullptr, work);
    }
  });
  return {normed, mixed, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(Maybe grad_normed, Maybe grad_mixed, const Tensor& source, Maybe residual,
                                            Maybe weight, const Tensor& rstd, int64_t tokens, int64_t heads,
                                            bool source_is_mixed, bool own_residual, bool residual_grad) {
  const char* op = "token_mixing_backward";
  check_dim(op, "source", source, 3);
  check_floating(op, "source", source);
  RECENGINE_CHECK(tokens >= 0 && heads >= 1 && source.size(1) == (source_is_mixed ? heads : tokens), op,
                  ": source has ", source.size(1), " rows, expected ", source_is_mixed ? heads : tokens);
  const int64_t samples = source.size(0), part = source.size(2) / std::max<int64_t>(source_is_mixed ? tokens : heads, 1),
                width = tokens * part;
  RECENGINE_CHECK(source.size(2) == (source_is_mixed ? width : heads * part), op, ": source has ", source.size(2),
                  " features, which ", tokens, " tokens and ", heads, " heads do not divide");
  check_like(op, "grad_normed", grad_normed, source, heads, width);
  check_like(op, "grad_mixed", grad_mixed, source, heads, width);
  check_like(op, "residual", residual, source, heads, width);
  RECENGINE_CHECK(grad_normed || grad_mixed, op, ": needs grad_normed or grad_mixed");
  RECENGINE_CHECK(!grad_normed || (weight && rstd.numel() == samples * heads && rstd.is_contiguous()), op,
                  ": grad_normed needs weight and rstd");
  RECENGINE_CHECK(!own_residual || tokens == heads, op, ": own_residual needs as many heads as tokens");
  const std::vector<float> w = floats(op, weight, width);
  Tensor dx = large_empty(source, {samples, tokens, heads * part});
  Tensor dr = residual_grad ? large_empty(source, {samples, heads, width})
                            : torch::stable::new_empty(source, {0});
  Tensor dw = torch::stable::new_empty(source, {weight ? width : 0}, ScalarType::Float);
  const View in = view(source), add = own_residual ? in : view(residual), gy = view(grad_normed), gm = view(grad_mixed), to = view(dx),
             to_residual = residual_grad ? view(dr) : View{};
  const float* r = static_cast<const float*>(rstd.const_data_ptr());
  const int64_t run = std::max<int64_t>((samples + PARTS - 1) / PARTS, 1), runs = (samples + run - 1) / run;
  const int64_t step = (width + 15) / 16 * 16;
  std::vector<float> sums(weight ? runs * step : 0, 0.f);
  torch::stable::parallel_for(0, runs, 1, [&](int64_t begin, int64_t end) {
    float* work = worker_memory(mix_scratch(tokens, heads, part));
    for (int64_t i = begin; i < end; ++i)
      for (int64_t b = i * run; b < std::min(samples, (i + 1) * run); ++b) {
        const MixSample sample{tokens, heads, part, source_is_mixed ? Matrix{} : in.at(b), add.at(b),
                               weight ? w.data() : nullptr, 0.f};
        const MixGradients g{gy.at(b),
                             gm.at(b),
                             source_is_mixed ? in.at(b) : Matrix{},
                             grad_normed ? r + b * heads : nullptr,
                             to.to(b),
                             to_residual.to(b),
                             own_residual,
                             weight ? sums.data() + i * step : nullptr};
        RECENGINE_PICK(mix_backward)(sample, g, work);
      }
  });
  if (weight) {
    float* d = static_cast<float*>(dw.mutable_data_ptr());
    std::fill_n(d, width, 0.f);
    for (int64_t i = 0; i < runs; ++i)
      for (int64_t j = 0; j < width; ++j) d[j] += sums[i * step + j];
  }
  return {dx, dr, dw};
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, lib) {
  lib.impl("token_mixing", TORCH_BOX(&recengine::forward));
  lib.impl("token_mixing_backward", TORCH_BOX(&recengine::backward));
}

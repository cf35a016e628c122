// What the retrieval operators check of shapes, dtypes and devices, the same on every device.
#pragma once

#include <limits>
#include <optional>

#include "common/checks.h"
#include "retrieval/topk.h"

namespace recengine::retrieval {

inline void check_pair(const char* op, const Tensor& queries, const Tensor& items, bool half) {
  check_dim(op, "queries", queries, 2);
  check_dim(op, "items", items, 2);
  const ScalarType type = queries.scalar_type();
  RECENGINE_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || (half && type == ScalarType::Half), op,
                  ": queries must be float32 or bfloat16", half ? " or float16" : "", ", found ", dtype_name(type));
  RECENGINE_CHECK(items.scalar_type() == type, op, ": items must have the dtype of queries, found ",
                  dtype_name(items), ", expected ", dtype_name(type));
  check_size(op, "items", items, 1, queries.size(1));
  RECENGINE_CHECK(queries.device() == items.device(), op, ": queries and items are on different devices");
  RECENGINE_CHECK(items.size(0) <= std::numeric_limits<int32_t>::max(), op, ": items has ", items.size(0),
                  " rows, at most 2^31 - 1 can be ranked");
}

// The bias as contiguous float32, or nothing.
inline std::optional<Tensor> check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& items) {
  if (!bias) return {};
  check_dim(op, "bias", *bias, 1);
  check_size(op, "bias", *bias, 0, items.size(0));
  const ScalarType type = bias->scalar_type();
  RECENGINE_CHECK(type == ScalarType::Float || type == items.scalar_type(), op,
                  ": bias must be float32 or of the dtype of items, found ", dtype_name(type));
  RECENGINE_CHECK(bias->device() == items.device(), op, ": bias and items are on different devices");
  return torch::stable::contiguous(torch::stable::to(*bias, ScalarType::Float));
}

inline void check_targets(const char* op, const Tensor& targets, const Tensor& queries) {
  check_dim(op, "targets", targets, 1);
  check_size(op, "targets", targets, 0, queries.size(0));
  check_dtype(op, "targets", targets, ScalarType::Long, "int64");
  RECENGINE_CHECK(targets.device() == queries.device(), op, ": targets and queries are on different devices");
}

// The two seen tensors, contiguous (they are small beside the rest), and the view of them. Values are not
// looked at.
struct SeenInput {
  std::optional<Tensor> indptr, items;
  Seen view{nullptr, nullptr, true};
};

inline SeenInput check_seen_shapes(const char* op, const std::optional<Tensor>& indptr,
                                   const std::optional<Tensor>& items, const Tensor& queries) {
  RECENGINE_CHECK(indptr.has_value() == items.has_value(), op,
                  ": seen_indptr and seen_items belong together: give both or neither");
  SeenInput seen;
  if (!indptr) return seen;
  check_dim(op, "seen_indptr", *indptr, 1);
  check_dim(op, "seen_items", *items, 1);
  check_size(op, "seen_indptr", *indptr, 0, queries.size(0) + 1);
  check_dtype(op, "seen_indptr", *indptr, ScalarType::Long, "int64");
  const ScalarType type = items->scalar_type();
  RECENGINE_CHECK(type == ScalarType::Long || type == ScalarType::Int, op, ": seen_items must be int64 or int32, found ",
                  dtype_name(type));
  RECENGINE_CHECK(indptr->device() == queries.device(), op, ": seen_indptr and queries are on different devices");
  RECENGINE_CHECK(items->device() == queries.device(), op, ": seen_items and queries are on different devices");
  seen.indptr = torch::stable::contiguous(*indptr);
  seen.items = torch::stable::contiguous(*items);
  seen.view = {seen.indptr->const_data_ptr<int64_t>(), seen.items->const_data_ptr(), type == ScalarType::Long};
  return seen;
}

}  // namespace recengine::retrieval

// Checks at an operator's entry. Everything is checked before anything is allocated or launched: an
// error thrown inside a parallel loop would lose its message.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>

// A RuntimeError of these words alone where the condition does not hold (torch's STD_TORCH_CHECK puts the function's name
// and a path of the machine that built it before them).
#define RECENGINE_CHECK(held, ...)                 \
  do {                                             \
    if (!(held)) ::recengine::refuse(__VA_ARGS__); \
  } while (false)

namespace recengine {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Words>
[[noreturn]] void refuse(const Words&... words) {
  std::ostringstream text;
  ((text << words), ...);
  throw std::runtime_error(text.str());
}

// The dtype as Python writes it.
inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    case ScalarType::Short: return "int16";
    case ScalarType::Char: return "int8";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Bool: return "bool";
    default: return torch::headeronly::toString(type);
  }
}
inline const char* dtype_name(const Tensor& t) { return dtype_name(t.scalar_type()); }

inline void check_dim(const char* op, const char* name, const Tensor& t, int64_t dim) {
  RECENGINE_CHECK(t.dim() == dim, op, ": ", name, " has ", t.dim(), " dimensions, expected ", dim);
}
inline void check_size(const char* op, const char* name, const Tensor& t, int64_t axis, int64_t size) {
  RECENGINE_CHECK(t.size(axis) == size, op, ": ", name, " has size ", t.size(axis), " in dimension ", axis,
                  ", expected ", size);
}
inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType expected, const char* expected_name) {
  RECENGINE_CHECK(t.scalar_type() == expected, op, ": ", name, " must be ", expected_name, ", found ", dtype_name(t));
}

}  // namespace recengine

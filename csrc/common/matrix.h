// A matrix as an operator receives it: any strides, float or bfloat16.
#pragma once

#include <cstdint>

namespace recengine {

struct Matrix {  // element (r, c) lies at data + r * row + c * col (counted in elements)
  const void* data;
  int64_t row, col;
  bool bf16;
};

struct MutableMatrix {
  void* data;
  int64_t row, col;
  bool bf16;
};

}  // namespace recengine

// The contract of the factorisation kernels: raw pointers, row-major, nothing from torch.
// Every kernel works on a part of the task (rows, tiles, a stratum) whose result does not depend on
// how the parts are spread over threads.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace recengine {

// Rows of X in  (G + sum_t w_t y_t y_t' + lambda_r I) x_r = sum_t (1 + w_t) y_t,  t over the row's columns.
struct SolveArgs {
  const float* y;               // [columns, d]
  const float* gram;            // [d, d]
  const int64_t* indptr;        // [rows + 1]
  const int32_t* columns;       // [nnz]
  const float* weights;         // [nnz]
  const float* regularization;  // [rows]
  float* x;                     // [rows, d]; conjugate gradient starts from what is there
  int64_t d;                    // a multiple of 16
  int64_t steps;                // of conjugate gradient; 0: Cholesky
};

struct Pair {
  int32_t user, item;
};

// One stratum of an epoch: pairs whose users and items no other stratum of the round touches.
struct StratumArgs {
  Pair* pairs;  // shuffled in place
  int64_t n;
  const int32_t* candidates;  // items of the stratum, where negatives come from
  int64_t n_candidates;
  const int64_t* indptr;   // of the whole user-item matrix
  const int32_t* columns;  // ascending in a row
  float* users;
  float* items;
  float* bias;
  int64_t d;     // a multiple of 16
  uint64_t key;  // of the random numbers
  float rate, reg_user, reg_item, reg_bias;
};

}  // namespace recengine

RECENGINE_DECLARE(
    // scratch: solve_scratch(d) floats
    void solve_rows(const recengine::SolveArgs& a, int64_t begin, int64_t end, float* scratch);
    // out[d, d] = sum of y_r y_r' over rows [begin, end)
    void gram_rows(const float* y, int64_t d, int64_t begin, int64_t end, float* out);
    void train_stratum(const recengine::StratumArgs& a);
    // Counts of rows r that hold both column i and column j, for i in [begin, end), added to out[i - begin, j].
    void count_pairs_f32(const int64_t* indptr, const int32_t* columns, const int64_t* t_indptr,
                         const int32_t* t_rows, int64_t n, int64_t begin, int64_t end, float* out);
    void count_pairs_f64(const int64_t* indptr, const int32_t* columns, const int64_t* t_indptr,
                         const int32_t* t_rows, int64_t n, int64_t begin, int64_t end, double* out);)

namespace recengine {
inline int64_t solve_scratch(int64_t d) { return d * d + 4 * d; }
}  // namespace recengine

// Symmetric block sweep in place (lower triangle): after every block was swept, a holds -inverse(A).
// T is float or double. One block is: sweep_pivot, then sweep_panel over all row tiles, then
// sweep_update over all row tiles, then sweep_store over all row tiles.
namespace recengine {
inline constexpr int64_t sweep_block = 120;  // columns swept at once; a multiple of every tile's rows
template <class T>
struct SweepArgs {
  T* a;
  int64_t n;
  int64_t k0, k1;  // the block
  T* pivot;        // [block, block]: its inverse
  T* packed;       // the panel A[:, k0:k1], packed as the tile's right operand
  T* product;      // [n, block]: panel times pivot
};
}  // namespace recengine

RECENGINE_DECLARE(
    int64_t sweep_columns_f32(); int64_t sweep_columns_f64();  // columns of a tile
    bool sweep_pivot_f32(const recengine::SweepArgs<float>& a);
    bool sweep_pivot_f64(const recengine::SweepArgs<double>& a);
    void sweep_panel_f32(const recengine::SweepArgs<float>& a, int64_t begin, int64_t end);
    void sweep_panel_f64(const recengine::SweepArgs<double>& a, int64_t begin, int64_t end);
    void sweep_update_f32(const recengine::SweepArgs<float>& a, int64_t begin, int64_t end);
    void sweep_update_f64(const recengine::SweepArgs<double>& a, int64_t begin, int64_t end);
    void sweep_store_f32(const recengine::SweepArgs<float>& a, int64_t begin, int64_t end);
    void sweep_store_f64(const recengine::SweepArgs<double>& a, int64_t begin, int64_t end);)

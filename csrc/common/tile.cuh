// The matrix product that the CUDA kernels share: one block of 256 threads makes a 64 x 64 tile in float32.
// float32 inputs are multiplied by plain multiply-adds (never tf32), half and bfloat16 on tensor cores.
// Operands come from functions of (row, step) and (step, column), which return zero outside: gathers,
// transposes and conversions cost no copy. The order of every sum is fixed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <cstdint>

namespace recengine::cuda {

constexpr int TILE = 64;
constexpr int STEP = 32;   // inner dimension in flight
constexpr int THREADS = 256;
constexpr int PITCH = TILE + 4;  // floats of a row of the result

template <class T>
__device__ inline float to_float(T x) {
  return static_cast<float>(x);
}
template <class T>
__device__ inline T from_float(float x) {
  return static_cast<T>(x);
}

template <class T>
struct TileMemory {
  // Pitches keep the rows of a wmma fragment 16-byte aligned and off the same banks.
  __align__(16) T a[TILE][STEP + 8];
  __align__(16) T b[STEP][TILE + 8];
  __align__(16) float out[TILE][PITCH];
};

template <class T>
struct Accumulator {  // warp w: rows 16 * (w / 2), columns 32 * (w % 2) and on
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> part[2];

  __device__ void clear() {
    for (auto& p : part) nvcuda::wmma::fill_fragment(p, 0.f);
  }
  __device__ void step(const TileMemory<T>& m) {
    const int warp = static_cast<int>(threadIdx.x) / 32, row = warp / 2 * 16, col = warp % 2 * 32;
    for (int k = 0; k < STEP; k += 16) {
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, T, nvcuda::wmma::row_major> a;
      nvcuda::wmma::load_matrix_sync(a, &m.a[row][k], STEP + 8);
      for (int p = 0; p < 2; ++p) {
        nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, T, nvcuda::wmma::row_major> b;
        nvcuda::wmma::load_matrix_sync(b, &m.b[k][col + 16 * p], TILE + 8);
        nvcuda::wmma::mma_sync(part[p], a, b, part[p]);
      }
    }
  }
  __device__ void store(TileMemory<T>& m) {
    const int warp = static_cast<int>(threadIdx.x) / 32, row = warp / 2 * 16, col = warp % 2 * 32;
    for (int p = 0; p < 2; ++p)
      nvcuda::wmma::store_matrix_sync(&m.out[row][col + 16 * p], part[p], PITCH, nvcuda::wmma::mem_row_major);
  }
};

template <>
struct Accumulator<float> {  // thread t: rows 4 * (t / 16) and on, columns t % 16 + 16 j
  float part[4][4];

  __device__ void clear() {
    for (auto& row : part)
      for (float& p : row) p = 0.f;
  }
  __device__ void step(const TileMemory<float>& m) {
    const int row = static_cast<int>(threadIdx.x) / 16 * 4, col = static_cast<int>(threadIdx.x) % 16;
    for (int k = 0; k < STEP; ++k) {
      float a[4], b[4];
      for (int i = 0; i < 4; ++i) a[i] = m.a[row + i][k];
      for (int j = 0; j < 4; ++j) b[j] = m.b[k][col + 16 * j];
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) part[i][j] = fmaf(a[i], b[j], part[i][j]);
    }
  }
  __device__ void store(TileMemory<float>& m) {
    const int row = static_cast<int>(threadIdx.x) / 16 * 4, col = static_cast<int>(threadIdx.x) % 16;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) m.out[row + i][col + 16 * j] = part[i][j];
  }
};

// Which index runs fastest over the threads of a load: the one that is contiguous in memory.
enum class Fast { step, other };

// Adds A(row, step) B(step, column) over all steps to acc. Loads are unrolled a little only: the operands'
// addresses would take the registers of the accumulators.
template <Fast FA, Fast FB, class T, class A, class B>
__device__ void tile_accumulate(int64_t steps, A&& a, B&& b, TileMemory<T>& m, Accumulator<T>& acc) {
  for (int64_t k0 = 0; k0 < steps; k0 += STEP) {
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x); e < TILE * STEP; e += THREADS) {
      const int i = FA == Fast::step ? e / STEP : e % TILE, k = FA == Fast::step ? e % STEP : e / TILE;
      m.a[i][k] = k0 + k < steps ? a(i, k0 + k) : from_float<T>(0.f);
    }
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x); e < TILE * STEP; e += THREADS) {
      const int j = FB == Fast::step ? e / STEP : e % TILE, k = FB == Fast::step ? e % STEP : e / TILE;
      m.b[k][j] = k0 + k < steps ? b(k0 + k, j) : from_float<T>(0.f);
    }
    __syncthreads();
    acc.step(m);
    __syncthreads();
  }
}

// m.out = A B; every thread sees it on return.
template <Fast FA, Fast FB, class T, class A, class B>
__device__ void tile_product(int64_t steps, A&& a, B&& b, TileMemory<T>& m) {
  Accumulator<T> acc;
  acc.clear();
  tile_accumulate<FA, FB>(steps, a, b, m, acc);
  acc.store(m);
  __syncthreads();
}

// f(row, column) over the tile, by all threads, neighbours in a row.
template <class F>
__device__ void tile_each(F&& f) {
#pragma unroll 2
  for (int e = static_cast<int>(threadIdx.x); e < TILE * TILE; e += THREADS) f(e / TILE, e % TILE);
}

inline unsigned blocks(int64_t n, int64_t size) { return static_cast<unsigned>((n + size - 1) / size); }

}  // namespace recengine::cuda

// Blockwise dot-product top-k and rank counting: what the operators hand to the kernels.
//
// No score matrix is stored. Users are cut into groups (one lane a user), items into blocks; each
// user keeps its best k items so far, and a block only lets through what beats the k-th of them.
// The first block is scored into a small buffer to find a first threshold.
//
// A score is defined once, wherever it is computed: the chain fma(q[j], x[j], .) over j = 0 .. d-1 from
// zero in float32, plus the bias. Order: higher score first, equal scores by smaller id; an item whose
// score is NaN or -inf, or that was seen, is never returned.
#pragma once

#include <cstdint>

namespace recengine::retrieval {

enum class Element : int32_t { f32, bf16 };

struct Matrix {
  const void* data;
  int64_t rows, cols, row_stride, col_stride;
  Element element;
};

// Rows of ids in CSR form; indptr == nullptr: nothing was seen. Ids may repeat and come in any order.
struct Seen {
  const int64_t* indptr;
  const void* ids;
  bool wide;  // int64 rather than int32
};

struct Task {
  Matrix queries, items;
  const float* bias;  // [items] or nullptr
  Seen seen;
  int64_t k;
};

// How the work is cut for this task; filled by topk_plan of the live instruction set.
struct Plan {
  bool screen;          // bf16 matrix tiles find candidates, float32 decides
  int64_t lanes;        // users of a group
  int64_t tile_rows;    // items of a tile
  int64_t first_rows;   // items of the first block, a multiple of tile_rows
  int64_t block_rows;   // items of every other block
  int64_t pending;      // candidates a user may hold before they are weighed
  int64_t users;        // users of a chunk, a multiple of lanes
  int64_t group_bytes;  // packed queries of a group
  int64_t tile_bytes;   // packed items of a tile
  int64_t state_bytes;  // running top-k of a group
  int64_t scratch_bytes;
};

// Up to so many users go through the item table once, as it lies, instead of having it packed for them.
inline constexpr int64_t FEW_USERS = 8;

// Buffers of a chunk of users against a block of items.
struct Workspace {
  char* groups;
  char* tiles;
  char* states;
  int64_t first_user, n_users;  // of the chunk
  int64_t first_item, n_items;  // of the block
};

}  // namespace recengine::retrieval

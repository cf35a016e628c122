#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/pages.h"
#include "common/worker_memory.h"
#include "packed_attention/packed_attention.h"

namespace recengine {
namespace {

using torch::stable::parallel_for;

const int64_t* longs(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }

// [rows, H, d], any strides.
struct View {
  char* data;
  int64_t row, head, elem;
  bool bf16;
  Matrix at(int64_t first, int64_t h) const { return {place(first, h), row, elem, bf16}; }
  MutableMatrix to(int64_t first, int64_t h) const { return {place(first, h), row, elem, bf16}; }
  char* place(int64_t first, int64_t h) const { return data + (first * row + h * head) * (bf16 ? 2 : 4); }
};

// Part `part` of [rows, parts, H, d], or all of [rows, H, d].
View view(const Tensor& x, int64_t part = 0) {
  const int64_t last = x.dim() - 1;
  const bool bf16 = x.scalar_type() == ScalarType::BFloat16;
  char* data = static_cast<char*>(const_cast<void*>(x.const_data_ptr()));
  if (last == 3) data += part * x.stride(1) * (bf16 ? 2 : 4);
  return {data, x.stride(0), x.stride(last - 1), x.stride(last), bf16};
}

struct Call {
  int64_t sequences, rows, asked, heads, d, longest;
  const int64_t* key;           // first row of each sequence
  std::vector<int64_t> query;   // first query of each sequence
  const int64_t* wanted;        // null: every row asks
  bool causal;
};

void check_float(const char* op, const char* name, const Tensor& t) {
  RECENGINE_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16, op, ": ", name,
                  " must be float32 or bfloat16, found ", dtype_name(t));
}

// keys: [T, ., H, d] or [T, H, d], whose first axis is the rows.
Call check(const char* op, const char* name, const Tensor& keys, const std::optional<Tensor>& wanted,
           const Tensor& offsets, bool causal) {
  Call c{};
  check_float(op, name, keys);
  c.rows = keys.size(0);
  c.heads = keys.size(keys.dim() - 2);
  c.d = keys.size(keys.dim() - 1);
  c.causal = causal;
  RECENGINE_CHECK(c.d >= 1 && c.d <= PACKED_MAX_D, op, ": ", name, " has heads of size ", c.d, ", expected 1 to ",
                  PACKED_MAX_D);
  check_dim(op, "cu_seqlens", offsets, 1);
  check_dtype(op, "cu_seqlens", offsets, ScalarType::Long, "int64");
  RECENGINE_CHECK(offsets.numel() >= 1 && (offsets.numel() == 1 || offsets.stride(0) == 1), op,
                  ": cu_seqlens must be contiguous and have at least one element");
  c.sequences = offsets.numel() - 1;
  const int64_t* o = c.key = longs(offsets);
  RECENGINE_CHECK(o[0] == 0 && o[c.sequences] == c.rows, op, ": cu_seqlens must run from 0 to ", c.rows, ", found ", o[0],
                  " and ", o[c.sequences]);
  for (int64_t b = 0; b < c.sequences; ++b) {
    RECENGINE_CHECK(o[b] <= o[b + 1], op, ": cu_seqlens falls at ", b + 1);
    c.longest = std::max(c.longest, o[b + 1] - o[b]);
  }
  c.asked = c.rows;
  if (!wanted) {
    c.query.assign(o, o + c.sequences + 1);
    return c;
  }
  check_dim(op, "wanted", *wanted, 1);
  check_dtype(op, "wanted", *wanted, ScalarType::Long, "int64");
  RECENGINE_CHECK(wanted->numel() < 2 || wanted->stride(0) == 1, op, ": wanted must be contiguous");
  c.asked = wanted->numel();
  c.wanted = longs(*wanted);
  int64_t before = -1, b = 0;
  c.query.reserve(static_cast<size_t>(c.sequences + 1));
  for (int64_t i = 0; i < c.asked; ++i) {
    const int64_t row = c.wanted[i];
    RECENGINE_CHECK(row > before && row < c.rows, op, ": wanted[", i, "] is ", row, ", expected ", before + 1, " to ",
                    c.rows - 1, " (rows ascend)");
    for (; o[b] <= row; ++b) c.query.push_back(i);
    before = row;
  }
  for (; b <= c.sequences; ++b) c.query.push_back(c.asked);
  return c;
}

void check_like(const char* op, const char* name, const Tensor& t, const Call& c, int64_t rows, const Tensor& keys) {
  check_dim(op, name, t, 3);
  check_size(op, name, t, 0, rows);
  check_size(op, name, t, 1, c.heads);
  check_size(op, name, t, 2, c.d);
  check_dtype(op, name, t, keys.scalar_type(), "of the keys' dtype");
}

struct Views {
  View q, k, v, out, grad, dq, dk, dv;
};

PackedNext next_of(const Call& c, const Views& v, bool backward, int64_t unit) {
  const int64_t b = unit / c.heads, hd = unit % c.heads, key = c.key[b], query = c.query[static_cast<size_t>(b)];
  return {v.q.place(query, hd),
          v.k.place(key, hd),
          v.v.place(key, hd),
          backward ? v.grad.place(query, hd) : nullptr,
          c.query[static_cast<size_t>(b + 1)] - query,
          c.key[b + 1] - key};
}

// Every head of every sequence; more(head, unit, first key) sets what is not the same for all operators.
template <class More>
void each_head(const Call& c, const Views& v, bool backward, void (*run)(const PackedHead&, float*), More&& more) {
  parallel_for(0, c.sequences * c.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t b = unit / c.heads, hd = unit % c.heads, key = c.key[b], query = c.query[static_cast<size_t>(b)];
      PackedHead h{};
      h.n = c.key[b + 1] - key;
      h.asked = c.query[static_cast<size_t>(b + 1)] - query;
      h.d = c.d;
      h.q = v.q.at(query, hd);
      h.k = v.k.at(key, hd);
      h.v = v.v.at(key, hd);
      h.wanted = c.wanted ? c.wanted + query : nullptr;
      h.first = key;
      h.causal = c.causal;
      if (backward) {
        h.grad = v.grad.at(query, hd);
        h.dq = v.dq.to(query, hd);
        h.dk = v.dk.to(key, hd);
        h.dv = v.dv.to(key, hd);
      } else {
        h.out = v.out.to(query, hd);
      }
      if (unit + 1 < end) h.next = next_of(c, v, backward, unit + 1);
      more(h, unit, key);
      run(h, worker_memory(packed_scratch(h.n, h.d, backward)));
    }
  });
}

// --- softmax

Tensor softmax_of(const Call& c, Views v, const Tensor& like, double scale) {
  const Tensor out = large_empty(like, {c.asked, c.heads, c.d});
  v.out = view(out);
  each_head(c, v, false, RECENGINE_PICK(softmax_attention_forward),
            [&](PackedHead& h, int64_t, int64_t) { h.scale = static_cast<float>(scale); });
  return out;
}

void softmax_back(const Call& c, const Views& v, double scale) {
  each_head(c, v, true, RECENGINE_PICK(softmax_attention_backward),
            [&](PackedHead& h, int64_t, int64_t) { h.scale = static_cast<float>(scale); });
}

void check_scale(const char* op, double scale) {
  RECENGINE_CHECK(std::isfinite(scale) && scale > 0, op, ": scale must be above 0, found ", scale);
}

Call check_packed(const char* op, const Tensor& qkv, const Tensor& offsets, bool causal, double scale) {
  check_dim(op, "qkv", qkv, 4);
  check_size(op, "qkv", qkv, 1, 3);
  check_scale(op, scale);
  return check(op, "qkv", qkv, {}, offsets, causal);
}

Tensor softmax(const Tensor& qkv, const Tensor& offsets, bool causal, double scale) {
  const Call c = check_packed("softmax_attention", qkv, offsets, causal, scale);
  return softmax_of(c, {view(qkv, 0), view(qkv, 1), view(qkv, 2), {}, {}, {}, {}, {}}, qkv, scale);
}

Tensor softmax_backward(const Tensor& grad, const Tensor& qkv, const Tensor& offsets, bool causal, double scale) {
  const char* op = "softmax_attention_backward";
  const Call c = check_packed(op, qkv, offsets, causal, scale);
  check_like(op, "grad", grad, c, c.rows, qkv);
  const Tensor made = large_empty(qkv, {c.rows, 3, c.heads, c.d});
  softmax_back(c, {view(qkv, 0), view(qkv, 1), view(qkv, 2), {}, view(grad), view(made, 0), view(made, 1), view(made, 2)},
               scale);
  return made;
}

Call check_at(const char* op, const Tensor& q, const Tensor& kv, const Tensor& wanted, const Tensor& offsets, bool causal,
              double scale) {
  check_dim(op, "kv", kv, 4);
  check_size(op, "kv", kv, 1, 2);
  check_scale(op, scale);
  const Call c = check(op, "kv", kv, wanted, offsets, causal);
  check_like(op, "q", q, c, c.asked, kv);
  return c;
}

Tensor softmax_at(const Tensor& q, const Tensor& kv, const Tensor& wanted, const Tensor& offsets, bool causal,
                  double scale) {
  const Call c = check_at("softmax_attention_at", q, kv, wanted, offsets, causal, scale);
  return softmax_of(c, {view(q), view(kv, 0), view(kv, 1), {}, {}, {}, {}, {}}, q, scale);
}

std::tuple<Tensor, Tensor> softmax_at_backward(const Tensor& grad, const Tensor& q, const Tensor& kv, const Tensor& wanted,
                                               const Tensor& offsets, bool causal, double scale) {
  const char* op = "softmax_attention_at_backward";
  const Call c = check_at(op, q, kv, wanted, offsets, causal, scale);
  check_like(op, "grad", grad, c, c.asked, kv);
  const Tensor dq = large_empty(q, {c.asked, c.heads, c.d}), dkv = large_empty(q, {c.rows, 2, c.heads, c.d});
  softmax_back(c, {view(q), view(kv, 0), view(kv, 1), {}, view(grad), view(dq), view(dkv, 0), view(dkv, 1)}, scale);
  return {dq, dkv};
}

// --- gated

// The biases as the kernel reads them: distances from the largest that there is to 0, lanes of zeros behind.
struct Biases {
  int64_t limit;
  std::vector<float> distance, time;
  const int64_t* times;  // of no rows: null
  bool timed;
};

constexpr int64_t LANES = 16;

const float* floats(const char* op, const char* name, const Tensor& t) {
  check_dim(op, name, t, 1);
  check_dtype(op, name, t, ScalarType::Float, "float32");
  RECENGINE_CHECK(t.numel() < 2 || t.stride(0) == 1, op, ": ", name, " must be contiguous");
  return static_cast<const float*>(t.const_data_ptr());
}

Biases check_biases(const char* op, const Call& c, const Tensor& by_distance, const std::optional<Tensor>& times,
                    const std::optional<Tensor>& by_time) {
  Biases x{};
  const float* distance = floats(op, "by_distance", by_distance);
  RECENGINE_CHECK(c.longest <= by_distance.numel(), op, ": by_distance has size ", by_distance.numel(),
                  ", expected at least ", c.longest, ", the longest sequence");
  x.limit = c.longest;
  x.distance.assign(static_cast<size_t>(x.limit + LANES), 0.f);
  std::reverse_copy(distance, distance + x.limit, x.distance.begin());
  RECENGINE_CHECK(times.has_value() == by_time.has_value(), op, ": give times and by_time, or neither");
  if (!times) return x;
  x.timed = true;
  check_dim(op, "times", *times, 1);
  check_size(op, "times", *times, 0, c.rows);
  check_dtype(op, "times", *times, ScalarType::Long, "int64");
  RECENGINE_CHECK(c.rows < 2 || times->stride(0) == 1, op, ": times must be contiguous");
  const float* time = floats(op, "by_time", *by_time);
  check_size(op, "by_time", *by_time, 0, PACKED_BUCKETS);
  x.time.assign(time, time + PACKED_BUCKETS);
  x.times = longs(*times);
  return x;
}

void set_biases(const Biases& x, int64_t key, double share, PackedHead& h) {
  h.by_distance = x.distance.data();
  h.limit = x.limit;
  h.times = x.times ? x.times + key : nullptr;
  h.by_time = x.time.data();
  h.share = static_cast<float>(share);
}

Call check_gated(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& wanted,
                 const Tensor& offsets) {
  check_dim(op, "k", k, 3);
  const Call c = check(op, "k", k, wanted, offsets, true);
  check_like(op, "q", q, c, c.asked, k);
  check_like(op, "v", v, c, c.rows, k);
  return c;
}

Tensor gated(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& wanted, const Tensor& offsets,
             const Tensor& by_distance, std::optional<Tensor> times, std::optional<Tensor> by_time, double share) {
  const char* op = "gated_attention";
  const Call c = check_gated(op, q, k, v, wanted, offsets);
  const Biases biases = check_biases(op, c, by_distance, times, by_time);
  const Tensor out = large_empty(q, {c.asked, c.heads, c.d});
  each_head(c, {view(q), view(k), view(v), view(out), {}, {}, {}, {}}, false, RECENGINE_PICK(gated_attention_forward),
            [&](PackedHead& h, int64_t, int64_t key) { set_biases(biases, key, share, h); });
  return out;
}

template <class T>
std::vector<double> sum_rows(const std::vector<T>& rows, int64_t width) {
  std::vector<double> sum(static_cast<size_t>(width), 0.0);
  for (size_t i = 0; i < rows.size(); ++i) sum[i % static_cast<size_t>(width)] += rows[i];
  return sum;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gated_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& wanted, const Tensor& offsets,
    const Tensor& by_distance, std::optional<Tensor> times, std::optional<Tensor> by_time, double share) {
  const char* op = "gated_attention_backward";
  const Call c = check_gated(op, q, k, v, wanted, offsets);
  const Biases biases = check_biases(op, c, by_distance, times, by_time);
  check_like(op, "grad", grad, c, c.asked, k);
  const Tensor dq = large_empty(q, {c.asked, c.heads, c.d}), dk = large_empty(q, {c.rows, c.heads, c.d}),
               dv = large_empty(q, {c.rows, c.heads, c.d});
  // Every head adds into rows of its own; the rows are added in order.
  const int64_t units = c.sequences * c.heads;
  std::vector<float> distances(static_cast<size_t>(units * biases.limit), 0.f);
  std::vector<double> buckets(static_cast<size_t>(biases.timed ? units * PACKED_BUCKETS : 0), 0.0);
  each_head(c, {view(q), view(k), view(v), {}, view(grad), view(dq), view(dk), view(dv)}, true,
            RECENGINE_PICK(gated_attention_backward), [&](PackedHead& h, int64_t unit, int64_t key) {
              set_biases(biases, key, share, h);
              h.d_distance = distances.data() + unit * biases.limit;
              if (h.times) h.d_time = buckets.data() + unit * PACKED_BUCKETS;
            });
  Tensor d_distance = torch::stable::new_zeros(by_distance, {by_distance.numel()}, ScalarType::Float);
  Tensor d_time = torch::stable::new_empty(by_distance, {biases.timed ? PACKED_BUCKETS : 0}, ScalarType::Float);
  const std::vector<double> distance = sum_rows(distances, biases.limit), time = sum_rows(buckets, PACKED_BUCKETS);
  std::reverse_copy(distance.begin(), distance.end(), static_cast<float*>(d_distance.mutable_data_ptr()));
  if (biases.timed) std::copy(time.begin(), time.end(), static_cast<float*>(d_time.mutable_data_ptr()));
  return {dq, dk, dv, d_distance, d_time};
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, lib) {
  lib.impl("softmax_attention", TORCH_BOX(&recengine::softmax));
  lib.impl("softmax_attention_backward", TORCH_BOX(&recengine::softmax_backward));
  lib.impl("softmax_attention_at", TORCH_BOX(&recengine::softmax_at));
  lib.impl("softmax_attention_at_backward", TORCH_BOX(&recengine::softmax_at_backward));
  lib.impl("gated_attention", TORCH_BOX(&recengine::gated));
  lib.impl("gated_attention_backward", TORCH_BOX(&recengine::gated_backward));
}

#include "packed_attention/packed_attention.h"
#include "native_test.h"

using namespace native;
using namespace recengine;

namespace {

struct Setting {
  int64_t n, d;
  bool bf16, causal, gated, timed;
  int64_t every;  // one of so many rows asks; 0: all, and no list of them
};

struct Data {
  Setting z;
  std::vector<int64_t> wanted, times;
  Buffer q, k, v, g, out, dq, dk, dv;
  std::vector<float> by_distance, by_time, d_distance;
  std::vector<double> d_time;

  static std::vector<int64_t> asked(const Setting& z) {
    std::vector<int64_t> rows;
    for (int64_t i = z.n - 1; i >= 0; i -= z.every ? z.every : 1) rows.insert(rows.begin(), i + 3);  // `first` is 3
    return rows;
  }
  int64_t queries() const { return static_cast<int64_t>(wanted.size()); }
  int64_t limit() const { return z.n + 2; }

  explicit Data(const Setting& z)
      : z(z), wanted(asked(z)), q(queries(), z.d, z.bf16, 5), k(z.n, z.d, z.bf16, 5), v(z.n, z.d, z.bf16, 3),
        g(queries(), z.d, z.bf16, 1), out(queries(), z.d, z.bf16, 0, false), dq(queries(), z.d, z.bf16, 0, false),
        dk(z.n, z.d, z.bf16, 2, false), dv(z.n, z.d, z.bf16, 2, false), d_time(PACKED_BUCKETS, 0.0) {
    for (int64_t i = 0; i < z.n; ++i) times.push_back(i * i * 1000 - (i % 7 == 3 ? 5000 : 0));
    for (int64_t i = 0; i < limit(); ++i) by_distance.push_back(normal());
    by_distance.resize(static_cast<size_t>(limit() + 16), 0.f);
    for (int64_t i = 0; i < PACKED_BUCKETS; ++i) by_time.push_back(normal());
    d_distance.resize(static_cast<size_t>(limit()), 0.f);
  }
  PackedHead head(bool backward) {
    PackedHead h{};
    h.q = q.view(), h.k = k.view(), h.v = v.view();
    h.n = z.n, h.asked = queries(), h.d = z.d;
    h.wanted = z.every ? wanted.data() : nullptr, h.first = 3;
    h.causal = z.causal || z.gated;
    h.scale = 0.3f, h.share = 0.2f;
    h.by_distance = by_distance.data(), h.limit = limit();
    h.times = z.timed ? times.data() : nullptr, h.by_time = by_time.data();
    if (backward) {
      h.grad = g.view(), h.dq = dq.to(), h.dk = dk.to(), h.dv = dv.to();
      h.d_distance = d_distance.data(), h.d_time = d_time.data();
    } else {
      h.out = out.to();
    }
    return h;
  }
};

struct Truth {
  std::vector<double> out, dq, dk, dv, d_distance, d_time;
};

Truth naive(const Data& a) {
  const Setting& z = a.z;
  const int64_t n = z.n, d = z.d, asked = a.queries();
  const auto zeros = [](int64_t size) { return std::vector<double>(static_cast<size_t>(size), 0.0); };
  Truth t{zeros(asked * d), zeros(asked * d), zeros(n * d), zeros(n * d), zeros(a.limit()), zeros(PACKED_BUCKETS)};
  for (int64_t i = 0; i < asked; ++i) {
    const int64_t at = a.wanted[i] - 3, seen = z.causal || z.gated ? at + 1 : n;
    std::vector<double> x(seen), weight(seen), slope(seen);
    std::vector<int> bucket(seen, 0);
    double most = -1e300, sum = 0, mean = 0;
    for (int64_t j = 0; j < seen; ++j) {
      for (int64_t c = 0; c < d; ++c) x[j] += a.q.at(i, c) * a.k.at(j, c);
      if (z.gated) {
        x[j] += a.by_distance[a.limit() - 1 - (at - j)];
        const int64_t gap = std::max<int64_t>(a.times[at] - a.times[j], 0);
        while (gap + 1 >= int64_t{2} << bucket[j]) ++bucket[j];
        if (z.timed) x[j] += a.by_time[bucket[j]];
      } else {
        x[j] *= static_cast<double>(0.3f);
      }
      most = std::max(most, x[j]);
      for (int64_t c = 0; c < d; ++c) slope[j] += a.g.at(i, c) * a.v.at(j, c);
    }
    for (int64_t j = 0; j < seen; ++j) {
      const double s = 1 / (1 + std::exp(-x[j])), share = static_cast<double>(0.2f);
      weight[j] = z.gated ? share * x[j] * s : std::exp(x[j] - most);
      if (z.gated) slope[j] *= share * s * (1 + x[j] * (1 - s));
      sum += weight[j];
    }
    if (!z.gated) {
      for (int64_t j = 0; j < seen; ++j) weight[j] /= sum, mean += weight[j] * slope[j];
      for (int64_t j = 0; j < seen; ++j) slope[j] = weight[j] * (slope[j] - mean);
    }
    for (int64_t j = 0; j < seen; ++j) {
      if (z.gated) {
        t.d_distance[a.limit() - 1 - (at - j)] += slope[j];
        if (z.timed) t.d_time[bucket[j]] += slope[j];
      } else {
        slope[j] *= static_cast<double>(0.3f);
      }
      for (int64_t c = 0; c < d; ++c) {
        t.out[i * d + c] += weight[j] * a.v.at(j, c);
        t.dv[j * d + c] += weight[j] * a.g.at(i, c);
        t.dq[i * d + c] += slope[j] * a.k.at(j, c);
        t.dk[j * d + c] += slope[j] * a.q.at(i, c);
      }
    }
  }
  return t;
}

void run(Data& a) {
  Scratch forward(packed_scratch(a.z.n, a.z.d, false)), backward(packed_scratch(a.z.n, a.z.d, true));
  if (a.z.gated) {
    RECENGINE_PICK(gated_attention_forward)(a.head(false), forward.get());
    RECENGINE_PICK(gated_attention_backward)(a.head(true), backward.get());
  } else {
    RECENGINE_PICK(softmax_attention_forward)(a.head(false), forward.get());
    RECENGINE_PICK(softmax_attention_backward)(a.head(true), backward.get());
  }
}

void check(const Setting& z) {
  Data a(z);
  const Truth t = naive(a);
  run(a);
  const std::string name = std::string(z.gated ? "gated" : "softmax") + " n" + std::to_string(z.n) + " d" +
                           std::to_string(z.d) + (z.causal ? " causal" : "") + (z.bf16 ? " bf16" : "") + " every " +
                           std::to_string(z.every);
  close(a.out, t.out, name + " out");
  close(a.dq, t.dq, name + " dq");
  close(a.dk, t.dk, name + " dk");
  close(a.dv, t.dv, name + " dv");
  if (!z.gated) return;
  double size = 1;
  for (double x : t.d_distance) size = std::max(size, std::abs(x));
  for (int64_t i = 0; i < a.limit(); ++i) close(a.d_distance[i], t.d_distance[i], 4 * size, name + " distance");
  for (double x : t.d_time) size = std::max(size, std::abs(x));
  for (int64_t i = 0; z.timed && i < PACKED_BUCKETS; ++i)
    close(static_cast<float>(a.d_time[i]), t.d_time[i], 4 * size, name + " time");
}

}  // namespace

NATIVE_TEST(packed_attention_against_loops) {
  for (const int64_t n : {1, 7, 16, 33, 70, 140})
    for (const int64_t d : {5, 16, 20, 32, 128})
      for (const bool bf16 : {false, true})
        for (const int64_t every : {0, 1, 3}) {
          check({n, d, bf16, false, false, false, every});
          check({n, d, bf16, true, false, false, every});
          check({n, d, bf16, true, true, every == 1, every});
        }
  check({600, 16, false, true, false, false, 0});
  check({0, 16, false, false, false, false, 0});
}

NATIVE_TEST(packed_attention_by_threads) {
  constexpr int64_t heads = 12;
  std::vector<Data> one, four;
  for (int64_t i = 0; i < heads; ++i) one.emplace_back(Setting{90, 32, false, i % 2 == 0, i % 3 == 0, i % 2 == 0, i % 4});
  four = one;
  parallel(heads, 1, [&](int64_t i) { run(one[i]); });
  parallel(heads, 4, [&](int64_t i) { run(four[i]); });
  for (int64_t i = 0; i < heads; ++i)
    expect(one[i].out.same(four[i].out) && one[i].dq.same(four[i].dq) && one[i].dk.same(four[i].dk) &&
               one[i].dv.same(four[i].dv) && one[i].d_distance == four[i].d_distance && one[i].d_time == four[i].d_time,
           "packed attention: other bits with four threads");
}

#include "attention/attention.h"
#include "native_test.h"

using namespace native;
using namespace recengine;

namespace {

struct Setting {
  int64_t n, d;
  bool bf16, causal, elu, masked, on_key, tables;
  int64_t unasked = 0;  // rows at the end that ask nothing
  int64_t asked() const { return n - unasked; }
};

struct Data {
  Setting z;
  Buffer q, k, v, g, out, dq, dk, dv;
  std::vector<uint8_t> mask;
  std::vector<float> by_count, log_count;

  explicit Data(const Setting& z)
      : z(z), q(z.n, z.d, z.bf16, 5), k(z.n, z.d, z.bf16, 5), v(z.n, z.d, z.bf16, 5), g(z.n, z.d, z.bf16, 1),
        out(z.n, z.d, z.bf16, 0, false), dq(z.n, z.d, z.bf16, 0, false), dk(z.n, z.d, z.bf16, 0, false),
        dv(z.n, z.d, z.bf16, 0, false) {
    for (int64_t i = 0; i < z.n; ++i) mask.push_back(z.masked ? (i > z.n / 3 && below(4) != 0) : 1);
    by_count.resize(static_cast<size_t>(z.n + 1), 1.f);
    log_count.resize(static_cast<size_t>(z.n + 1), 0.f);
    for (int64_t i = 2; i <= z.n; ++i) {
      by_count[i] = std::pow(static_cast<float>(i), -0.6f);
      log_count[i] = std::log(static_cast<float>(i));
    }
  }
  AttentionHead head() {
    AttentionHead h{};
    h.q = q.data(), h.k = k.data(), h.v = v.data(), h.row = h.q_row = q.row, h.elem = h.q_elem = 1;
    h.out = out.data(), h.out_row = out.row;
    h.grad = g.data(), h.grad_row = g.row, h.grad_elem = 1;
    h.dq = dq.data(), h.dk = dk.data(), h.dv = dv.data(), h.d_row = h.dq_row = dq.row;
    h.mask = z.masked ? mask.data() : nullptr, h.mask_step = 1;
    h.n = h.limit = z.n, h.asked = z.asked(), h.d = z.d;
    h.scale = 0.3f;
    if (z.tables) h.by_count = by_count.data(), h.log_count = log_count.data(), h.on_key = z.on_key;
    h.elu = z.elu, h.bf16 = z.bf16, h.causal = z.causal;
    return h;
  }
};

double activated(double x, bool elu) { return elu && x < 0 ? std::expm1(x) : x; }

struct Truth {
  std::vector<double> out, dq, dk, dv;
  double weighted = 0;
};

// By the S x S matrix, row by row.
Truth naive(const Data& a) {
  const Setting& z = a.z;
  const int64_t n = z.n, d = z.d;
  const size_t size = static_cast<size_t>(n * d);
  Truth t{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  std::vector<double> qh(size), kh(size), lq(n), lk(n), c(n), w(n), ln(n), dqh(size), dkh(size);
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    count += a.mask[i];
    double sq = 0, sk = 0;
    for (int64_t j = 0; j < d; ++j) {
      qh[i * d + j] = activated(a.q.at(i, j), z.elu);
      kh[i * d + j] = activated(a.k.at(i, j), z.elu);
      sq += qh[i * d + j] * qh[i * d + j];
      sk += kh[i * d + j] * kh[i * d + j];
    }
    lq[i] = std::sqrt(sq), lk[i] = std::sqrt(sk);
    c[i] = z.tables && !z.on_key ? a.by_count[count] : 0.3f;
    w[i] = z.tables && z.on_key ? a.by_count[count] : 1.0;
    ln[i] = z.tables ? a.log_count[count] : 1.0;
    for (int64_t j = 0; j < d; ++j) qh[i * d + j] /= lq[i], kh[i * d + j] /= lk[i];
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t s = 0; s < n; ++s) {
      if (i >= z.asked() || !a.mask[i] || !a.mask[s] || (z.causal && s > i)) continue;
      double cosine = 0, gv = 0;
      for (int64_t j = 0; j < d; ++j) {
        cosine += qh[i * d + j] * kh[s * d + j];
        gv += a.g.at(i, j) * a.v.at(s, j);
      }
      const double factor = c[i] * w[s];
      t.weighted += factor * cosine * gv * ln[z.on_key ? s : i];
      for (int64_t j = 0; j < d; ++j) {
        t.out[i * d + j] += factor * cosine * a.v.at(s, j);
        t.dv[s * d + j] += factor * cosine * a.g.at(i, j);
        dqh[i * d + j] += factor * gv * kh[s * d + j];
        dkh[s * d + j] += factor * gv * qh[i * d + j];
      }
    }
  const auto through = [&](const Buffer& x, const std::vector<double>& unit, const std::vector<double>& length,
                           const std::vector<double>& up, std::vector<double>& to) {
    for (int64_t i = 0; i < n; ++i) {
      double dot = 0;
      for (int64_t j = 0; j < d; ++j) dot += unit[i * d + j] * up[i * d + j];
      for (int64_t j = 0; j < d; ++j) {
        const double slope = z.elu && x.at(i, j) < 0 ? std::exp(x.at(i, j)) : 1.0;
        to[i * d + j] = (up[i * d + j] - unit[i * d + j] * dot) / length[i] * slope;
      }
    }
  };
  through(a.q, qh, lq, dqh, t.dq);
  through(a.k, kh, lk, dkh, t.dk);
  return t;
}

int64_t sections(int64_t n) { return (n + ATTENTION_SECTION - 1) / ATTENTION_SECTION; }

// The order of the launcher, one thread.
double run(Data& a) {
  AttentionHead forward = a.head(), backward = a.head();
  const int64_t dp = padded16(a.z.d);
  std::vector<float> state(dp * dp), total(dp * dp), own(dp * dp);
  Scratch scratch(attention_scratch(a.z.d));
  if (!a.z.unasked) {
    RECENGINE_PICK(attention_trim)(forward, false);
    RECENGINE_PICK(attention_trim)(backward, true);
  }
  const int64_t n = forward.n, asked = forward.asked;
  if (n == 0) return 0;
  const auto add = [&] {
    for (int64_t i = 0; i < dp * dp; ++i) total[i] += own[i];
  };
  const auto end = [&](int64_t s) { return std::min(n, (s + 1) * ATTENTION_SECTION); };
  if (attention_square(n, asked, a.z.d, a.z.causal)) {
    RECENGINE_PICK(attention_square_forward)(forward, scratch.get());
    return RECENGINE_PICK(attention_square_backward)(backward, scratch.get());
  }
  double weighted = 0;
  if (a.z.causal) {
    for (int64_t s = 0; s < sections(n); ++s) {
      RECENGINE_PICK(attention_causal_forward)(forward, s * ATTENTION_SECTION, end(s), total.data(), own.data(), scratch.get());
      std::vector<float> again(dp * dp);
      RECENGINE_PICK(attention_causal_sum)(forward, s * ATTENTION_SECTION, end(s), false, again.data(), scratch.get());
      expect(again == own, "attention: a section's sum has other bits on its own");
      add();
    }
    std::fill(total.begin(), total.end(), 0.f);
    for (int64_t s = 0; s < sections(n); ++s) {
      weighted += RECENGINE_PICK(attention_causal_query_backward)(backward, s * ATTENTION_SECTION, end(s), total.data(), own.data(), scratch.get());
      add();
    }
    std::fill(total.begin(), total.end(), 0.f);
    for (int64_t s = sections(n) - 1; s >= 0; --s) {
      weighted += RECENGINE_PICK(attention_causal_key_backward)(backward, s * ATTENTION_SECTION, end(s), total.data(), own.data(), scratch.get());
      add();
    }
    return weighted;
  }
  RECENGINE_PICK(attention_state)(forward, 0, n, state.data(), scratch.get());
  RECENGINE_PICK(attention_apply)(forward, 0, asked, state.data(), scratch.get());
  weighted = RECENGINE_PICK(attention_query_backward)(backward, 0, asked, state.data(), total.data(), scratch.get());
  RECENGINE_PICK(attention_key_backward)(backward, 0, n, total.data(), scratch.get());
  return weighted;
}

void check(const Setting& z) {
  Data a(z);
  const Truth t = naive(a);
  const double weighted = run(a);
  const std::string name = "attention n" + std::to_string(z.n) + " d" + std::to_string(z.d) + (z.causal ? " causal" : "") +
                           (z.bf16 ? " bf16" : "") + (z.elu ? " elu" : "");
  close(a.out, t.out, name + " out");
  close(a.dq, t.dq, name + " dq");
  close(a.dk, t.dk, name + " dk");
  close(a.dv, t.dv, name + " dv");
  double size = 0;
  for (double x : t.out) size += x * x;
  close(static_cast<float>(weighted), t.weighted, std::sqrt(size * static_cast<double>(z.n * z.d + 1)), name + " weighted");
}

}  // namespace

NATIVE_TEST(attention_against_loops) {
  for (const int64_t n : {0, 1, 7, 20, 70})
    for (const int64_t d : {5, 16, 20, 64, 128})
      for (const bool bf16 : {false, true})
        for (const bool masked : {false, true}) {
          check({n, d, bf16, false, false, masked, false, false});
          check({n, d, bf16, false, true, masked, false, false});
          check({n, d, bf16, true, false, masked, false, true});
          check({n, d, bf16, true, true, masked, true, true});
        }
  check({600, 16, false, true, false, true, false, false});
  for (const int64_t d : {5, 32, 128})
    for (const bool bf16 : {false, true}) {
      check({70, d, bf16, false, false, false, false, false, 67});
      check({70, d, bf16, false, true, false, false, false, 3});
      check({100, d, bf16, false, false, false, false, false, 30});
    }
}

NATIVE_TEST(attention_by_threads) {
  constexpr int64_t heads = 12;
  std::vector<Data> one, four;
  for (int64_t i = 0; i < heads; ++i) one.emplace_back(Setting{90, 32, false, i % 2 == 0, false, true, false, i % 4 == 0});
  four = one;
  parallel(heads, 1, [&](int64_t i) { run(one[i]); });
  parallel(heads, 4, [&](int64_t i) { run(four[i]); });
  for (int64_t i = 0; i < heads; ++i)
    expect(one[i].out.same(four[i].out) && one[i].dq.same(four[i].dq) && one[i].dk.same(four[i].dk) &&
               one[i].dv.same(four[i].dv), "attention: other bits with four threads");
}

#include "native_test.h"
#include "token_mixing/token_mixing.h"

using namespace native;
using namespace recengine;

namespace {

struct Shape {
  int64_t samples, tokens, heads, part;
};

// s, normed and the gradients of one sample, in doubles.
struct Truth {
  std::vector<double> mixed, normed, dx, dresidual, dweight;
};

Truth naive(const Shape& z, const Buffer& x, const Buffer* residual, const Buffer& w, const Buffer& gn,
            const Buffer& gm, bool own) {
  const int64_t width = z.tokens * z.part, d = z.heads * z.part;
  Truth t{std::vector<double>(z.heads * width), std::vector<double>(z.heads * width), std::vector<double>(z.tokens * d),
          std::vector<double>(z.heads * width), std::vector<double>(width)};
  for (int64_t h = 0; h < z.heads; ++h) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) {
      double s = x.at(i / z.part, h * z.part + i % z.part);
      if (own) s += x.at(h, i);
      if (residual) s += residual->at(h, i);
      t.mixed[h * width + i] = s;
      squares += s * s;
    }
    const double r = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-6);
    double mean = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double u = t.mixed[h * width + i] * r;
      t.normed[h * width + i] = u * w.at(0, i);
      t.dweight[i] += gn.at(h, i) * u;
      mean += u * w.at(0, i) * gn.at(h, i) / static_cast<double>(width);
    }
    for (int64_t i = 0; i < width; ++i) {
      const double ds = r * (w.at(0, i) * gn.at(h, i) - t.mixed[h * width + i] * r * mean) + gm.at(h, i);
      t.dresidual[h * width + i] = ds;
      t.dx[(i / z.part) * d + h * z.part + i % z.part] += ds;
      if (own) t.dx[h * d + i] += ds;
    }
  }
  return t;
}

void check(const Shape& z, bool bf16, bool with_residual, bool own) {
  const int64_t width = z.tokens * z.part, d = z.heads * z.part;
  Buffer x(z.tokens, d, bf16, 3), residual(z.heads, width, bf16, 1), w(1, width), gn(z.heads, width, bf16),
      gm(z.heads, width, bf16, 2);
  const std::string name = "token_mixing T" + std::to_string(z.tokens) + " H" + std::to_string(z.heads) + " part" +
                           std::to_string(z.part) + (bf16 ? " bf16" : "") + (own ? " own" : "");
  const Truth t = naive(z, x, with_residual ? &residual : nullptr, w, gn, gm, own);
  const MixSample sample{z.tokens, z.heads, z.part, x.view(),
                         own ? x.view() : (with_residual ? residual.view() : Matrix{}), w.wide.data(), 1e-6f};
  Buffer normed(z.heads, width, bf16, 1, false), mixed(z.heads, width, bf16, 0, false), dx(z.tokens, d, bf16, 0, false),
      dr(z.heads, width, bf16, 0, false), dw(1, width, false, 0, false);
  std::vector<float> rstd(static_cast<size_t>(z.heads));
  Scratch scratch(mix_scratch(z.tokens, z.heads, z.part));
  RECENGINE_PICK(mix_forward)(sample, normed.to(), mixed.to(), rstd.data(), scratch.get());
  close(normed, t.normed, name + " normed");
  close(mixed, t.mixed, name + " mixed");
  const MixGradients g{gn.view(), gm.view(), Matrix{}, rstd.data(), dx.to(), dr.to(), own, dw.wide.data()};
  RECENGINE_PICK(mix_backward)(sample, g, scratch.get());
  close(dx, t.dx, name + " dx");
  close(dr, t.dresidual, name + " dresidual");
  close(dw, t.dweight, name + " dweight");
}

}  // namespace

NATIVE_TEST(token_mixing_against_loops) {
  for (const bool bf16 : {false, true}) {
    for (const Shape z : {Shape{1, 4, 4, 16}, {1, 5, 3, 7}, {1, 16, 2, 3}, {1, 1, 6, 20}, {1, 3, 1, 33}, {1, 2, 16, 15}, {1, 4, 16, 16}})
      for (const bool with_residual : {false, true}) check(z, bf16, with_residual, false);
    check({1, 4, 4, 16}, bf16, false, true);
    check({1, 3, 3, 5}, bf16, false, true);
  }
}

NATIVE_TEST(token_mixing_of_nothing) {
  check({1, 0, 3, 4}, false, true, false);
  check({1, 3, 2, 0}, false, true, false);
}

NATIVE_TEST(token_mixing_by_threads) {
  const int64_t samples = 24, tokens = 4, part = 16, d = tokens * part;
  Buffer x(samples * tokens, d), w(1, d);
  std::vector<Buffer> results;
  for (const int threads : {1, 4}) {
    Buffer out(samples * tokens, d, false, 0, false);
    std::vector<float> rstd(static_cast<size_t>(samples * tokens));
    parallel(samples, threads, [&](int64_t b) {
      Scratch scratch(mix_scratch(tokens, tokens, part));
      const Matrix in{x.wide.data() + b * tokens * d, d, 1, false};
      const MutableMatrix to{out.wide.data() + b * tokens * d, d, 1, false};
      RECENGINE_PICK(mix_forward)({tokens, tokens, part, in, in, w.wide.data(), 1e-6f}, to, MutableMatrix{},
                                  rstd.data() + b * tokens, scratch.get());
    });
    results.push_back(out);
  }
  expect(results[0].same(results[1]), "token_mixing: other bits with four threads");
}

#include "moe/kernels.h"
#include "native_test.h"

using namespace native;
using namespace recengine;

RECENGINE_DECLARE(RECENGINE_MOE_KERNELS)

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One expert with its rows: a gathered, possibly repeated-free choice of the rows of x.
struct Layer {
  int64_t width, hidden, all;
  Buffer x, grad, gate, up, down;
  std::vector<int64_t> index;
  std::vector<float> scale;

  Layer(int64_t width, int64_t hidden, int64_t all, int64_t step, bool bf16)
      : width(width), hidden(hidden), all(all), x(all, width, bf16, 3), grad(all, width, bf16, 1),
        gate(width, hidden, bf16, 2), up(width, hidden, bf16), down(hidden, width, bf16, 5) {
    for (int64_t r = 0; r < all; r += step) {
      index.push_back(r);
      scale.push_back(0.5f + 0.25f * static_cast<float>(r % 3));
    }
    for (Buffer* w : {&gate, &up, &down})
      for (int64_t r = 0; r < w->rows; ++r)
        for (int64_t c = 0; c < w->cols; ++c)
          w->set(r, c, static_cast<float>(w->at(r, c) / std::sqrt(static_cast<double>(w->rows))));
  }
  Expert expert(const float* packed = nullptr) { return {gate.view(), up.view(), down.view(), packed, width, hidden}; }
  ExpertRows rows(bool scaled) {
    return {index.data(), scaled ? scale.data() : nullptr, static_cast<int64_t>(index.size())};
  }
};

struct Truth {
  std::vector<double> y, dx, dgate, dup, ddown, dscale;
};

Truth naive(Layer& l, bool scaled) {
  const int64_t d = l.width, f = l.hidden;
  Truth t{std::vector<double>(l.all * d), std::vector<double>(l.all * d), std::vector<double>(d * f),
          std::vector<double>(d * f),     std::vector<double>(f * d),     std::vector<double>(l.index.size())};
  for (size_t i = 0; i < l.index.size(); ++i) {
    const int64_t r = l.index[i];
    const double s = scaled ? l.scale[i] : 1;
    for (int64_t h = 0; h < f; ++h) {
      double z = 0, u = 0, back = 0;
      for (int64_t k = 0; k < d; ++k) {
        z += l.x.at(r, k) * l.gate.at(k, h);
        u += l.x.at(r, k) * l.up.at(k, h);
        back += l.grad.at(r, k) * l.down.at(h, k);
      }
      const double open = sigmoid(z), swish = z * open, active = swish * u;
      const double dz = s * back * u * (open + swish * (1 - open)), du = s * back * swish;
      t.dscale[i] += active * back;
      for (int64_t k = 0; k < d; ++k) {
        t.y[r * d + k] += s * active * l.down.at(h, k);
        t.dx[r * d + k] += dz * l.gate.at(k, h) + du * l.up.at(k, h);
        t.dgate[k * f + h] += l.x.at(r, k) * dz;
        t.dup[k * f + h] += l.x.at(r, k) * du;
        t.ddown[h * d + k] += s * active * l.grad.at(r, k);
      }
    }
  }
  return t;
}

// laid_out: the rows are prepared for several experts, and the expert is the first to write their sums.
Buffer forward(Layer& l, bool scaled, bool packed, bool laid_out = false) {
  const bool bf16 = l.x.bf16;
  const int64_t wide = RECENGINE_PICK(swiglu_row_size)(l.width);
  std::vector<float> panels(packed ? static_cast<size_t>(RECENGINE_PICK(swiglu_packed_size)(l.width, l.hidden, bf16)) : 0);
  std::vector<float> sum(static_cast<size_t>(l.all * wide), 0.f);
  if (packed) RECENGINE_PICK(swiglu_pack)(l.expert(), panels.data());
  ExpertRows rows = l.rows(scaled);
  const int64_t size = laid_out ? RECENGINE_PICK(swiglu_prepared_size)(l.width, l.hidden, l.all, bf16) : 0;
  Scratch prepared(size + 1);
  if (size) {
    RECENGINE_PICK(swiglu_prepare)(l.x.view(), 0, l.all, l.width, prepared.get());
    rows.prepared = prepared.get();
  }
  rows.fresh = laid_out;
  for (int64_t i = 0; laid_out && i < rows.count; ++i) std::fill_n(sum.begin() + rows.index[i] * wide, wide, NAN);
  Scratch scratch(RECENGINE_PICK(swiglu_forward_scratch)(l.width, l.hidden, rows.count, bf16));
  RECENGINE_PICK(swiglu_forward)(l.expert(packed ? panels.data() : nullptr), l.x.view(), rows, 0, sum.data(), scratch.get());
  Buffer y(l.all, l.width, bf16, 0, false);
  RECENGINE_PICK(write_rows)(sum.data(), 0, l.all, l.width, y.to());
  return y;
}

// outlier: rows from this one on have an element beside which the others lose places in fixed point.
void check(int64_t width, int64_t hidden, int64_t all, int64_t step, bool bf16, int64_t outlier = -1) {
  Layer l(width, hidden, all, step, bf16);
  for (int64_t r = outlier; outlier >= 0 && r < all; r += 2) l.grad.set(r, 3, 100.f);
  const std::string name = "swiglu D" + std::to_string(width) + " F" + std::to_string(hidden) + " rows" +
                           std::to_string(l.index.size()) + (bf16 ? " bf16" : "");
  for (const bool scaled : {false, true}) {
    const Truth t = naive(l, scaled);
    const Buffer y = forward(l, scaled, false);
    const double twice = bf16 ? 5e-4 : 0;  // 1.7e-3 of the result and of what lies between, independently: 2.4e-3
    close(y, t.y, name + " y", twice);
    expect(y.same(forward(l, scaled, true)), name + ": other bits from packed weights");
    expect(y.same(forward(l, scaled, true, true)), name + ": other bits from prepared rows");
    const int64_t wide = RECENGINE_PICK(swiglu_row_size)(width);
    const ExpertRows rows = l.rows(scaled);
    std::vector<float> change(static_cast<size_t>(all * wide), 0.f), dscale(l.index.size());
    Buffer dgate(width, hidden, false, 0, false), dup(width, hidden, false, 0, false), ddown(hidden, width, false, 0, false);
    for (Buffer* b : {&dgate, &dup, &ddown}) b->wide.assign(b->wide.size(), NAN);  // fresh gradients are written
    Scratch scratch(RECENGINE_PICK(swiglu_backward_scratch)(width, hidden, rows.count, bf16));
    const auto run = [&](bool fresh) {
      RECENGINE_PICK(swiglu_backward)(l.expert(), l.x.view(), l.grad.view(), rows, 0, change.data(),
                                      {dgate.wide.data(), dup.wide.data(), ddown.wide.data(), fresh}, dscale.data(),
                                      scratch.get());
    };
    run(true);
    Buffer dx(all, width, bf16, 0, false);
    RECENGINE_PICK(write_rows)(change.data(), 0, all, width, dx.to());
    close(dx, t.dx, name + " dx", twice);
    const double loose = between_products(bf16);
    const auto weights = [&](const Buffer& found, const std::vector<double>& truth, double times, const char* what) {
      double error = 0, size = 0;
      for (size_t i = 0; i < truth.size(); ++i) {
        const double off = found.wide[i] - times * truth[i];
        error += off * off;
        size += truth[i] * truth[i];
      }
      expect(std::sqrt(error) <= (2e-6 + loose) * times * std::sqrt(size) + 1e-5, name + what);
    };
    weights(dgate, t.dgate, 1, " dgate");
    weights(dup, t.dup, 1, " dup");
    weights(ddown, t.ddown, 1, " ddown");
    for (size_t i = 0; i < dscale.size(); ++i)
      expect(std::abs(dscale[i] - t.dscale[i]) <= (1e-5 + loose) * (std::abs(t.dscale[i]) + static_cast<double>(width)), name + " dscale");
    run(false);
    weights(dgate, t.dgate, 2, " dgate added");
    weights(ddown, t.ddown, 2, " ddown added");
  }
}

}  // namespace

NATIVE_TEST(swiglu_against_loops) {
  for (const bool bf16 : {false, true}) {
    check(32, 64, 70, 1, bf16);
    check(40, 33, 50, 2, bf16);
    check(5, 9, 3, 1, bf16);
    check(1, 1, 1, 1, bf16);
    check(64, 96, 300, 1, bf16);  // several blocks of rows
    check(72, 260, 45, 1, bf16);  // float32 in fixed point where there are int8 tiles
    check(72, 260, 90, 1, bf16, 40);  // a block of rows that is too coarse for it, behind one that is not
  }
}

NATIVE_TEST(swiglu_of_nothing) {
  for (const bool bf16 : {false, true}) {
    Layer l(8, 16, 4, 1, bf16);
    l.index.clear();
    const Buffer y = forward(l, false, false);
    for (int64_t r = 0; r < 4; ++r)
      for (int64_t c = 0; c < 8; ++c) expect(y.at(r, c) == 0, "swiglu without rows gave something");
  }
}

NATIVE_TEST(swiglu_by_threads) {
  std::vector<Layer> layers;
  for (int i = 0; i < 6; ++i) layers.emplace_back(32, 48, 40, 1, i % 2 == 1);
  std::vector<std::vector<Buffer>> results;
  for (const int threads : {1, 3}) {
    std::vector<Buffer> y(layers.size(), Buffer(0, 0));
    parallel(static_cast<int64_t>(layers.size()), threads,
             [&](int64_t i) { y[static_cast<size_t>(i)] = forward(layers[static_cast<size_t>(i)], true, false); });
    results.push_back(y);
  }
  for (size_t i = 0; i < layers.size(); ++i)
    expect(results[0][i].same(results[1][i]), "swiglu: other bits with three threads");
}

static void route_against_loops(int64_t rows, int64_t width, int64_t experts, int64_t k) {
  Buffer x(rows, width), weight(width, experts);
  std::vector<float> packed(static_cast<size_t>(RECENGINE_PICK(router_size)(width, experts)));
  RECENGINE_PICK(router_pack)(weight.view(), width, experts, packed.data());
  std::vector<int64_t> chosen(rows * k);
  std::vector<float> gates(rows * k);
  Scratch scratch(RECENGINE_PICK(route_scratch)(width, experts));
  RECENGINE_PICK(route_rows)({x.view(), packed.data(), rows, width, experts, k}, 0, rows, k, chosen.data(), gates.data(),
                             scratch.get());
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> logits(experts);
    for (int64_t e = 0; e < experts; ++e)
      for (int64_t d = 0; d < width; ++d) logits[e] += x.at(r, d) * weight.at(d, e);
    double total = 0, sum = 0;
    for (int64_t j = 0; j < k; ++j) total += std::exp(logits[chosen[r * k + j]]);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t e = chosen[r * k + j];
      close(gates[r * k + j], std::exp(logits[e]) / total, 4, "gate");
      sum += gates[r * k + j];
      int64_t above = 0;
      for (int64_t other = 0; other < experts; ++other) above += logits[other] > logits[e];
      expect(above == j, "routing: expert out of order");
    }
    close(static_cast<float>(sum), 1, 1, "sum of gates");
  }
}

NATIVE_TEST(routing_against_loops) {
  route_against_loops(21, 13, 19, 4);
  route_against_loops(23, 13, 3, 2);  // few experts: their logits go another way
  route_against_loops(5, 32, 1, 1);
}

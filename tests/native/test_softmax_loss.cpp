#include <algorithm>

#include "native_test.h"
#include "softmax_loss/kernels.h"

namespace baseline { RECENGINE_SOFTMAX_LOSS_KERNELS }
namespace avx2 { RECENGINE_SOFTMAX_LOSS_KERNELS }
namespace avx512 { RECENGINE_SOFTMAX_LOSS_KERNELS }

using namespace native;
using recengine::CatalogueLoss;
using recengine::CompetingEntries;
using recengine::GivenLogits;
using recengine::SampledLogSumExp;

namespace {

// The whole catalogue in one part, one chunk of rows after another, as the launcher does.
void catalogue(int64_t rows, int64_t items, int64_t d, bool bf16, bool keep = false) {
  Buffer hidden(rows, d, bf16, 1), weight(items, d, bf16, 2), bias(1, items);
  std::vector<int64_t> index, target;
  for (int64_t r = 0; r < rows; ++r) {
    index.push_back(r);
    target.push_back(r % 3 == 1 ? -1 : below(items));
  }
  CatalogueLoss p{hidden.view(), weight.view(), bias.wide.data(), index.data(), target.data(), nullptr, nullptr,
                        0.5f, rows, items, d};
  const auto tiles = RECENGINE_PICK(catalogue_tiles)();
  const int64_t blocks = (items + tiles.items - 1) / tiles.items, wide = (d + tiles.panel - 1) / tiles.panel * tiles.panel;
  const int64_t chunk = (rows + tiles.row_tile - 1) / tiles.row_tile * tiles.row_tile;
  const auto floats = RECENGINE_PICK(catalogue_scratch)(p);
  const int64_t steps = chunk / tiles.row_tile;
  std::vector<float> logits(keep ? static_cast<size_t>(chunk * blocks * tiles.items) : 0);
  if (keep) p.logits = logits.data();
  Scratch left(steps * floats.left), right(steps * floats.right), forward(floats.forward), backward(floats.backward), finish(2 * wide);
  for (int64_t t = 0; t < steps; ++t)
    RECENGINE_PICK(catalogue_pack_rows)(p, t * tiles.row_tile, left.get() + t * floats.left, right.get() + t * floats.right);
  std::vector<float> largest(static_cast<size_t>(chunk)), sum(largest.size()), loss(largest.size()), lse(largest.size());
  RECENGINE_PICK(catalogue_forward)(p, left.get(), 0, rows, 0, blocks, largest.data(), sum.data(), forward.get());
  std::vector<float> spread, hit;
  std::vector<double> dh(rows * d), dw(items * d), db(items);
  for (int64_t r = 0; r < rows; ++r) {
    RECENGINE_PICK(catalogue_finish)(p, r, largest.data() + r, sum.data() + r, 1, chunk, loss.data() + r, lse.data() + r, finish.get());
    std::vector<double> logit(items);
    double total = 0;
    for (int64_t v = 0; v < items; ++v) {
      for (int64_t j = 0; j < d; ++j) logit[v] += 0.5 * hidden.at(r, j) * weight.at(v, j);
      logit[v] += bias.at(0, v);
      total += std::exp(logit[v]);
    }
    close(lse[r], std::log(total), 10, "catalogue lse");
    if (target[r] >= 0) close(loss[r], std::log(total) - logit[target[r]], 10, "catalogue loss");
    spread.push_back(normal());
    hit.push_back(target[r] >= 0 ? normal() : 0.f);
    for (int64_t v = 0; v < items; ++v) {
      const double g = spread[r] * std::exp(logit[v]) / total - (v == target[r] ? hit[r] : 0);
      db[v] += g;
      for (int64_t j = 0; j < d; ++j) {
        dh[r * d + j] += 0.5 * g * weight.at(v, j);
        dw[v * d + j] += 0.5 * g * hidden.at(r, j);
      }
    }
  }
  spread.resize(largest.size());
  hit.resize(largest.size());
  std::vector<float> part(static_cast<size_t>(chunk * wide));
  Buffer found_w(items, d, false, 0, false), found_b(1, items, false, 0, false), found_h(rows, d, false, 0, false);
  RECENGINE_PICK(catalogue_backward)(p, left.get(), right.get(), 0, rows, 0, blocks, lse.data(), spread.data(), hit.data(),
                                     part.data(), found_w.wide.data(), found_b.wide.data(), true, backward.get());
  for (int64_t r = 0; r < rows; ++r)
    RECENGINE_PICK(catalogue_sum_parts)(part.data() + r * wide, 1, chunk * wide, d, found_h.to(), r, finish.get());
  close(found_h, dh, "catalogue gradient of the rows", between_products(bf16));
  close(found_w, dw, "catalogue gradient of the items", between_products(bf16));
  close(found_b, db, "catalogue gradient of the bias");
}

void sampled(int64_t rows, int64_t items, int64_t count, int64_t d, bool bf16, int threads) {
  Buffer anchors(rows, d, bf16, 1), table(items, d, bf16, 3), log_weight(rows, count);
  std::vector<int64_t> negatives, positives, exclude;
  std::vector<float> inverse;
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t j = 0; j < count; ++j) negatives.push_back(below(7) ? below(items) : -1);
    positives.push_back(below(items));
    exclude.push_back(positives.back());
    inverse.push_back(0.5f + 0.1f * static_cast<float>(b % 5));
  }
  const SampledLogSumExp p{anchors.view(), table.view(), negatives.data(), count, 1, positives.data(), exclude.data(),
                           log_weight.wide.data(), count, 1, inverse.data(), rows, count, d};
  const int64_t floats = RECENGINE_PICK(sampled_scratch)(p), entries = p.entries();
  std::vector<float> lse(static_cast<size_t>(rows)), grads(lse.size()), share(static_cast<size_t>(rows * entries));
  Buffer found(rows, d, bf16, 0, false);
  parallel(rows, threads, [&](int64_t b) {
    Scratch scratch(floats);
    lse[b] = RECENGINE_PICK(sampled_forward)(p, b, scratch.get());
    grads[b] = RECENGINE_PICK(sampled_backward)(p, b, lse[b], 1.f, share.data() + b * entries, found.to(), scratch.get());
  });
  std::vector<double> da(rows * d);
  for (int64_t b = 0; b < rows; ++b) {
    std::vector<double> logit(entries, -INFINITY);
    double total = 0;
    for (int64_t j = 0; j < entries; ++j) {
      const int64_t n = p.id(b, j);
      if (n < 0) continue;
      logit[j] = j < count ? log_weight.at(b, j) : 0;
      for (int64_t i = 0; i < d; ++i) logit[j] += inverse[b] * anchors.at(b, i) * table.at(n, i);
      total += std::exp(logit[j]);
    }
    close(lse[b], std::log(total), 10, "sampled log-sum-exp");
    for (int64_t j = 0; j < entries; ++j) {
      const int64_t n = p.id(b, j);
      for (int64_t i = 0; n >= 0 && i < d; ++i)
        da[b * d + i] += std::exp(logit[j]) / total * inverse[b] * table.at(n, i);
    }
  }
  close(found, da, "sampled gradient of the anchors");
}

void given(int64_t rows, int64_t count, bool bf16, int threads) {
  Buffer logits(rows, count, bf16, 2);
  std::vector<uint8_t> live;
  for (int64_t e = 0; e < rows * count; ++e) live.push_back(below(3) ? 1 : 0);
  const GivenLogits p{logits.view(), live.data(), count, 1, rows, count};
  const int64_t floats = RECENGINE_PICK(given_scratch)(p);
  std::vector<float> lse(static_cast<size_t>(rows));
  Buffer found(rows, count, bf16, 0, false);
  parallel(rows, threads, [&](int64_t b) {
    Scratch scratch(floats);
    lse[b] = RECENGINE_PICK(given_forward)(p, b, scratch.get());
    RECENGINE_PICK(given_backward)(p, b, lse[b], 1.f, found.to(), scratch.get());
  });
  std::vector<double> share(rows * count);
  for (int64_t b = 0; b < rows; ++b) {
    double total = 0;
    for (int64_t j = 0; j < count; ++j)
      if (live[b * count + j]) total += share[b * count + j] = std::exp(logits.at(b, j));
    if (total > 0)
      close(lse[b], std::log(total), 10, "log-sum-exp of given logits");
    else
      expect(lse[b] == -INFINITY, "log-sum-exp of nothing");
    for (int64_t j = 0; j < count && total > 0; ++j) share[b * count + j] /= total;
  }
  close(found, share, "gradient of given logits");
}

// Weights, slate, intensity and least score of a row against loops.
void competing(int64_t rows, int64_t count, int64_t slate, bool bf16, int threads) {
  Buffer scores(rows, count, bf16, 2), likeness(rows, count, bf16, 3);
  std::vector<uint8_t> live;
  for (int64_t e = 0; e < rows * count; ++e) live.push_back(below(3) ? 1 : 0);
  const double hardness = 0.7, alike = 0.4, positive = 0.1, temperature = 0.3;
  const CompetingEntries p{scores.view(), likeness.view(), live.data(), count, 1, rows, count, slate,
                           static_cast<float>(hardness), static_cast<float>(alike), static_cast<float>(1 / temperature)};
  const int64_t floats = RECENGINE_PICK(competing_scratch)(p);
  std::vector<float> weight(rows * count), intensity(rows), least(rows);
  std::vector<int64_t> chosen(rows * slate);
  parallel(rows, threads, [&](int64_t b) {
    Scratch scratch(floats);
    RECENGINE_PICK(competing_row)
    (p, b, static_cast<float>(positive), weight.data() + b * count, chosen.data() + b * slate, &intensity[b], &least[b],
     scratch.get());
  });
  for (int64_t b = 0; b < rows; ++b) {
    double n = 0, mean = 0, square = 0, level = 0;
    for (int64_t j = 0; j < count; ++j)
      if (live[b * count + j]) n += 1, mean += scores.at(b, j);
    n = std::max(n, 1.0), mean /= n;
    for (int64_t j = 0; j < count; ++j)
      if (live[b * count + j]) square += (scores.at(b, j) - mean) * (scores.at(b, j) - mean);
    const double sd = std::sqrt(square / n) + 1e-6;
    std::vector<double> g(count), keys(count, -INFINITY);
    for (int64_t j = 0; j < count; ++j) {
      g[j] = hardness / (1 + std::exp(-(scores.at(b, j) - mean) / sd)) + alike * std::max(0.0, double(likeness.at(b, j)));
      if (live[b * count + j]) level += g[j] / n;
    }
    for (int64_t j = 0; j < count; ++j) {
      const double wanted = live[b * count + j] ? std::log((1 + g[j]) / (1 + level)) : 0;
      close(weight[b * count + j], wanted, 10, "weight of a competing entry");
      if (live[b * count + j]) keys[j] = weight[b * count + j] + (scores.at(b, j) - positive) / temperature;
    }
    double crowd = 0, inside = 0, lowest = INFINITY, least_key = INFINITY;
    std::vector<char> in(count, 0);
    for (int64_t i = 0; i < slate; ++i) {
      const int64_t j = chosen[b * slate + i];
      expect(j >= 0 && j < count && !in[j], "an entry is in the slate once");
      in[j] = 1;
      if (!live[b * count + j]) continue;
      crowd += 1 / (1 + std::exp(-(scores.at(b, j) - positive) / temperature)), inside += 1;
      lowest = std::min(lowest, double(scores.at(b, j))), least_key = std::min(least_key, keys[j]);
    }
    for (int64_t j = 0; j < count; ++j)
      expect(!live[b * count + j] || in[j] || (inside == slate && keys[j] <= least_key + 1e-4), "the slate is the best");
    close(intensity[b], inside ? crowd / inside : 0, 10, "intensity of a slate");
    close(least[b], inside ? lowest : -1, 10, "least score of a slate");
  }
}

}  // namespace

NATIVE_TEST(competing_against_loops) {
  for (const bool bf16 : {false, true})
    for (const int threads : {1, 4}) {
      competing(1, 1, 1, bf16, threads);
      competing(5, 7, 7, bf16, threads);
      competing(4, 200, 20, bf16, threads);
      competing(3, 333, 90, bf16, threads);
    }
}

NATIVE_TEST(given_against_loops) {
  for (const bool bf16 : {false, true})
    for (const int threads : {1, 4}) {
      given(1, 1, bf16, threads);
      given(7, 2, bf16, threads);
      given(9, 33, bf16, threads);
      given(5, 130, bf16, threads);
    }
}
NATIVE_TEST(catalogue_against_loops) {
  for (const bool bf16 : {false, true}) {
    catalogue(1, 1, 1, bf16);
    catalogue(13, 70, 20, bf16);
    catalogue(50, 1030, 33, bf16);
    for (const bool keep : {false, true}) catalogue(250, 400, 20, bf16, keep);
  }
  catalogue(1, 1, 1, false, true);
}
NATIVE_TEST(sampled_against_loops) {
  for (const bool bf16 : {false, true})
    for (const int threads : {1, 4}) {
      sampled(1, 1, 1, 1, bf16, threads);
      sampled(9, 40, 13, 20, bf16, threads);
      sampled(5, 300, 130, 64, bf16, threads);
    }
}

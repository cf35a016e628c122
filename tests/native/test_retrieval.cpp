#include <algorithm>

#include "common/amx.h"
#include "native_test.h"
#include "retrieval/topk.h"

using native::expect;
using recengine::retrieval::Element;
using recengine::retrieval::Plan;
using recengine::retrieval::Seen;
using recengine::retrieval::Task;
using recengine::retrieval::Workspace;

#define JOB const recengine::retrieval::Task &, const recengine::retrieval::Plan &, const recengine::retrieval::Workspace &
RECENGINE_DECLARE(
    void topk_plan(const recengine::retrieval::Task&, bool, recengine::retrieval::Plan&);
    void topk_pack_groups(JOB, char*, int64_t, int64_t); void topk_pack_tiles(JOB, char*, int64_t, int64_t);
    void topk_open(JOB, char*, int64_t, int64_t); void topk_scan(JOB, char*, int64_t, int64_t);
    void topk_finish(JOB, char*, int64_t, int64_t, float*, int64_t*);
    int64_t topk_few_bytes(const recengine::retrieval::Task&);
    void topk_few_scan(const recengine::retrieval::Task&, int64_t, int64_t, char*);
    void topk_few_finish(const recengine::retrieval::Task&, int64_t, char*, float*, int64_t*);)

namespace {

int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

struct Memory {
  std::vector<char> bytes;
  explicit Memory(int64_t n) : bytes(static_cast<size_t>(n) + 128) {}
  char* get() { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64); }
};

// As the launcher goes through a task, groups by `threads` threads.
void run(const Task& task, bool screen, int threads, std::vector<float>& scores, std::vector<int64_t>& ids) {
  Plan plan{};
  RECENGINE_PICK(topk_plan)(task, screen, plan);
  const int64_t users = std::min(task.queries.rows, plan.users), n = task.items.rows;
  const int64_t rows = std::min(std::max(plan.first_rows, plan.block_rows), n);
  Memory groups(parts(users, plan.lanes) * plan.group_bytes), states(parts(users, plan.lanes) * plan.state_bytes),
      tiles(parts(rows, plan.tile_rows) * plan.tile_bytes);
  std::vector<Memory> scratch(static_cast<size_t>(threads), Memory(plan.scratch_bytes));
  Workspace space{groups.get(), tiles.get(), states.get(), 0, 0, 0, 0};
  const auto in_parts = [&](int64_t count, auto&& step) {
    native::parallel(threads, threads, [&](int64_t t) {
      const int64_t from = count * t / threads, to = count * (t + 1) / threads;
      if (from < to) step(scratch[static_cast<size_t>(t)].get(), from, to);
    });
  };
  for (int64_t u = 0; u < task.queries.rows; u += users) {
    space.first_user = u;
    space.n_users = std::min(users, task.queries.rows - u);
    const int64_t count = parts(space.n_users, plan.lanes);
    in_parts(count, [&](char* own, int64_t a, int64_t b) { RECENGINE_PICK(topk_pack_groups)(task, plan, space, own, a, b); });
    for (int64_t i = 0; i < n; i += space.n_items) {
      space.first_item = i;
      space.n_items = std::min(i == 0 ? plan.first_rows : plan.block_rows, n - i);
      in_parts(parts(space.n_items, plan.tile_rows), [&](char* own, int64_t a, int64_t b) {
        RECENGINE_PICK(topk_pack_tiles)(task, plan, space, own, a, b);
      });
      in_parts(count, [&](char* own, int64_t a, int64_t b) {
        (i == 0 ? RECENGINE_PICK(topk_open) : RECENGINE_PICK(topk_scan))(task, plan, space, own, a, b);
      });
    }
    in_parts(count, [&](char* own, int64_t a, int64_t b) {
      RECENGINE_PICK(topk_finish)(task, plan, space, own, a, b, scores.data(), ids.data());
    });
  }
}

// As the launcher answers a few users.
void run_few(const Task& task, int threads, std::vector<float>& scores, std::vector<int64_t>& ids) {
  const int64_t bytes = RECENGINE_PICK(topk_few_bytes)(task), n = task.items.rows;
  Memory memory(threads * bytes);
  native::parallel(threads, threads, [&](int64_t t) {
    RECENGINE_PICK(topk_few_scan)(task, n * t / threads, n * (t + 1) / threads, memory.get() + t * bytes);
  });
  RECENGINE_PICK(topk_few_finish)(task, threads, memory.get(), scores.data(), ids.data());
}

void check(int64_t users, int64_t items, int64_t d, int64_t k, bool bf16) {
  native::Buffer q(users, d, bf16, 3), x(items, d, bf16, 1);
  std::vector<int64_t> indptr{0}, seen;
  std::vector<std::vector<bool>> hidden;
  for (int64_t u = 0; u < users; ++u) {
    hidden.emplace_back(static_cast<size_t>(items), false);
    for (int64_t s = native::below(20); s > 0; --s) {
      seen.push_back(native::below(items));
      hidden.back()[static_cast<size_t>(seen.back())] = true;
    }
    indptr.push_back(static_cast<int64_t>(seen.size()));
  }
  const Element element = bf16 ? Element::bf16 : Element::f32;
  const Task task{{q.data(), users, d, q.row, 1, element}, {x.data(), items, d, x.row, 1, element}, nullptr,
                  Seen{indptr.data(), seen.data(), true}, k};
  std::vector<float> scores(static_cast<size_t>(users * k)), other(scores.size());
  std::vector<int64_t> ids(scores.size()), other_ids(scores.size());
  for (const bool screen : {false, recengine::amx_live()}) {
    run(task, screen, 1, scores, ids);
    run(task, screen, 3, other, other_ids);
    expect(ids == other_ids && std::memcmp(scores.data(), other.data(), scores.size() * 4) == 0,
           "retrieval: other results with three threads");
    if (users <= recengine::retrieval::FEW_USERS)
      for (const int few_threads : {1, 3}) {
        run_few(task, few_threads, other, other_ids);
        expect(ids == other_ids && std::memcmp(scores.data(), other.data(), scores.size() * 4) == 0,
               "retrieval: other results in one pass for a few users");
      }
    for (int64_t u = 0; u < users; ++u) {
      std::vector<double> left;
      for (int64_t i = 0; i < items; ++i) {
        double score = 0;
        for (int64_t j = 0; j < d; ++j) score += q.at(u, j) * x.at(i, j);
        if (!hidden[static_cast<size_t>(u)][static_cast<size_t>(i)]) left.push_back(score);
      }
      std::sort(left.rbegin(), left.rend());
      for (int64_t r = 0; r < k; ++r) {
        const size_t at = static_cast<size_t>(u * k + r);
        if (r >= static_cast<int64_t>(left.size())) {
          expect(ids[at] == -1, "retrieval: an id where no item is left");
          continue;
        }
        expect(ids[at] >= 0 && !hidden[static_cast<size_t>(u)][static_cast<size_t>(ids[at])], "retrieval: a seen item");
        expect(std::abs(scores[at] - left[static_cast<size_t>(r)]) <= 1e-4 * (1 + std::abs(left[static_cast<size_t>(r)])),
               "retrieval: a score is not the r-th largest");
      }
    }
  }
}

}  // namespace

NATIVE_TEST(topk_against_sorting) {
  for (const bool bf16 : {false, true}) {
    check(1, 1, 1, 1, bf16);
    check(5, 7, 3, 10, bf16);
    check(8, 3000, 35, 70, bf16);
    check(3, 999, 16, 10, bf16);
    check(37, 300, 20, 10, bf16);
    check(19, 5000, 33, 70, bf16);
  }
}

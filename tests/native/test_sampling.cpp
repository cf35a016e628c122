#include "sampling/sampling.h"
#include "native_test.h"

using namespace native;
using namespace recengine;

NATIVE_TEST(draws_stay_inside_and_leave_the_marks_clean) {
  for (const int64_t items : {1, 2, 63, 64, 65, 300})
    for (const bool popular : {false, true}) {
      std::vector<float> keep(items);
      std::vector<int32_t> alias(items);
      for (int64_t i = 0; i < items; ++i) keep[i] = 0.5f, alias[i] = static_cast<int32_t>(below(items));
      std::vector<int64_t> indptr{0};
      std::vector<int32_t> met;
      for (int64_t user = 0; user < 5; ++user) {
        for (int64_t i = 0; i < items - 1; ++i)
          if (user == 4 || below(3) == 0) met.push_back(static_cast<int32_t>(i));  // the last user met all but one
        indptr.push_back(static_cast<int64_t>(met.size()));
      }
      const Draws d{items,         40,         popular ? keep.data() : nullptr, popular ? alias.data() : nullptr,
                    indptr.data(), met.data(), 11};
      const uint64_t tail = items % 64 ? ~uint64_t{0} << (items % 64) : 0;
      std::vector<uint64_t> marks(static_cast<size_t>((items + 63) / 64), 0);
      marks.back() = tail;
      std::vector<int64_t> out(40), again(40);
      std::vector<double> room(static_cast<size_t>(items));
      double* sums = popular ? room.data() : nullptr;
      for (int64_t user = -1; user < 5; ++user) {
        RECENGINE_PICK(draw_row)(d, user + 1, user, out.data(), marks.data(), sums);
        marks.back() = tail;  // the launcher puts the items past the last back
        for (size_t w = 0; w + 1 < marks.size(); ++w) expect(marks[w] == 0, "a mark was left behind");
        RECENGINE_PICK(draw_row)(d, user + 1, user, again.data(), marks.data(), sums);
        marks.back() = tail;
        expect(out == again, "the same counters gave other draws");
        for (const int64_t item : out) {
          expect(item >= 0 && item < items, "a draw lies outside of the catalogue");
          for (int64_t e = user >= 0 ? indptr[user] : 0; user >= 0 && e < indptr[user + 1]; ++e)
            expect(item != met[e], "a draw is an item that was met");
        }
      }
    }
}

NATIVE_TEST(what_the_table_gives_no_share_is_never_drawn) {
  const std::vector<float> keep{1.f, 0.5f, 0.f};
  const std::vector<int32_t> alias{0, 0, 0}, met{0, 0, 1};
  const std::vector<int64_t> indptr{0, 1, 3};
  const Draws d{3, 40, keep.data(), alias.data(), indptr.data(), met.data(), 5};
  std::vector<uint64_t> marks{~uint64_t{0} << 3};
  std::vector<int64_t> out(40);
  std::vector<double> sums(3);
  expect(RECENGINE_PICK(draw_row)(d, 0, 0, out.data(), marks.data(), sums.data()), "one item was left");
  for (const int64_t item : out) expect(item == 1, "an item without a share was drawn");
  marks.back() = ~uint64_t{0} << 3;
  expect(!RECENGINE_PICK(draw_row)(d, 0, 1, out.data(), marks.data(), sums.data()), "nothing was left");
}

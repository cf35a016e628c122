#include "factorization/kernels.h"

#include "factorization/pairwise.h"
#include "factorization/solve.h"
#include "factorization/sweep.h"

namespace KERN_NS {

template <class T>
RE_INLINE void count_pairs(const int64_t* indptr, const int32_t* columns, const int64_t* t_indptr,
                           const int32_t* t_rows, int64_t n, int64_t begin, int64_t end, T* out) {
  for (int64_t i = begin; i < end; ++i, out += n)
    for (int64_t s = t_indptr[i]; s < t_indptr[i + 1]; ++s)
      for (int64_t t = indptr[t_rows[s]]; t < indptr[t_rows[s] + 1]; ++t) out[columns[t]] += 1;
}

void count_pairs_f32(const int64_t* indptr, const int32_t* columns, const int64_t* t_indptr, const int32_t* t_rows,
                     int64_t n, int64_t begin, int64_t end, float* out) {
  count_pairs(indptr, columns, t_indptr, t_rows, n, begin, end, out);
}
void count_pairs_f64(const int64_t* indptr, const int32_t* columns, const int64_t* t_indptr, const int32_t* t_rows,
                     int64_t n, int64_t begin, int64_t end, double* out) {
  count_pairs(indptr, columns, t_indptr, t_rows, n, begin, end, out);
}

}  // namespace KERN_NS

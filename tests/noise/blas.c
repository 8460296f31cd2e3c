/* Change the last bits of the products that NumPy and SciPy compute with their own OpenBLAS.

   LD_PRELOAD puts these functions before those of OpenBLAS, which they call. NumPy's have a C
   interface with 64-bit integers, SciPy's a Fortran interface with 32-bit ones. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fenv.h>
#include <link.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, UPPER = 121 };

struct search { const char *name; void *found; };

static int look_into(struct dl_phdr_info *info, size_t size, void *data) {
  struct search *search = data;
  if (!info->dlpi_name || !strstr(info->dlpi_name, "openblas")) return 0;
  void *library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  if (library) search->found = dlsym(library, search->name);
  return search->found != NULL;
}

/* Python loads OpenBLAS for one module alone, so that the next function of a name is not visible */
static void *original(const char *name) {
  struct search search = {name, dlsym(RTLD_NEXT, name)};
  if (!search.found) dl_iterate_phdr(look_into, &search);
  return search.found;
}

static uint32_t mixed(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x45d9f3bu;
  h = (h ^ (h >> 16)) * 0x45d9f3bu;
  return h ^ (h >> 16);
}

static uint32_t seed_of(int kernel, int64_t m, int64_t n, int64_t k) {
  const char *word = getenv("NOISE_SEED");
  uint32_t h = mixed((word ? atoi(word) : 0) * 16 + kernel);
  h = mixed(h ^ (uint32_t)m);
  h = mixed(h ^ (uint32_t)n);
  return mixed(h ^ (uint32_t)k);
}

static double ulps(void) {
  const char *word = getenv("NOISE_ULPS");
  return word ? atof(word) : 4;
}

/* shake_<P>: change `rows` rows of `columns` numbers; each begins `stride` after the one before.
   Whole numbers stay: their sums are exact. */
#define SHAKE(P, T, BITS, EPSILON) \
static void shake_##P(T *x, int64_t rows, int64_t columns, int64_t stride, uint32_t seed) { \
  fenv_t flags; \
  feholdexcept(&flags); /* NumPy warns of the flags that a product leaves */ \
  int is_exact = 1; \
  for (int64_t r = 0; r < rows && is_exact; r++) \
    for (int64_t c = 0; c < columns && is_exact; c++) \
      is_exact = x[r * stride + c] == nearbyint(x[r * stride + c]); \
  double unit = ulps() * EPSILON; \
  for (int64_t r = 0; r < rows && !is_exact; r++) { \
    T *row = x + r * stride; \
    double squares = 0; \
    for (int64_t c = 0; c < columns; c++) squares += (double)row[c] * row[c]; \
    double rms = sqrt(squares / columns); /* the terms of a small sum may be large */ \
    for (int64_t c = 0; c < columns; c++) { \
      union { T number; BITS bits; } value = {row[c]}; \
      if (value.number == 0 || !isfinite((double)value.number)) continue; \
      uint32_t h = mixed((uint32_t)(value.bits ^ (value.bits >> (4 * sizeof(BITS)))) ^ seed); \
      double part = (double)(h & 0xffff) / 32768 - 1; \
      double moved = value.number + part * unit * fmax(fabs((double)value.number), rms); \
      if (isfinite((double)(T)moved)) row[c] = (T)moved; \
    } \
  } \
  fesetenv(&flags); \
}
SHAKE(s, float, uint32_t, 1.1920928955078125e-07)
SHAKE(d, double, uint64_t, 2.220446049250313e-16)

/* A product of one term is rounded once, and stays. */
#define PRODUCTS(P, T) \
void scipy_cblas_##P##gemm64_(int order, int ta, int tb, int64_t m, int64_t n, int64_t k, \
    T alpha, const T *a, int64_t lda, const T *b, int64_t ldb, T beta, T *c, int64_t ldc) { \
  static void (*call)(int, int, int, int64_t, int64_t, int64_t, T, const T *, int64_t, \
                      const T *, int64_t, T, T *, int64_t); \
  if (!call) call = original("scipy_cblas_" #P "gemm64_"); \
  call(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); \
  int by_rows = order == ROW_MAJOR; \
  if (k > 1) shake_##P(c, by_rows ? m : n, by_rows ? n : m, ldc, seed_of(1, m, n, k)); \
} \
void scipy_cblas_##P##syrk64_(int order, int part, int trans, int64_t n, int64_t k, \
    T alpha, const T *a, int64_t lda, T beta, T *c, int64_t ldc) { \
  static void (*call)(int, int, int, int64_t, int64_t, T, const T *, int64_t, T, T *, int64_t); \
  if (!call) call = original("scipy_cblas_" #P "syrk64_"); \
  call(order, part, trans, n, k, alpha, a, lda, beta, c, ldc); \
  int is_right = (order == ROW_MAJOR) == (part == UPPER); /* of the diagonal, in memory */ \
  for (int64_t r = 0; r < n && k > 1; r++) { \
    T *row = c + r * ldc; \
    if (is_right) shake_##P(row + r, 1, n - r, ldc, seed_of(2, n, n, k)); \
    else shake_##P(row, 1, r + 1, ldc, seed_of(2, n, n, k)); \
  } \
} \
void scipy_cblas_##P##gemv64_(int order, int trans, int64_t m, int64_t n, T alpha, const T *a, \
    int64_t lda, const T *x, int64_t incx, T beta, T *y, int64_t incy) { \
  static void (*call)(int, int, int64_t, int64_t, T, const T *, int64_t, const T *, int64_t, \
                      T, T *, int64_t); \
  if (!call) call = original("scipy_cblas_" #P "gemv64_"); \
  call(order, trans, m, n, alpha, a, lda, x, incx, beta, y, incy); \
  int64_t size = trans == NO_TRANSPOSE ? m : n, terms = trans == NO_TRANSPOSE ? n : m; \
  if (terms > 1 && incy == 1) shake_##P(y, 1, size, size, seed_of(3, m, n, trans)); \
} \
T scipy_cblas_##P##dot64_(int64_t n, const T *x, int64_t incx, const T *y, int64_t incy) { \
  static T (*call)(int64_t, const T *, int64_t, const T *, int64_t); \
  if (!call) call = original("scipy_cblas_" #P "dot64_"); \
  T product = call(n, x, incx, y, incy); \
  if (n > 1) shake_##P(&product, 1, 1, 1, seed_of(4, n, 0, 0)); \
  return product; \
} \
void scipy_##P##gemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, \
    const T *alpha, const T *a, const int *lda, const T *b, const int *ldb, const T *beta, T *c, \
    const int *ldc) { \
  static void (*call)(const char *, const char *, const int *, const int *, const int *, \
                      const T *, const T *, const int *, const T *, const int *, const T *, T *, \
                      const int *); \
  if (!call) call = original("scipy_" #P "gemm_"); \
  call(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); \
  if (*k > 1) shake_##P(c, *n, *m, *ldc, seed_of(5, *m, *n, *k)); \
} \
void scipy_##P##gemv_(const char *trans, const int *m, const int *n, const T *alpha, const T *a, \
    const int *lda, const T *x, const int *incx, const T *beta, T *y, const int *incy) { \
  static void (*call)(const char *, const int *, const int *, const T *, const T *, const int *, \
                      const T *, const int *, const T *, T *, const int *); \
  if (!call) call = original("scipy_" #P "gemv_"); \
  call(trans, m, n, alpha, a, lda, x, incx, beta, y, incy); \
  int is_plain = *trans == 'N' || *trans == 'n'; \
  int64_t size = is_plain ? *m : *n, terms = is_plain ? *n : *m; \
  if (terms > 1 && *incy == 1) shake_##P(y, 1, size, size, seed_of(6, *m, *n, *trans)); \
}
PRODUCTS(s, float)
PRODUCTS(d, double)

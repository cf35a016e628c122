// What this machine can do: multiply-adds a second from registers, by dot products of bf16 pairs and on bf16 matrix tiles (with operands that are not
// zero: the clock depends on them), and copied bytes a second.
// Prints one JSON object. Compiled by common.py with the local compiler, -O3 -march=native.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

using Clock = std::chrono::steady_clock;

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float vf __attribute__((vector_size(W * 4)));

static double seconds(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// 12 independent chains hide the latency of four cycles on two ports.
static double flops() {
  constexpr int chains = 12;
  vf a[chains];
  for (int i = 0; i < chains; ++i) a[i] = vf{} + (1.f + 1e-3f * i);
  vf b = vf{} + 0.999f, c = vf{} + 1e-3f;
  asm volatile("" : "+x"(b), "+x"(c));
  const long steps = 6'000'000;
  const auto start = Clock::now();
  for (long n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) a[i] = a[i] * b + c;
  }
  const double t = seconds(start);
  float sum = 0;
  for (int i = 0; i < chains; ++i) sum += a[i][0];
  volatile float keep = sum;
  (void)keep;
  return steps * 2.0 * chains * W / t;
}

static double dot_flops() {
#if defined(__AVX512BF16__)
  constexpr int chains = 12;
  __m512 a[chains];
  for (int i = 0; i < chains; ++i) a[i] = _mm512_set1_ps(1.f + 1e-3f * i);
  __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.999f), _mm512_set1_ps(0.5f));
  __m512bh c = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(-1e-3f));
  asm volatile("" : "+v"(b), "+v"(c));
  const long steps = 3'000'000;
  const auto start = Clock::now();
  for (long n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) a[i] = _mm512_dpbf16_ps(a[i], b, c);
  }
  const double t = seconds(start);
  float sum = 0;
  for (int i = 0; i < chains; ++i) sum += a[i][0];
  volatile float keep = sum;
  (void)keep;
  return steps * 2.0 * chains * 32 / t;
#else
  return 0;
#endif
}

static double tile_flops() {
#if defined(__AMX_BF16__) && defined(__linux__)
  if (syscall(SYS_arch_prctl, 0x1023, 18) != 0) return 0;
  alignas(64) unsigned char shapes[64] = {1};
  for (int t = 0; t < 8; ++t) shapes[16 + 2 * t] = 64, shapes[48 + t] = 16;
  alignas(64) static thread_local unsigned short numbers[8][512];
  unsigned state = 1;
  for (auto& tile : numbers)
    for (auto& x : tile) state = state * 1664525u + 1013904223u, x = static_cast<unsigned short>((state >> 16 & 0x80ff) | 0x3f00);
  _tile_loadconfig(shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const long steps = 60'000;
  const auto start = Clock::now();
  for (long n = 0; n < steps; ++n) {
    const int other = n % 2 * 4;
    _tile_loadd(4, numbers[other], 64);
    _tile_loadd(5, numbers[other + 1], 64);
    _tile_loadd(6, numbers[other + 2], 64);
    _tile_loadd(7, numbers[other + 3], 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  const double t = seconds(start);
  _tile_release();
  return steps * 4.0 * 2 * 16 * 16 * 32 / t;
#else
  return 0;
#endif
}

static double copy(char* to, const char* from, size_t bytes) {
  const auto start = Clock::now();
  std::memcpy(to, from, bytes);
  return 2.0 * static_cast<double>(bytes) / seconds(start);
}

template <class F>
static double together(int threads, F&& f) {
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    std::vector<double> rate(static_cast<size_t>(threads));
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t) team.emplace_back([&, t] { rate[static_cast<size_t>(t)] = f(t); });
    double sum = 0;
    for (auto& member : team) member.join();
    for (const double r : rate) sum += r;
    best = std::max(best, sum);
  }
  return best;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const size_t bytes = size_t{256} << 20;
  std::vector<std::vector<char>> from, to;
  for (int t = 0; t < threads; ++t) {
    from.emplace_back(bytes / static_cast<size_t>(threads), 'a');
    to.emplace_back(bytes / static_cast<size_t>(threads), 'b');
  }
  const double rate = together(threads, [](int) { return flops(); });
  const double dots = together(threads, [](int) { return dot_flops(); });
  const double tiles = together(threads, [](int) { return tile_flops(); });
  const double moved = together(threads, [&](int t) {
    auto& source = from[static_cast<size_t>(t)];
    return copy(to[static_cast<size_t>(t)].data(), source.data(), source.size());
  });
  std::printf("{\"threads\": %d, \"lanes\": %d, \"gflops\": %.1f, \"dot_gflops\": %.1f, \"tile_gflops\": %.1f, \"copy_gbytes\": %.1f}\n",
              threads, W, rate / 1e9, dots / 1e9, tiles / 1e9, moved / 1e9);
}

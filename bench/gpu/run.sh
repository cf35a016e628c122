#!/usr/bin/env bash
# Builds recengine in place with its CUDA kernels, runs the tests that need a GPU, then the benchmarks: in LIMIT
# seconds in all, eight minutes if nothing else is said. Tests and benchmarks get an eighth of them each even where
# the build took too long; the script says so. Wants a python with a CUDA torch and the build tools
# (scikit-build-core, pybind11, cmake, ninja, numpy, pytest and the package's dependencies); nothing is fetched.
#     [PYTHON=python3] [LIMIT=480] bench/gpu/run.sh [--quick]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
limit=${LIMIT:-480}
stop() { echo "bench/gpu/run.sh: $1" >&2; exit 2; }

"$python" -c 'import torch' 2>/dev/null || stop "$python has no torch; set PYTHON to one that has"
"$python" -c 'import sys, torch; sys.exit(not torch.version.cuda)' ||
  stop "this torch is a CPU build: $("$python" -c 'import torch; print(torch.__version__)')"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || stop "torch finds no CUDA device here"
command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || stop "no nvcc on the path, and CUDACXX is not set"
for module in scikit_build_core pybind11 pytest; do
  "$python" -c "import $module" 2>/dev/null || stop "$python has no $module, which the build or the tests need"
done

"$python" -c 'import hypothesis' 2>/dev/null || echo "no hypothesis here: the tests whose cases it draws are left out"

architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
started=$SECONDS
"$python" -m pip install --quiet --no-build-isolation --no-index --no-deps \
  -Ccmake.define.RECENGINE_CUDA=ON "-Ccmake.define.CMAKE_CUDA_ARCHITECTURES=$architecture-real" \
  -Cbuild-dir=build/gpu -e .
echo "built for sm_$architecture in $((SECONDS - started)) s"

# The seconds until $1 of them have passed since the start, for $2.
left() {
  local seconds=$(($1 - (SECONDS - started))) least=$((limit > 8 ? limit / 8 : 1))
  if [ "$seconds" -lt "$least" ]; then
    echo "$((SECONDS - started)) s of $limit s are gone: $2 get $least s all the same" >&2
    seconds=$least
  fi
  echo "$seconds"
}
failed=0
timeout "$(left $((limit / 2)) "the tests")" "$python" -m pytest -m gpu -p no:cacheprovider tests/ops || failed=1
seconds=$(left "$limit" "the benchmarks")
timeout "$seconds" "$python" bench/gpu/bench_ops.py --seconds $((seconds > 80 ? seconds - 40 : seconds / 2)) "$@"
[ "$failed" = 0 ] || stop "GPU tests failed; the table above is of what ran"

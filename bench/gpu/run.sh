#!/usr/bin/env bash
# Builds recengine in place with its CUDA kernels, runs the tests that need a GPU, then the benchmarks: at most
# eight minutes in all. Wants a python with a CUDA torch and the build tools (scikit-build-core, pybind11, cmake,
# ninja, numpy, pytest and the package's dependencies); nothing is fetched.
#     PYTHON=python3 bench/gpu/run.sh [--quick]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
limit=480
stop() { echo "bench/gpu/run.sh: $1" >&2; exit 2; }

"$python" -c 'import torch' 2>/dev/null || stop "$python has no torch; set PYTHON to one that has"
"$python" -c 'import sys, torch; sys.exit(not torch.version.cuda)' ||
  stop "this torch is a CPU build: $("$python" -c 'import torch; print(torch.__version__)')"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || stop "torch finds no CUDA device here"
command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || stop "no nvcc on the path, and CUDACXX is not set"
for module in scikit_build_core pybind11 pytest; do
  "$python" -c "import $module" 2>/dev/null || stop "$python has no $module, which the build or the tests need"
done

architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
started=$SECONDS
"$python" -m pip install --quiet --no-build-isolation --no-index --no-deps \
  -Ccmake.define.RECENGINE_CUDA=ON "-Ccmake.define.CMAKE_CUDA_ARCHITECTURES=$architecture-real" \
  -Cbuild-dir=build/gpu -e .
echo "built for sm_$architecture in $((SECONDS - started)) s"
failed=0
timeout $((limit / 2 - (SECONDS - started))) "$python" -m pytest -m gpu -p no:cacheprovider tests/ops || failed=1
timeout $((limit - (SECONDS - started))) "$python" bench/gpu/bench_ops.py --seconds $((limit - 40 - (SECONDS - started))) "$@"
[ "$failed" = 0 ] || stop "GPU tests failed; the table above is of what ran"

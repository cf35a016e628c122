#!/usr/bin/env bash
# Compiles every .cu file for sm_80 and sm_90 on a machine that needs no GPU, and reads the compiler's
# resource report: warnings are errors, and a kernel that spills registers to memory fails the check.
#     tests/native/cuda_check.sh PYTHON
# nvcc comes from PATH, or from the nvidia-cuda-* packages installed beside PYTHON.
set -euo pipefail
python=$1
here=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

if ! command -v nvcc >/dev/null; then
  echo "no nvcc on PATH: fetching a compile-only CUDA toolkit into a scratch environment"
  "$python" -m venv "$build/toolkit"
  "$build/toolkit/bin/python" -m pip install --quiet "nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-runtime==13.0.*" \
    "nvidia-cuda-cccl==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-crt==13.0.*"
  toolkit=$(echo "$build"/toolkit/lib/python3*/site-packages/nvidia/cu13)
  export PATH="$toolkit/bin:$PATH" LIBRARY_PATH="$toolkit/lib:${LIBRARY_PATH:-}" NVCC_APPEND_FLAGS="-L$toolkit/lib"
fi
nvcc --version | tail -n 2

cmake -S "$here" -B "$build/cmake" -G Ninja -DRECENGINE_CUDA=CHECK -DCMAKE_BUILD_TYPE=Release \
  -DPython_EXECUTABLE="$(command -v "$python" || echo "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$build/configure.log" || { cat "$build/configure.log"; exit 1; }
cmake --build "$build/cmake" --target kernels_cuda >"$build/compile.log" 2>&1 || { cat "$build/compile.log"; exit 1; }

grep -E "warning" "$build/compile.log" && { echo "the CUDA sources compile with warnings"; exit 1; }
"$python" "$here/tests/native/read_ptxas.py" "$build/compile.log"

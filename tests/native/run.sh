#!/usr/bin/env bash
# Configures, builds and runs the native test programs once per instruction set and unit; one that the processor
# lacks is the next below it:
#     tests/native/run.sh [asan|tsan|plain]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kind=${1:-asan}
case $kind in
  asan) sanitize=address,undefined ;;
  tsan) sanitize=thread ;;
  plain) sanitize= ;;
  *) echo "usage: $0 [asan|tsan|plain]" >&2; exit 2 ;;
esac
build=${RECENGINE_NATIVE_BUILD:-$here/../../build/native}/$kind
cmake -S "$here" -B "$build" -DCMAKE_BUILD_TYPE=None -DRECENGINE_SANITIZE="$sanitize" >/dev/null
cmake --build "$build" --parallel 2
# Addresses beyond what older thread sanitizers map are avoided by running without randomisation.
launch=()
if [ "$kind" = tsan ] && setarch -R true 2>/dev/null; then launch=(setarch -R); fi
for isa in baseline avx2 avx512 avx512_bf16 amx; do
  for program in "$build"/test_*; do
    [ -x "$program" ] || continue
    RECENGINE_ISA=$isa UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 "${launch[@]}" "$program"
  done
done

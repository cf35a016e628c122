# recengine_kernels(target): compile csrc/<family>/kernels_cpu.cpp once per instruction set and add
# the objects to target. Which one runs is chosen at run time (csrc/common/isa.h).
set(_flags_baseline "")
set(_flags_avx2 -march=x86-64-v3)
set(_flags_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
# gcc 12 prints hundreds of false "may be used uninitialized" for AVX-512 intrinsics.
set(_kernel_flags -O3 -Wall -Wextra -Wno-uninitialized -Wno-maybe-uninitialized -ffp-contract=fast
                  -fno-math-errno -fno-trapping-math -fno-signed-zeros)

function(recengine_kernels target)
  set(root "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/..")
  foreach(family IN LISTS RECENGINE_FAMILIES)
    foreach(isa baseline avx2 avx512)
      set(objects ${target}_${family}_${isa})
      add_library(${objects} OBJECT ${root}/csrc/${family}/kernels_cpu.cpp)
      target_include_directories(${objects} PRIVATE ${root}/csrc)
      target_compile_options(${objects} PRIVATE ${_kernel_flags} ${_flags_${isa}} ${ARGN})
      target_compile_definitions(${objects} PRIVATE KERN_NS=${isa})
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
    endforeach()
  endforeach()
endfunction()

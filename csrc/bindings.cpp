// Python objects of the core that are no tensors, and the facts of this build.
#include <pybind11/pybind11.h>

namespace py = pybind11;

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build facts and stateful native objects of recengine.";
  m.def("build_info", [] {
    py::dict facts;
    facts["torch"] = RECENGINE_TORCH_BUILT;
    facts["cuda"] = RECENGINE_CUDA_BUILT;
    facts["compiler"] = RECENGINE_COMPILER;
    return facts;
  });
}

// The table of contents of the native core: every operator's schema, and nothing else.
// Kernels register themselves beside their code (csrc/<family>/op_cpu.cpp, op_cuda.cu); autograd
// formulas and fake tensors live in Python (python/recengine/ops/<family>.py).
#include <torch/csrc/stable/library.h>

#include <string>

#include "common/isa.h"

namespace {
std::string isa() { return recengine::isa_name(); }
}  // namespace

STABLE_TORCH_LIBRARY(recengine, m) {
  m.def("isa() -> str");
  // attention
  m.def(
      "cosine_attention(Tensor qkv, Tensor? mask, Tensor? lengths, Tensor? cu_seqlens, Tensor? m, bool causal, "
      "str activation, str scale, bool save_state) -> (Tensor out, Tensor state)");
  m.def(
      "cosine_attention_backward(Tensor grad, Tensor qkv, Tensor? mask, Tensor? lengths, Tensor? cu_seqlens, "
      "Tensor? m, Tensor state, bool causal, str activation, str scale) -> (Tensor dqkv, Tensor dm)");
  // retrieval
  m.def(
      "topk(Tensor queries, Tensor items, Tensor? bias, Tensor? seen_indptr, Tensor? seen_items, int k) "
      "-> (Tensor scores, Tensor ids)");
  m.def(
      "rank_of(Tensor queries, Tensor items, Tensor targets, Tensor? bias, Tensor? seen_indptr, "
      "Tensor? seen_items) -> Tensor");
  // softmax_loss
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor target, Tensor? bias, int ignore_index, float scale) "
      "-> (Tensor loss, Tensor lse)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor target, Tensor? bias, "
      "Tensor lse, int ignore_index, float scale, bool bias_grad) "
      "-> (Tensor hidden, Tensor weight, Tensor bias)");
}

STABLE_TORCH_LIBRARY_IMPL(recengine, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa)); }

// The table of contents of the native core: every operator's schema, and nothing else.
// Kernels register themselves beside their code (csrc/<family>/op_cpu.cpp, op_cuda.cu); autograd
// formulas and fake tensors live in Python (python/recengine/ops/<family>.py).
#include <torch/csrc/stable/library.h>

#include <string>

#include "common/amx.h"
#include "common/isa.h"
#include "common/large_blocks.h"

namespace {
std::string isa() { return recengine::isa_name(); }
bool on_tiles() { return recengine::amx_live(); }
bool keep_memory(bool on) { return recengine::LargeBlocks::shared().keep(on); }
}  // namespace

STABLE_TORCH_LIBRARY(recengine, m) {
  m.def("isa() -> str");
  m.def("on_tiles() -> bool");
  m.def("keep_memory(bool on) -> bool");
  // attention
  m.def(
      "cosine_attention(Tensor qkv, Tensor? mask, Tensor? lengths, Tensor? cu_seqlens, Tensor? m, bool causal, "
      "str activation, str scale, bool save_state) -> (Tensor out, Tensor state)");
  m.def(
      "cosine_attention_backward(Tensor grad, Tensor qkv, Tensor? mask, Tensor? lengths, Tensor? cu_seqlens, "
      "Tensor? m, Tensor state, bool causal, str activation, str scale) -> (Tensor dqkv, Tensor dm)");
  m.def(
      "cosine_attention_at(Tensor q, Tensor kv, Tensor wanted, Tensor cu_seqlens, Tensor? m, str activation, "
      "str scale) -> Tensor");
  m.def(
      "cosine_attention_at_backward(Tensor grad, Tensor q, Tensor kv, Tensor wanted, Tensor cu_seqlens, Tensor? m, "
      "str activation, str scale) -> (Tensor dq, Tensor dkv, Tensor dm)");
  // packed_attention
  m.def("softmax_attention(Tensor qkv, Tensor cu_seqlens, bool causal, float scale) -> Tensor");
  m.def(
      "softmax_attention_backward(Tensor grad, Tensor qkv, Tensor cu_seqlens, bool causal, float scale) -> Tensor");
  m.def(
      "softmax_attention_at(Tensor q, Tensor kv, Tensor wanted, Tensor cu_seqlens, bool causal, float scale) "
      "-> Tensor");
  m.def(
      "softmax_attention_at_backward(Tensor grad, Tensor q, Tensor kv, Tensor wanted, Tensor cu_seqlens, bool causal, "
      "float scale) -> (Tensor dq, Tensor dkv)");
  m.def(
      "gated_attention(Tensor q, Tensor k, Tensor v, Tensor wanted, Tensor cu_seqlens, Tensor by_distance, "
      "Tensor? times, Tensor? by_time, float share) -> Tensor");
  m.def(
      "gated_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor wanted, Tensor cu_seqlens, "
      "Tensor by_distance, Tensor? times, Tensor? by_time, float share) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor d_distance, Tensor d_time)");
  // factorization
  m.def("gram(Tensor y) -> Tensor");
  m.def(
      "ials_solve_(Tensor(a!) x, Tensor y, Tensor gram, Tensor indptr, Tensor columns, Tensor weights, "
      "Tensor regularization, int steps) -> ()");
  m.def(
      "bpr_epoch_(Tensor(a!) users, Tensor(b!) items, Tensor(c!) bias, Tensor indptr, Tensor columns, int seed, "
      "int epoch, int shards, float rate, float reg_user, float reg_item, float reg_bias) -> ()");
  m.def(
      "cooccurrence_(Tensor(a!) out, Tensor indptr, Tensor columns, Tensor t_indptr, Tensor t_columns, int first) "
      "-> ()");
  m.def("spd_inverse_(Tensor(a!) a) -> ()");
  // recourse
  m.def("quadric_nearest(Tensor z0, Tensor mu, Tensor m, Tensor m0, Tensor slope, Tensor level) -> Tensor");
  m.def(
      "cone_nearest(Tensor points, Tensor start, Tensor theta, Tensor P, float radius, Tensor weights, Tensor low, "
      "Tensor high, float tau, int iterations) -> (Tensor x, Tensor bound, Tensor status)");
  // graph
  m.def(
      "csr_matmul(Tensor indptr, Tensor columns, Tensor? values, Tensor? row_scale, Tensor? column_scale, "
      "Tensor t_indptr, Tensor t_columns, Tensor? t_values, Tensor dense) -> Tensor");
  // retrieval
  m.def(
      "topk(Tensor queries, Tensor items, Tensor? bias, Tensor? seen_indptr, Tensor? seen_items, int k) "
      "-> (Tensor scores, Tensor ids)");
  m.def(
      "rank_of(Tensor queries, Tensor items, Tensor targets, Tensor? bias, Tensor? seen_indptr, "
      "Tensor? seen_items) -> Tensor");
  // sampling
  m.def(
      "draw_negatives(Tensor users, int count, int items, Tensor? keep, Tensor? alias, Tensor? indptr, Tensor? met, "
      "int seed) -> Tensor");
  // softmax_loss
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? target, Tensor? bias, Tensor? row_key, "
      "Tensor? item_key, int ignore_index, float scale) -> (Tensor loss, Tensor lse)");
  m.def(
      "linear_cross_entropy_backward(Tensor? loss_grad, Tensor? lse_grad, Tensor hidden, Tensor weight, "
      "Tensor? target, Tensor? bias, Tensor? row_key, Tensor? item_key, Tensor lse, int ignore_index, float scale, "
      "bool bias_grad) -> (Tensor hidden, Tensor weight, Tensor bias)");
  m.def(
      "learning_cross_entropy(Tensor hidden, Tensor weight, Tensor? target, Tensor? bias, Tensor? row_key, "
      "Tensor? item_key, int ignore_index, float scale) -> (Tensor loss, Tensor lse, Tensor logits)");
  m.def(
      "learning_cross_entropy_backward(Tensor? loss_grad, Tensor? lse_grad, Tensor hidden, Tensor weight, "
      "Tensor? target, Tensor? bias, Tensor? row_key, Tensor? item_key, Tensor lse, Tensor logits, int ignore_index, "
      "float scale, bool bias_grad) -> (Tensor hidden, Tensor weight, Tensor bias)");
  m.def("sampled_scores(Tensor anchors, Tensor table, Tensor negatives, float scale) -> Tensor");
  m.def(
      "sampled_scores_backward(Tensor grad, Tensor anchors, Tensor table, Tensor negatives, float scale) "
      "-> (Tensor anchors, Tensor table)");
  m.def(
      "sampled_logsumexp(Tensor anchors, Tensor table, Tensor negatives, Tensor? log_weight, Tensor? temperature, "
      "Tensor? positives, Tensor? exclude, float scale) -> Tensor");
  m.def(
      "sampled_logsumexp_backward(Tensor grad, Tensor anchors, Tensor table, Tensor negatives, Tensor? log_weight, "
      "Tensor? temperature, Tensor? positives, Tensor? exclude, Tensor lse, float scale) "
      "-> (Tensor anchors, Tensor table, Tensor share, Tensor temperature)");
  m.def("logsumexp_rows(Tensor logits, Tensor? live) -> Tensor");
  m.def("logsumexp_rows_backward(Tensor grad, Tensor logits, Tensor? live, Tensor lse) -> Tensor");
  m.def(
      "sampled_competition(Tensor scores, Tensor? likeness, Tensor live, Tensor positive, float hardness, "
      "float likeness_share, float temperature, int slate) "
      "-> (Tensor log_weight, Tensor slate, Tensor intensity, Tensor least)");
  // token_mixing
  m.def(
      "token_mixing(Tensor x, Tensor? residual, Tensor? weight, int heads, float eps, bool keep_mixed, "
      "bool own_residual) -> (Tensor normed, Tensor mixed, Tensor rstd)");
  m.def(
      "token_mixing_backward(Tensor? grad_normed, Tensor? grad_mixed, Tensor source, Tensor? residual, "
      "Tensor? weight, Tensor rstd, int tokens, int heads, bool source_is_mixed, bool own_residual, "
      "bool residual_grad) -> (Tensor dx, Tensor dresidual, Tensor dweight)");
  // embedding
  m.def(
      "embedding_bag_sum(Tensor weight, Tensor indices, Tensor offsets, Tensor? per_sample_weights, bool sparse) "
      "-> Tensor");
  m.def(
      "embedding_bag_sum_backward(Tensor grad, Tensor indices, Tensor offsets, Tensor? per_sample_weights, int rows) "
      "-> Tensor");
  m.def(
      "embedding_bag_sum_rows(Tensor grad, Tensor indices, Tensor offsets, Tensor? per_sample_weights, int rows) "
      "-> (Tensor rows, Tensor values)");
  m.def("embedding_bag_sum_weights(Tensor grad, Tensor weight, Tensor indices, Tensor offsets) -> Tensor");
  m.def(
      "rowwise_adagrad_(Tensor(a!) weight, Tensor(b!) state, Tensor rows, Tensor values, float lr, float eps) -> ()");
  m.def(
      "sparse_adam_(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor rows, Tensor values, "
      "int step, float lr, float beta1, float beta2, float eps) -> ()");
  // moe
  m.def("moe_route(Tensor x, Tensor router, int k) -> (Tensor gates, Tensor experts, Tensor load)");
  m.def(
      "moe_route_backward(Tensor gates_grad, Tensor x, Tensor router, Tensor experts, Tensor gates) "
      "-> (Tensor x, Tensor router)");
  m.def(
      "grouped_swiglu(Tensor x, Tensor gate, Tensor up, Tensor down, Tensor? experts, Tensor? gates, "
      "Tensor? shared_gate, Tensor? shared_up, Tensor? shared_down, float alpha, Tensor? packed, "
      "Tensor? shared_packed) -> Tensor");
  m.def(
      "grouped_swiglu_backward(Tensor grad, Tensor x, Tensor gate, Tensor up, Tensor down, Tensor? experts, "
      "Tensor? gates, Tensor? shared_gate, Tensor? shared_up, Tensor? shared_down, float alpha) "
      "-> (Tensor x, Tensor gate, Tensor up, Tensor down, Tensor gates, Tensor shared_gate, Tensor shared_up, "
      "Tensor shared_down)");
  m.def(
      "learning_swiglu(Tensor x, Tensor gate, Tensor up, Tensor down, Tensor? experts, Tensor? gates, "
      "Tensor? shared_gate, Tensor? shared_up, Tensor? shared_down, float alpha) -> (Tensor y, Tensor kept)");
  m.def(
      "learning_swiglu_backward(Tensor grad, Tensor kept, Tensor x, Tensor gate, Tensor up, Tensor down, "
      "Tensor? experts, Tensor? gates, Tensor? shared_gate, Tensor? shared_up, Tensor? shared_down, float alpha) "
      "-> (Tensor x, Tensor gate, Tensor up, Tensor down, Tensor gates, Tensor shared_gate, Tensor shared_up, "
      "Tensor shared_down)");
  m.def("swiglu_pack(Tensor gate, Tensor up, Tensor down) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(recengine, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("on_tiles", TORCH_BOX(&on_tiles));
  m.impl("keep_memory", TORCH_BOX(&keep_memory));
}

"""Pair models whose vectors are propagated over the user-item graph."""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.data import Interactions
from recengine.errors import UsageError
from recengine.nn.pairs import PairModel
from recengine.nn.threads import all_threads
from recengine.ops.graph import SparseMatrix, bipartite_graph, layer_mean, propagate


class GraphPairModel(PairModel):
    """A PairModel that is given the symmetrically normalised graph of its training interactions.

    A user or item without interactions has no edge: what is propagated to it is zero, and it keeps what the
    read-out takes of its own vector.
    """

    _graph: SparseMatrix | None = None

    def attach_data(self, train: Interactions) -> None:
        """Take the graph as well. See contracts.model.LearnsFromGraph."""
        super().attach_data(train)
        self._graph = bipartite_graph(train.user, train.item, train.n_users, train.n_items)

    def graph(self) -> SparseMatrix:
        """The graph on the parameters' device; raises UsageError before ``attach_data``."""
        if self._graph is None:
            raise UsageError(
                "the model has not been given its training interactions",
                where=type(self).__name__,
                fix="fit it with recengine.fit, or call attach_data(train)",
            )
        self._graph = self._graph.to(self.items.weight.device)
        return self._graph

    def nodes(self) -> Tensor:
        """The learned vectors of users, then items: float [n_users + n_items, d]."""
        return torch.cat([self.users.weight, self.items.weight])

    def parted(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of users and of items."""
        n_users = self.users.num_embeddings
        return nodes[:n_users], nodes[n_users:]

    def averaged(self, layers: int, *, first: int = 0) -> Tensor:
        """Mean of A^k E over k = first .. layers, float [n_users + n_items, d]."""
        matrix = self.graph()
        return all_threads(lambda nodes: layer_mean(matrix, nodes, layers, first=first), self.nodes())

    def step(self, nodes: Tensor) -> Tensor:
        """A times ``nodes``."""
        matrix = self.graph()
        return all_threads(lambda given: propagate(matrix, given), nodes)


def noisy(nodes: Tensor, length: float) -> Tensor:
    """Every row moved by a random vector of ``length`` in its own orthant: x + length sign(x) * r / |r|, r
    uniform in [0, 1]^d. Draws from torch's generator. Source: Yu et al., SIGIR 2022."""
    random = torch.rand_like(nodes)
    random = random / torch.linalg.vector_norm(random, dim=1, keepdim=True).clamp(min=1e-12)
    moved: Tensor = nodes + length * torch.sign(nodes.detach()) * random
    return moved

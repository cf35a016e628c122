"""Settings of TokenMixer-Large, and its sizes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from recengine.config import knob
from recengine.nn.clicks import ClickConfig

# T tokens, width D, expansion n, L blocks; with H = T a block has 6 n T D^2 weights
PRESETS: dict[str, dict[str, int]] = {
    "10k": {"tokens": 4, "hidden_dim": 16, "expansion": 1, "n_blocks": 2, "embedding_dim": 8},
    "100k": {"tokens": 8, "hidden_dim": 32, "expansion": 1, "n_blocks": 2, "embedding_dim": 16},
    "1m": {"tokens": 8, "hidden_dim": 64, "expansion": 2, "n_blocks": 3, "embedding_dim": 16},
    "10m": {"tokens": 16, "hidden_dim": 160, "expansion": 2, "n_blocks": 2, "embedding_dim": 16},
    "100m": {"tokens": 16, "hidden_dim": 512, "expansion": 2, "n_blocks": 2, "embedding_dim": 16},
    "500m": {"tokens": 16, "hidden_dim": 768, "expansion": 3, "n_blocks": 3, "embedding_dim": 16},
    "1b": {"tokens": 32, "hidden_dim": 1024, "expansion": 3, "n_blocks": 2, "embedding_dim": 16},
    "4b": {"tokens": 32, "hidden_dim": 1536, "expansion": 2, "n_blocks": 5, "embedding_dim": 16},
}


class TokenMixerLargeConfig(ClickConfig):
    """Size, sparsity, depth aids; every part that the paper takes away can be taken away."""

    preset: Literal["", "10k", "100k", "1m", "10m", "100m", "500m", "1b", "4b"] = knob(
        "",
        "a size; sets what is not given of tokens, hidden_dim, expansion, n_blocks, embedding_dim",
    )
    tokens: int = knob(0, "tokens with the one of everything; 0: one a group of features, and that one", ge=0)
    hidden_dim: int = knob(64, "width D of a token", ge=1, choices=(32, 64, 128, 256))
    heads: int = knob(
        0,
        "heads H of the mixing; must divide hidden_dim; 0: the largest divisor up to T that leaves mixed "
        "tokens of a width that the experts divide",
        ge=0,
    )
    n_blocks: int = knob(2, "blocks L", ge=1, low=1, high=8)
    expansion: int = knob(2, "inner width of a SwiGLU over its outer width, n", ge=1, choices=(1, 2, 3, 4))
    experts: int = knob(1, "experts E that a SwiGLU is divided into; 1: dense", ge=1)
    active: int = knob(1, "experts k at work for a row, the shared one among them", ge=1)
    shared_expert: bool = knob(True, "one expert a token sees every row")
    shared_extra: bool = knob(
        False,
        "the shared expert comes on top of the E and the k instead of being one of them",
    )
    router: Literal["token", "shared"] = knob(
        "token", "what chooses experts: a router a token, or one for all tokens of a half block"
    )
    gate_scale: float = knob(0.0, "factor of the routed experts; 0: E / k", ge=0)
    down_gain: float = knob(0.01, "factor of the initial down projections", gt=0)
    norm: Literal["pre", "before_mix", "post"] = knob(
        "pre",
        "where the RMSNorms stand: before each SwiGLU, the first before the mixing, or behind each sum",
    )
    residual: Literal["input", "reverted", "none"] = knob(
        "input", "what the second half of a block adds to: its input, the reverted tokens, nothing"
    )
    skip: int = knob(2, "blocks that an extra residual spans; 0: none", ge=0)
    skip_join: Literal["add", "mean"] = knob(
        "add", "what an extra residual makes of two outputs: their sum, as the paper has it, or their mean"
    )
    auxiliary: float = knob(0.1, "weight of the loss of each intermediate logit", ge=0, low=0.0, high=1.0)
    mixing: bool = knob(True, "mix and revert; without it tokens never meet before the mean")
    ffn: Literal["swiglu", "shared_swiglu", "ffn"] = knob(
        "swiglu", "a SwiGLU a token, one for all tokens, or a two-layer network a token"
    )
    global_token: bool = knob(True, "the token of everything")

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, given: Any) -> Any:
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.heads and self.hidden_dim % self.heads:
            raise ValueError(f"heads {self.heads} does not divide hidden_dim {self.hidden_dim}")
        if self.active > self.experts:
            raise ValueError(f"active {self.active} is more than experts {self.experts}")
        if self.experts > 1 and self.chosen < 1:
            raise ValueError("the shared expert is one of the active ones: active must be 2 or more")
        if self.shared_extra and (self.experts == 1 or not self.shared_expert):
            raise ValueError("shared_extra needs experts (2 or more) and the shared expert")
        if self.experts > 1 and self.ffn != "swiglu":
            raise ValueError("experts are parts of a SwiGLU a token: set ffn to 'swiglu'")
        if self.experts == 1 and self.router == "shared":
            raise ValueError("without experts there is no router to share: set experts to 2 or more")
        if self.expansion * self.hidden_dim % self.experts:
            raise ValueError(f"experts {self.experts} does not divide expansion x hidden_dim")
        if self.tokens == 1 and self.global_token:
            raise ValueError("with the token of everything there must be 2 tokens or more")
        return self

    @property
    def routed(self) -> int:
        """Experts that a router chooses among: E, without the shared one where that is one of them."""
        return self.experts - self._inside

    @property
    def chosen(self) -> int:
        """Experts that it chooses for a row: k, without the shared one where that is one of them."""
        return self.active - self._inside

    @property
    def _inside(self) -> bool:
        return self.shared_expert and not self.shared_extra

    @property
    def alpha(self) -> float:
        """The factor of the routed experts."""
        return self.gate_scale or self.experts / self.active

    def heads_for(self, tokens: int) -> int:
        """H for T tokens. One head always fits: experts divide expansion x hidden_dim."""
        inner = self.expansion * tokens * self.hidden_dim  # of a mixed token, times H
        fit = (h for h in range(1, tokens + 1) if self.hidden_dim % h == 0 and inner // h % self.experts == 0)
        return self.heads or max(fit)


class TokenMixerLargeMoEConfig(TokenMixerLargeConfig):
    """The sparse form."""

    experts: int = knob(8, "experts E that a SwiGLU is divided into", ge=1, choices=(8, 16))
    active: int = knob(4, "experts k at work for a row, the shared one among them", ge=1, choices=(4,))

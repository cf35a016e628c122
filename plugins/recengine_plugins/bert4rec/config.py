"""Settings of BERT4Rec."""

from __future__ import annotations

from recengine.config import knob
from recengine.nn.settings import MaskedConfig


class BERT4RecConfig(MaskedConfig):
    """Width, depth, regularisation and hidden events; the loss has its own section."""

    item_bias: bool = knob(True, "a learned bias for each item")

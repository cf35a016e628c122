"""Settings as trees: layered from defaults, file and command line, compared, written back.

``recengine.config`` declares what a setting is; here is where its value comes from.
"""

from recengine.settings.layers import Layered, Origin, layer, layer_over, parse_set, read_file
from recengine.settings.tree import Difference, diff, flatten, json_schema, unflatten
from recengine.settings.write import to_toml

__all__ = [
    "Difference",
    "Layered",
    "Origin",
    "diff",
    "flatten",
    "json_schema",
    "layer",
    "layer_over",
    "parse_set",
    "read_file",
    "to_toml",
    "unflatten",
]

"""Every method and head under one name, for config scripts: `from adapters.specs import Classification, Lora`.

The settings of a method lie in its own file in `adapters.methods`, those of a head in `adapters.heads`. Importing
this module imports no jax.
"""

from __future__ import annotations

from adapters.heads.classification import Classification
from adapters.heads.head import Head
from adapters.heads.multi_label import MultiLabel
from adapters.heads.pooling import Pair, Pooling
from adapters.heads.regression import Regression
from adapters.heads.tasks import Tasks
from adapters.heads.token_tagging import TokenTagging
from adapters.methods.bias import Bias
from adapters.methods.bottleneck import Bottleneck
from adapters.methods.dora import Dora
from adapters.methods.ia3 import IA3
from adapters.methods.ladder import Ladder
from adapters.methods.lora import Lora, LoraOverride
from adapters.methods.method import Method, above
from adapters.methods.norm import Norm
from adapters.methods.prefix import Prefix
from adapters.methods.probe import Probe
from adapters.methods.router import Router
from adapters.methods.settings import block_range
from adapters.methods.ssf import SSF
from adapters.methods.vera import Vera

__all__ = [
    "IA3",
    "SSF",
    "Bias",
    "Bottleneck",
    "Classification",
    "Dora",
    "Head",
    "Ladder",
    "Lora",
    "LoraOverride",
    "Method",
    "MultiLabel",
    "Norm",
    "Pair",
    "Pooling",
    "Prefix",
    "Probe",
    "Regression",
    "Router",
    "Tasks",
    "TokenTagging",
    "Vera",
    "above",
    "block_range",
]

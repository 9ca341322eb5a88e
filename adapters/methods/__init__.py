"""One file per method; `METHODS` finds the code of a spec by the spec's class."""

from __future__ import annotations

from typing import Any

from adapters.methods.bias import BiasMethod
from adapters.methods.bottleneck import BottleneckMethod
from adapters.methods.dora import DoraMethod
from adapters.methods.ia3 import IA3Method
from adapters.methods.ladder import LadderMethod
from adapters.methods.lora import LoraMethod
from adapters.methods.method import FeatureMethod, SiteMethod
from adapters.methods.norm import NormMethod
from adapters.methods.prefix import PrefixMethod
from adapters.methods.probe import ProbeMethod
from adapters.methods.router import RouterMethod
from adapters.methods.ssf import SSFMethod
from adapters.methods.vera import VeraMethod

METHODS: dict[type, SiteMethod[Any] | FeatureMethod[Any]] = {
    method.spec_type: method
    for method in (
        LoraMethod(),
        DoraMethod(),
        VeraMethod(),
        BottleneckMethod(),
        IA3Method(),
        SSFMethod(),
        BiasMethod(),
        NormMethod(),
        PrefixMethod(),
        RouterMethod(),
        ProbeMethod(),
        LadderMethod(),
    )
}

__all__ = ["METHODS", "FeatureMethod", "SiteMethod"]

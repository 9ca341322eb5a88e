"""One file per method; `METHODS` finds the code of a spec by the spec's class."""

from __future__ import annotations

from typing import Any

from adapters.methods.bottleneck import BottleneckMethod
from adapters.methods.ia3 import IA3Method
from adapters.methods.ladder import LadderMethod
from adapters.methods.lora import LoraMethod
from adapters.methods.method import FeatureMethod, SiteMethod
from adapters.methods.probe import ProbeMethod

METHODS: dict[type, SiteMethod[Any] | FeatureMethod[Any]] = {
    method.spec_type: method
    for method in (LoraMethod(), BottleneckMethod(), IA3Method(), ProbeMethod(), LadderMethod())
}

__all__ = ["METHODS", "FeatureMethod", "SiteMethod"]

"""A mesh as data: what divides, which rule decides, and the bytes that are left on a device."""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import replace

import pytest

from adapters.model import GraftModel
from adapters.specs import Bottleneck, Classification, Lora
from backbone.errors import InputError
from backbone.meshes.mesh import Mesh, Rule
from backbone.meshes.rules import RULES, axes_of, bytes_per_device, check_rules, laid_out
from backbone.network.encoder import Network
from backbone.network.masked_head import abstract_head
from backbone.trees import shapes
from tests import families, tiny, tiny_images
from trainers.config import TrainConfig
from trainers.config.load import override

TEXT, IMAGES = Network(tiny.SPEC), Network(tiny_images.SPEC)
MODEL = GraftModel(TEXT, (Lora(rank=2), Bottleneck(width=4)), Classification(), ("a", "b"))
PARAMETERS = shapes(TEXT.abstract()) | shapes(MODEL.abstract())


def test_every_parameter_of_every_family_has_a_rule_and_every_rule_has_a_parameter():
    heads = {f"head.{name}": shape for name, shape in shapes(abstract_head(tiny.SPEC)).items()}
    everything = PARAMETERS | shapes(IMAGES.abstract()) | heads
    for name in families.CONFIGS:
        spec = families.family_of(name).spec(families.config_of(name), set())
        everything |= shapes(Network(spec).abstract())
    everything |= shapes(Network(replace(tiny.SPEC, mlp_rank=8)).abstract())
    check_rules(Mesh(data=2, fsdp=2, tensor=2), everything)
    unused = [rule.name for rule in RULES if not fnmatch.filter(everything, rule.name)]
    assert not unused


def test_kernels_are_cut_across_and_along():
    mesh = Mesh(fsdp=2, tensor=4)
    width, hidden = tiny.SPEC.width, tiny.SPEC.mlp_width
    axes = {name: axes_of(mesh, name, shape) for name, shape in PARAMETERS.items()}
    assert PARAMETERS["blocks.0.mlp.up.kernel"] == (width, hidden)
    assert axes["blocks.0.mlp.up.kernel"] == ("fsdp", "tensor")
    assert axes["blocks.2.mlp.down.kernel"] == ("tensor", "fsdp")
    assert axes["blocks.1.attention.qkv.kernel"] == ("fsdp", "tensor")
    assert axes["blocks.1.attention.qkv.bias"] == ("",)
    assert {axes[name] for name in axes if name.startswith("adapter.")} <= {("",), ("", "")}
    assert tiny.SPEC.vocabulary % 4, "so this dimension stays whole"
    assert axes["embeddings.token"] == ("", "fsdp")


def test_bytes_of_a_device_by_hand():
    mesh = Mesh(data=2, fsdp=4, tensor=2)
    shape = PARAMETERS["blocks.0.mlp.up.kernel"]
    laid = laid_out(mesh, {"blocks.0.mlp.up.kernel": shape, "blocks.0.mlp.up.bias": shape[1:]})
    assert bytes_per_device(laid.values()) == 4 * (math.prod(shape) // 8 + shape[1]), "data has copies"


@pytest.mark.parametrize(
    ("mesh", "devices", "data"), [(Mesh(), 8, 1), (Mesh("auto"), 8, 8), (Mesh("auto", 2, 2), 8, 2), (Mesh(2), 8, 2)]
)
def test_an_open_axis_takes_the_rest(mesh, devices, data):
    assert mesh.resolved(devices).data == data


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(3), "mesh.data=3, .* takes 3 devices, which does not divide the 8"),
        (Mesh(16), "takes 16 devices, which does not divide the 8"),
        (Mesh("auto", fsdp=3), "takes 3 devices, .*choose a product of 1, 2, 4, 8"),
    ],
)
def test_devices_that_cannot_be_divided(mesh, message):
    with pytest.raises(InputError, match=message):
        mesh.resolved(8)


def test_a_batch_that_cannot_be_divided_is_refused_in_the_config():
    with pytest.raises(InputError, match=r"30 rows cannot be divided among 4 groups .* take 28 or 32"):
        TrainConfig(batch_size=30, mesh=Mesh(data=2, fsdp=2, tensor=3))
    config = override(TrainConfig(), ["mesh.data=auto", "mesh.tensor=2"])
    assert config.mesh == Mesh("auto", tensor=2)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("blocks.*.mlp.upp.kernel", ("fsdp",)), "matches no parameter; nearest: blocks.*mlp.up.kernel"),
        (Rule("blocks.*.mlp.up.kernel", ("fsdp",)), "has 1 axes, and blocks.0.mlp.up.kernel 2 dimensions"),
        (Rule("embeddings.token", ("tensor", "fsdp")), "mesh.tensor=4 does not divide .* of embeddings.token"),
    ],
)
def test_a_rule_of_ones_own_must_fit(rule, message):
    with pytest.raises(InputError, match=message):
        check_rules(Mesh(fsdp=2, tensor=4, rules=(rule,)), PARAMETERS)


def test_a_rule_of_ones_own_comes_first():
    mesh = Mesh(fsdp=2, rules=(Rule("blocks.*.mlp.up.kernel"),))
    check_rules(mesh, PARAMETERS)
    assert axes_of(mesh, "blocks.0.mlp.up.kernel", (32, 64)) == ("", "")
    assert axes_of(mesh, "blocks.0.mlp.down.kernel", (64, 32)) == ("", "fsdp")


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(InputError, match=re.escape("no rule covers the parameter blocks.0.mixer.kernel")):
        check_rules(Mesh(), {"blocks.0.mixer.kernel": (4, 4)})


@pytest.mark.parametrize(("axes", "message"), [(("data",), "no axis of parameters"), (("fsdp", "fsdp"), "not two")])
def test_a_rule_names_axes_once(axes, message):
    with pytest.raises(InputError, match=message):
        Rule("*", axes)

import re
from dataclasses import replace

import pytest
import torch

from onespike.audit.result import read_spikes
from onespike.data.sets import ImageSet
from onespike.models.onespike import PRESETS
from onespike.units import ConvUnit
from onespike.units.registry import UNITS

STRICT = {"preset": "strict"}


@pytest.mark.parametrize("unit", ["conv", "mlp"])
@pytest.mark.parametrize("time_steps", [1, 2])
def test_a_strict_network_holds_layer_by_layer(make_run, command, unit, time_steps):
    run = make_run(**STRICT, unit=unit, time_steps=time_steps)
    code, printed, _ = command("check-spikes", run.folder, "--images", 32)
    assert code == 0, printed
    assert "holds: behind the stem all " in printed
    assert "NO SPIKES" not in printed
    assert "layers.0.mlp.4" in printed
    assert "head" in printed


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ({"mlp_activation": "gelu"}, "layers.0.mlp.1"),
        ({"readout": "real"}, "layers.1.features.0.reduction"),
        ({"region_threshold": None, "windows": "dilated"}, "layers.0.fc.0"),
        ({"encoding": "direct"}, "layers.0.unit.conv1"),
    ],
)
def test_one_real_valued_place_is_found_and_named(make_run, command, change, layer):
    # The values of the preset, without its label: that refuses such a change.
    run = make_run(**{"preset": "modern", **PRESETS["strict"], "mlp_ratio": 2, **change})
    code, printed, _ = command("check-spikes", run.folder, "--images", 32)
    assert code == 1
    assert f"the first in {layer}" in printed
    assert any("NO SPIKES" in line for line in printed.splitlines() if line.startswith(layer))


class Waves(ConvUnit):
    """A unit whose layers read sines of spikes."""

    def forward(self, spikes, potential=None, memory=None):
        return super().forward(torch.sin(spikes.cumsum(-1)), potential, memory)


def test_of_a_strict_network_with_a_unit_of_ones_own_it_says_who_has_to_see_to_it(make_run, command, monkeypatch):
    monkeypatch.setitem(UNITS, "waves", Waves)
    code, printed, _ = command("check-spikes", make_run(**STRICT, unit="waves").folder, "--images", 16)
    assert code == 1
    assert "the first in layers.0.unit.conv1" in printed
    assert "; the preset strict does not look into units and neurons of yours: make their layers read spikes" in printed


def test_the_papers_network_with_a_recurrent_unit_does_not_hold(make_run, command):
    code, printed, _ = command("check-spikes", make_run(unit="lstm").folder, "--images", 16)
    assert code == 1
    state = [line for line in printed.splitlines() if "unit.layer.cell" in line and " state" in line]
    assert state
    assert all("NO SPIKES" in line for line in state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected RUN: onespike check-spikes RUN"),
        (["nowhere"], "nowhere is not a run"),
        (["--imagse", "3"], "--images"),
        (["pretrained:digits-spiking-vgg-xs", "--images", "1"], "images: expected at least 2, got 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, arguments, message):
    code, _, error = command("check-spikes", *arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_single_image_proves_nothing(make_run, command, monkeypatch):
    spread = ImageSet.spread
    monkeypatch.setattr(ImageSet, "spread", lambda self, _: spread(self, 1))
    code, _, error = command("check-spikes", make_run(**STRICT).folder)
    assert (code, error.count("\n")) == (2, 1)
    assert "expected at least 2 test images, got 1" in error


def test_a_network_that_is_all_stem_proves_nothing(make_run, command, monkeypatch):
    run = make_run(**STRICT)
    monkeypatch.setattr("onespike.audit.result.Reading.stem", True)
    code, printed, _ = command("check-spikes", run.folder, "--images", 16)
    assert code == 1
    assert "nothing is proved: the network has no product behind the stem" in printed


def test_spikes_with_a_sign_are_named_so(make_run, command):
    run = make_run(**STRICT, neuron={"name": "ternary"})
    code, printed, _ = command("check-spikes", run.folder, "--images", 32)
    assert code == 0, printed
    assert "of them spikes with a sign, on 32 test images" in printed
    assert "0, 1 and its negative" in printed


def test_of_a_network_that_is_silent_it_says_that_nothing_is_proved(make_run, command):
    run = make_run(**STRICT, neuron={"threshold": 1e6})
    code, printed, _ = command("check-spikes", run.folder, "--images", 16)
    said = " ".join(printed.split("nothing is proved: ")[1].split())
    assert code == 1
    assert re.fullmatch(
        r"nothing arrived at any of the \d+ products .* test images of .*: the network does not fire", said
    )


def test_where_a_layer_is_silent_it_says_that_little_is_proved(make_run, command, monkeypatch):
    def last_is_silent(operations):
        *others, last = read_spikes(operations)
        return [*others, last._replace(product=replace(last.product, rate=0.0))]

    run = make_run(**STRICT)
    monkeypatch.setattr("onespike.audit.result.read_spikes", last_is_silent)
    code, printed, _ = command("check-spikes", run.folder, "--images", 16)
    assert code == 0
    said = " ".join(printed.split())
    assert re.search(r"holds: .*; NOTHING arrived at \d of them, which proves little: does the network fire\?$", said)

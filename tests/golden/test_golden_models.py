"""State-dict keys, logits and losses that a change must not move unnoticed, pinned in the text files beside.

Where a change means to move them, write the files anew, look at the difference, and commit it:

    ONESPIKE_WRITE_GOLDEN=1 pytest tests/golden

Weights and images are uniform numbers of a seeded generator, in float64: the same on every machine.
"""

import math
import os
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch

from onespike import create_model
from onespike.models import MODELS
from onespike.units.registry import UNITS
from tests.forward import losses_of

FOLDER = Path(__file__).parent
every_unit = pytest.mark.parametrize("name", ["conv-tiny", *(f"{unit}12" for unit in UNITS)])


def pinned(file, lines):
    """The lines of a golden file; written first, where that is asked for."""
    path = FOLDER / file
    if os.environ.get("ONESPIKE_WRITE_GOLDEN"):
        path.write_text("".join(f"{line}\n" for line in lines))
    assert path.is_file(), f"{file} is missing: write it with ONESPIKE_WRITE_GOLDEN=1"
    return path.read_text().splitlines()


def uniform(shape, bound, generator):
    return (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) * bound


def make(name, **overrides):
    """A model whose every parameter differs from every other."""
    torch.manual_seed(0)  # for the biases of the recurrent cells
    network = create_model(name, num_classes=10, in_channels=3, image_size=32, **overrides).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(uniform(parameter.shape, math.sqrt(3 / parameter[0].numel()), generator))
            else:
                parameter.add_(uniform(parameter.shape, 0.1, generator))
    return network


def folded(keys):
    """The keys without their repetition: a line of modules that hold the same, then what each of them holds."""
    contents, modules = defaultdict(list), defaultdict(list)
    for key in keys:
        parts = key.split(".")
        depth = 2 if len(parts) > 2 and parts[1].isdigit() else 1
        contents[".".join(parts[:depth])].append(".".join(parts[depth:]))
    for module, held in contents.items():
        modules[tuple(sorted(held))].append(module)
    return [line for held, owners in modules.items() for line in (" ".join(owners), *(f"    {key}" for key in held))]


def by_model(lines):
    """The lines below each model's heading: the order of models is no promise."""
    return sorted("\n".join([*lines, ""]).split("# "))


def test_state_dict_keys_stay():
    lines = []
    for name in (name for name, ours in MODELS.items() if ours.builder.__module__.startswith("onespike.")):
        with torch.device("meta"):
            network = create_model(name)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        lines += [f"# {name}: {parameters:,} parameters", *folded(network.state_dict())]
    assert by_model(lines) == by_model(pinned("keys.txt", lines))


@every_unit
def test_logits_stay(name):
    narrow = {} if name == "conv-tiny" else {"channels": (8, 12, 16, 24)}
    network, generator = make(name, **narrow).eval(), torch.Generator().manual_seed(1)
    images = uniform((2, 3, 32, 32), 2, generator)
    with torch.no_grad():
        logits = network(images, network.draw(2, generator))
    assert logits.std() > 0.01, "not worth pinning"
    lines = [" ".join(f"{value:.6f}" for value in row) for row in logits.tolist()]
    expected = [[float(value) for value in line.split()] for line in pinned(f"{name}.logits.txt", lines)]
    torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["conv-tiny"])
def test_losses_of_three_steps_stay(name):
    network, generator = make(name).train(), torch.Generator().manual_seed(1)
    images, labels = uniform((16, 3, 32, 32), 2, generator), torch.arange(16) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = losses_of(partial(network, generator=generator), images, labels, optimizer, steps=3)
    lines = [f"{loss:.6f}" for loss in losses]
    expected = [float(line) for line in pinned(f"{name}.losses.txt", lines)]
    assert losses == pytest.approx(expected, abs=1e-3)

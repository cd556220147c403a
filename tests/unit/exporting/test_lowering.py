"""Networks of a few operations, in whole numbers and in real ones: they are computed exactly, or refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from onespike import export
from onespike.errors import OnespikeError
from onespike.neurons import LIF
from tests.unit.exporting.program import SANITIZERS, answers

if shutil.which("cc") is None:
    pytest.skip("there is no C compiler", allow_module_level=True)


class Net(nn.Module):
    """Layers on images of one channel and side 4, put together by a function."""

    def __init__(self, compute: "Callable[[Net, Tensor], Tensor]") -> None:
        super().__init__()
        self.a, self.b, self.mix, self.fire = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1), LIF(4)
        self.norm, self.flat, self.head = nn.BatchNorm2d(4), nn.BatchNorm1d(64), nn.Linear(64, 3)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, 1, -1, -1]))
            self.norm.bias.copy_(torch.tensor([0.7, 0.1, 0.7, 0.1]))
            nn.init.uniform_(self.flat.running_var, 0.5, 2)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)

    def spikes(self, x: Tensor) -> Tensor:
        """A map of spikes."""
        return self.fire(4 * self.a(x))

    def more(self, x: Tensor) -> Tensor:
        """Another one."""
        return self.fire(4 * self.b(x))


def masked(n: Net, x: Tensor) -> Tensor:
    return n.head((n.spikes(x) * torch.tensor([1.0, 1, 0, 1]).view(4, 1, 1)).flatten(1))


def two_sizes(n: Net, x: Tensor) -> Tensor:
    one, other = n.spikes(x), n.more(x)
    return n.head(n.fire(0.501 * one + 0.1 * other).flatten(1))


def scores(n: Net, x: Tensor) -> Tensor:
    one, other = n.spikes(x), n.more(x)
    return (0.301 * one + 0.7007 * other)[:, :, 0, 0]


def nothing(n: Net, x: Tensor) -> Tensor:
    return 0 * (n.a(x) + n.spikes(x))[:, :3].mean((2, 3))


def small(n: Net, x: Tensor) -> Tensor:
    spikes = n.fire(4 * x + n.a(x))
    return n.head(spikes.flatten(1)) + 6e-6 * spikes[:, :3].mean((2, 3))


def smallest(n: Net, x: Tensor) -> Tensor:
    current = n.a(x)
    return n.mix(n.fire(1e-22 * current + 0.6 * n.fire(4 * current)))[:, :, 0, 0]


def either(n: Net, x: Tensor) -> Tensor:
    one, other = n.spikes(x), n.more(x)
    return n.head((one + other).bool().float().flatten(1))


def spikes_of_pixels(n: Net, x: Tensor) -> Tensor:
    return n.head(n.fire(n.a(n.fire(x))).flatten(1))


HOLDS = ""
CASES: list[tuple[Callable[[Net, Tensor], Tensor], str, str]] = [
    (lambda n, x: n.head(n.fire(n.norm(n.spikes(x))).flatten(1)), "c fp32,nir", HOLDS),
    (masked, "c fp32,nir", HOLDS),
    (masked, "c int8", "spikes of several sizes, or with a constant, in front of head"),
    (two_sizes, "c int8", HOLDS),
    (scores, "c int8", HOLDS),
    (nothing, "c fp32,c int8,nir", HOLDS),
    (small, "c int8", HOLDS),
    (smallest, "c int8", HOLDS),
    (lambda n, x: n.mix(n.fire(n.a(300 * x).mean((2, 3), keepdim=True)))[:, :, 0, 0], "c int8", HOLDS),
    (either, "c fp32", "a conversion to whole numbers in"),
    (lambda n, x: n.head(n.flat(n.spikes(x).flatten(1))), "c fp32", "a factor or a threshold for each pixel in head"),
    (lambda n, x: n.head(n.flat(n.spikes(x).flatten(1))), "c int8", "spikes of several sizes"),
    (lambda n, x: n.head(n.spikes(x).flatten(1)) + n.more(x).mean(), "c fp32", HOLDS),
    (lambda n, x: n.head(torch.div(n.a(x), 0.25, rounding_mode="floor").flatten(1)), "c fp32", "it cannot say div of"),
    (spikes_of_pixels, "c fp32,c int8", HOLDS),
]


@pytest.mark.parametrize(("compute", "targets", "message"), CASES)
def test_a_few_operations(compute: Callable[[Net, Tensor], Tensor], targets: str, message: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Net(compute).eval(), torch.randint(0, 256, (1, 4, 4, 1), dtype=torch.uint8)
    for target in targets.split(","):
        name, weights = (*target.split(), "fp32")[:2]
        if message:
            with pytest.raises(OnespikeError, match=message):
                export(network, tmp_path / "out", name, images=images, mean=[0.3], weights=weights)
            continue
        made = export(network, tmp_path / "out", name, images=images, mean=[0.3], weights=weights)
        (proof,) = made.parity
        assert made.holds, proof
        assert proof.logit_error < 1e-5
        if weights == "int8":
            answers(tmp_path / "out", images, flags=SANITIZERS)


def test_sums_of_pixels_have_room(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(258**2, 1), LIF(1), nn.Linear(1, 2))
    nn.init.ones_(network[1].weight)
    images = torch.zeros(1, 258, 258, 1, dtype=torch.uint8)
    with pytest.raises(OnespikeError, match="sums of 1 that exceed 32 bits"):
        export(network, tmp_path / "out", "c", images=images)

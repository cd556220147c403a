"""Networks of a few operations, in whole numbers and in real ones: they are computed exactly, or refused by name."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from onespike import create_model, export
from onespike.errors import OnespikeError
from onespike.neurons import LIF
from tests.running import thorough
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


def left_by_resets(n: Net, x: Tensor) -> Tensor:
    """Two time steps of neurons whose current is a sum of spikes."""
    current = n.mix(n.spikes(x)) - n.mix.bias.view(-1, 1, 1)
    fired = (current > 0.1).to(x.dtype)
    return ((1 - fired) * current + current > 0.1).to(x.dtype).mean((2, 3))


def masked(n: Net, x: Tensor) -> Tensor:
    return n.head((n.spikes(x) * torch.tensor([1.0, 1, 0, 1]).view(4, 1, 1)).flatten(1))


def two_sizes(n: Net, x: Tensor) -> Tensor:
    one, other = n.spikes(x), n.more(x)
    return n.head(n.fire((0.5 + 1e-12) * one + 0.1 * other).flatten(1))  # just above the threshold


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


def unlike(n: Net, x: Tensor) -> Tensor:
    return n.head(torch.where(n.spikes(x) + n.more(x) > 0.5, 1.0, 0.25 * n.fire(4 * n.a(x) - 1)).flatten(1))


def bordered(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1))


def halves(n: Net, x: Tensor) -> Tensor:
    upper, lower = F.pad(n.a(x)[:, :, :2], (0, 0, 0, 2)), F.pad(n.b(x)[:, :, 2:], (0, 0, 2, 0))
    return n.head((n.fire(4 * upper) + n.fire(4 * lower)).flatten(1))


def squares(n: Net, x: Tensor) -> Tensor:
    large = F.avg_pool2d(128 * n.fire(n.a(x) + 9) + 127.99 * n.fire(n.b(x) + 9), (1, 3))
    return n.mix(n.fire(large * large - 6e4)).mean((2, 3))


def channels_padded(n: Net, x: Tensor, value: float = 0.0) -> Tensor:
    return F.pad(n.a(x)[:, :2], (0, 0, 0, 0, 0, 2), value=value)


def constants_in_matrices(n: Net, x: Tensor) -> Tensor:
    rows = n.a(x).flatten(2).movedim(1, -1)
    rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
    return (rows @ rows.transpose(1, 2)).mean(1)[:, :3]


def negative_currents(n: Net, x: Tensor) -> Tensor:
    assert n.mix.bias is not None
    currents = n.mix(n.spikes(x)) - n.mix.bias.view(3, 1, 1)
    return torch.where(currents > 0, 1.0, currents).mean((2, 3))


def currents_above_a_negative_threshold(n: Net, x: Tensor) -> Tensor:
    assert n.mix.bias is not None
    currents = n.mix(n.spikes(x)) - n.mix.bias.view(3, 1, 1)
    return torch.where(currents > -0.05, 1.0, currents).mean((2, 3))


def means_made_whole(n: Net, x: Tensor) -> Tensor:
    means = F.avg_pool2d(n.spikes(x), 2)
    spikes = torch.where(means > 0.1, 1.0, means), (means >= 0.5).to(x.dtype), (-means >= -0.5).to(x.dtype)
    return torch.stack([n.mix(one).mean((2, 3)) for one in spikes]).sum(0)  # some are 0.5 exactly


def padded_spikes(n: Net, x: Tensor) -> Tensor:
    return F.pad(n.spikes(x)[:, :2], (0, 0, 0, 0, 0, 2))


def others_of_constants(n: Net, x: Tensor) -> Tensor:
    return n.mix(torch.where(padded_spikes(n, x) > 0.5, 1.0, n.spikes(x))).mean((2, 3))


def zeros_of_constants(n: Net, x: Tensor) -> Tensor:
    spikes = padded_spikes(n, x)
    return n.mix(torch.where(spikes > 0.5, 1.0, spikes)).mean((2, 3))


def another_order(n: Net, x: Tensor) -> Tensor:
    spikes = n.spikes(x).index_select(1, torch.tensor([2, 1, 0, 3]))
    spikes = spikes.repeat_interleave(torch.tensor([2, 0, 1, 1]), 1, output_size=4)
    return n.head(spikes[:, [3, 2, 2, 0]].repeat_interleave(2, 1)[:, ::2].flatten(1))


def shuffled(n: Net, x: Tensor) -> Tensor:
    spikes = F.pixel_shuffle(F.channel_shuffle(n.spikes(x), 2), 2).rot90(1, (2, 3)).fliplr()
    spikes = torch.concat(F.pixel_unshuffle(spikes.flipud(), 2).split([1, 3], 1)[::-1], 1)
    rows = torch.hstack([spikes.unfold(3, 2, 2).diagonal(0, 3, 4), n.more(x)[..., 1:3]])
    return n.head(torch.concatenate([torch.dstack(torch.vstack([rows]).split(4, 1))], 1).flatten(1))


def second_names(n: Net, x: Tensor) -> Tensor:
    values = torch.divide(torch.multiply(n.a(x), torch.subtract(n.b(x), 0.5)), 0.3).negative()
    spikes = torch.greater(values, 0.1).to(x.dtype) + torch.greater_equal(values, 0.1).to(x.dtype)
    return n.head((F.relu6(20 * n.a(x)) + values.clip(-0.2, 0.3) + spikes).true_divide(3.0).flatten(1))


def fixed_spikes(n: Net, _x: Tensor) -> Tensor:
    return n.fire(n.norm.weight.view(1, 4, 1, 1))[:, :3, 0, 0]


def logical_or(n: Net, x: Tensor) -> Tensor:
    return n.head(((n.spikes(x) > 0.5) + (n.more(x) > 0.5)).to(x.dtype).flatten(1))


def infinite(*shape: int) -> Tensor:
    return torch.tensor([0.0, 0, -torch.inf, 0])[: shape[0]].view(*shape)


HOLDS = ""
CASES: list[tuple[Callable[[Net, Tensor], Tensor], str, str]] = [
    (lambda n, x: n.head(n.fire(n.norm(n.spikes(x))).flatten(1)), "c fp32,nir", HOLDS),
    (masked, "c fp32,nir", HOLDS),
    (
        masked,
        "c int8",
        "spikes of several sizes, or with a constant, in front of head .onespike convert --neurons layer",
    ),
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
    (unlike, "c int8", "not strictly spiking: head read other values than spikes"),
    (lambda n, x: n.mix(torch.cos(channels_padded(n, x)))[:, :, 0, 0], "c fp32", HOLDS),
    (lambda n, x: n.mix(F.relu(channels_padded(n, x, -1.0)))[:, :, 0, 0], "c fp32", HOLDS),
    (lambda n, x: n.mix(n.fire(bordered(n.a(x)) + bordered(n.b(x)))).mean((2, 3)), "c int8,c fp32", HOLDS),
    (halves, "c fp32,c int8", HOLDS),
    (lambda n, x: n.mix(n.spikes(x) * n.more(x)).mean((2, 3)), "c fp32,c int8", HOLDS),
    (lambda n, x: n.mix(0.5 * n.spikes(x) * (2 - 2 * n.more(x))).mean((2, 3)), "c fp32,c int8", HOLDS),
    (left_by_resets, "c fp32,c int8", HOLDS),
    (squares, "c int8", "that exceed 64 bits"),
    (constants_in_matrices, "c fp32", HOLDS),
    (negative_currents, "c int8", "fractions of spikes that stay in"),
    (currents_above_a_negative_threshold, "c int8", "fractions of spikes that stay in"),
    (means_made_whole, "c int8", HOLDS),
    (others_of_constants, "c int8", "a choice between tensors in"),
    (zeros_of_constants, "c int8", HOLDS),
    (
        lambda n, x: n.head(F.gelu(n.spikes(x)).flatten(1)),
        "c int8",
        "head read other values than spikes, or what integers cannot say: gelu of .* has to read spikes$",
    ),
    (lambda n, x: n.mix(F.avg_pool2d(n.a(x), 3, 2, ceil_mode=True)).mean((2, 3)), "c fp32", "windows differ in size"),
    (lambda n, x: n.mix(F.max_pool2d(n.a(x), 3, 2, ceil_mode=True)).mean((2, 3)), "c fp32", "with ceil_mode in"),
    (
        lambda n, x: n.head(F.relu(n.a(x)).flatten(1)),
        "c int8",
        "head read other values than spikes; .*; --weights fp32 may export",
    ),
    (
        lambda n, x: (n.fire(n.mix(n.spikes(x))) + n.fire(n.mix(n.spikes(x) + n.more(x)))).mean((2, 3)),
        "c int8",
        "^c: Net is not strictly spiking: mix read other values .*; --weights fp32 may export it, in float C$",
    ),
    (another_order, "c fp32,c int8", HOLDS),
    (shuffled, "c fp32,c int8", HOLDS),
    (second_names, "c fp32", HOLDS),
    (lambda n, x: n.head(n.spikes(x)[:, [3, 1, 0, 2]].flatten(1)), "nir", HOLDS),
    (lambda n, x: n.head(n.norm.weight[n.spikes(x).long()].flatten(1)), "c fp32", "an order that depends on the image"),
    (lambda n, x: n.head(n.spikes(x).flatten(1)) + fixed_spikes(n, x), "c fp32,c int8,nir", HOLDS),
    (lambda n, x: n.mix(n.a(x)).mean((2, 3)) + fixed_spikes(n, x), "c fp32,nir", HOLDS),
    (logical_or, "c fp32,c int8,nir", "a logical or in"),
    (lambda n, x: n.head(n.spikes(x).flatten(1)) + infinite(3), "c fp32,c int8", "expected finite logits"),
    (lambda n, x: n.mix(F.relu(n.a(x) + infinite(4, 1, 1))).mean((2, 3)), "c int8", "relu of .*infinity"),
    (
        lambda n, x: F.softmax(n.a(x).mean((2, 3)) + infinite(4), -1)[:, :3],
        "c fp32",
        "c: expected finite constants in float32, got -inf in",
    ),
    (lambda n, x: n.head(n.spikes(x).flatten(1)) + 1e-46 * n.more(x)[:, :3].mean((2, 3)), "c fp32", HOLDS),
    (lambda n, x: n.mix(n.fire(n.a(bordered(x)))).mean((2, 3)), "c fp32", HOLDS),
    (
        lambda n, x: n.mix(n.fire(n.a(bordered(x)))).mean((2, 3)),
        "c int8",
        "pixels of the image that are moved or padded before a;",
    ),
]


@pytest.mark.parametrize(("compute", "targets", "message"), thorough(CASES, 3))
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


def test_what_many_pixels_read_is_computed_once(tmp_path: Path) -> None:
    def centred(n: Net, x: Tensor) -> Tensor:
        return n.head((n.a(x) - n.a(x).mean((2, 3), keepdim=True)).flatten(1))

    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 4, 4, 1), dtype=torch.uint8)
    assert export(Net(centred).eval(), tmp_path / "out", "c", images=images, weights="fp32").holds
    code = (tmp_path / "out" / "model.c").read_text()
    mean = code.split(": pool, 1 x 1 x 1 x 4 */")[1].split("\n/* ")[0]
    assert "static void fill" in mean


def test_names_end_no_comment_of_the_program(tmp_path: Path) -> None:
    network = type("Net*/??/", (nn.Sequential,), {})()
    for name, layer in (("*/a", nn.Conv2d(1, 4, 1)), ("/*", LIF(4)), ("b", nn.Flatten()), ("c\\\n", nn.Linear(64, 3))):
        network.add_module(name, layer)
    images = torch.randint(0, 256, (1, 4, 4, 1), dtype=torch.uint8)
    made = export(network.eval(), tmp_path / "out", "c", images=images)
    assert made.holds
    assert "/* Net_/__/: a strictly spiking network" in (tmp_path / "out" / "model.h").read_text()
    assert json.loads((tmp_path / "out" / "contract.json").read_text())["formats"]["c"]["input"] == (
        "uint8 (H, W, C), row by row, one image"
    )


@pytest.mark.parametrize("weight", [0.25, 0.375])
def test_a_neuron_out_of_reach_stays_silent(weight: float, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), LIF(1), nn.Flatten(), nn.Linear(16, 3)).eval()
    nn.init.constant_(network[0].weight, weight)
    assert export(network, tmp_path / "out", "c", images=torch.full((1, 4, 4, 1), 255, dtype=torch.uint8)).holds


@pytest.mark.slow
def test_ternary_spikes_are_proved(tmp_path: Path, digits: Tensor, settled: Any) -> None:
    network = create_model("spiking-vgg-xs", in_channels=1, width=4, neuron={"name": "ternary"})
    settled(network, (digits.float() / 255 - 0.3).movedim(-1, 1) / 0.35)
    made = export(network, tmp_path / "out", "c", images=digits[:10], mean=[0.3], std=[0.35], weights="fp32")
    assert made.holds
    assert made.parity[0].layers > 0


def test_channels_in_another_order_keep_their_deviations(tmp_path: Path) -> None:
    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fire, self.head = nn.Conv2d(3, 4, 1), LIF(4), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fire(4 * self.conv(x.flip(1))).flatten(1))

    torch.manual_seed(0)
    images, std = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8), [0.1, 0.3, 0.9]
    assert export(Flipped().eval(), tmp_path / "out", "c", images=images, mean=[0.5] * 3, std=std).holds


@pytest.mark.slow
def test_norms_of_vectors_are_not_folded_into_thresholds_of_maps(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    layers = nn.Conv2d(1, 4, 3), nn.Flatten(), nn.BatchNorm1d(16), LIF(16), nn.Linear(16, 3)
    images = torch.randint(0, 256, (6, 4, 4, 1), dtype=torch.uint8)
    assert export(nn.Sequential(*layers).eval(), tmp_path / "out", "onnx", images=images).holds


def test_weights_that_are_computed_before_use_are_rounded_like_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), LIF(4), nn.Flatten(), nn.Linear(16, 3)).eval()
    parametrizations.orthogonal(network[0])  # of operations that no target knows
    prune.random_unstructured(network[3], "weight", 0.5)
    images = torch.randint(0, 256, (6, 4, 4, 1), dtype=torch.uint8)
    assert export(network, tmp_path / "out", "c", images=images).holds
    assert "parametrizations.weight.original" in network[0].state_dict(), "the network stays as it was"


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_the_program_links_into_cpp_and_aliases_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images, out = torch.randint(0, 256, (1, 4, 4, 1), dtype=torch.uint8), tmp_path / "out"
    export(Net(two_sizes).eval(), out, "c", images=images, mean=[0.3])
    main = "static uint8_t i[16]; static int32_t s[3];\nint main() { return model_run(i, s) < 0; }\n"
    (out / "main.cpp").write_text('#include "model.h"\n' + main)
    strict = ["-O2", "-Wall", "-Wstrict-aliasing=2", "-Werror"]
    subprocess.run(["cc", *strict, "-c", "model.c", "-o", "model.o"], cwd=out, check=True)
    subprocess.run(["c++", "main.cpp", "model.o", "-o", "main"], cwd=out, check=True)
    subprocess.run(["./main"], cwd=out, check=True)


def test_sums_of_pixels_have_room(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(258**2, 1), LIF(1), nn.Linear(1, 2))
    nn.init.ones_(network[1].weight)
    images = torch.zeros(1, 258, 258, 1, dtype=torch.uint8)
    with pytest.raises(OnespikeError, match="sums of 1 that exceed 32 bits"):
        export(network, tmp_path / "out", "c", images=images)

"""C against the network with weights of 8 bits in float64: no spike and no class may differ."""

import ctypes
import math
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike import create_model, export
from onespike.errors import OnespikeError
from onespike.exporting import Export
from onespike.exporting.c.target import FLAGS
from onespike.exporting.c.text import kernels_for
from onespike.neurons import LIF, NeuronConfig
from onespike.units.conv import WindowConv
from tests.running import thorough
from tests.unit.exporting.program import SANITIZERS, answers

if shutil.which("cc") is None:
    pytest.skip("there is no C compiler", allow_module_level=True)

Settle = Callable[[nn.Module, Tensor], nn.Module]
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def normalised(images: Tensor, channels: int) -> Tensor:
    mean, std = (torch.tensor(one[:channels]) for one in (MEAN, STD))
    return ((images / 255 - mean) / std).movedim(-1, 1)


def prove(network: nn.Module, images: Tensor, out: Path, settle: Settle) -> Export:
    """Export to C and expect that nothing differs, and that neurons fire."""
    channels = images.shape[-1]
    settle(network, normalised(images, channels))
    made = export(network, out, "c", images=images, mean=MEAN[:channels], std=STD[:channels])
    (proof,) = made.parity
    assert proof.exact
    assert (proof.first, proof.same_class, proof.holds) == (None, 100.0, True)
    assert proof.spikes > 0
    assert proof.largest_logit > 0.01
    return made


class Net(nn.Module):
    """A network of one kind of operation between stem and head, on images of side 16."""

    def __init__(self, *middle: nn.Module, channels: int, side: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), LIF(12))
        self.middle, self.norm, self.fire = nn.Sequential(*middle), nn.BatchNorm2d(channels), LIF(channels)
        self.head = nn.Linear(channels * side**2, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.fire(self.norm(self.middle(self.stem(images)))).flatten(1))


class Branches(nn.Module):
    """Spikes and currents of several layers, added and put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(12, 7, 3, padding=1), nn.Conv2d(12, 7, 1)
        self.fires = nn.ModuleList([LIF(7, NeuronConfig(threshold=t)) for t in (0.1, 0.4)])
        self.join = nn.Conv2d(26, 9, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        joined = torch.cat([self.fires[0](left + 0.5 * right), self.fires[1](right - left), x], 1)
        return self.join(joined) + F.pad(left, (0, 0, 0, 0, 2, 0))


@pytest.mark.parametrize(
    ("middle", "channels", "side"),
    thorough(
        [
            ([nn.Conv2d(12, 8, 3, stride=2, padding=1)], 8, 8),
            ([nn.Conv2d(12, 8, (3, 2), dilation=2, padding=(2, 1), groups=4)], 8, 16),
            ([nn.Conv2d(12, 8, 3, bias=False), nn.MaxPool2d(3, 2, padding=1)], 8, 7),
            ([nn.MaxPool2d(3, 1, padding=1), nn.Conv2d(12, 40, 1)], 40, 16),
            ([nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.AvgPool2d(2)], 8, 4),
            ([nn.AvgPool2d(4), nn.Conv2d(12, 8, 3, padding=1)], 8, 4),
            ([nn.Conv2d(12, 8, 1), nn.AvgPool2d(3, 2, padding=1)], 8, 8),
            ([Branches()], 9, 16),
            ([nn.MaxPool2d(16), WindowConv(12, 8)], 8, 1),
            ([nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)], 12, 4),
            ([nn.MaxPool2d(4), nn.Upsample(scale_factor=2), nn.Conv2d(12, 8, 3, padding=1), nn.Upsample(12)], 8, 12),
        ],
        4,
    ),
    ids=[
        *("stride", "groups", "pooling behind", "pooling before"),
        *("poolings", "mean of spikes", "padded mean", "branches", "one pixel", "ceil_mode", "upsampling"),
    ],
)
def test_every_operation(middle: list[nn.Module], channels: int, side: int, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    prove(Net(*middle, channels=channels, side=side), images, tmp_path / "out", settled)


STRICT: list[tuple[str, dict[str, Any]]] = [
    ("spiking-vgg-xs", {"width": 8}),
    ("spiking-vgg-xs", {"width": 6, "population": 3, "head": "mean", "stem_layers": 2, "stem": "none"}),
    ("spiking-vgg-xs", {"width": 8, "preset": "windows", "depth": 3}),
    ("spiking-resnet-xs", {"width": 8, "population": 2, "stream": "rprelu"}),
    ("conv-tiny", {"preset": "strict", "channels": (8, 12, 16)}),
    ("conv-tiny", {"preset": "strict", "depths": (1, 1), "channels": (8, 12), "fusion": "mean", "windows": "dilated"}),
    ("spiking-resnet-xs", {"width": 8, "stem": "rectified", "head": "mean"}),
    ("spiking-vgg-xs", {"width": 8, "stem": "spiking", "head": "mean"}),
    ("spiking-resnet-xs", {"width": 8, "population": 3, "tied": True, "head": "mean"}),
]


@pytest.mark.parametrize(("name", "overrides"), thorough(STRICT, 1), ids=str)
def test_strict_networks_on_digits(
    name: str, overrides: dict[str, Any], digits: Tensor, tmp_path: Path, settled: Settle
) -> None:
    torch.manual_seed(0)
    prove(create_model(name, in_channels=1, **overrides), digits[:60], tmp_path / "out", settled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spiking-vgg-xs", "spiking-resnet-xs"])
def test_strict_networks_on_photographs(name: str, photographs: Tensor, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    prove(create_model(name, population=2), photographs, tmp_path / "out", settled)


@pytest.mark.slow
def test_the_program_has_no_undefined_behaviour(digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    network = create_model("conv-tiny", in_channels=1, **STRICT[5][1])
    prove(network, digits[:10], tmp_path / "out", settled)
    rows = torch.tensor(answers(tmp_path / "out", digits[:10], flags=SANITIZERS), dtype=torch.float64).long()
    bits = int(re.findall(r"SCORE_BITS (\d+)", (tmp_path / "out" / "model.h").read_text())[0])
    with torch.no_grad():
        from onespike.exporting.network import rounded

        expected = rounded(network, torch.float64)(normalised(digits[:10].double(), 1))
    torch.testing.assert_close(rows[:, 1:].double() / 2**bits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows[:, 0], expected.argmax(1))


CORTEX = """#include "model.h"
#include "images.h"
static void print(const char *text)
{
    register int r0 __asm__("r0") = 4;
    register const void *r1 __asm__("r1") = text;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
void reset(void);
void reset(void)
{
    static int32_t scores[MODEL_CLASSES];
    for (int i = 0; i < IMAGES; i++) {
        model_run(images[i], scores);
        for (int k = 0; k < MODEL_CLASSES; k++) {
            char word[10];
            for (int d = 0; d < 8; d++)
                word[d] = "0123456789abcdef"[(uint32_t)scores[k] >> (28 - 4 * d) & 15];
            word[8] = k < MODEL_CLASSES - 1 ? ' ' : '\\n';
            word[9] = 0;
            print(word);
        }
    }
    __asm__ volatile("mov r0, #0x18\\n ldr r1, =0x20026\\n bkpt 0xab");
}
extern uint32_t top;
__attribute__((section(".vectors"), used)) static void *const vectors[2] = {&top, (void *)reset};
"""
LAYOUT = """SECTIONS {
    . = 0; .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) }
    . = 0x20000000; .data : { *(.data*) } .bss : { *(.bss*) *(COMMON) }
    top = 0x20100000;
}
"""


def test_the_program_of_the_docs_says_the_class(digits: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(1, 8, 1), LIF(8), nn.Flatten(), nn.Linear(128, 3))
    names = ['"7\\', "é1", "??/2"]
    export(network, tmp_path / "out", "c", images=digits[:20], classes=names)
    docs, program = Path(__file__).parents[3] / "docs", tmp_path / "classify"
    command = ["cc", "-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path / 'out'}"]
    subprocess.run([*command, tmp_path / "out" / "model.c", docs / "classify.c", "-o", program], check=True)
    with torch.no_grad():
        expected = network(digits[:20].movedim(-1, 1) / 255).argmax(1).tolist()
    assert len(set(expected)) > 1
    for image, label in zip(digits[:20], expected, strict=True):
        said = subprocess.run([program], input=image.numpy().tobytes(), capture_output=True, check=True)
        assert said.stdout.decode() == f"{names[label]}\n"  # of characters that mean something in a text of C
    for given in (b"short", digits[0].numpy().tobytes() + b"\n"):
        done = subprocess.run([program], input=given, capture_output=True)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"expected the bytes of one image, 32 x 32 x 1 (height, width")


def test_the_program_says_what_it_takes(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), LIF(2), nn.Flatten(), nn.Linear(32, 7))
    export(network, tmp_path / "out", "c", images=torch.zeros(1, 4, 4, 1, dtype=torch.uint8))
    header = (tmp_path / "out" / "model.h").read_text()
    # The scores of 7 classes in 64 bits, and their sums in 32.
    assert f"{7 * 8 + 7 * 4} bytes of arrays on the stack" in header
    # Of 16 pixels and 2 channels: the weight, and the factor of the sum; and a factor for each class.
    assert f"{16 * 2 * (1 + 1) + 7} multiplications" in header
    assert f"at most {32 * 7} additions" in header
    code = (tmp_path / "out" / "model.c").read_text()
    constants = " + ".join(f"sizeof {name}" for name in re.findall(r"^static const \w+ (\w+)", code, re.MULTILINE))
    main = (
        f'#include <stdio.h>\n#include "model.c"\nint main(void) {{ printf("%zu %zu", {constants}, sizeof memory); }}'
    )
    (tmp_path / "out" / "sizes.c").write_text(main)
    subprocess.run(["cc", "sizes.c", "-o", "sizes"], cwd=tmp_path / "out", check=True)
    sizes = subprocess.run([tmp_path / "out" / "sizes"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"(?:Flash|RAM) +([\d,]+) bytes", header) == [f"{int(size):,}" for size in sizes.split()]
    command = ["cc", "-std=c99", "-D__INT_MAX__=32767", "-fsyntax-only", str(tmp_path / "out" / "model.c")]
    assert "an int of 32 bits is needed" in subprocess.run(command, capture_output=True, text=True).stderr


KERNELS = """#include <stdint.h>
#define export(type, name, wanted, given) type of_##name wanted; type of_##name wanted { return name given; }
export(int64_t, times, (int64_t a, int64_t b), (a, b))
export(int64_t, scaled, (int64_t a, int64_t b, int bits), (a, b, bits))
export(int64_t, sine, (uint64_t turns), (turns))
export(int, lowest, (uint32_t word), (word))
"""


def test_fixed_point_numbers_are_as_exact_as_their_bits(tmp_path: Path) -> None:
    """And a compiler that is not like GCC finds the same bits."""
    included, wrappers = KERNELS.split("\n", 1)
    (tmp_path / "kernels.c").write_text("\n".join([included, *kernels_for(KERNELS), wrappers]))
    subprocess.run(
        ["cc", *FLAGS, "-U__GNUC__", "-fPIC", "-shared", "kernels.c", "-o", "kernels"], cwd=tmp_path, check=True
    )
    library = ctypes.CDLL(str(tmp_path / "kernels"))
    for name in ("times", "scaled", "sine"):
        getattr(library, f"of_{name}").restype = ctypes.c_int64
    wide, draw = ctypes.c_int64, random.Random(0)
    for _ in range(200):
        a, b = draw.randrange(1 - 2**61, 2**61), draw.randrange(-(2**60), 2**60 + 1)
        assert abs(library.of_times(wide(a), wide(b)) - Fraction(a * b, 2**60)) <= 2
        bits = draw.randrange(121)
        value = a >> max(0, 61 - bits)  # what is shifted to the left has room
        assert abs(library.of_scaled(wide(value), wide(b), bits) - Fraction(value * b, 2**bits)) <= 2
        turns, word = draw.randrange(2**64), 2**31 | draw.getrandbits(32) & -(2 ** draw.randrange(32))
        sine = library.of_sine(ctypes.c_uint64(turns)) / 2**60
        assert sine == pytest.approx(math.sin(2 * math.pi * turns / 2**64), rel=0, abs=4e-15)
        assert library.of_lowest(ctypes.c_uint32(word)) == (word & -word).bit_length() - 1


@pytest.mark.slow
def test_weights_that_tied_neurons_share_are_stored_once(digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    sizes = []
    for tied in (True, False):
        options = {"width": 6, "population": 3, "head": "mean", "tied": tied}
        out = tmp_path / str(tied)
        prove(create_model("spiking-vgg-xs", in_channels=1, **options), digits[:8], out, settled)
        (line,) = (line for line in (out / "model.h").read_text().splitlines() if "Flash" in line)
        sizes.append(int(line.split()[1].replace(",", "")))
    weights = 9 * (6 * 6 + 6 * 24 + 3 * 24 * 24) + 24 * 10  # behind the stem, for one neuron of each channel
    assert sizes[1] - sizes[0] == 2 * weights


@pytest.mark.parametrize(("weights", "kind"), [("int8", "int8_t"), ("fp32", "float")])
def test_a_channel_meets_the_weights_of_its_group_alone(weights: Any, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    groups = nn.Conv2d(8, 16, 3, padding=1, groups=4), nn.Conv2d(16, 8, 1, groups=8)
    fires = [LIF(channels, NeuronConfig(threshold=0.1)) for channels in (8, 16, 8)]
    stem, last = (nn.Conv2d(3, 8, 1), fires[0]), (fires[2], nn.Flatten(), nn.Linear(128, 5))
    network = nn.Sequential(*stem, groups[0], fires[1], nn.ChannelShuffle(4), nn.AvgPool2d(2), groups[1], *last)
    images = torch.randint(0, 256, (8, 8, 8, 3), dtype=torch.uint8)
    (proof,) = export(network, tmp_path / "out", "c", images=images, weights=weights).parity
    assert proof.holds
    assert proof.spikes > 0
    header, code = ((tmp_path / "out" / name).read_text() for name in ("model.h", "model.c"))
    # Of 64 pixels and 16 channels, nine taps of two spikes; the other groups read means; a linear layer of 5 classes.
    assert f"at most {64 * 16 * 9 * 2 + 128 * 5:,} additions" in header
    assert {f"{9 * 8 * 4}", "16"} <= {*re.findall(rf"{kind} table\d+\[(\d+)\]", code)}


def test_bits_that_are_read_in_place_take_no_stack(tmp_path: Path) -> None:
    class Two(nn.Module):
        """Neurons of two thresholds that read the same currents, which are stored, and whose spikes are pooled."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Sequential(nn.Conv2d(1, 2, 1), LIF(2), nn.Conv2d(2, 64, 1)), nn.Linear(512, 3)
            self.fires = nn.ModuleList([LIF(64, NeuronConfig(threshold=t)) for t in (0.1, 0.4)])

        def forward(self, x: Tensor) -> Tensor:
            currents = self.stem(x)
            return self.head(torch.cat([F.max_pool2d(fire(currents), 2) for fire in self.fires], 1).flatten(1))

    export(Two(), tmp_path / "out", "c", images=torch.zeros(1, 4, 4, 1, dtype=torch.uint8))
    header = (tmp_path / "out" / "model.h").read_text()
    # The scores of 3 classes in 64 bits, and a stem of 2 channels, in 64 bits and its sums in 32.
    assert f" {3 * 8 + 2 * (8 + 4)} bytes of arrays on the stack" in header
    # At once there are the currents, one map of spikes, and what is pooled of the other: maps share memory.
    assert f"RAM     {4 * 16 * 64 + 8 * 16 + 8 * 4:,} bytes of static memory" in header
    assert "beside the caller's image (16 bytes) and scores (12 bytes)" in header


@pytest.mark.slow
def test_a_microcontroller_computes_the_same_bits(digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    compiler, emulator = shutil.which("arm-none-eabi-gcc"), shutil.which("qemu-system-arm")
    if not compiler or not emulator:
        pytest.skip("there is no gcc-arm-none-eabi, or no qemu-system-arm")
    network = create_model("conv-tiny", in_channels=1, **STRICT[5][1])
    out, images = tmp_path / "out", digits[:3]
    prove(network, images, out, settled)
    rows = ", ".join("{" + ", ".join(map(str, image.flatten().tolist())) + "}" for image in images)
    size = f"#define IMAGES {len(images)}\nstatic const uint8_t images[IMAGES][{images[0].numel()}] = "
    (tmp_path / "images.h").write_text(f"{size}{{{rows}}};\n")
    (tmp_path / "cortex.c").write_text(CORTEX)
    (tmp_path / "layout.ld").write_text(LAYOUT)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-mcpu=cortex-m7", "-mthumb", "-nostartfiles"]
    flags += ["-nostdlib", "-ffreestanding", "-I", str(out), "-T", str(tmp_path / "layout.ld")]
    files = [str(tmp_path / "cortex.c"), str(out / "model.c"), "-lgcc", "-o", str(tmp_path / "device.elf")]
    subprocess.run([compiler, *flags, *files], check=True)
    board = [emulator, "-M", "mps2-an500", "-nographic", "-semihosting", "-kernel", str(tmp_path / "device.elf")]
    done = subprocess.run(board, capture_output=True, check=True, timeout=120, text=True)
    expected = [[int(score) % 2**32 for score in scores] for _, *scores in answers(out, images)]
    assert [[int(word, 16) for word in line.split()] for line in (done.stdout + done.stderr).splitlines()] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "conv-tiny",
            {},
            r"(?:conv-tiny|Network) is not strictly spiking: layers\.0\.mlp\.1.* read other values than spikes",
        ),
        ("resnet18", {}, "not strictly spiking"),
        ("spiking-vgg-xs", {"preset": "ann"}, "not strictly spiking.*; --weights fp32 may export it, in float C"),
        (
            "spiking-vgg-xs",
            {"width": 4, "attention": 2},
            r"c: it cannot say sigmoid of layers\.1.*; --weights fp32 says more in float C, onnx and pt2 can",
        ),
    ],
)
def test_networks_that_are_not_strict_are_refused(
    name: str, overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(OnespikeError, match=message):
        export(create_model(name, **overrides), tmp_path / "out", "c", images=images)
    assert not (tmp_path / "out").exists()


def test_a_layer_whose_weights_are_no_module_is_refused(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.fire = nn.Parameter(torch.randn(4, 3, 3, 3)), LIF(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fire(F.conv2d(x, self.weight)).amax((2, 3))

    with pytest.raises(OnespikeError, match=r"not of 8 bits: only those of nn\.Conv2d and nn\.Linear are"):
        export(Own(), tmp_path / "out", "c", images=torch.zeros(2, 8, 8, 3, dtype=torch.uint8))


def test_floats_are_refused(tmp_path: Path) -> None:
    network = create_model("spiking-vgg-xs", width=4)
    with pytest.raises(OnespikeError, match="expected raw test images, uint8"):
        export(network, tmp_path / "out", "c", images=torch.randn(2, 3, 32, 32))
    assert not (tmp_path / "out").exists()

"""A training step of networks that are not ours, with PyTorch's layers and with ours: `python -m benchmarks.others`."""

import sys
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.machine import expect_counts, save_cases
from onespike import create_model
from onespike.allocator import keep_freed_memory
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.clock import interleaved, watch_machine
from onespike.durable import expect_writable
from onespike.units.layers import ours_in


def vgg(num_classes: int) -> nn.Sequential:
    """Eight convolutions of 3x3, each with batch norm and ReLU, and max pooling behind every second one."""
    layers: list[nn.Module] = []
    for before, channels in pairwise((3, 64, 64, 128, 128, 256, 256, 512, 512)):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if before == channels else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))


#: Networks, and the side of their images in pixels.
NETWORKS = {
    "a VGG of eight convolutions": (vgg, 32),
    "resnet18, as in cifar10/resnet18": (partial(create_model, "resnet18", image_size=32), 32),
    "timm's resnet18": (partial(timm.create_model, "resnet18"), 64),
    "timm's vit_tiny_patch16_224": (partial(timm.create_model, "vit_tiny_patch16_224", img_size=64, patch_size=8), 64),
}


def step(network: nn.Module, images: Tensor, labels: Tensor, *, ours: bool, bf16: bool) -> None:
    """Forward and backward of a batch."""
    with ours_in(network) if ours else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, bf16):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
    network.zero_grad()


def measure(name: str, images: int, rounds: int, precision: str) -> dict[str, Any]:
    """Time both ways in turns; gives milliseconds, and how many times as fast ours are."""
    torch.manual_seed(0)
    build, side = NETWORKS[name]
    network = build(num_classes=10).to(memory_format=torch.channels_last).train()
    x = torch.randn(images, 3, side, side).contiguous(memory_format=torch.channels_last)
    given = network, x, torch.arange(images) % 10
    ways = {way: partial(step, *given, ours=way == "ours", bf16=precision == "bf16") for way in ("theirs", "ours")}
    with watch_machine("cpu") as machine:
        taken = {way: median(times) for way, times in interleaved(ways, rounds).items()}
    milliseconds = {f"{way}_ms": 1e3 * seconds for way, seconds in taken.items()}
    ratio = taken["theirs"] / taken["ours"]
    return {"network": name, "precision": precision, **milliseconds, "times_as_fast": ratio, "busy": machine.busy}


def compare(images: int = 128, rounds: int = 7, json: str | None = None) -> int:
    """Time a training step of networks that are not ours, with PyTorch's layers and with ours in their place.

    Args:
        images: Images in the batch.
        rounds: Timings of each.
        json: A file for what was found; - prints it.
    """
    expect_counts(images=images, rounds=rounds)
    expect_writable(json)
    keep_freed_memory()
    cases = []
    for precision in ("bf16", "fp32"):
        for name in NETWORKS:
            cases.append(found := measure(name, images, rounds, precision))
            print(
                f"{name}, {precision}: {found['theirs_ms']:8.1f} ms, with our layers {found['ours_ms']:8.1f} ms, "
                f"{found['times_as_fast']:.2f}x",
                file=sys.stderr,
            )
    save_cases(cases, images, json)
    return 0


main = partial(call, compare, usage="python -m benchmarks.others")


if __name__ == "__main__":
    exit_with(main)

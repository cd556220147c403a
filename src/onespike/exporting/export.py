"""Write a network as the files of one or several targets, in one folder, with the proof beside them."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from onespike._version import __version__
from onespike.configs import convert, read_json
from onespike.data.dataset import Dataset
from onespike.data.sources import expect_class_names
from onespike.durable import path_of, read_whole
from onespike.errors import OnespikeError, shown, unknown, warn
from onespike.evaluation.evaluate import expect_one_frame, expect_same_images
from onespike.exporting import c, nir, onnx, pt2
from onespike.exporting.contract import Contract
from onespike.exporting.network import Exported, rounded
from onespike.exporting.parity import Parity, Target, compare
from onespike.folders import expect_replaceable, save_folder
from onespike.neurons.watch import NO_LAYERS, copied, logits_of, neuron_layers, reset_state
from onespike.tensors import expect_finite, expect_weights
from onespike.training.run import Run

Weights = Literal["auto", "fp32", "int8"]
#: Writers of the formats: each writes into a folder and returns the targets that read it, by name. To add one, add an
#: entry.
FORMATS: dict[str, Callable[[Exported, Path], dict[str, Target]]] = {
    "onnx": onnx.write,
    "pt2": pt2.write,
    "nir": nir.write,
    "c": c.write,
}
#: Images that a target and the network see at once.
BATCH = 50
CONTRACT, PARITY = "contract.json", "parity.json"
#: What formats read that take pixels otherwise than ONNX and pt2 do.
READS = {"nir": nir.READS, "c": c.READS}


@dataclass(frozen=True)
class Export:
    """The files that were written, and the proofs, one for each target.

    Attributes:
        folder: Where the files are.
        files: Their names.
        parity: The proofs, one for each target.
    """

    folder: Path
    files: tuple[str, ...]
    parity: tuple[Parity, ...]

    @property
    def holds(self) -> bool:
        """Whether all targets compute the same as the network."""
        return all(one.holds for one in self.parity)


def export(
    model: nn.Module | Run | str | Path,
    out: str | Path,
    to: str | Sequence[str] = ("onnx",),
    *,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] = (),
    weights: Weights = "auto",
    pixels: bool = False,
    count: int = 1000,
    which: str = "best",
    data: Any = None,
) -> Export:
    """Write a network for other runtimes and devices, and prove on test images that they compute the same.

    Args:
        model: A run, its folder, or any network, images (B, C, H, W) to logits (B, K), which stays as it is.
        out: A new folder, or that of an earlier export, which it replaces; written as a whole or not at all.
        to: Formats: "onnx", "pt2", "nir", "c".
        images: Test images to prove it on: raw, uint8 (N, H, W, C), or normalised floats (N, C, H, W). Those of the run
            if None.
        labels: Their classes (N,), for accuracies.
        mean: Channel-wise mean of raw images, 0..1, for a network that is no run. By default 0.
        std: Channel-wise standard deviation, likewise; by default 1.
        classes: Class names, for a network that is no run; by default "0", "1", …
        weights: "fp32"; "int8", rounded to 8 bits as `train.int8_weights` rounds them; or "auto", int8 for C and fp32
            for all else.
        pixels: Whether ONNX and pt2 read uint8 pixels (B, C, H, W), and NIR floats 0 to 255, and normalise them in the
            graph. C always reads uint8 pixels.
        count: Most test images.
        which: Which checkpoint of the run: "best" or "last".
        data: Other test images of a run, as for `Run.dataset`.

    Raises:
        OnespikeError: A format cannot express a layer, which is named; a package is missing; the folder is no earlier
            export. Nothing is written then.
    """
    formats = list(dict.fromkeys(to.split(",") if isinstance(to, str) else convert(to, list[str], "to")))
    if not formats:
        raise OnespikeError(f"to: expected at least one of the formats {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if weights not in get_args(Weights):
        raise unknown("weights", weights, get_args(Weights))
    if (count := convert(count, int, "images")) < 1:
        raise OnespikeError(f"images: expected at least 1, got {count}")
    if isinstance(model, nn.Module):
        idle = {"with a network": {"which": which != "best", "data": data is not None}}
    else:
        idle = {"with a run": {"mean": mean is not None, "std": std is not None, "classes": bool(classes)}}
        idle |= {"without images": {"labels": labels is not None and images is None}}
        idle |= {"with images": {"data": data is not None and images is not None}}
    for where, options in idle.items():
        for name, is_given in options.items():
            if is_given:
                raise OnespikeError(f"{name}: {where} it would be ignored: leave it out")
    # Whatever it is on, all is compared on the CPU.
    images, labels = (one.cpu() if isinstance(one, Tensor) and not one.is_meta else one for one in (images, labels))
    folder, digest = path_of(out), None
    expect_free(folder)
    if isinstance(model, nn.Module):
        if images is None:
            raise OnespikeError("export: expected test images beside a network: images=…")
        expect_weights(model)
        expect_finite({**dict(model.named_parameters()), **dict(model.named_buffers())}, model)
        if any(one.device.type != "cpu" for one in model.parameters()):
            model = copied(model).cpu()
        network, contract = model, _contract(model, images, labels, mean, std, classes, pixels)
    else:
        run = model if isinstance(model, Run) else Run.open(model)
        checkpoint = run.checkpoint(which)
        network, contract = checkpoint.network(), Contract.of(checkpoint.card, "fp32", pixels)
        digest = checkpoint.digest
        if images is None:
            dataset = run.dataset(data)
            expect_same_images(dataset, checkpoint.card)
            expect_one_frame(dataset, "export")
            images, labels = some_test_images(dataset, count)
        elif (shape := _shape_of(images, labels)) != contract.shape:
            raise OnespikeError(f"images: expected those of the network, {contract.shape}, got {shape} as (C, H, W)")
    if labels is not None and not (labels.min() >= 0 and labels.max() < len(contract.classes)):
        raise OnespikeError(f"labels: expected 0 to {len(contract.classes) - 1}")
    if pixels and images.dtype != torch.uint8:
        raise OnespikeError(
            "pixels: expected raw test images, uint8 (N, H, W, C): these are floats, normalised by their owner"
        )
    images, labels = images[:count], None if labels is None else labels[:count]
    proofs, written = list[Parity](), dict[str, Contract]()
    with TemporaryDirectory() as made:
        for name in formats:
            integers = name == "c"
            chosen = ("int8" if integers else "fp32") if weights == "auto" else weights
            written[name] = replace(contract, weights=chosen, pixels=pixels or integers)
            proofs += _written(name, network, written[name], Path(made), images, labels)
        if not neuron_layers(network):
            warn(f"export: {NO_LAYERS}: only logits were compared")
        files = {path.name: path.read_bytes() for path in sorted(Path(made).iterdir())}
    names = (*files, CONTRACT, PARITY)
    described = {name: one.to_json(READS.get(name) if one.pixels else None) for name, one in written.items()}
    kept: dict[str, Any] = {CONTRACT: {"onespike": __version__, "formats": described, "files": names}}
    kept |= {PARITY: {"onespike": __version__, "network": digest, "targets": [one.to_json() for one in proofs]}}
    texts = {name: (json.dumps(content, indent=2, allow_nan=False) + "\n").encode() for name, content in kept.items()}
    save_folder(folder, files | texts)
    return Export(folder, names, tuple(proofs))


def expect_free(folder: Path) -> None:
    """Raise `OnespikeError` if an export cannot be written, or would overwrite anything but an earlier one."""
    try:
        earlier = set(read_json(read_whole(folder / CONTRACT), CONTRACT)["files"])
    except (OnespikeError, OSError, KeyError, TypeError):
        earlier = set()
    expect_replaceable(folder, earlier, "export")


def _written(
    name: str, network: nn.Module, contract: Contract, folder: Path, images: Tensor, labels: Tensor | None
) -> list[Parity]:
    """Write one format, and prove it with each target that reads it."""
    network = copied(network)
    if contract.weights == "int8":
        network = rounded(network, torch.float64 if name == "c" else torch.float32)
    proofs = []
    for label, target in FORMATS[name](Exported(network, contract), folder).items():
        resolution = getattr(target, "resolution", None)  # only an exact target has one
        proofs.append(compare(label, network, target, contract, batches(images, labels), resolution))
    return proofs


def batches(images: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images and their labels, in batches."""
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        yield images[part], None if labels is None else labels[part]


def _shape_of(images: Any, labels: Any) -> tuple[int, int, int]:
    """The shape (C, H, W) of test images; an `OnespikeError` if they are no images, or labels do not fit them."""
    found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        raise OnespikeError(f"images: expected (N, C, H, W), or uint8 (N, H, W, C), got {found}")
    raw = images.dtype == torch.uint8
    if images.is_meta or images.layout != torch.strided:
        raise OnespikeError("images: expected a dense tensor")
    whole = isinstance(labels, Tensor) and not (labels.is_meta or labels.dtype.is_floating_point or labels.is_complex())
    if labels is not None and not (whole and labels.shape == images.shape[:1]):
        raise OnespikeError(f"labels: expected whole numbers ({len(images)},), a class for each image")
    if not raw and not (images.is_floating_point() and images.isfinite().all()):
        raise OnespikeError("images: expected uint8, or floats that are finite numbers")
    channels, height, width = images.shape[-1:] + images.shape[1:3] if raw else images.shape[1:]
    if height != width:
        raise OnespikeError(f"images: expected square ones, got {height}x{width}")
    return channels, height, width


def _contract(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str],
    pixels: bool,
) -> Contract:
    """The contract of a network that is no run, from its test images."""
    channels, height, _ = _shape_of(images, labels)
    means: tuple[float, ...] = convert([0.0] * channels if mean is None else mean, tuple[float, ...], "mean")
    stds: tuple[float, ...] = convert([1.0] * channels if std is None else std, tuple[float, ...], "std")
    if not len(means) == len(stds) == channels or min(stds) <= 0:
        raise OnespikeError(f"mean and std: expected {channels} finite numbers each, std above 0, got {means}, {stds}")
    contract = Contract(type(network).__name__, "", (), channels, height, means, stds, "fp32", pixels)
    some = contract.normalise(images[:2])
    probe = copied(network)  # a copy, since it may keep a state
    reset_state(probe)
    answers = logits_of(probe, some)
    if not isinstance(classes, Iterable):
        raise OnespikeError(f"classes: expected their names, got {shown(classes)}")
    names = convert(tuple(classes), tuple[str, ...], "classes") or tuple(
        str(number) for number in range(answers.shape[-1])
    )
    if len(names) != answers.shape[-1]:
        raise OnespikeError(f"classes: expected {answers.shape[-1]} names, got {len(names)}")
    expect_class_names(names, "classes")
    stated = images.dtype == torch.uint8 or not (mean is None or std is None)
    return replace(contract, classes=names, stated=stated)


def some_test_images(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Test images as they are stored, and their classes: at most `count`, evenly spread."""
    if count < 1:
        raise OnespikeError(f"images: expected at least 1, got {count}")
    if not len(data.test):
        raise OnespikeError(f"{data.name}: expected test images to prove the export on, got none")
    chosen = data.test.spread(count)
    return chosen.gather(np.arange(len(chosen)))

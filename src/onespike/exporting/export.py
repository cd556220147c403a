"""Write a network as the files of one or several targets, in one folder, with the proof beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from onespike._version import __version__
from onespike.configs import convert, read_json
from onespike.data.dataset import Dataset
from onespike.durable import json_text, path_of, read_whole
from onespike.errors import OnespikeError, unknown, warn
from onespike.evaluation.evaluate import expect_one_frame
from onespike.exporting import c, nir, onnx, pt2
from onespike.exporting.contract import Contract, contract_of, expect_pixels, shape_of
from onespike.exporting.network import Exported, expect_to_round, rounded
from onespike.exporting.parity import Parity, Target, compare
from onespike.folders import expect_replaceable, save_folder
from onespike.neurons.copies import copied
from onespike.neurons.watch import NO_LAYERS, neuron_layers
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
CONTRACT, PARITY = "contract.json", "parity.json"
#: The input of formats that take pixels in another form than ONNX and pt2.
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
    weights = convert(weights, Weights, "weights")
    if (count := convert(count, int, "count")) < 1:
        raise OnespikeError(f"count: expected at least 1, got {count}")
    if isinstance(model, nn.Module):
        expect_left_out("with a network", which=which != "best", data=data is not None)
    else:
        expect_left_out("with a run", mean=mean is not None, std=std is not None, classes=bool(classes))
        expect_left_out("without images", labels=labels is not None and images is None)
        expect_left_out("with images", data=data is not None and images is not None)
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
        network, contract = model, contract_of(model, images, labels, mean, std, classes)
    else:
        run = Run.open(model)
        checkpoint = run.checkpoint(which)
        network, contract = checkpoint.network(), Contract.of(checkpoint.card)
        digest = checkpoint.digest
        if images is None:
            dataset = run.dataset(data)
            expect_one_frame(dataset, checkpoint.card, "export")
            images, labels = some_test_images(dataset, count)
        elif (shape := shape_of(images, labels)) != contract.shape:
            raise OnespikeError(f"images: expected those of the network, {contract.shape}, got {shape} as (C, H, W)")
        elif images.dtype == torch.uint8 and not contract.stated:
            expected = "expected floats as it was trained on, or the network itself, onespike.load(RUN), with mean, std"
            raise OnespikeError(f"images: the run does not know how bytes become its images; {expected}")
    if images.dtype == torch.uint8:
        contract = replace(contract, stated=True)  # these were normalised by its mean and deviation
    labels = labels if labels is None else labels.long()
    if labels is not None and not (labels.min() >= 0 and labels.max() < len(contract.classes)):
        raise OnespikeError(f"labels: expected 0 to {len(contract.classes) - 1}")
    contracts = dict[str, Contract]()
    for name in formats:
        chosen = ("int8" if name == "c" else "fp32") if weights == "auto" else weights
        contracts[name] = replace(contract, weights=chosen, pixels=pixels or name == "c")
        if contracts[name].pixels:
            expect_pixels(images, "pixels" if pixels else name)
    return _write(network, digest, contracts, images[:count], None if labels is None else labels[:count], folder)


def expect_left_out(where: str, **given: bool) -> None:
    """Raise an `OnespikeError` for the first argument that is given."""
    for name, is_given in given.items():
        if is_given:
            raise OnespikeError(f"{name}: {where} it would be ignored: leave it out")


def _write(
    network: nn.Module,
    digest: str | None,
    contracts: Mapping[str, Contract],
    images: Tensor,
    labels: Tensor | None,
    folder: Path,
) -> Export:
    """Write formats, by name, with their contracts, and prove each with all targets that read it."""
    proofs = list[Parity]()
    with TemporaryDirectory() as made:
        for name, contract in contracts.items():
            copy = copied(network)
            if contract.weights == "int8":
                if name != "c":  # which takes all weights, or refuses one by name
                    expect_to_round(copy, f"{name}: ")
                copy = rounded(copy, torch.float64 if name == "c" else torch.float32)
            for label, target in FORMATS[name](Exported(copy, contract), Path(made)).items():
                resolution = getattr(target, "resolution", None)  # only an exact target has one
                proofs.append(compare(label, copy, target, contract, images, labels, resolution))
        if not neuron_layers(network):
            warn(f"export: {NO_LAYERS}: only logits were compared")
        files = {path.name: path.read_bytes() for path in sorted(Path(made).iterdir())}
    names = (*files, CONTRACT, PARITY)
    formats = {name: one.to_json(READS.get(name) if one.pixels else None) for name, one in contracts.items()}
    made_by: dict[str, Any] = {"onespike": __version__}
    files[CONTRACT] = json_text(made_by | {"formats": formats, "files": names}).encode()
    files[PARITY] = json_text(made_by | {"network": digest, "targets": [one.to_json() for one in proofs]}).encode()
    expect_free(folder)  # somebody may have put a file there meanwhile
    save_folder(folder, files)
    return Export(folder, names, tuple(proofs))


def expect_free(folder: Path, mark: str = PARITY, what: str = "export") -> None:
    """Raise `OnespikeError` if an export cannot be written, or would overwrite anything but an earlier one.

    A `what` of another kind has a contract, too; `mark` is a file that it alone has.
    """
    try:
        earlier = set(read_json(read_whole(folder / CONTRACT), CONTRACT)["files"])
    except (OnespikeError, OSError, KeyError, TypeError):
        earlier = set()
    expect_replaceable(folder, earlier if mark in earlier else (), what)


def some_test_images(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Test images as they are stored, and their classes: at most `count`, evenly spread."""
    if count < 1:
        raise OnespikeError(f"images: expected at least 1, got {count}")
    if not len(data.test):
        raise OnespikeError(f"{data.name}: expected test images to prove the export on, got none")
    chosen = data.test.spread(count)
    return chosen.gather(np.arange(len(chosen)))

"""Build the folder of the page from a run: the network as ONNX, proved; its cost; the runtime; the page itself."""

import base64
import copy
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from onespike._version import __version__
from onespike.counting import EnergyTable, count_operations
from onespike.demo.counts import Counted, described
from onespike.demo.runtime import runtime
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import expect_one_frame
from onespike.exporting import Contract, Parity
from onespike.exporting.export import CONTRACT, expect_free, some_test_images
from onespike.exporting.network import Exported
from onespike.exporting.onnx import FILE, expect_packages, graph, session
from onespike.exporting.parity import BATCH, compare
from onespike.folders import save_folder
from onespike.neurons.watch import Fired, answer_and_calls, is_spiking
from onespike.training.run import Run

PAGE = Path(__file__).parent / "page"
DESCRIPTION = "demo.json"
#: Test images that the page offers, and those that the network is audited and proved on.
OFFERED, SHOWN = 24, 200
#: Cells a side of drawings, by data set: as coarse as its images were before they were enlarged.
CELLS = {"digits": 8}


@dataclass(frozen=True)
class Demo:
    """A page, ready to be served.

    Attributes:
        folder: Where it lies.
        files: The names of its files.
        parity: The proof that the page's network computes what the run's does.
    """

    folder: Path
    files: tuple[str, ...]
    parity: Parity


def build(
    run: Run,
    out: Path,
    which: Literal["best", "last"] = "best",
    data: Any = None,
    images: int = SHOWN,
    energy: EnergyTable | None = None,
) -> Demo:
    """Write the page of a run's network, with all that it needs, into a folder; whole or not at all.

    Args:
        run: The run.
        out: A new folder, or that of an earlier page, which it replaces.
        which: Which checkpoint: "best" or "last".
        data: Other test images than the run's own, as for `Run.dataset`; they must be raw.
        images: On how many of them the network is proved and its mean cost is counted.
        energy: The constants of energy; the package's own by default.

    Raises:
        OnespikeError: The network cannot be expressed in ONNX; the images are floats, or recordings of several frames;
            a package or the runtime is missing; the folder holds something else. Nothing is written then.
    """
    expect_free(out, DESCRIPTION, "page")
    expect_packages()
    files = runtime()
    checkpoint, dataset = run.checkpoint(which), run.dataset(data)
    card, table = checkpoint.card, energy or EnergyTable.load()
    expect_one_frame(dataset, card, "demo")
    contract = Contract.of(card, pixels=True)
    raw, labels = some_test_images(dataset, images)
    if raw.dtype != torch.uint8:
        raise OnespikeError(f"{dataset.name}: expected raw images, which a page can show: these are floats")
    network = checkpoint.network()
    seen = [contract.normalise(part) for part in raw.split(BATCH)]
    operations = count_operations(network, seen)
    counted = Counted(network, operations, seen[0])
    layers = _neurons(network, seen[0], operations.steps)
    model, outputs, proof = _proved(network, contract, counted, len(layers), raw, labels)
    summary, tested = run.summary or {}, dataset.test_set()
    same = dataset.name == card.data and summary.get("test_set", tested) == tested
    answers = "one time step" if operations.steps == 1 else f"{operations.steps} time steps"
    spread = torch.linspace(0, len(raw) - 1, min(OFFERED, len(raw))).round().long()  # some data sets are sorted
    offered = zip(raw[spread], labels[spread].tolist(), strict=True)
    description = {
        "onespike": __version__,
        "contract": contract.to_json(),
        "title": f"{contract.model}: a {'spiking ' if is_spiking(network) else ''}network that answers in {answers}",
        "cells": CELLS.get(card.data),
        "top1": summary.get("test_top1") if which == "best" and same else None,
        "parity": proof.to_json(),
        "layers": layers,
        "images": operations.images,
        "costs": described(operations, table, counted, outputs),
        # Each test image, (H, W, C), by its bytes in base 64, and its class.
        "offered": [{"pixels": base64.b64encode(one.numpy().tobytes()).decode(), "label": n} for one, n in offered],
    }
    files |= {path.name: path.read_bytes() for path in PAGE.iterdir()} | {FILE: model}
    files[DESCRIPTION] = json.dumps(description, allow_nan=False).encode()
    names = (*sorted(files), CONTRACT)
    kept = {"onespike": __version__, "formats": {"onnx": contract.to_json()}, "files": names}
    files[CONTRACT] = json.dumps(kept, indent=2).encode()
    expect_free(out, DESCRIPTION, "page")  # somebody may have put a file there meanwhile
    save_folder(out, files)
    return Demo(out, names, proof)


def _neurons(network: nn.Module, images: Tensor, steps: int) -> list[dict[str, Any]]:
    """The calls of layers of neurons, in order: what each is named, and the axes of its spikes."""
    calls, layers = answer_and_calls(network, images)[1], list[dict[str, Any]]()
    often, seen = Counter(call.path for call in calls), Counter[str]()
    for number, call in enumerate(calls):
        seen[call.path] += 1
        which = f", {'step' if steps > 1 else 'call'} {seen[call.path]}" if often[call.path] > 1 else ""
        axis = call.batch_axis  # that of the images
        one = {"output": f"spikes{number}", "path": call.path, "name": call.path + which, "axis": axis}
        layers.append(one | {"ahead": _ahead(call, len(images), steps)})
    return layers


def _ahead(call: Fired, images: int, steps: int) -> str:
    """What an axis of spikes before that of the images, or images of which there are more, stand for."""
    if getattr(call.neuron, "grouped", False):
        return "neurons of a population"
    if call.spikes.ndim != 5 and call.spikes.shape[call.batch_axis] == images and call.steps == 1:
        return "tokens"
    return "time steps" if steps > 1 else "windows"


def _proved(
    network: nn.Module, contract: Contract, counted: Counted, calls: int, images: Tensor, labels: Tensor
) -> tuple[bytes, dict[str, list[str]], Parity]:
    """The network as ONNX, with spikes and layers' inputs as outputs; the names of the latter by layer; the proof."""
    spikes = [f"spikes{number}" for number in range(calls)]
    arriving = [f"arriving{number}" for number in range(len(counted.calls))]
    outputs = defaultdict[str, list[str]](list)
    for path, name in zip(counted.calls, arriving, strict=True):
        outputs[path].append(name)
    exported = Exported(copy.deepcopy(network), contract, list(counted.products))
    model = graph(exported, ["logits", *spikes, *arriving]).SerializeToString()
    proving = session(model)

    def run(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, *found = proving(["logits", *spikes], exported.reads(images).numpy())
        return torch.from_numpy(logits), [torch.from_numpy(one) for one in found]

    return model, outputs, compare("onnx", network, run, contract, images, labels)

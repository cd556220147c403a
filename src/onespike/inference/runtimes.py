"""Other people's engines: ONNX Runtime and OpenVINO, on the network as ONNX."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from onespike.exporting.contract import Contract
from onespike.exporting.network import Exported, rounded
from onespike.exporting.onnx import FILE, Loaded, openvino_model, session, write
from onespike.exporting.parity import Target, differing
from onespike.inference.compare import Candidate
from onespike.models.strict_layers import adding_up
from onespike.neurons.watch import Fired, answer_and_calls
from onespike.training.checkpoint import ModelCard

#: How each runtime loads an ONNX file.
RUNTIMES: dict[str, Callable[[Path | bytes], Loaded]] = {"ONNX Runtime": session, "OpenVINO": openvino_model}
#: Images in a batch while spikes are compared.
WATCHED = 50


class Runtime:
    """An ONNX file, run by one of `RUNTIMES`.

    Attributes:
        card: The card of its model, with class names and normalisation; only an engine that was loaded has one.
    """

    card: ModelCard | None = None

    def __init__(self, file: Path | bytes, name: str) -> None:
        self.name, self._loaded = name, RUNTIMES[name](file)

    def __call__(self, images: Tensor) -> Tensor:
        """Classify normalised images (B, C, H, W), float32; logits (B, K)."""
        if images.ndim != 4 or images.dtype != torch.float32 or images.device.type != "cpu":
            found = f"{tuple(images.shape)}, {images.dtype}, on {images.device}"
            raise ValueError(f"images: expected (B, C, H, W), torch.float32, on the CPU, got {found}")
        return torch.from_numpy(self._loaded(["logits"], images.detach().contiguous().numpy())[0])


def runtimes(network: nn.Module, card: ModelCard, weights: str, images: Tensor, folder: Path) -> dict[str, Candidate]:
    """Write a network as `model.onnx` into a folder, and return the installed engines that run it.

    Args:
        network: The network; it is changed where weights have 8 bits.
        card: The network's card.
        weights: "fp32", or "int8".
        images: Normalised images (B, C, H, W), whose spikes are compared with PyTorch's in float32.
        folder: An empty folder.

    Raises:
        OnespikeError: A package is missing, or the network cannot be expressed in ONNX.
    """
    with adding_up(network):
        expected = [_spikes(network, part) for part in images.split(WATCHED)]
    network = rounded(network, torch.float32) if weights == "int8" else network
    contract = Contract.of(card, weights)
    targets = write(Exported(network, contract), folder)
    at_hand = zip(RUNTIMES, targets.values(), strict=False)  # OpenVINO, the last, may be missing
    return {
        f"{name} {weights}": Candidate(Runtime(folder / FILE, name), _differing(target, images, expected))
        for name, target in at_hand
    }


def _spikes(network: nn.Module, images: Tensor) -> list[Fired | None]:
    """The calls of layers of neurons, without potentials, which nobody needs; None where they give no spikes."""
    calls = answer_and_calls(network, images)[1]
    return [
        call._replace(potential=None, rise=0.0) if getattr(call.neuron, "spiking", True) else None for call in calls
    ]


def _differing(target: Target, images: Tensor, expected: list[list[Fired | None]]) -> float | None:
    """The share of a target's outputs of neurons, spike or none, that are not as expected; None if there are none."""
    wrong = total = 0
    for part, calls in zip(images.split(WATCHED), expected, strict=True):
        for call, found in zip(calls, target(part)[1], strict=True):
            if call is not None and found is not None and (differ := differing(call, found)) is not None:
                wrong, total = wrong + int(differ.sum()), total + differ.numel()
    return wrong / total if total else None

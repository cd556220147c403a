"""From a trained artificial network to a spiking one: in memory, or from run folder to run folder."""

import csv
import io
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from onespike.conversion.calibrate import DEFAULT, Calibration, LayerError, calibrate
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader
from onespike.errors import OnespikeError, unknown
from onespike.evaluation.evaluate import expect_same_images
from onespike.evaluation.output import save_json, save_text
from onespike.model.ann import ANNS, AnnConfig
from onespike.model.spiking import ConvertedNetwork, spiking
from onespike.model.tracing import trace
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.recipe import load_recipe
from onespike.training.run import Run
from onespike.units.integrate import Staircase

#: Which training images calibrate depends on their number alone: conversions stay comparable.
_SEED = 0
#: Images that the traced network is compared with the network itself on, and the relative difference allowed.
CHECKED, TOLERANCE = 16, 1e-3


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted network, and what the conversion brought.

    Attributes:
        network: The spiking network, in evaluation mode: images (B, C, H, W) to logits (B, K).
        layers: The error of each layer of neurons.
        images: Number of calibration images.
    """

    network: ConvertedNetwork
    layers: tuple[LayerError, ...]
    images: int

    @property
    def real(self) -> tuple[str, ...]:
        """Paths of what was left real-valued."""
        return self.network.real

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "time_steps": self.network.time_steps,
            "population": self.network.population,
            "calibration_images": self.images,
            "layers": [asdict(layer) for layer in self.layers],
            "real_valued": list(self.real),
        }

    def save(self, folder: Path) -> None:
        """Write `conversion.json` and `conversion.csv`."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(LayerError)])
        writer.writeheader()
        writer.writerows(asdict(layer) for layer in self.layers)
        save_text(text.getvalue(), folder / "conversion.csv")
        save_json(self.to_json(), str(folder / "conversion.json"))


def convert(
    model: nn.Module,
    images: Tensor,
    *,
    time_steps: int = 1,
    neurons: Literal["layer", "channel"] = "channel",
    shortcuts: Literal["spikes", "real"] = "spikes",
    batch_norm: Literal["folded", "kept"] = "folded",
    population: int = 1,
    allow_real: bool = False,
    calibration: Calibration = DEFAULT,
) -> Conversion:
    """Convert an artificial network: integrate-and-fire neurons in place of its activations.

    The network may be any of convolution, linear layers, batch norm, pooling, residual addition and ReLU, GELU or SiLU
    that torch.fx can trace, timm's and torchvision's among them.

    Args:
        model: The network: images (B, C, H, W) to logits (B, K). It stays as it is.
        images: Training images to calibrate on, as the network takes them, (N, C, H, W); some hundreds.
        time_steps: T, the number of time steps that it is calibrated for and runs.
        neurons: A threshold for each "layer" or "channel".
        shortcuts: What residual additions read: "spikes", or the activation as it is, "real".
        batch_norm: Whether batch norm is "folded", or "kept", for training on.
        population: How many neurons stand for one activation, their thresholds evenly spaced, 1..16; at one time
            step only.
        allow_real: Leave real-valued what cannot be converted; `Conversion.real` lists it.
        calibration: How thresholds are found.

    Returns:
        The converted network, and the error of each layer.

    Raises:
        OnespikeError: There is no activation, something cannot be converted (its path is named), there are no images,
            or activations are not finite.
    """
    for name, value, known in (
        ("neurons", neurons, ("layer", "channel")),
        ("shortcuts", shortcuts, ("spikes", "real")),
        ("batch_norm", batch_norm, ("folded", "kept")),
    ):
        if value not in known:
            raise unknown(name, value, known)
    some = images[:CHECKED]
    expected = _answers(model, some)
    network = spiking(
        model,
        neurons == "channel",
        "rectangle",
        time_steps,
        allow_real,
        real_shortcuts=shortcuts == "real",
        fold=batch_norm == "folded",
        population=population,
        images=some,
    )
    # A staircase turns rounding, as by folding, into whole spikes: its graph is compared before anything is folded.
    stairs = any(isinstance(module, Staircase) for module in model.modules())
    _expect_same(trace(model, fold=False) if stairs else network.analog(), some, expected)
    return Conversion(network, tuple(calibrate(network, images, calibration)), len(images))


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor) -> Tensor:
    """What a network says to some images, in evaluation mode; it stays as it is.

    Raises:
        OnespikeError: There are none, they are not finite, or it does not take them.
    """
    if not len(images):
        raise OnespikeError("calibration: expected at least one image, got none")
    if not images.isfinite().all():
        raise OnespikeError("calibration: expected finite images, got some values that are not")
    training = {module: module.training for module in model.modules()}
    try:
        return model.eval()(images)
    except Exception as error:  # whatever a network's own code does with them
        reason = " ".join(str(error).split())
        raise OnespikeError(f"the network does not take images of {tuple(images.shape[1:])}: {reason}") from error
    finally:
        for module, was in training.items():
            module.training = was


@torch.no_grad()
def _expect_same(graph: fx.GraphModule, images: Tensor, expected: Any) -> None:
    """Make sure that a graph, with activations in it, computes what the network does.

    Raises:
        OnespikeError: It does not.
    """
    if not isinstance(expected, Tensor):
        raise OnespikeError(f"expected a network that gives a tensor of logits, got a {type(expected).__name__}")
    difference = ((graph(images) - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    if difference > TOLERANCE:
        raise OnespikeError(
            f"the network's graph by torch.fx computes something else, by {difference:.1%}: expected a forward pass "
            "that is the same for all images and changes nothing in place"
        )


def convert_run(
    source: Run,
    out: Path,
    *,
    data: DataConfig | None = None,
    time_steps: int = 1,
    images: int = 512,
    neurons: Literal["layer", "channel"] = "channel",
    shortcuts: Literal["spikes", "real"] = "spikes",
    batch_norm: Literal["folded", "kept"] = "folded",
    population: int = 1,
    allow_real: bool = False,
    calibration: Calibration = DEFAULT,
) -> Conversion:
    """Convert the network of a run, with its best weights, into a run folder like any other.

    Args:
        source: The run of an artificial network; it stays as it is.
        out: The new run folder, new or empty.
        data: Whose training images calibrate, and which the new run is of; those of the run if None.
        time_steps: T.
        images: How many training images calibrate.
        neurons: A threshold for each "layer" or "channel".
        shortcuts: What residual additions read: "spikes", or the activation as it is, "real".
        batch_norm: Whether batch norm is "folded", or "kept", for training on.
        population: How many neurons stand for one activation, their thresholds evenly spaced, 1..16; at one time
            step only.
        allow_real: Leave real-valued what cannot be converted.
        calibration: How thresholds are found.

    Returns:
        The converted network, and the error of each layer.

    Raises:
        OnespikeError: The run is not of an artificial network, its data are not there or others do not suit it, or as
            for `convert`. Nothing is written then.
    """
    run = Run(out)
    run.expect_free()
    checkpoint = source.checkpoint("best")
    card = checkpoint.card
    if not isinstance(card.config, AnnConfig) or card.config.neurons != "none":
        what = (
            "converted already" if isinstance(card.config, AnnConfig) else f"of {card.config.name}, no network for this"
        )
        raise OnespikeError(f"{source.folder} is {what}: expected a run of {', '.join(ANNS)}, trained as they are")
    recipe = load_recipe(str(source.config))
    recipe = replace(recipe, data=data or recipe.data)
    calibrating = _calibration_images(open_dataset(recipe.data), card, images)
    network = card.build()
    network.load_state_dict(checkpoint.weights)
    conversion = convert(
        network,
        calibrating,
        time_steps=time_steps,
        neurons=neurons,
        shortcuts=shortcuts,
        batch_norm=batch_norm,
        population=population,
        allow_real=allow_real,
        calibration=calibration,
    )
    config = replace(
        card.config,
        neurons=neurons,
        shortcuts=shortcuts,
        batch_norm=batch_norm,
        population=population,
        time_steps=time_steps,
    )
    run.begin(replace(recipe, model=config))
    weights = conversion.network.state_dict()
    for which, folder in (("best", run.best), ("last", run.last)):  # with the epochs of either
        state = {"progress": source.checkpoint(which).state["progress"], "converted": str(source.folder)}
        Checkpoint(replace(card, config=config), weights, {}, state).save(folder)
    conversion.save(run.folder)
    return conversion


def _calibration_images(data: Dataset, card: ModelCard, count: int) -> Tensor:
    """Training images, not augmented, normalised as in training."""
    if count < 1:
        raise OnespikeError(f"images: expected at least 1 to calibrate on, got {count}")
    expect_same_images(data, card)
    order = np.random.default_rng(_SEED).permutation(len(data.train))
    chosen = data.train.select(np.sort(order[:count]))
    if len(np.unique(chosen.labels[chosen.indices])) < 2:
        raise OnespikeError(
            f"images: the {len(chosen)} to calibrate on are all of one class; expected several: use more of them, or "
            "another data set"
        )
    return torch.cat([batch for batch, _ in EvalLoader(chosen, card.mean, card.std, batch_size=256)])

"""From a trained artificial network to a spiking one: in memory, or from run folder to run folder."""

from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onespike.conversion.calibrate import DEFAULT, Calibration, LayerError, calibrate
from onespike.conversion.check import answers, expect_images_first, expect_same
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader
from onespike.durable import csv_text, save_json, save_text
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import expect_same_images
from onespike.models.ann import ANNS, AnnConfig
from onespike.models.spiking import ConvertedNetwork, Exchange, spiking
from onespike.models.tracing import trace
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.recipe import load_recipe
from onespike.training.run import Run
from onespike.units.integrate import Staircase

#: Which training images calibrate depends on their number alone: conversions stay comparable.
_SEED = 0
#: How many of the images the traced network is compared with the network itself on.
CHECKED = 16


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
        columns = [field.name for field in fields(LayerError)]
        save_text(csv_text(columns, map(astuple, self.layers)), folder / "conversion.csv")
        save_json(self.to_json(), str(folder / "conversion.json"))


def convert(model: nn.Module, images: Tensor, *, calibration: Calibration = DEFAULT, **options: Any) -> Conversion:
    """Convert an artificial network: integrate-and-fire neurons in place of its activations.

    The network may be any of convolution, linear layers, batch norm, pooling, residual addition and ReLU, GELU or SiLU
    that torch.fx can trace, timm's and torchvision's among them.

    Args:
        model: The network: images (B, C, H, W) to logits (B, K). It stays as it is.
        images: Training images to calibrate on, as the network takes them, (N, C, H, W); some hundreds.
        calibration: How thresholds are found.
        options: Values of `onespike.conversion.Exchange`, such as `time_steps=4`, `population=3` or `allow_real=True`.

    Returns:
        The converted network, and the error of each layer.

    Raises:
        OnespikeError: There is no activation, something cannot be converted (its path is named), there are no images,
            or activations are not finite.
    """
    exchange = Exchange(**options)
    if not isinstance(images, Tensor):
        raise OnespikeError(f"images: expected a tensor (N, C, H, W), got a {type(images).__name__}")
    some = images[:CHECKED]
    expected = answers(model, some)
    network = spiking(model, exchange, some)
    # A staircase turns rounding, as by folding, into whole spikes: its graph is compared before anything is folded.
    stairs = any(isinstance(module, Staircase) for module in model.modules())
    expect_same(trace(model, fold=False) if stairs else network.analog(), some, expected)
    expect_images_first(network, some)
    return Conversion(network, tuple(calibrate(network, images, calibration)), len(images))


def convert_run(
    source: Run,
    out: Path,
    *,
    data: DataConfig | None = None,
    images: int = 512,
    calibration: Calibration = DEFAULT,
    **options: Any,
) -> Conversion:
    """Convert the network of a run, with its best weights, into a run folder like any other.

    Args:
        source: The run of an artificial network; it stays as it is.
        out: The new run folder, new or empty.
        data: Whose training images calibrate, and which the new run is of; those of the run if None.
        images: How many training images calibrate.
        calibration: How thresholds are found.
        options: As for `convert`.

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
    exchange = asdict(Exchange(**{"surrogate": card.config.surrogate, **options}))
    conversion = convert(network, calibrating, calibration=calibration, **exchange)
    del exchange["allow_real"]  # a network is built anew with all that was left real-valued
    config = replace(card.config, **exchange)
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

"""`onespike convert`: from run folder to run folder."""

from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onespike.conversion import Calibration, Conversion, ConversionConfig, LayerError, convert
from onespike.conversion.calibrate import DEFAULT
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import expect_same_images
from onespike.evaluation.output import csv_text, save_json, save_text
from onespike.models.ann import ANNS, AnnConfig
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.recipe import load_recipe
from onespike.training.run import Run

#: Which training images calibrate depends on their number alone: conversions stay comparable.
_SEED = 0


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
    options = asdict(ConversionConfig(**{"surrogate": card.config.surrogate, **options}))
    conversion = convert(network, calibrating, calibration=calibration, **options)
    del options["allow_real"]  # a network is built anew with all that was left real-valued
    config = replace(card.config, **options)
    run.begin(replace(recipe, model=config))
    weights = conversion.network.state_dict()
    for which, folder in (("best", run.best), ("last", run.last)):  # with the epochs of either
        state = {"progress": source.checkpoint(which).state["progress"], "converted": str(source.folder)}
        Checkpoint(replace(card, config=config), weights, {}, state).save(folder)
    save_json(conversion.to_json(), str(run.folder / "conversion.json"))
    columns = [field.name for field in fields(LayerError)]
    save_text(csv_text(columns, map(astuple, conversion.layers)), run.folder / "conversion.csv")
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

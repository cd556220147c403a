"""`onespike convert`: from run folder to run folder."""

from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onespike import configs
from onespike.conversion import Calibration
from onespike.conversion.calibration import LayerError
from onespike.conversion.conversion import Conversion, convert
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset
from onespike.data.loader import EvalLoader
from onespike.durable import csv_text, remove, save_json, save_text
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import expect_one_frame
from onespike.lock import held
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.run import Run


def convert_run(
    source: Run | str | Path,
    out: str | Path,
    *,
    data: DataConfig | None = None,
    images: int = 512,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    **options: Any,
) -> Conversion:
    """Convert the network of a run, with its best weights, into a run folder like any other.

    Args:
        source: The run of an artificial network, or its folder; it stays as it is.
        out: The new run folder, new or empty.
        data: The data set of the new run, whose training images calibrate; the run's own if None.
        images: How many training images to calibrate on.
        calibration: How thresholds are found.
        model: As for `Run.model`, if the network is of a user's class.
        options: As for `convert`.

    Raises:
        OnespikeError: The run was converted already, its data are missing or do not suit it, or as for `convert`;
            nothing is written then.
    """
    source, run = Run.open(source), Run(out)
    images = configs.convert(images, int, "images")
    run.expect_free()
    with held(run.folder):
        run.expect_free()
        remove(run.last)  # of another run, killed before its beginning
        checkpoint, in_all = source.checkpoint("best"), source.progress()
        card = checkpoint.card
        if card.conversion is not None:
            raise OnespikeError(f"{source.folder} is converted already: expected a run of an artificial network")
        dataset = source.dataset(data)
        recipe = source.recipe if data is None else replace(source.recipe, data=data)
        calibrating = _calibration_images(dataset, card, images)
        conversion = convert(checkpoint.network(model), calibrating, calibration=calibration, **options)
        config = conversion.network.config
        weights = conversion.network.state_dict()
        for folder, progress in ((run.last, in_all), (run.best, checkpoint.state["progress"])):
            state = {"progress": progress, "converted": str(source.folder)}
            Checkpoint(replace(card, conversion=config), weights, {}, state).save(folder)
            if folder == run.last:  # not earlier: a run without weights could be neither used nor made anew
                run.begin(replace(recipe, conversion=config))
        save_json(conversion.to_json(), str(run.folder / "conversion.json"))
        columns = [field.name for field in fields(LayerError)]
        save_text(csv_text(columns, map(astuple, conversion.layers)), run.folder / "conversion.csv")
        return conversion


def _calibration_images(data: Dataset, card: ModelCard, count: int) -> Tensor:
    """Training images, not augmented, normalised as in training."""
    if count < 1:
        raise OnespikeError(f"images: expected at least 1 to calibrate on, got {count}")
    expect_one_frame(data, card, "convert")
    # The choice depends on the numbers of images alone, so conversions stay comparable.
    chosen = data.train.select(np.sort(np.random.default_rng(0).permutation(len(data.train))[:count]))
    if len(np.unique(chosen.labels[chosen.indices])) < 2:
        remedy = "expected several: use more of them, or another data set"
        raise OnespikeError(f"images: the {len(chosen)} to calibrate on are all of one class; {remedy}")
    return torch.cat([batch for batch, _ in EvalLoader(chosen, card.mean, card.std, batch_size=256)])

"""The audit of a run, of a fresh model, or of any model on any images."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from onespike.audit.latency import Joules, measure_joules, measure_latency
from onespike.audit.result import Audit
from onespike.audit.scaling import scaling
from onespike.configs import convert, read_json
from onespike.counting.energy import EnergyTable
from onespike.counting.operations import count_operations
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader, Share, derive_seed
from onespike.durable import read_whole
from onespike.errors import OnespikeError, shown
from onespike.evaluation.evaluate import expect_shape
from onespike.training.checkpoint import Checkpoint
from onespike.training.config import TrainConfig
from onespike.training.device import make_accelerator
from onespike.training.layout import laid_out
from onespike.training.run import Run

#: Images in a batch while counting, and in the large batch of the latency.
_BATCH = 64
#: Without images the network is shown noise: its side, its number of classes, models that take grey, its name.
_SIDE, _CLASSES, _GREY, NOISE = 32, 10, ("conv-tiny",), "noise"
_MOST_NOISE = 10**5
#: Batches of images on a device.
_Batches = Callable[[torch.device], Iterable[Tensor]]


def audit(
    model: nn.Module,
    batches: Iterable[Tensor],
    name: str = "",
    table: EnergyTable | str | Path | None = None,
    accuracy: float | None = None,
    seed: int = 0,
    batch_axis: int | None = None,
) -> Audit:
    """Audit any model on any images: its operations and energy.

    Args:
        model: The model, trained, on the device of the images.
        batches: Batches of real images as the model takes them, (B, ...).
        name: Name of the model; its class by default.
        table: The constants of energy, or the file that has them; the package's own by default.
        accuracy: Top-1 on the test images in percent, if it is known; without it, no energies are compared.
        seed: Seed of the draws of a Bernoulli encoding.
        batch_axis: The axis of the images in a batch, as for `count_operations`.

    Raises:
        OnespikeError: The model does something that cannot be counted, which is named; it does not take a batch; there
            are no images; a value is out of its range.
    """
    accuracy, seed = convert(accuracy, float | None, "accuracy"), convert(seed, int, "seed")
    if accuracy is not None and not 0 <= accuracy <= 100:
        raise OnespikeError(f"accuracy: expected 0 to 100 percent, got {accuracy}")
    if seed < 0:
        raise OnespikeError(f"seed: expected 0 or more, got {seed}")
    axis = convert(batch_axis, int | None, "batch_axis")
    table = table if isinstance(table, EnergyTable) else EnergyTable.load(table)
    operations = count_operations(model, batches, lambda number: torch.manual_seed(derive_seed(seed, number)), axis)
    return Audit(name or type(model).__name__, operations, table, accuracy=accuracy)


def audit_run(
    run: Run | str | Path,
    data: Any = None,
    images: int = 512,
    table: EnergyTable | str | Path | None = None,
    device: Literal["auto", "cpu"] = "auto",
    latency: bool = True,
    scale: bool = False,
    model: nn.Module | None = None,
) -> Audit:
    """Audit the network of a run, with its best weights, on test images.

    Args:
        run: The run, or its folder.
        data: The images, as for `Run.dataset`; those of the run if None.
        images: How many of the test images, evenly spread.
        table: The constants of energy, or the file that has them; the package's own by default.
        device: "auto" takes the accelerator if there is one.
        latency: Whether to measure time, memory and joules.
        scale: Whether to count and time the network in other sizes as well.
        model: As for `Run.model`, if the network is of a user's class.

    Raises:
        OnespikeError: The run or the data cannot be read, do not suit each other, or the network cannot be counted.
    """
    run = Run.open(run)
    checkpoint, dataset = run.checkpoint("best"), run.dataset(data)
    card, network = checkpoint.card, checkpoint.network(model)
    expect_shape(dataset, card)
    batches = _test_images(dataset, card.mean, card.std, images)
    shape = (card.in_channels, card.image_size)
    result = _audit(network, card.model, shape, batches, table, device, latency, scale)
    tested = dataset.test_set()
    # Test sets are compared by recordings: networks may make other frames of the same events.
    test_set = dataset.test_set(of_events=True) if dataset.of_events else tested
    accuracy = _accuracy(run, checkpoint, data, dataset, tested)
    return replace(result, name=run.name, data=dataset.name, test_set=test_set, accuracy=accuracy)


def audit_model(
    config: Any,
    data: DataConfig | None = None,
    images: int = 512,
    table: EnergyTable | str | Path | None = None,
    device: Literal["auto", "cpu"] = "auto",
    latency: bool = True,
    scale: bool = False,
) -> Audit:
    """Audit a registered model with fresh weights: its firing rates mean little, its dense counts are exact.

    The arguments are those of `audit_run`, but for the config of the architecture. Without `data` the network sees
    noise of 32x32 pixels, the same each time, and the result's `data` is "noise".

    Raises:
        OnespikeError: The data cannot be read, or do not suit the model.
    """
    if not hasattr(config, "build"):
        expected = "expected that of a model, such as model_config('conv12')"
        raise OnespikeError(f"config: {expected}, got {shown(repr(config))}")
    torch.manual_seed(0)
    if data is None:
        shape, classes, name = (1 if config.name in _GREY else 3, _SIDE), _CLASSES, NOISE
        test_set = ""
        batches = _noise(*shape, images)
    else:
        dataset = open_dataset(data)
        shape, classes, name = (dataset.in_channels, dataset.image_size), dataset.num_classes, dataset.name
        test_set = dataset.test_set(dataset.of_events)
        batches = _test_images(dataset, dataset.mean, dataset.std, images)
    result = _audit(config.build(classes, *shape), config, shape, batches, table, device, latency, scale)
    return replace(result, name=config.name, data=name, test_set=test_set, trained=False)


def _test_images(dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...], images: int) -> _Batches:
    chosen = dataset.test.spread(_at_least_one(images))
    return lambda device: (batch for batch, _ in EvalLoader(chosen, mean, std, _BATCH, Share(device)))


def _noise(channels: int, side: int, images: int) -> _Batches:
    if (images := _at_least_one(images)) > _MOST_NOISE:
        raise OnespikeError(
            f"images: expected at most {_MOST_NOISE:,} of noise, got {images}; choose others by --data.*"
        )
    noise = torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(0))
    return lambda device: noise.to(device).split(_BATCH)


def _at_least_one(images: int) -> int:
    if (images := convert(images, int, "images")) < 1:
        raise OnespikeError(f"images: expected at least 1, got {images}")
    return images


def _audit(
    network: nn.Module,
    config: Any,
    shape: tuple[int, int],
    batches: _Batches,
    table: EnergyTable | str | Path | None,
    device: Literal["auto", "cpu"],
    latency: bool,
    scale: bool,
) -> Audit:
    if scale and not all(isinstance(getattr(config, name, None), tuple) for name in ("channels", "depths")):
        raise OnespikeError(f"--scaling: expected a network of spiking blocks such as conv12, got {config.name}")
    place = make_accelerator(TrainConfig(device=device)).device
    if (large := next(iter(batches(place)), None)) is None:
        raise OnespikeError("there are no images to audit the network on")
    network = laid_out(network.to(place), large.narrow(-4, 0, 1)).eval()
    result = audit(network, batches(place), table=table)
    unmeasured = Joules(None, "not measured: the latency was not asked for")
    result = replace(result, preset=getattr(config, "preset", ""), joules=unmeasured)
    if latency:
        measured = measure_latency(network, large.narrow(-4, 0, 1)), measure_latency(network, large)
        result = replace(result, latency=measured, joules=measure_joules(network, large))
    return replace(result, scaling=scaling(config, *shape, latency, place) if scale else ())


def _accuracy(run: Run, checkpoint: Checkpoint, data: Any, dataset: Dataset, test_set: str) -> float | None:
    """Top-1 of these weights on these test images: from training, or else from an evaluation at their time steps."""
    summary, epoch = run.summary or {}, checkpoint.state["progress"]["epoch"]
    if summary.get("test_top1") is not None and summary.get("best_epoch") == epoch:
        own = summary.get("test_set") == test_set
        if summary.get("test_set") is None:  # it does not say: then the images must be those of the run's own options
            own = run.shows(data) and (dataset.name, dataset.classes) == (checkpoint.card.data, checkpoint.card.classes)
        if own:
            return float(summary["test_top1"])
    with suppress(OnespikeError, OSError, ValueError, KeyError, TypeError):
        content = read_json(read_whole(run.folder / "evaluation" / "evaluation.json"), "evaluation.json")
        known = content["part"], content["checkpoint"], content["test_set"], content["epochs"]
        # A training that went on since then has other weights, and other time steps have another energy. Training's
        # arithmetic, or float32, is what was priced.
        precise = content["precision"] in ("fp32", run.recipe.train.precision)
        found = float(content["top1"]["mean"])
        same = (*known, content.get("time_steps")) == ("test", "best", test_set, epoch, None)
        if precise and same and 0 <= found <= 100:
            return found
    return None

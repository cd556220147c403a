"""A data set ready for use: training, validation and test images, opened by name or made from a user's own."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset as TorchDataset

from onespike.classpath import REFUSALS, resolve
from onespike.data.augment import are_as_given
from onespike.data.cache import decode_here, open_cache
from onespike.data.config import OF_EVENTS, OF_FRAMES, PASSED, DataConfig
from onespike.data.events.frames import changed_frames
from onespike.data.items import content_of, parts_of
from onespike.data.sets import Dataset as Dataset
from onespike.data.sets import RecordingSet, number_held_out
from onespike.data.sources import NAMES, of_events, open_source
from onespike.durable import path_of
from onespike.errors import OnespikeError, lacks_memory, reason, shown, warn


def open_dataset(config: DataConfig) -> Dataset:
    """Open the data set of a configuration, which gives the same split every time.

    The first time, the images of a named data set are decoded into the cache.

    Raises:
        OnespikeError: The data set is unknown, missing or damaged, or the cache cannot be written.
    """
    if config.class_path is None and config.name == PASSED:
        raise OnespikeError("data: this run's images were passed from Python; pass them again (data=…), or --data.name")
    expect_used(config)
    if config.class_path is not None:
        return from_class(resolve(config.class_path, "data"), config.init_args, config)
    root = path_of(config.root) if config.root is not None else None
    cache = cache_folder(config.cache)
    with open_source(config, root) as source:
        decoded = open_cache(source, cache, None if source.framing else config.image_size)
    if isinstance(decoded.train, RecordingSet):
        augment = partial(changed_frames, source.framing, config, decoded.mean, decoded.std)
        decoded = replace(decoded, train=replace(decoded.train, augment=augment))
    known = replace(decoded, name=source.name, opened=config if source.framing else None)
    return known.divided(config.holdout, config.limit)


def expect_used(config: DataConfig) -> None:
    """Raise an `OnespikeError` for a choice that this data set would ignore."""
    name, has_events = config.class_path or config.name, of_events(config)
    ignored = {} if has_events else dict.fromkeys(OF_EVENTS, "has images, no events")
    if config.class_path:
        ignored["root"] = "takes arguments of its own, such as --data.init_args.root"
    if has_events and name != "events-folder":
        ignored["sensor"] = "says itself what recorded it"
    if has_events and config.changes_events:
        ignored["crop_fill"] = "loses changed events that leave the frame"
    for key, why in ignored.items():
        if (given := getattr(config, key)) != (usual := getattr(DataConfig, key)):
            remedy = f"pass {_option(key, usual)}"  # a recipe or a run may have given it
            raise OnespikeError(f"data.{key}: {name} {why}; expected {usual}, got {given}; {remedy}")


def expect_used_with(data: Any, config: DataConfig) -> None:
    """Raise an `OnespikeError` for an option that a training on data passed from Python would ignore.

    Of a `Dataset`, that is a limit, a size of images or a share held out that it does not keep to, or an option of
    events.
    """
    if isinstance(data, Dataset):
        _expect_kept_to(data, config)
    if not isinstance(data, Dataset) or not data.opened:
        expect_used(replace(config, name=PASSED, class_path=None, init_args={}))
        return
    moves = ("crop_padding", "crop_fill", "flip", "alternate_flip") if data.opened.changes_events else ()
    for key in (*OF_EVENTS, *moves):
        if (given := getattr(config, key)) != (own := getattr(data.opened, key)):
            state = f"data.{key}: {data.name} was opened with {own}; expected {own}, got {given}"
            raise OnespikeError(f"{state}; pass {_option(key, own)}, or open it with {given}")


def _expect_kept_to(data: Dataset, config: DataConfig) -> None:
    """Raise an `OnespikeError` for an option that a data set of the library was not opened with.

    These are a limit, a size of images, and, unless it is the usual one, a share that is held out.
    """
    side, of_its_own = data.image_size, data.validation.images is not data.train.images
    held_out = 0 if of_its_own else len(data.validation)
    count = len(data.train) + held_out
    usual = of_its_own or config.holdout == DataConfig.holdout
    for key, fits, found in (
        ("limit", not 0 < config.limit < count, f"{count:,} training images"),
        ("image_size", config.image_size in (None, side), f"images of {side} pixels a side"),
        ("holdout", usual or held_out == number_held_out(count, config.holdout), f"{held_out:,} images held out"),
    ):
        if not fits:
            state = f"data.{key}: {data.name} was opened with {found}; got {getattr(config, key)}"
            raise OnespikeError(f"{state}; open it with that, or set data.{key} to {getattr(DataConfig, key)}")


def warn_of_other_frames(data: Dataset, config: DataConfig) -> None:
    """Warn if recordings passed from Python to a test became frames in another way than those of the training."""
    for key in OF_FRAMES if data.opened and config.name in (PASSED, data.name) else ():
        if (trained := getattr(config, key)) != (own := getattr(data.opened, key)):
            warn(f"data.{key}: {data.name} was opened with {own}, the run says {trained}")


def warn_of_floats(data: Dataset, mean: Sequence[float], std: Sequence[float], who: str = "the network") -> None:
    """Warn if images come as floats, taken as they are, and whoever sees them knows images of this mean and std."""
    if are_as_given(data.mean, data.std) and (data.mean, data.std) != (tuple(mean), tuple(std)):
        less, over = ([round(one, 4) for one in values] for values in (mean, std))
        warn(f"{data.name} gives floats, taken as they are; {who} knows images less {less}, over {over}")


def _option(key: str, value: Any) -> str:
    """An option as a command takes it."""
    return f"--data.{key} {'null' if value is None else str(value).replace(', ', ',').strip('()')}"


def cache_folder(given: str | None = None) -> Path:
    """The folder of the decoded images: the one given, or else $ONESPIKE_CACHE, or else ~/.cache/onespike."""
    if chosen := given or os.environ.get("ONESPIKE_CACHE"):
        return path_of(chosen)
    try:
        return Path("~/.cache/onespike").expanduser()
    except RuntimeError:
        state = "the cache has no place: there is no home for ~/.cache/onespike"
        raise OnespikeError(f"{state}; set $ONESPIKE_CACHE, or give --data.cache FOLDER") from None


def as_dataset(
    data: Any,
    *,
    test: Any = None,
    validation: Any = None,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    holdout: float = 0.1,
    limit: int = 0,
    image_size: int | None = None,
) -> Dataset:
    """Make a data set from a user's own; the same arguments give the same split every time.

    Raw images (Pillow's, or uint8) are decoded into memory, and then treated as those of any data set that is opened by
    name: the loaders normalise and augment them. Images that are float tensors (C, H, W) are taken as they are, already
    transformed: mean 0, deviation 1, none of our augmentation. They are made when a batch needs them. Their random
    transforms draw from the global generators, seeded for each (seed, epoch, image), so that a resumed run sees the
    same bits.

    Args:
        data: A `Dataset` of the library, which is returned as it is, and takes no other argument; a map-style
            `torch.utils.data.Dataset` of pairs (image, label); a `datasets.Dataset`, whose columns are found by their
            features Image and ClassLabel; or several of these: (train, test), (train, validation, test), or a mapping
            from "train", "validation" and "test" (or "training", "val", "valid", "dev", "testing", "eval",
            "evaluation"; a warning names any others, which are left out), such as a `datasets.DatasetDict`. Without a
            test part, or with one whose labels are all -1, the validation part takes its place; without either, a
            fixed fifth of the images (stratified, seed 0) does, and `note` says so.
        test: The test part, if `data` holds none.
        validation: The validation part, likewise.
        name: Name of the data set; if None, that of its class, or on the Hub.
        classes: Class names, each once; without any, those that the data set knows, or else "0", "1", ...
        holdout: As in `DataConfig`.
        limit: As in `DataConfig`.
        image_size: As in `DataConfig`, for raw images alone.

    Raises:
        OnespikeError: It is no such data set, a part is given twice, a label is missing or out of range, parts have
            other classes, or the images are not square and alike. The item is named.
    """
    if isinstance(data, Dataset):
        others = (test, validation, name, classes, image_size)
        if limit or holdout != 0.1 or any(one is not None for one in others):
            state = f"{data.name}: a data set of the library, which is taken as it is; expected no other argument"
            raise OnespikeError(f"{state}; give them where it is opened")
        return data
    checked = DataConfig(holdout=holdout, limit=limit, image_size=image_size)
    holdout, limit, image_size = checked.holdout, checked.limit, checked.image_size
    if isinstance(classes, str) or not isinstance(classes, Sequence | None):
        raise OnespikeError(f"classes: expected a list of names, got {shown(classes)}")
    if not isinstance(name, str | None):
        raise OnespikeError(f"name: expected a text, got {shown(name)}")
    if type(data) is list and data and isinstance(data[0], TorchDataset):  # as random_split gives them
        data = tuple(data)
    name = name or _name(data)
    parts = parts_of(data, name, test, validation)
    content = content_of(parts, classes or ())
    shape = parts["train"].shape
    if not shape:
        return decode_here(content, name, image_size).divided(holdout, limit)
    content.check(name)
    square = len(shape) == 3 and shape[1] == shape[2] and image_size in (None, shape[1])
    side = f" = {image_size}" if image_size else ""
    for part in parts.values():
        if not square or part.shape != shape:
            found = f"floats of shape {part.shape}" if part.shape else "a raw image"
            wanted = f"{shape}, as in the training part" if square else f"(C, H, W) with H = W{side}"
            state = f"{part.where}: item 0: {found}; expected floats, {wanted}"
            raise OnespikeError(f"{state}; convert all alike, in their transform")
    plain = {"mean": (0.0,) * shape[0], "std": (1.0,) * shape[0]}
    whole = Dataset.of(parts, name=name, classes=content.classes, note=content.note, **plain)
    return whole.divided(holdout, limit)


def as_configured(data: Any, config: DataConfig, name: str | None = None) -> Dataset:
    """Make a data set from a user's own, see `as_dataset`: held out, limited and resized as a configuration says.

    One of the library's is returned as it is.
    """
    if isinstance(data, Dataset):
        return data
    return as_dataset(data, name=name, holdout=config.holdout, limit=config.limit, image_size=config.image_size)


def from_class(factory: Callable[..., Any], init_args: Mapping[str, Any], config: DataConfig) -> Dataset:
    """Make a data set from a user's class or function, and name it after that; see `as_dataset`.

    If it takes `train` (True or False) or `split` ("train", "test", and "validation", "val", "valid" or "dev" if it
    knows one), as torchvision's do, and the arguments do not set it, it is called once for each part; else once.
    """
    name, signature = getattr(factory, "__name__", type(factory).__name__), inspect.signature(factory)
    open_keys = signature.parameters.keys() - init_args.keys()

    def make(**part: Any) -> Any:
        try:
            signature.bind(**init_args, **part)
        except TypeError as error:
            raise OnespikeError(f"data.init_args: {error}; expected those of {name}{signature}") from None
        return factory(**init_args, **part)

    try:
        if "train" in open_keys:
            data: Any = {"train": make(train=True), "test": make(train=False)}
        else:
            data = _splits(make) if "split" in open_keys else make()
    except (*REFUSALS, FileNotFoundError) as error:
        if lacks_memory(error):
            raise
        raise OnespikeError(f"data.init_args: {name} refuses {dict(init_args)}: {reason(error)}") from error
    if isinstance(data, Dataset):
        _expect_kept_to(data, config)
    return as_configured(data, config, name)


def _splits(make: Callable[..., Any]) -> dict[str, Any]:
    """The splits that a factory knows; one that takes any name is asked for "train" and "test" alone."""
    found = {"train": make(split="train")}
    unknown: list[type[Exception]] = [ValueError, KeyError, AssertionError, OSError]

    def ask(*names: str) -> Any:
        for name in names:
            with suppress(*unknown):
                if (made := make(split=name)) is not None:
                    return made
        return None

    try:
        takes_any = make(split="no such split") is not None
    except (*REFUSALS, OSError) as error:  # so it refuses what it does not know; a bug has another type, as a rule
        takes_any, unknown = False, [*unknown, type(error)]
    found["validation"] = None if takes_any else ask(*NAMES["validation"])
    unknown = [one for one in unknown if one is not RuntimeError]  # torchvision's, where files are missing
    return found | {"test": ask("test")}


def _name(data: Any) -> str:
    """The name of a data set's class, or the one that Hugging Face knows it by."""
    if isinstance(data, tuple | Mapping):
        data = next(iter(data.values() if isinstance(data, Mapping) else data), None)
    while hasattr(data, "dataset"):  # a subset's whole
        data = data.dataset
    return str(getattr(getattr(data, "info", None), "dataset_name", None) or type(data).__name__)

"""Options of the data: where images come from, how they are split and how they are augmented."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from onespike.classpath import expect_text_keys
from onespike.configs import check
from onespike.errors import OnespikeError, shown

#: The name of a data set that was passed from Python, and cannot be opened by name.
PASSED = "passed-from-python"
#: Options for events alone: how they become frames, and how events to train on are changed before.
OF_FRAMES = ("frames", "frames_by", "representation", "sensor", "denoise")
_OF_CHANGES = ("spatial_jitter", "temporal_jitter", "drop_events")
OF_EVENTS = (*OF_FRAMES, *_OF_CHANGES)
#: Options that decide what the test images are.
_OF_TEST = ("name", "image_size", "class_path", "init_args", *OF_FRAMES)
#: Data sets that only their `root` tells apart.
_BY_ROOT = ("folder", "hub", "events-folder")
#: AutoAugment policies in timm's notation; timm itself silently leaves out what it does not know.
_NUMBER = r"\d{1,3}(\.\d{1,6})?"
_POLICY = re.compile(
    rf"|(original|originalr|v0|v0r|3a)(-mstd{_NUMBER})?"
    rf"|rand(-(m|mmax|inc)\d{{1,3}}|-n[1-9]\d{{0,2}}|-mstd{_NUMBER}|-p(0(\.\d{{1,6}})?|1(\.0)?)|-t(weights|3a|3aw))*"
    rf"|augmix(-[mb]\d{{1,3}}|-[wd][1-9]\d{{0,2}}|-(a|mstd){_NUMBER})*"
)


@dataclass(frozen=True)
class DataConfig:
    """The images of a run.

    A data set of the user's own whose images are float tensors is taken as it is: `crop_padding`, `crop_fill`, `flip`,
    `alternate_flip`, `cutout`, `auto_augment` and `random_erasing` do not apply to it; a warning names those set.

    Attributes:
        name: The data set: `digits` (embedded in scikit-learn), `cifar10`, `cifar100`, `tiny-imagenet`, `folder`
            (your own images, one folder per class), or `hub` (images that Hugging Face `datasets` reads). Of events:
            `digits-saccades` (made of `digits`), `nmnist`, `dvs-gesture`, `cifar10-dvs`, `shd`, or `events-folder`.
        root: Local folder or archive that holds the data set; without one, the embedded images or the Hugging Face Hub.
            For `hub` a local folder of images, Parquet files or .tar archives of images, of which no README is read;
            or a repository of the Hub, owner/name or owner/name:configuration.
        cache: Folder for the decoded images; by default $ONESPIKE_CACHE, or else ~/.cache/onespike.
        limit: Use at most this many training images, the held-out ones included; 0 uses all. The test set stays whole.
        holdout: Share of the training images, in [0, 1), that is held out to choose the best checkpoint; 0 trains on
            all. A data set with a validation part of its own uses that and holds nothing out.
        image_size: Side in pixels. Every image's shorter side is resized to it and the centre square is kept, once,
            while decoding; by default images stay as they are.
        crop_padding: Pixels added on each side before the random crop back to the image's size, at most that size; 0
            does not crop.
        crop_fill: What these pixels are: "zero" (black), or "reflect", the image mirrored at its border.
        flip: Probability, in [0, 1], of mirroring a training image left to right.
        alternate_flip: Mirror each training image in every other epoch, rather than at random (airbench94, Jordan
            2024); the seed decides once for each image in which. Takes the place of a `flip` of 0.5.
        cutout: Side in pixels of a square in each training image that is set to the mean (Cutout, DeVries & Taylor
            2017). Its centre is any pixel of the image, so that part of it may lie outside; 0 is off.
        auto_augment: AutoAugment policy in timm's notation, such as `original` or `rand-m9-mstd0.5`; empty for none.
        random_erasing: Probability, in [0, 1], of erasing a random rectangle of a training image.
        augmix_splits: Number of AugMix views per training image, the clean one included: 0 for none, or 2 to 6.
        workers: Processes, 0 or more, that make images one by one, for `auto_augment`, `random_erasing`,
            `augmix_splits`, changed events, and floats of your own; all others are changed in whole batches, in the
            main process.
        frames: Of events: the frames T that a recording becomes, 1 to 1000. One holds all events; several are time
            steps, batches (T, B, C, H, W), and the model's `time_steps` is then T.
        frames_by: What is the same for all frames: their "time", or their "count" of events.
        representation: What a frame holds for each pixel and polarity: "histogram" (how many events), "binary" (whether
            there was one), "voxel" (events shared by the two frames nearest in time), or "timesurface" (how long ago
            the last one was). See `onespike.data.events.frames`.
        sensor: Of `events-folder`: width and height of the camera in pixels, such as [346, 260].
        denoise: Leave out events without an earlier event at a neighbouring pixel within this many microseconds; 0 is
            off.
        spatial_jitter: Of events to train on: the standard deviation, in pixels, by which each is moved; 0 is off.
        temporal_jitter: Likewise in time, in microseconds.
        drop_events: Probability, in [0, 1), that an event to train on is left out.
        class_path: A data set of your own in place of `name`, such as "pkg.Data": a class or function, see
            `onespike.data.dataset.from_class`.
        init_args: Its arguments, by name.
    """

    name: str = "digits"
    root: str | None = None
    cache: str | None = None
    limit: int = 0
    holdout: float = 0.1
    image_size: int | None = None
    crop_padding: int = 4
    crop_fill: Literal["zero", "reflect"] = "zero"
    flip: float = 0.5
    alternate_flip: bool = False
    cutout: int = 0
    auto_augment: str = ""
    random_erasing: float = 0.0
    augmix_splits: int = 0
    workers: int = 2
    frames: int = 1
    frames_by: Literal["time", "count"] = "time"
    representation: Literal["histogram", "binary", "voxel", "timesurface"] = "histogram"
    sensor: tuple[int, int] | None = None
    denoise: float = 0.0
    spatial_jitter: float = 0.0
    temporal_jitter: float = 0.0
    drop_events: float = 0.0
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)

    @property
    def changes_events(self) -> bool:
        """Whether recordings to train on are changed anew at each epoch, before they become frames."""
        return any(getattr(self, key) for key in _OF_CHANGES)

    @property
    def is_by_root(self) -> bool:
        """Whether nothing but the root says which images they are."""
        return self.name in _BY_ROOT and self.class_path is None

    def shows_as(self, other: "DataConfig") -> bool:
        """Whether the test images are those of another configuration, by the options that choose and change them."""
        options = (*_OF_TEST, "root") if self.is_by_root else _OF_TEST
        return all(getattr(self, key) == getattr(other, key) for key in options)

    def __post_init__(self) -> None:
        check(self, "data")
        expect_text_keys(self.init_args, "data.init_args")
        for key, fine, expected in (
            ("limit", self.limit >= 0, "0 (all) or a number of images"),
            ("holdout", 0 <= self.holdout < 1, "a share in [0, 1)"),
            ("image_size", self.image_size is None or 1 <= self.image_size <= 8192, "a side of 1 to 8192"),
            ("crop_padding", 0 <= self.crop_padding <= 8192, "0 to 8192 pixels"),
            ("flip", 0 <= self.flip <= 1, "a probability in [0, 1]"),
            ("cutout", self.cutout >= 0, "0 (off) or a side in pixels"),
            ("random_erasing", 0 <= self.random_erasing <= 1, "a probability in [0, 1]"),
            ("augmix_splits", self.augmix_splits in (0, 2, 3, 4, 5, 6), "0 or 2 to 6 views"),
            ("workers", 0 <= self.workers <= 256, "0 to 256 processes"),
            ("frames", 1 <= self.frames <= 1000, "1 to 1000"),
            ("sensor", self.sensor is None or all(1 <= side <= 8192 for side in self.sensor), "sides of 1 to 8192"),
            ("denoise", 0 <= self.denoise <= 1e12, "0 (off) or microseconds"),
            ("spatial_jitter", 0 <= self.spatial_jitter <= 8192, "0 (off) or pixels"),
            ("temporal_jitter", 0 <= self.temporal_jitter <= 1e12, "0 (off) or microseconds"),
            ("drop_events", 0 <= self.drop_events < 1, "a probability in [0, 1)"),
            ("auto_augment", _POLICY.fullmatch(self.auto_augment), "'original', 'rand-m9-mstd0.5' or the like"),
        ):
            if not fine:
                found = shown(getattr(self, key))
                raise OnespikeError(f"data.{key}: expected {expected}, got {found}; change --data.{key}")
        if self.alternate_flip and self.flip != 0.5:
            expected = "expected a flip of 0.5, for it mirrors half of all images"
            remedy = "pass --data.alternate_flip false as well, or --data.flip 0.5"
            raise OnespikeError(f"data.alternate_flip: {expected}, got {self.flip!r}; {remedy}")

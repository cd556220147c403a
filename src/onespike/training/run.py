"""A run folder: everything there is to know about one training.

config.yaml         the recipe, every value resolved
environment.json    machine, versions, command, commit
metrics.csv         one row for each epoch
tensorboard/        the same and more, for TensorBoard
curves.png          the same, drawn
best/ last/         checkpoints
summary.json        the results; written at the end: if it is there, the run is complete
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from onespike.configs import convert, expect_keys, read_json
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, as_configured, open_dataset, warn_of_other_frames
from onespike.durable import (
    csv_text,
    digest_of,
    expect_writable,
    is_as_written,
    is_temporary,
    path_of,
    read_whole,
    remove,
    write_whole,
)
from onespike.environment import environment
from onespike.errors import OnespikeError, shown, unknown, warn
from onespike.lock import LOCK
from onespike.training.checkpoint import STATE, Checkpoint
from onespike.training.pretrained import (
    HUB,
    PACKAGE,
    anywhere,
    expect_local,
    is_pretrained,
    located,
    progress_of,
    read_pretrained,
)
from onespike.training.progress import counted
from onespike.training.recipe import RESOLVED, Recipe, differences, dump, load_recipe

#: Precedes the digest of the lines above it, at the end of `config.yaml`.
_DIGEST = "# sha256: "
#: Keys of `summary.json`, among others.
_SUMMARY: dict[str, Any] = dict.fromkeys(("test_top1", "test_top5", "test_loss", "seconds"), float)
_SUMMARY |= dict.fromkeys(("test_images", "epochs", "best_epoch", "parameters"), int) | {"valid_top1": float | None}
#: Files of a run that no command reads; the summary has their digests.
KEPT = ("metrics.csv", "environment.json", "curves.png")
#: Files that a run killed before its beginning may have left; without `config.yaml`, `last` belongs to no run.
_BEFORE = (LOCK, ".config.yaml.new", "last", ".last.new")


class Run:
    """A run folder, existing or to be made."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = path_of(folder)
        self.name = str(folder)
        self.config, self.best, self.last = folder / "config.yaml", folder / "best", folder / "last"
        self._before = dict[Path, bytes | None]()  # what `begin` replaced; None where there was nothing

    def __repr__(self) -> str:
        """Say which folder it is."""
        return f"Run({self.name!r})"

    @classmethod
    def open(cls, folder: "str | Path | Run") -> "Run":
        """Open a run or a pretrained network: a folder, "pretrained:NAME" of the package, or "hub:user/repo".

        A run that is open already is returned as it is.

        Raises:
            OnespikeError: There is no run, or it is of a version that cannot be read.
        """
        if isinstance(folder, Run):
            return folder
        run = cls(located(folder))
        if str(folder).startswith((PACKAGE, HUB)):
            run.name = str(folder)  # as it was typed, not where it lies on this machine
        try:
            text = read_whole(run.config).decode("utf-8", "replace")
        except OSError as error:
            expected = "expected a folder with config.yaml, as onespike train --out makes it"
            if is_pretrained(run.folder):
                expected = "it was saved from Python, without a recipe: onespike.load reads it"
            reason = "" if isinstance(error, FileNotFoundError) else f" that can be read ({error.strerror})"
            raise OnespikeError(f"{folder} is not a run{reason}: {expected}") from None
        if RESOLVED not in text:
            state = f"{run.config} lacks the line {RESOLVED} that a run begins with: it is damaged, or no run's, or"
            raise OnespikeError(f"{state} was made by onespike 0.1: restore it, train it again, or use 0.1")
        if not is_pretrained(run.folder):
            body, _, digest = text.rpartition(_DIGEST)
            changed = [run.config] if f"{sha256(body.encode()).hexdigest()}\n" != digest else []
            try:
                changed += run._changed()
            except OnespikeError as error:
                warn(str(error))
            for path in changed:
                warn(f"{path} is not what was written: somebody changed it, or the disk did; it is taken as it is")
        return run

    @cached_property
    def recipe(self) -> Recipe:
        """The run's recipe, every value resolved."""
        return load_recipe(self.config)

    def recipe_with(self, overrides: Mapping[str, Any]) -> Recipe:
        """The recipe with some values changed, as `load_recipe` changes them."""
        return load_recipe(self.config, overrides) if overrides else self.recipe

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results, as in `summary.json`; None until the run is complete."""
        content = self._finished()
        return content and {key: value for key, value in content.items() if key not in ("files", "sha256")}

    def _finished(self) -> dict[str, Any] | None:
        """All of `summary.json`, digests included."""
        path = self.folder / "summary.json"
        try:
            if not self.is_complete:
                return None
            text = read_whole(path)
            content = read_json(text, path)
        except OSError as error:
            raise OnespikeError(f"{path} cannot be read: {error.strerror}") from error
        pretrained = is_pretrained(self.folder)  # weights that nobody may have measured
        expect_results(content, {} if pretrained else _SUMMARY, str(path))
        digest = None if pretrained else digest_of(content)
        if content.get("sha256") != digest or (digest and not is_as_written(text, content)):
            raise OnespikeError(f"{path} is not what was written: remove it, then train --resume writes it anew")
        return dict(content)

    def _changed(self) -> list[Path]:
        """Files that changed after the summary was written; an `OnespikeError` if the summary itself is damaged."""
        digests = convert((self._finished() or {}).get("files", {}), dict[str, str], "summary.json: files")
        return [self.folder / name for name in KEPT if name in digests and self._digest(name) != digests[name]]

    def _digest(self, name: str) -> str:
        try:
            return sha256(read_whole(self.folder / name)).hexdigest()
        except OSError:
            return ""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, with digests of the files that no command reads."""
        content = {**summary, "files": {name: digest for name in KEPT if (digest := self._digest(name))}}
        write_whole(self.folder / "summary.json", json.dumps(content | {"sha256": digest_of(content)}, indent=2))

    @property
    def is_complete(self) -> bool:
        """Whether the run was trained and tested to its end."""
        return (self.folder / "summary.json").is_file()

    def model(self, which: str = "best", model: nn.Module | None = None, time_steps: int | None = None) -> nn.Module:
        """Load the network with its weights, on the CPU, in evaluation mode.

        Args:
            which: "best" or "last".
            model: A network like the trained one, if that is of a user's class; its weights are replaced. Not needed
                for registered models, nor where `allow_imports` names the class's module.
            time_steps: Time steps for one image, if another number than in training.

        Raises:
            OnespikeError: Both checkpoints are damaged, or the network cannot be built, or is another one.
        """
        return self.checkpoint(which).network(model, time_steps)

    def shows(self, data: Any) -> bool:
        """Whether these test images are to be the run's own: None, or options that choose the same."""
        return data is None or (isinstance(data, DataConfig) and data.shows_as(self.recipe.data))

    def dataset(self, data: Any = None) -> Dataset:
        """Open the run's data set.

        Args:
            data: Other images than the run's own: a `DataConfig`, or a data set that `as_dataset` takes.

        Raises:
            OnespikeError: The images are not there; or they were passed to the training from Python, and are not passed
                now.
        """
        if data is None or isinstance(data, DataConfig):
            return open_dataset(data or self.recipe.data)
        dataset = as_configured(data, self.recipe.data)
        warn_of_other_frames(dataset, self.recipe.data)
        if dataset.note:
            warn(f"{dataset.name}: {dataset.note}; if it was not trained on, pass (data, data) to test on all of it")
        return dataset

    def has_checkpoint(self) -> bool:
        """Whether anything was saved yet."""
        return any((self.folder / name).is_dir() for name in ("last", "best", ".last.old", ".best.old"))

    def checkpoint(self, which: str = "best") -> Checkpoint:
        """Read the "best" or "last" checkpoint, or the other one if it is missing or damaged."""
        if which not in ("best", "last"):
            raise unknown("checkpoint", which, ("best", "last"))
        if is_pretrained(self.folder):
            if which == "last":
                raise OnespikeError(f"{self.name} holds its best weights alone: leave out --checkpoint last")
            return read_pretrained(self.folder)
        first, second = (self.best, self.last) if which == "best" else (self.last, self.best)
        try:
            checkpoint = Checkpoint.load(first)
        except OnespikeError as problem:
            try:
                checkpoint = Checkpoint.load(second)
            except OnespikeError as other:
                raise OnespikeError(f"{self.folder} has no usable checkpoint: {problem}; {other}") from None
            warn(f"{problem}; using {second} instead")
        self._expect_own(checkpoint)
        return checkpoint

    def _expect_own(self, checkpoint: Checkpoint) -> None:
        """Raise an `OnespikeError` if a checkpoint is of another model or training than `config.yaml` says."""
        card, recipe = checkpoint.card, self.recipe
        pairs = {"model": (card.model, recipe.model), "conversion": (card.conversion, recipe.conversion)}
        for key, value in checkpoint.state.get("train", {}).items():
            pairs[f"train.{key}"] = (value, getattr(recipe.train, key, None))
        if other := [name for name, (saved, own) in pairs.items() if saved != own]:
            state = f"{self.folder} holds the checkpoint of another run, whose {other[0]} is not that of {self.config}"
            raise OnespikeError(f"{state}: put the files of one run together again")

    def epochs(self) -> int:
        """Epochs of this run, and of the earlier runs whose weights it started from."""
        progress = self.progress()
        return int(progress["epoch"]) + int(progress.get("epochs_before", 0))

    def flops(self) -> float | None:
        """Training FLOPs of this run, and of the earlier runs whose weights it started from; None if not counted."""
        progress = self.progress()
        spent: Any = progress.get("flops"), progress.get("flops_before")
        return None if None in spent else counted(sum(spent))

    def progress(self) -> dict[str, Any]:
        """How far training had come; of a complete run by its summary, since its last checkpoint may be removed."""
        pretrained = is_pretrained(self.folder)
        if not pretrained and (summary := self.summary) is not None:
            return progress_of(summary, f"{self.folder / 'summary.json'}")
        return dict(self.checkpoint("best" if pretrained else "last").state["progress"])

    def has_begun(self, recipe: Recipe) -> bool:
        """Whether a training by this recipe has begun here; an `OnespikeError` if one by another recipe has."""
        if not self.config.is_file():
            return False
        if changed := differences(Run.open(self.folder).recipe, recipe):
            raise OnespikeError(f"{self.folder} holds the run of another recipe: {'; '.join(changed)}; choose another")
        return True

    def expect_free(self) -> None:
        """Raise an `OnespikeError` if a new run would overwrite something."""
        expect_local(self.folder)
        expect_writable(folder=self.folder)
        real = self.folder.resolve()  # "x/.." is here, though there is no x yet
        there = [one for one in real.iterdir() if not is_temporary(one)] if real.exists() else []
        # A run may be called `last`: what one that was killed early left by that name is a checkpoint.
        left = [one for one in there if one.name in _BEFORE and (one.name != "last" or (one / STATE).is_file())]
        if left != there:
            advice = "choose another --out, or go on with the run in it by --resume (in Python resume=True)"
            raise OnespikeError(f"{self.folder} is not empty: {advice}")

    def expect_resumable(self) -> None:
        """Raise an `OnespikeError` if there is no checkpoint to resume from, and training would overwrite results."""
        if is_pretrained(self.folder):
            state = f"{self.folder} holds a pretrained network, without the state that a training resumes from"
            raise OnespikeError(f"{state}: start a new run from them by --init-from {self.folder}")
        results = [name for name in ("summary.json", "metrics.csv") if (self.folder / name).exists()]
        if results and not self.has_checkpoint():
            state = f"{self.folder} holds {results[0]}, and its checkpoints best and last are gone"
            raise OnespikeError(f"{state}: there is nothing to resume; train it anew with another --out")

    def begin(self, recipe: Recipe) -> None:
        """Write what is known before the first step; a resumed run, perhaps with other values, writes it again."""
        self.__dict__.pop("recipe", None)
        # Those of `KEPT` too, since `Saving` may write them before the first step. The results come first.
        places = [self.folder / name for name in ("summary.json", self.config.name, *KEPT)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if in_the_way := [path for path in places if path.is_dir()]:
                raise OSError(f"{in_the_way[0].name} is a folder, where a file is to go")
            self._before = {path: read_whole(path) if path.is_file() else None for path in places}
            text = dump(recipe)
            write_whole(self.config, f"{text}{_DIGEST}{sha256(text.encode()).hexdigest()}\n")
            write_whole(self.folder / "environment.json", json.dumps(environment(), indent=2))
            (self.folder / "summary.json").unlink(missing_ok=True)
            # What killed writers of checkpoints left there: whoever writes those holds the folder, as we do.
            for left in list(self.folder.iterdir()):
                if is_temporary(left, self.last.name, self.best.name):
                    remove(left)
        except OSError as error:
            raise OnespikeError(f"cannot write the run folder {self.folder}: {error}") from error

    def withdraw(self) -> None:
        """Take `begin` back, as far as the disk allows: the same command may begin anew, and results are kept."""
        self.__dict__.pop("recipe", None)
        for path, content in self._before.items():
            with suppress(OSError):  # why it is taken back is more than that
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    write_whole(path, content)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.csv`, whole."""
        # A run that is resumed with other options may have other columns from there on.
        columns = list(dict.fromkeys(key for row in history for key in row))
        rows = ([row.get(key, "") for key in columns] for row in history)
        write_whole(self.folder / "metrics.csv", csv_text(columns, rows))


def expect_results(content: Any, required: Mapping[str, Any], where: str) -> None:
    """Raise an `OnespikeError` unless results are of their types and in their ranges, and all `required` are there."""
    known = {name: one for name, one in _SUMMARY.items() if isinstance(content, Mapping) and name in content}
    expect_keys(content, {**known, **required}, where)
    for name in ("test_top1", "test_top5", "valid_top1"):
        if not 0 <= (content.get(name) or 0) <= 100:
            raise OnespikeError(f"{where}: {name}: expected 0 to 100 percent, got {shown(content[name])}")


def load(folder: str | Path, which: str = "best", model: nn.Module | None = None) -> nn.Module:
    """Load a trained network, on the CPU, in evaluation mode.

    It reads raw images normalised, (pixels / 255 - mean) / std, as by `Run.checkpoint().card.normalised(pixels)`.

    Args:
        folder: A run folder; a checkpoint in one, such as RUN/best; or a pretrained network: its folder, one of the
            package ("pretrained:digits-spiking-vgg-xs") or of the Hub ("hub:user/repo", or "user/repo" where no such
            folder exists).
        which: Which checkpoint of a run, "best" or "last"; ignored for a checkpoint and for a pretrained network.
        model: As for `Run.model`.

    Raises:
        OnespikeError: There is no such network, the Hub cannot be reached, or as for `Run.model`.
    """
    place = anywhere(folder)
    if is_pretrained(place):
        return read_pretrained(place).network(model)
    if (place / "model.safetensors").is_file():
        return Checkpoint.load(place).network(model)
    return Run.open(place).model(which, model)

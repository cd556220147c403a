"""One process of a search: it takes an attempt, trains it into a run folder, and tells the storage the result."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch

from onespike.allocator import keep_freed_memory
from onespike.audit import CONVENTIONS, audit
from onespike.classpath import allow_imports
from onespike.configs import Text
from onespike.data.dataset import open_dataset
from onespike.data.loader import EvalLoader, Share
from onespike.errors import OnespikeError, lacks_memory, printable, reason, shown
from onespike.lock import held
from onespike.search import storage as storages
from onespike.search import study as studies
from onespike.search.space import as_chosen
from onespike.training.callbacks import Callback, Pruning, Step
from onespike.training.config import TrainConfig
from onespike.training.device import make_accelerator
from onespike.training.interrupt import is_requested
from onespike.training.layout import laid_out
from onespike.training.loop import Diverged, Stopped, complete
from onespike.training.recipe import Recipe, load_recipe
from onespike.training.run import Run

if TYPE_CHECKING:
    import optuna
    from optuna.trial import Trial

    from onespike.training.trainer import Trainer

#: Most held-out images to count energy on; images in a batch; first trials that end the search if all are refused.
IMAGES, BATCH, REFUSALS = 512, 64, 3
#: What an attempt is called that an error of the code stopped; at the second one its values are given up.
_CRASHED = "crashed"
#: Seconds between two looks whether the parent is there; seconds in which a process may save its work without it.
LOOK, LAST = 1.0, 60.0


@dataclass(frozen=True)
class Job:
    """The task of a process, as JSON on its standard input, where nobody else can read a password."""

    recipe: str
    overrides: dict[str, Any]
    space: dict[str, str]  # distributions as Optuna's JSON
    out: str
    name: str  # of the study
    storage: str | None
    trials: int
    energy: str
    epochs: int
    imports: list[str]
    parent: int  # the process that started this one
    typed: list[str] = field(default_factory=list)  # of the overrides, those that were typed: JSON does not tell
    began: float = field(default_factory=time.time)  # when the search was called

    def to_json(self) -> str:
        """For the standard input of the process."""
        return json.dumps(asdict(self), default=str)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial changes in the recipe, of the types that the command line and the space have."""
        given = {key: Text(one) if key in self.typed else one for key, one in self.overrides.items()}
        return given | {key: as_chosen(one) for key, one in params.items()}


class Life(Callback):
    """Sends signs of life to the storage during an attempt, and stops it if another process has taken over."""

    def __init__(self, attempt: "Trial") -> None:
        self.lost, self._attempt, self._end = False, attempt, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Life":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(studies.BEAT):
            try:
                self._attempt.set_user_attr(studies.SEEN, time.time())
            except RuntimeError:  # we seemed dead, perhaps asleep, and another process has taken over
                self.lost = True
                return
            except Exception:  # the storage is away for a moment, perhaps: the next sign will do
                continue

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Stop, with a checkpoint, if another process has taken over."""
        if self.lost:
            trainer.stop = True


def work(job: Job) -> int:
    """Make attempts until all trials are done; returns the exit code, that of Ctrl-C if it was stopped.

    A storage may be away for `GRACE` seconds. What was being attempted is taken up again, as if this process had died.
    """
    storage, out = storages.open_storage(job.storage, Path(job.out)), Path(job.out)
    study = studies.open_study(storage, job.name, job.trials, job.energy, job.epochs)
    from optuna.distributions import json_to_distribution

    space = {name: json_to_distribution(text) for name, text in job.space.items()}
    worker = uuid4().hex
    away: float | None = None  # since when the storage is
    with held(out / studies.WORKERS / worker):
        while True:
            try:
                attempt = studies.claim(study, space, job.trials, out, worker)
                away = None
                if attempt == "done":
                    return 0
                if attempt == "wait":
                    time.sleep(1)
                elif not _attempt(study, attempt, job):
                    return 130
            except storages.failures():
                away = away or time.monotonic()
                if time.monotonic() - away > studies.GRACE:
                    raise
                time.sleep(1)


def _attempt(study: "optuna.Study", attempt: "Trial", job: Job) -> bool:
    """Make an attempt and tell its result; returns whether to go on with another."""
    from optuna import TrialPruned
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    def tell(*arguments: Any, **options: Any) -> None:
        with suppress(ValueError, RuntimeError):  # another process has told it
            study.tell(attempt, *arguments, **options)

    def fail(key: str, why: str) -> None:
        stops = key == studies.STOPPED  # which a storage that is away must not keep it from
        with suppress(*storages.failures()) if stops else nullcontext():
            with suppress(UpdateFinishedTrialError):
                attempt.set_user_attr(key, why)
            tell(state=TrialState.FAIL)

    life = Life(attempt)
    try:
        with life:
            values = _train(study, attempt, job, life)
        tell(values)
    except TrialPruned:
        tell(state=TrialState.PRUNED)
    except UpdateFinishedTrialError:  # another process has taken over
        return True
    except storages.failures():
        raise  # the storage takes no word of it either
    except Stopped:
        fail(studies.STOPPED, "stopped")
        return life.lost
    except BaseException as error:
        crash = _crash(error)
        outcome = _outcome(error) or (crash if crash and _has_crashed(study, attempt, job.began) else None)
        fail(studies.OUTCOME if outcome else studies.STOPPED, outcome or crash or printable(error, 300))
        if not outcome:
            raise
        so_far = [one.outcome for one in studies.tried(study, job.energy) if one.done]
        if len(so_far) >= REFUSALS and all(one.startswith("refused") for one in so_far):
            raise OnespikeError(f"the first {len(so_far)} trials were all {outcome}") from error
    return True


def _outcome(error: BaseException) -> str | None:
    """What ended a trial and not the search; None if it ends both, the first time."""
    kinds: dict[type[BaseException], str] = {Diverged: "diverged", _Refused: "refused"}
    kind = kinds.get(type(error))
    if isinstance(error, torch.OutOfMemoryError) or lacks_memory(error):
        kind = "out of memory"
    return kind and f"{kind}: {printable(error, 300)}"


def _crash(error: BaseException) -> str | None:
    """What to call an error of the code, ours or that of a network of one's own; None if it is of another kind."""
    is_crash = isinstance(error, Exception) and not isinstance(error, OnespikeError | OSError)
    return f"{_CRASHED}: {type(error).__name__}: {printable(error, 300)}" if is_crash else None


def _has_crashed(study: "optuna.Study", attempt: "Trial", began: float) -> bool:
    """Whether these values crashed before this call of the search: whoever called knows the traceback."""
    with suppress(*storages.failures()):  # in place of these, the crash itself is told
        return any(
            one.datetime_complete is not None and one.datetime_complete.timestamp() < began
            for one in study.get_trials(deepcopy=False)
            if one.params == attempt.params and str(one.user_attrs.get(studies.STOPPED)).startswith(_CRASHED)
        )
    return False


class _Refused(OnespikeError):  # noqa: N818 - named for what happened
    """These values do not make a valid training."""


def _train(study: "optuna.Study", attempt: "Trial", job: Job, life: Life) -> list[float]:
    """Train, or go on with what an earlier attempt left; returns the objectives' values."""
    number = attempt.user_attrs.get(studies.SLOT, attempt.number)
    done = (one for one in study.get_trials(deepcopy=False) if one.state.name == "COMPLETE")
    # Training is exact: of the same values the result would be the same.
    if same := next((one for one in done if one.params == attempt.params), None):
        for key, value in same.user_attrs.items():
            if key not in (studies.SLOT, studies.WORKER, studies.SEEN):
                attempt.set_user_attr(key, value)
        return list(same.values)
    base = load_recipe(job.recipe, job.values({}))
    studies.expect_same_search(study, base, job.space, job.energy, job.out, job.recipe)
    run = Run(Path(job.out) / f"trial-{number:03d}")
    attempt.set_user_attr("folder", run.folder.name)
    try:
        recipe = load_recipe(job.recipe, job.values(attempt.params))
        expect_held_out(recipe, base)
    except OnespikeError as error:
        raise _Refused(str(error)) from error
    while studies.is_held(run.folder):  # by a process that seemed dead, which stops once it finds out
        time.sleep(1)
    _complete(run, recipe, [life] if job.energy else [life, Pruning(attempt)])
    summary = run.summary or {}
    facts = {key: summary.get(key) for key in ("seconds", "parameters", "pflop")} | {"epoch": summary["best_epoch"]}
    for key, value in facts.items():
        attempt.set_user_attr(key, value)
    if not job.energy:
        return [summary["valid_top1"]]
    energies = count_energy(run)
    attempt.set_user_attr("energies", energies)
    return [summary["valid_top1"], energies[job.energy]]


def _complete(run: Run, recipe: Recipe, callbacks: list[Callback]) -> None:
    """Complete a trial's run; `_Refused` if the trial is to blame for an error."""
    if not run.has_begun(recipe):
        run.expect_free()
    try:
        complete(recipe, run, callbacks=callbacks, quiet=True)
    except Diverged:
        raise
    except OnespikeError as error:
        # What the machine is to blame for, or comes after a checkpoint, may go well at another time.
        if isinstance(error.__cause__, OSError) or run.has_checkpoint():
            raise
        raise _Refused(str(error)) from error


def expect_held_out(recipe: Recipe, base: Recipe) -> None:
    """Raise an `OnespikeError` if no images are held out, or, by their labels, others than of the base recipe."""
    held_out = open_dataset(recipe.data).validation.targets
    if not len(held_out):
        raise OnespikeError("data.holdout: held-out images choose the best trial, and there are none: set it above 0")
    given = recipe.data.init_args
    if given != base.data.init_args and not np.array_equal(held_out, open_dataset(base.data).validation.targets):
        why = "holds out other images, and scores on them do not compare"
        raise OnespikeError(f"data.init_args: {shown(repr(given))} {why}")


def count_energy(run: Run) -> dict[str, float]:
    """Energy of one image in microjoule, by convention: the best weights, on held-out images, evenly spread."""
    checkpoint, held_out = run.checkpoint("best"), run.dataset().validation
    device, card = make_accelerator(TrainConfig(device=run.recipe.train.device)).device, checkpoint.card
    loader = EvalLoader(held_out.spread(IMAGES), card.mean, card.std, BATCH, Share(device))
    batches = [images for images, _ in loader]  # what cannot be read is no fault of these values
    network = laid_out(checkpoint.network().to(device), batches[0].narrow(-4, 0, 1))
    try:
        found = audit(network.eval(), batches)
    except OnespikeError as error:  # a network of these values cannot be counted, however often it is trained
        raise _Refused(str(error)) from error
    return {convention: 1e6 * found.energy(convention).total for convention in CONVENTIONS}


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, in whatever it does: nobody waits for it, nor could stop it."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    if not is_requested():  # a second signal would be one of impatience
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves a checkpoint first
    time.sleep(LAST)
    os._exit(130)


def main(text: str) -> int:
    """Do a job; returns the exit code. An error that the user can fix is one line for the parent process.

    SIGTERM is Ctrl-C, in a training and outside: what is being attempted is stopped, and no attempt that died.
    """
    job = Job(**json.loads(text))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(job.parent,), daemon=True).start()
    try:
        allow_imports(*job.imports)
        keep_freed_memory()
        with storages.reached():
            return work(job)
    except KeyboardInterrupt:
        return 130
    except (OnespikeError, OSError) as error:  # the latter such as a full disk while the storage is written
        print(f"error: {reason(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))

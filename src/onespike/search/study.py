"""The study of a search: its trials, in a storage that many processes on many machines share.

A slot is one set of values. It is attempted until an attempt is trained to its end, is pruned, or turns out to be
impossible to train. If a process dies, its attempt is marked as failed, and the slot is attempted again. What to do
next follows from the storage alone, so a process may die anywhere, and nothing is lost.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onespike.configs import convert, plain
from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError, printable, shown
from onespike.lock import held
from onespike.search.storage import need_optuna
from onespike.training.recipe import NO_MATTER, Recipe, values_of

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

#: In the folder of a search: the folder with one for each live process.
WORKERS = "workers"
#: Attributes of an attempt: its slot, if that is an earlier attempt's; its process, and when that was seen last (time
#: in seconds); why it can have no result; why it was stopped before it had one; that it is one too many.
SLOT, WORKER, SEEN, OUTCOME, STOPPED, SURPLUS = "slot", "worker", "seen", "outcome", "stopped", "surplus"
#: Seconds between two signs of life; seconds without one after which a process on another machine counts as dead.
BEAT, GRACE = 10.0, 90.0
#: A slot is given up after this many attempts whose process died.
DEATHS = 5
#: Draws in a row that are discarded because they repeat earlier values; then hardly any other values are left.
REPEATS = 20
#: What the page calls the states of an attempt.
_WORDS = {"COMPLETE": "trained", "PRUNED": "pruned", "RUNNING": "running", "WAITING": "waiting"}
#: Attributes of a study: which search it is, and of which images.
IDENTITY, IMAGES = "search", "images"


@dataclass(frozen=True)
class Tried:
    """The outcome of one set of values.

    Attributes:
        number: Number of the trial, from 0.
        outcome: "trained", "pruned", "running", "waiting", or why it has no result.
        values: Values of the options that are searched for.
        accuracy: Top-1 on the held-out images, in percent; of a pruned trial after its last epoch; None if it has none.
        energy: Energy of one image, in microjoule; None if it is not searched for.
        facts: "folder", "seconds", "epoch", "parameters", "pflop", as far as they are known.
        best: Whether no other is better in all objectives; of those with equal results, the one that cost least to
            train, or the first of these.
    """

    number: int
    outcome: str
    values: Mapping[str, Any]
    accuracy: float | None
    energy: float | None
    facts: Mapping[str, Any]
    best: bool

    @property
    def done(self) -> bool:
        """Whether it is finished."""
        return self.outcome not in ("running", "waiting")


def open_study(storage: Any, name: str, trials: int, energy: str, epochs: int) -> "optuna.Study":
    """Open a study, or create it.

    For one objective, the tree-structured Parzen estimator (Bergstra et al. 2011) chooses values, and a trial is pruned
    if its accuracy is below the median of the others' after as many epochs. For two objectives, NSGA-II (Deb et al.
    2002) chooses values, and nothing is pruned.
    """
    optuna = need_optuna()
    if energy:
        population = max(4, min(50, trials // 5))
        sampler: Any = optuna.samplers.NSGAIISampler(population_size=population)
        directions, pruner = ["maximize", "minimize"], optuna.pruners.NopPruner()
    else:
        # What other processes are trying counts as bad, so that they do not try the same.
        sampler = optuna.samplers.TPESampler(constant_liar=True)
        directions, pruner = ["maximize"], optuna.pruners.MedianPruner(n_warmup_steps=max(1, epochs // 4))
    options = {"directions": directions, "sampler": sampler, "pruner": pruner}
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, **options)


def expect_ours(study: "optuna.Study", energy: str, where: str) -> None:
    """Raise an `OnespikeError` if a study is somebody else's: it names no search, and is not as we make one."""
    directions = ["MAXIMIZE", "MINIMIZE"] if energy else ["MAXIMIZE"]
    is_new = [one.name for one in study.directions] == directions and not study.get_trials(deepcopy=False)
    if IDENTITY not in study.user_attrs and not is_new:
        state = f"{where} holds a study {shown(repr(study.study_name))} that is no search of onespike"
        raise OnespikeError(f"{state}; choose another --out")


def expect_same_search(
    study: "optuna.Study", base: Recipe, space: Mapping[str, str], energy: str, where: str, edited: str = ""
) -> None:
    """Raise an `OnespikeError` if a study is of another recipe, space or convention; a new study takes them.

    `edited` is the recipe that is to blame, if there was a search by it. Where nothing but the root says which images
    they are, these have to be the same, wherever they lie.
    """
    values = {key: plain(value) for key, value in values_of(base).items() if key not in NO_MATTER}
    values |= {"space": dict(space), "energy": energy}
    _expect_same(study, IDENTITY, values, f"{edited} was changed: {where}" if edited else where)
    if base.data.is_by_root:
        data = open_dataset(base.data)
        parts = {"training": data.train, "held-out": data.validation}
        digests = {f"digest of the {name} images": replace(data, test=part).test_set() for name, part in parts.items()}
        _expect_same(study, IMAGES, digests, where)


def _expect_same(study: "optuna.Study", key: str, now: Mapping[str, Any], where: str) -> None:
    known = study.user_attrs.get(key)
    if known is None:
        study.set_user_attr(key, dict(now))
        return
    if changed := [name for name in dict.fromkeys([*known, *now]) if known.get(name) != now.get(name)]:
        was, will = (printable(one.get(changed[0]), 200) for one in (known, now))
        raise OnespikeError(f"{where} holds another search: {changed[0]} was {was}, now {will}; choose another --out")


def slots_of(trials: Sequence["FrozenTrial"]) -> dict[int, list["FrozenTrial"]]:
    """The attempts of each slot, by the number of its first."""
    slots: dict[int, list[FrozenTrial]] = {}
    for one in trials:
        if SURPLUS not in one.user_attrs:
            slots.setdefault(one.user_attrs.get(SLOT, one.number), []).append(one)
    return slots


def result_of(attempts: Sequence["FrozenTrial"]) -> "FrozenTrial | None":
    """The attempt with the result of a slot; None if there is none yet."""
    for one in attempts:
        if one.state.name in ("COMPLETE", "PRUNED") or (one.state.name == "FAIL" and OUTCOME in one.user_attrs):
            return one
    died = [one for one in attempts if one.state.name == "FAIL" and STOPPED not in one.user_attrs]
    return died[-1] if len(died) >= DEATHS else None


def is_alive(attempt: "FrozenTrial", out: Path) -> bool:
    """Whether the process of a running attempt is alive.

    A process whose folder in `out` is not held is dead at once; any other after `GRACE` seconds without a sign.
    """
    process = out / WORKERS / str(attempt.user_attrs.get(WORKER, "none"))
    if process.is_dir() and not is_held(process):
        return False
    begun = attempt.datetime_start.timestamp() if attempt.datetime_start else 0.0
    return time.time() - convert(attempt.user_attrs.get(SEEN, begun), float, SEEN) < GRACE


def is_held(folder: Path) -> bool:
    """Whether a process writes into a folder."""
    if not folder.is_dir():
        return False
    try:
        with held(folder):
            return False
    except OnespikeError:
        return True


def claim(
    study: "optuna.Study", space: Mapping[str, Any], trials: int, out: Path, worker: str
) -> "Trial | Literal['wait', 'done']":
    """Claim the next attempt: at a slot whose process died, or else at a new one while there are fewer than `trials`.

    Of slots beyond `trials`, left by a search for more, none is attempted. Returns "wait" while others attempt all
    remaining slots, since one of them may die yet; "done" once all are done.
    """
    from optuna.trial import TrialState

    for number in itertools.count():
        slots = slots_of(study.get_trials(deepcopy=False))
        open_slots = {slot: attempts for slot, attempts in slots.items() if result_of(attempts) is None}
        if len(slots) - len(open_slots) >= trials:
            return "done"
        needed = {slot: open_slots[slot] for slot in sorted(slots)[:trials] if slot in open_slots}
        lost = next((slot for slot, attempts in needed.items() if _is_lost(attempts, out)), None)
        if lost is not None:
            _take_up(study, lost, out)
            continue
        waiting = any(one.state.name == "WAITING" for attempts in needed.values() for one in attempts)
        if not waiting and len(slots) >= trials:
            return "wait"
        attempt = study.ask()
        attempt.set_user_attr(WORKER, worker)
        attempt.set_user_attr(SEEN, time.time())
        for name, one in space.items():
            _suggest(attempt, name, one)
        if not _is_surplus(attempt, study, trials, repeats=number < REPEATS):
            return attempt
        attempt.set_user_attr(SURPLUS, True)
        study.tell(attempt, state=TrialState.FAIL)
    raise AssertionError


def _is_lost(attempts: Sequence["FrozenTrial"], out: Path) -> bool:
    busy = [one for one in attempts if one.state.name in ("RUNNING", "WAITING")]
    return all(one.state.name == "RUNNING" and not is_alive(one, out) for one in busy)


def _take_up(study: "optuna.Study", slot: int, out: Path) -> None:
    """Mark the attempts that dead processes left at a slot as failed, and queue it again unless too many have died."""
    from optuna.trial import TrialState

    for one in slots_of(study.get_trials(deepcopy=False))[slot]:
        if one.state.name == "RUNNING" and not is_alive(one, out):
            with suppress(ValueError, RuntimeError):  # another process has told it
                study.tell(one.number, state=TrialState.FAIL)
    attempts = slots_of(study.get_trials(deepcopy=False))[slot]
    if result_of(attempts) is None and _is_lost(attempts, out):  # or another process has taken it up
        fullest = max(attempts, key=lambda one: len(one.params))  # a process may have died while it drew values
        study.enqueue_trial(fullest.params, user_attrs={SLOT: slot})


def _suggest(attempt: "Trial", name: str, distribution: Any) -> None:
    if hasattr(distribution, "choices"):
        attempt.suggest_categorical(name, distribution.choices)
    else:
        whole = isinstance(distribution.low, int)
        suggest: Any = attempt.suggest_int if whole else attempt.suggest_float
        suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _is_surplus(attempt: "Trial", study: "optuna.Study", trials: int, repeats: bool) -> bool:
    """Whether another process was faster, at this slot or at the last one needed; or a new slot repeats another."""
    slots = slots_of(study.get_trials(deepcopy=False))
    own = attempt.user_attrs.get(SLOT, attempt.number)
    earlier = [one for one in slots[own] if one.number < attempt.number]
    if any(one.state.name == "RUNNING" for one in earlier) or result_of(earlier) is not None:
        return True
    known = [one.params for slot, attempts in slots.items() if slot < own for one in attempts]
    return sorted(slots).index(own) >= trials or (repeats and not earlier and attempt.params in known)


def tried(study: "optuna.Study", energy: str) -> list[Tried]:
    """The outcome of each slot, in order."""
    trials = study.get_trials(deepcopy=False)
    cheapest = dict[tuple[float, ...], int]()  # of those with equal results
    for one in sorted(study.best_trials, key=lambda one: one.user_attrs.get("pflop") or math.inf):
        cheapest.setdefault(tuple(one.values), one.number)
    found = []
    for number, attempts in sorted(slots_of(trials).items()):
        result = result_of(attempts)
        one = result or attempts[-1]
        died = f"its process died {DEATHS} times" if result else "waiting"
        outcome = _WORDS.get(one.state.name) or one.user_attrs.get(OUTCOME) or died
        facts = {key: value for key, value in one.user_attrs.items() if key not in (SLOT, WORKER, SEEN, OUTCOME)}
        values, measured = one.params or attempts[0].params, _measured(one, energy)
        found.append(Tried(number, outcome, values, *measured, facts, one.number in cheapest.values()))
    return found


def _measured(attempt: "FrozenTrial", energy: str) -> tuple[float | None, float | None]:
    """Accuracy and energy of an attempt; of a pruned one the accuracy after its last epoch."""
    accuracy, used = None, None
    if attempt.state.name == "COMPLETE":
        accuracy, used = attempt.values[0], attempt.values[1] if energy else None
    elif attempt.state.name == "PRUNED" and attempt.last_step is not None:
        accuracy = attempt.intermediate_values[attempt.last_step]
    for name, value, most in (("accuracy", accuracy, 100.0), ("energy", used, math.inf)):
        if value is not None and not 0 <= value <= most:
            state = f"trial {attempt.number} has an {name} of {value:g}, which no training gave it"
            raise OnespikeError(f"{state}: somebody changed the storage; choose another --out")
    return accuracy, used

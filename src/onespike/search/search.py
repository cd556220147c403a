"""A search: its processes are started, watched and reported on."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from onespike.classpath import allowed
from onespike.configs import Text, convert, plain
from onespike.counting import CONVENTIONS
from onespike.durable import expect_writable, path_of
from onespike.errors import OnespikeError, unknown, warn
from onespike.folders import expect_replaceable
from onespike.search import storage as storages
from onespike.search import study as studies
from onespike.search.report import PAGE, words_of, write_report
from onespike.search.space import read_space
from onespike.search.study import Tried
from onespike.search.worker import Job, expect_held_out
from onespike.training.recipe import load_recipe

if TYPE_CHECKING:
    import optuna

#: Seconds between two looks at the trials; fewest seconds between two reports; most processes.
LOOK, REPORT, MOST = 1.0, 60.0, 256


def search(
    recipe: str,
    space: str | Path,
    out: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    trials: int = 20,
    workers: int = 1,
    energy: str = "",
    storage: str | None = None,
    say: Callable[[Tried], object] = lambda _: None,
) -> list[Tried]:
    """Search for the values of a recipe's options with the best accuracy on the held-out images.

    Called again, it goes on with trials that were interrupted, and with new ones up to `trials`.

    Args:
        recipe: Name or path of the recipe that each trial changes.
        space: A YAML file, see `onespike.search.space`.
        out: Folder of the search: a run folder for each trial, the storage, the report.
        overrides: Values of the recipe that all trials have, as for `load_recipe`.
        trials: Number of trials to train, pruned ones included.
        workers: Processes that train at the same time.
        energy: A convention of the audit: search for low energy, too, counted on held-out images.
        storage: URL of a database that several machines share; a file in `out` if None.
        say: Called with each trial that is done.

    Returns:
        All trials, in order.

    Raises:
        OnespikeError: Something outside the program is wrong; the message says what. What is done is kept.
        KeyboardInterrupt: It was stopped; what is done is kept.
    """
    storages.need_optuna()
    out, space = path_of(out), path_of(space, "file")
    values = (overrides or {}).items()  # as JSON has them, for the processes and the report
    given = {key: one if isinstance(one, Text) else plain(convert(one, Any, key)) for key, one in values}
    trials, workers = _number("trials", trials, 10**6), _number("workers", workers, MOST)
    if energy and energy not in CONVENTIONS:
        raise unknown("convention of energy", energy, CONVENTIONS)
    expect_writable(folder=out)
    begun = (out / studies.WORKERS).exists()
    if not begun and not (out / storages.JOURNAL).exists():
        expect_replaceable(out.resolve(), [storages.LOCKED], "search")
    base, distributions = load_recipe(recipe, given), read_space(space, recipe, given)
    expect_held_out(base, base)
    opened = storages.open_storage(storage, out)
    with storages.reached():
        names = [one.study_name for one in opened.get_all_studies()]
        # A journal is of this folder alone, and stays what it is if that is renamed.
        name = names[0] if names and not storage else out.resolve().name
        if begun and name not in names:  # a study is in its storage before its folder is marked
            renamed = f"--storage has none called {name}: give the folder its old name"
            lacks = renamed if storage else "no journal: say --storage"
            raise OnespikeError(f"{out} has trials of a search, but {lacks}, or choose another --out")
        study = studies.open_study(opened, name, trials, energy, base.train.epochs)
        from optuna.distributions import distribution_to_json

        texts = {name: distribution_to_json(one) for name, one in distributions.items()}
        where = (storage and "the storage") or str(out)
        studies.expect_ours(study, energy, where)
        studies.expect_same_search(study, base, texts, energy, where)
        options: dict[str, Any] = {"recipe": recipe, "overrides": given}
        options["typed"] = [key for key, one in given.items() if isinstance(one, Text)]
        options |= {"space": texts, "out": str(out), "name": name, "storage": storage, "trials": trials}
        job = Job(**options, energy=energy, epochs=base.train.epochs, imports=allowed(), parent=os.getpid())
        (out / studies.WORKERS).mkdir(parents=True, exist_ok=True)  # marks the folder as one of a search
        command = words_of(recipe, given)

        def report() -> list[Tried]:
            found = studies.tried(study, energy)
            write_report(out, found, command, energy, study)
            return found

        try:
            with _processes(job, workers) as processes:
                _watch(processes, study, energy, say, report)
        finally:
            found = report()
    if (missing := trials - sum(one.done for one in found)) > 0:
        signals = sorted({-one.process.returncode for one in processes if one.process.returncode < 0})
        why = f"processes were ended by signal {', '.join(map(str, signals))}" if signals else "processes ended"
        raise OnespikeError(f"{missing} of {trials} trials are not done: {why}; the same command goes on")
    if not any(one.best for one in found):
        raise OnespikeError(f"no trial has a result, the first was {found[0].outcome}; the report is {out / PAGE}")
    return found


def _number(name: str, given: int, most: int) -> int:
    number: int = convert(given, int, f"--{name}")
    if not 1 <= number <= most:
        raise OnespikeError(f"--{name}: expected 1 to {most:,}, got {number}")
    return number


class _Process:
    """A process of the search, and its standard error."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        # In a session of its own: Ctrl-C reaches this process alone, which then asks the others to stop.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "onespike.search.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        assert self.process.stdin
        with self.process.stdin as pipe, suppress(BrokenPipeError):
            pipe.write(job.to_json().encode())

    def said(self) -> str:
        """All of its standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()


@contextmanager
def _processes(job: Job, count: int) -> Iterator[list[_Process]]:
    """Start processes; at the end, whatever ends it, ask those still running to stop, and wait until they have."""
    processes: list[_Process] = []
    try:
        for number in range(count):
            processes.append(_Process(job, _environment(number, count)))  # noqa: PERF401 - each is ended below
        yield processes
    finally:
        for one in processes:
            if one.process.poll() is None:
                one.process.send_signal(signal.SIGTERM)
        for one in processes:
            one.process.wait()
            one.errors.close()


def _environment(number: int, count: int) -> dict[str, str]:
    """The environment of one process: they share the threads, and take accelerators in turns, unless set outside."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if count > 1:
        threads, cards = max(1, torch.get_num_threads() // count), map(str, range(torch.cuda.device_count()))
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(cards)).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]
    return environment


def _watch(
    processes: Sequence[_Process],
    study: "optuna.Study",
    energy: str,
    say: Callable[[Tried], object],
    report: Callable[[], list[Tried]],
) -> None:
    """Announce finished trials and report at times until all processes have ended; an error of one ends the others.

    A storage may be away for `GRACE` seconds: nobody's trials are taken for dead before.
    """
    drawn, reported = studies.tried(study, energy), time.monotonic()
    known, seen, running, away = {one.number for one in drawn if one.done}, reported, True, False
    while running:
        running = any(one.process.poll() is None for one in processes)
        try:
            found = studies.tried(study, energy)
            for one in found:
                if one.done and one.number not in known:
                    known.add(one.number)
                    say(one)
            if found != drawn and time.monotonic() - reported > REPORT:
                drawn, reported = report(), time.monotonic()
            seen, away = time.monotonic(), False
        except storages.failures():
            if not running or time.monotonic() - seen > studies.GRACE:
                raise
            if not away:
                warn(f"the storage is away; the search waits for it, for {studies.GRACE:g} seconds at most")
            away = True
        codes = {one.process.returncode: one for one in processes}
        if 2 in codes:
            raise OnespikeError((codes[2].said().splitlines() or [""])[-1].removeprefix("error: "))
        if 1 in codes:
            raise RuntimeError(f"a process of the search failed:\n{codes[1].said()}")
        time.sleep(LOOK if running else 0)

"""A busy machine is noticed."""

import math
import time

import pytest
import torch

from onespike import clock
from onespike.clock import timed, watch_machine


class Clocks:
    """All clocks that are read, without the machine below them."""

    def __init__(self) -> None:
        self.now = self.spent = self.by_all = 1000.0

    def compute(self, seconds: float, cores: float = 1.0, others: float = 0.0) -> None:
        self.now += seconds
        self.spent += seconds * cores
        self.by_all += seconds * (cores + others)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks of a process and of its machine."""
    clocks = Clocks()
    monkeypatch.setattr(time, "perf_counter", lambda: clocks.now)
    monkeypatch.setattr(time, "process_time", lambda: clocks.spent)
    monkeypatch.setattr(clock, "_processors_seconds", lambda: clocks.by_all)
    return clocks


@pytest.mark.parametrize(("others", "busy"), [(0.0, False), (0.25, False), (0.5, True), (3.0, True)])
@pytest.mark.parametrize("cores", [1.0, 1.7])
def test_others_are_all_but_this_process(others, busy, cores, clocks):
    clocks.compute(60, cores=2, others=8)  # what was before does not count
    with watch_machine() as machine:
        clocks.compute(3, cores, others)
    clocks.compute(60, cores=2, others=8)
    assert machine.cpu == pytest.approx(cores)
    assert machine.others == pytest.approx(others)
    assert bool(machine.busy) == busy
    assert not busy or f"others used {others:.1f} cores" in str(machine.busy)


def test_the_other_processes_of_a_training_are_not_others(clocks, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # as torchrun sets it
    with watch_machine() as machine:
        clocks.compute(3, cores=1.0, others=3.1)
    assert machine.others == pytest.approx(0.1)
    with watch_machine() as machine:
        clocks.compute(3, cores=1.0, others=4.0)
    assert "others used 1.0 cores" in str(machine.busy)


def test_this_process_is_a_part_of_what_all_processors_do():
    before, spent = clock._processors_seconds(), time.process_time()
    while time.process_time() < spent + 0.3:
        pass
    assert clock._processors_seconds() - before > 0.25


def test_who_waits_for_a_core_notices(monkeypatch):
    monkeypatch.setattr(clock, "_processors_seconds", time.process_time)
    with watch_machine() as machine:
        time.sleep(0.2)
    assert machine.cpu < 0.5
    assert "of a core" in str(machine.busy)
    with watch_machine("cuda") as machine:
        time.sleep(0.05)
    assert machine.busy is None, "a processor that waits for its accelerator is not busy"


@pytest.mark.parametrize(("seconds", "warm_up"), [(0.1, 3), (0.6, 2), (1.1, 1)])
def test_timed_at_least_so_often_and_so_long(seconds, warm_up, clocks):
    calls: list[None] = []
    for least in (0.0, 5.8):
        calls.clear()
        taken = timed(lambda: calls.append(clocks.compute(seconds)), rounds=4, seconds=least)
        assert taken == pytest.approx([seconds] * max(4, math.ceil(least / seconds)))
        assert len(calls) == len(taken) + warm_up


def test_what_an_accelerator_computes_is_waited_for(clocks, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: clocks.compute(2.0))
    assert timed(lambda: clocks.compute(0.5), rounds=1, seconds=0.0) == [2.5]


@pytest.mark.parametrize("said", ["", "x", "0", "-1", "9" * 5000, "2"])
def test_the_number_of_processes_that_a_launcher_started_may_be_nonsense(said, clocks, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
    with watch_machine() as machine:
        clocks.compute(10.0, others=1.5)
    assert machine.others == pytest.approx(0.5 if said == "2" else 1.5)

"""A busy machine is noticed."""

import os
import time

import pytest

from onespike import clock
from onespike.clock import timed, watch_machine


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class Clocks:
    """Both clocks that a process reads, without the machine below them."""

    def __init__(self) -> None:
        self.now = self.spent = 1000.0

    def compute(self, seconds: float, cores: float = 1.0) -> None:
        self.now += seconds
        self.spent += seconds * cores


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks of a process that begins."""
    clocks = Clocks()
    began = clocks.spent
    monkeypatch.setattr(clock, "_STARTED", clocks.now)
    monkeypatch.setattr(time, "perf_counter", lambda: clocks.now)
    monkeypatch.setattr(time, "process_time", lambda: clocks.spent - began)
    return clocks


@pytest.mark.parametrize(("load", "busy"), [(0.0, False), (1.0, False), (1.25, False), (1.5, True), (3.0, True)])
def test_others_are_what_the_load_is_above_this_process(load, busy, clocks, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    clocks.compute(3600)
    with watch_machine() as machine:
        clocks.compute(1)
    assert machine.load == load
    assert machine.cpu == pytest.approx(1)
    assert machine.others == pytest.approx(max(0, load - 1))
    assert bool(machine.busy) == busy
    assert not busy or f"load average {load}" in str(machine.busy)


def test_more_cores_than_before_are_this_process_too(clocks, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    clocks.compute(3600)
    with watch_machine() as machine:
        clocks.compute(10, cores=2)
    assert machine.cpu == pytest.approx(2)
    assert machine.others == pytest.approx(1)


def test_a_young_process_is_a_part_of_the_load_at_most(clocks, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    clocks.compute(6)
    with watch_machine() as machine:
        clocks.compute(0.05)
    assert machine.others == pytest.approx(0.9, abs=0.01), "whoever made that load was here before"


def test_who_waits_for_a_core_notices(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    with watch_machine() as machine:
        time.sleep(0.2)
    assert machine.cpu < 0.5
    assert "of a core" in str(machine.busy)
    with watch_machine("cuda") as machine:
        time.sleep(0.05)
    assert machine.busy is None, "a processor that waits for its accelerator is not busy"


def test_a_system_without_a_load_average(monkeypatch):
    monkeypatch.delattr(os, "getloadavg")
    with watch_machine() as machine:
        spin(0.05)
    assert machine.load is machine.others is None


def test_timed_at_least_so_often_and_so_long():
    calls: list[float] = []
    assert len(timed(lambda: calls.append(0.0), rounds=4, seconds=0.0)) == 4
    assert len(calls) == 7  # three to warm up
    assert sum(timed(lambda: time.sleep(0.01), rounds=1, seconds=0.05)) >= 0.05

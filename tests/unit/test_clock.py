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


@pytest.fixture
def long_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had been computing on one core for an hour."""
    monkeypatch.setattr(clock, "_STARTED", time.perf_counter() - 3600)
    spent = time.process_time
    monkeypatch.setattr(time, "process_time", lambda: spent() + 3600)


@pytest.mark.usefixtures("long_running")
@pytest.mark.parametrize(("load", "busy"), [(1.0, False), (1.25, False), (1.5, True), (3.0, True)])
def test_others_are_what_the_load_is_above_this_process(load, busy, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    with watch_machine() as machine:
        pass
    assert machine.load == load
    assert machine.others == pytest.approx(max(0, load - max(1, machine.cpu)), abs=0.1)
    machine.cpu = 1.0
    assert bool(machine.busy) == busy
    assert not busy or f"load average {load}" in str(machine.busy)


def test_a_young_process_is_a_part_of_the_load_at_most(monkeypatch):
    monkeypatch.setattr(clock, "_STARTED", time.perf_counter() - 6)
    spent, began = time.process_time, time.process_time()
    monkeypatch.setattr(time, "process_time", lambda: spent() - began)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    with watch_machine() as machine:
        spin(0.05)
    assert machine.others is not None
    assert machine.others > 0.3, "whoever made that load was here before"


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

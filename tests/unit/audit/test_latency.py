"""Joules, as a meter says them."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from spikingjelly.activation_based.neuron import IFNode
from torch import nn

from onespike.audit import latency
from onespike.audit.latency import measure_joules
from onespike.models import create_model
from onespike.models.strict_layers import TiedConv


class Counting(nn.Module):
    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return x


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the meter says of the window between `begin` and `end`, in place of zeus."""
    meter = SimpleNamespace(chips={0: 6.0, 1: 4.0}, model=Counting(), window=[])

    class Monitor:
        def __init__(self, gpu_indices: list[int]) -> None:
            assert gpu_indices == []

        def begin_window(self, _: str) -> None:
            meter.window.append(meter.model.passes)

        def end_window(self, _: str) -> SimpleNamespace:
            meter.window.append(meter.model.passes)
            return SimpleNamespace(cpu_energy=meter.chips, gpu_energy={0: 1e9})

    contents = {
        "zeus.device.cpu": {"get_cpus": lambda: None},
        "zeus.exception": {"ZeusBaseError": type("ZeusBaseError", (Exception,), {})},
        "zeus.monitor": {"ZeusMonitor": Monitor},
    }
    for name in ("zeus", "zeus.device", *contents):
        module = ModuleType(name)
        vars(module).update(contents.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    return meter


def test_latency_is_the_median_of_passes_and_memory_the_peak_meanwhile(monkeypatch, tmp_path):
    status, cleared = tmp_path / "status", tmp_path / "cleared"
    status.write_text("VmPeak:\t 9000 kB\nVmHWM:\t 2048 kB\nVmRSS:\t 1000 kB\n")
    monkeypatch.setattr(latency, "_STATUS", status)
    monkeypatch.setattr(latency, "_RESET", cleared)
    monkeypatch.setattr(latency, "timed", lambda step, *_: (step(), [5.0, 1.0, 4.0, 2.0, 3.0])[1])
    found = latency.measure_latency(Counting(), torch.rand(6, 3))
    assert (found.batch, found.runs, found.low, found.median, found.high) == (6, 5, 1.5, 3, 4.5)
    assert found.to_json()["images_per_second"] == 2
    assert (found.memory, cleared.read_text()) == (2048 * 1024, "5")  # 5 resets the peak
    assert (found.dtype, found.device, found.threads) == ("float32", "cpu", torch.get_num_threads())
    monkeypatch.setattr(latency, "_STATUS", tmp_path / "nowhere")
    assert latency.peak_memory() is None


def test_each_pass_begins_with_neurons_that_remember_nothing(monkeypatch):
    answers = []
    monkeypatch.setattr(latency, "timed", lambda step, *_: (answers.extend(step()[1] for _ in range(3)), [1.0, 1.0])[1])
    for images in (1, 2):
        latency.measure_latency(IFNode(v_threshold=2.5), torch.ones(images, 3))
    assert not torch.cat(answers).any()


def test_the_spikes_of_tied_neurons_are_added_up(monkeypatch):
    monkeypatch.setattr(latency, "timed", lambda step, *_: (step(), [1.0, 1.0])[1])
    network, arrived = create_model("spiking-vgg-xs", image_size=16, tied=True, head="mean").eval(), []
    conv = next(layer for layer in network.modules() if isinstance(layer, TiedConv))
    conv.register_forward_pre_hook(lambda _, read: arrived.append(read[0].shape[1] / conv.in_channels))
    latency.measure_latency(network, torch.rand(2, 3, 16, 16))
    assert arrived == [1]


def test_joules_of_one_image_are_those_of_all_chips_over_all_images(meter):
    found = measure_joules(meter.model, torch.rand(5, 3))
    begin, end = meter.window
    assert end - begin == meter.model.passes >= 10
    assert found.per_image == pytest.approx(10 / (5 * (end - begin)))
    assert found.meter == f"RAPL, through zeus, over {end - begin} batches of 5"


def test_without_a_chip_that_is_metered_nothing_is_said(meter):
    meter.chips = {}
    found = measure_joules(meter.model, torch.rand(5, 3))
    assert (found.per_image, found.meter) == (None, "not measured: this machine has no meter that can be read")

"""The correction of weight layers against a solver of the library's, column by column."""

import copy
import sys

import pytest
import torch
from torch import nn

import onespike
from onespike.conversion import Calibration
from onespike.conversion.correct import correct
from onespike.errors import OnespikeError

RIDGE = 0.1
LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (40, 6)),
    "convolution": (lambda: nn.Conv2d(2, 4, 3, padding=1, stride=2), (10, 2, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (10, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, (3, 2), groups=4, dilation=2), (10, 4, 6, 6)),
    "same": (lambda: nn.Conv2d(2, 4, (2, 3), padding="same", dilation=(1, 2)), (10, 2, 5, 5)),
    "valid": (lambda: nn.Conv2d(2, 4, 3, padding="valid"), (10, 2, 5, 5)),
    "around": (lambda: nn.Conv2d(2, 4, 3, padding=(0, 1), padding_mode="circular"), (10, 2, 5, 5)),
    "shifted views": (lambda: nn.Conv2d(2, 4, 3, padding=1), (3, 2, 14, 14)),
    "views of groups": (lambda: nn.Conv2d(4, 6, (3, 2), groups=2, dilation=(1, 2), padding=(0, 1)), (3, 4, 12, 9)),
    "views around": (lambda: nn.Conv2d(2, 4, 3, padding=(0, 1), padding_mode="circular"), (3, 2, 14, 14)),
    "views of rows": (lambda: nn.Conv1d(2, 4, 3, padding=1), (10, 2, 12)),
    "one pixel": (lambda: nn.Conv2d(3, 4, 1), (10, 3, 5, 5)),
    "few samples": (lambda: nn.Linear(24, 4), (8, 24)),
    "few pixels": (lambda: nn.Conv2d(4, 3, 3, padding=1), (2, 4, 3, 3)),
    "few pixels of groups": (lambda: nn.Conv2d(8, 4, 3, groups=2), (2, 8, 5, 5)),
    "one dimension": (lambda: nn.Conv1d(2, 4, 3, padding=2, stride=2), (10, 2, 9)),
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("chunk", [1, 2**25])
@pytest.mark.parametrize("name", LAYERS)
def test_corrected_weights_are_those_of_least_squares(name, chunk, monkeypatch):
    """Columns about their mean, and a row for each weight's pull; each column is what one weight alone answers."""
    monkeypatch.setattr(sys.modules[correct.__module__], "CHUNK", chunk)
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, mean = make().double(), torch.randn(shape).double() + 3
    target = torch.randn_like(layer(mean))
    old, missing, answers = layer.weight.clone(), target - layer(mean), []
    layer.bias.zero_()
    for one in torch.eye(old[0].numel()).double():
        layer.weight.copy_(one.view(old[0].shape).expand_as(old))
        answers.append(layer(mean).movedim(1, -1).flatten(0, -2))
    layer.weight.copy_(old)
    columns = torch.stack(answers, 1)  # (samples, columns, C_out)
    columns = columns - columns.mean(0)
    missing = missing.movedim(1, -1).flatten(0, -2)
    missing = missing - missing.mean(0)
    for row, (wanted, changed) in enumerate(zip(missing.T, _corrected(layer, mean, target) - old, strict=True)):
        about = columns[:, :, row]
        pull = (RIDGE * about.square().sum(0).mean()).sqrt() * torch.eye(about.shape[1]).double()
        solved = torch.linalg.lstsq(torch.cat([about, pull]), torch.cat([wanted, torch.zeros(len(pull)).double()]))
        torch.testing.assert_close(changed.flatten(), solved.solution, rtol=1e-6, atol=1e-9)
    left = (target - layer(mean)).movedim(1, -1).flatten(0, -2).mean(0)
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["shifted views", "few pixels"])
def test_single_precision_comes_close_to_double(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, mean = make(), torch.rand(shape)
    target, double = torch.rand_like(layer(mean)), copy.deepcopy(layer).double()
    corrected, expected = (_corrected(one, mean.to(one.weight), target.to(one.weight)) for one in (layer, double))
    torch.testing.assert_close(corrected, expected.float(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_dual_form_needs_no_matrix_of_columns():
    """That matrix would have 32 GB here."""
    torch.manual_seed(0)
    layer, mean, target = nn.Linear(65536, 8), torch.rand(16, 65536), torch.randn(16, 8)
    before = (target - layer(mean)).norm()
    correct(layer, "layer", mean, target, RIDGE)
    assert (target - layer(mean)).norm() < 0.1 * before


@torch.no_grad()
def test_maps_of_some_images_are_enough_where_they_are_large(monkeypatch):
    monkeypatch.setattr(sys.modules[correct.__module__], "SAMPLES", 196)
    torch.manual_seed(0)
    layer, mean, target = nn.Conv2d(2, 4, 3, padding=1), torch.rand(5, 2, 14, 14), torch.rand(5, 4, 14, 14)
    same = copy.deepcopy(layer)
    correct(layer, "layer", mean, target, RIDGE)
    monkeypatch.undo()
    correct(same, "layer", mean[::5], target[::5], RIDGE)
    assert torch.equal(layer.weight, same.weight)


def _corrected(layer, mean, target):
    correct(layer, "layer", mean, target, RIDGE)
    return layer.weight.detach()


@torch.no_grad()
def test_layers_without_such_a_matrix_get_a_bias():
    torch.manual_seed(0)
    layer, mean, target = nn.ConvTranspose2d(2, 4, 3), torch.randn(10, 2, 5, 5), torch.randn(10, 4, 7, 7)
    old = layer.weight.clone()
    correct(layer, "layer", mean, target, RIDGE)
    assert torch.equal(layer.weight, old)
    torch.testing.assert_close((target - layer(mean)).mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)


def test_a_pull_that_is_too_weak_for_the_images_is_named():
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    points = torch.randn(4, 64).repeat(32, 1)  # fewer samples than columns would be another form, which has an answer
    with pytest.raises(OnespikeError, match=r"no weights of layer \d are the best with ridge 1e-12"):
        onespike.convert(network, 1e3 * points, calibration=Calibration(ridge=1e-12))

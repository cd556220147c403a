"""Evaluation against a count by hand, image by image."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from noise import TEST_IMAGES, write_images
from PIL import Image

from onespike import OnespikeError
from onespike.evaluation import evaluate
from onespike.evaluation.evaluate import Flips
from onespike.training import Run, load, load_recipe, train


def by_a_loop(run, folder: Path, flips: bool = False) -> tuple[np.ndarray, dict[str, float]]:
    """Confusion and scores on the images of a folder, one at a time, normalised as the card says."""
    network, confusion, top5, losses = load(run.folder), np.zeros((7, 7), dtype=int), 0, []
    for label, name in enumerate(TEST_IMAGES):
        for path in sorted((folder / name).iterdir()):
            pixels = (torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32)) / 255 - 0.4) / 0.3
            with torch.no_grad():
                logits = network(pixels[None, None])[0]
                logits = (logits + network(pixels.fliplr()[None, None])[0]) / 2 if flips else logits
            confusion[label, int(logits.argmax())] += 1
            top5 += label in logits.numpy().argsort()[-5:]
            losses.append(-logits.log_softmax(0)[label].item())
    shares = {"top1": 100 * confusion.trace() / len(losses), "top5": 100 * top5 / len(losses)}
    return confusion, {"loss": mean(losses)} | shares


def test_counts_are_those_of_a_loop(make_run, images: Path):
    run = make_run()
    result = evaluate(run, batch_size=4)
    confusion, scores = by_a_loop(run, images / "test")
    assert result.images == confusion.sum() == 25
    assert "tensor" not in repr(result)  # a notebook prints its scores alone
    assert np.array_equal(result.confusion.numpy(), confusion)
    assert len(np.unique(confusion.nonzero()[1])) > 1  # or the matrix would prove nothing
    assert {name: getattr(result, name).mean for name in scores} == pytest.approx(scores, rel=1e-5)
    for label, name in enumerate(TEST_IMAGES):
        assert result.per_class[name] == pytest.approx(100 * confusion[label, label] / TEST_IMAGES[name])


def test_images_from_elsewhere_are_normalised_as_in_training(make_run, images: Path, data, tmp_path: Path):
    """The other folder has the same test images, but a training part, and so a mean and std, of its own."""
    other = tmp_path / "dark"
    write_images(other / "train", dict.fromkeys(TEST_IMAGES, 2), seed=5, darken=4)
    (other / "test").symlink_to(images / "test")
    run = make_run()
    one, two = evaluate(run), evaluate(run, replace(data, root=str(other)))
    assert torch.equal(one.confusion, two.confusion)
    assert one.loss == two.loss


def test_a_drawing_network_is_seen_several_times(make_run):
    run = make_run(encoding="bernoulli")
    result = evaluate(run, passes=3)
    assert (result.passes, result.deterministic) == (3, False)
    assert int(result.confusion.sum()) == 3 * 25
    # The first pass is what a single pass sees, the passes differ, and the same call finds the same.
    assert result.top1.std is not None
    assert result.loss.std > 0
    pairs = evaluate(run, passes=2)
    first = evaluate(run, passes=1).loss.mean
    second = 2 * pairs.loss.mean - first
    third = 3 * result.loss.mean - first - second
    assert result.loss.std == pytest.approx(stdev([first, second, third]))
    assert pairs.loss.std == pytest.approx(stdev([first, second]))
    assert evaluate(run, passes=3).loss == result.loss


def test_a_deterministic_network_is_seen_once(make_run):
    result = evaluate(make_run(), passes=5)
    assert (result.passes, result.deterministic, result.top1.std) == (1, True, None)
    assert int(result.confusion.sum()) == 25


@pytest.mark.slow
def test_the_first_pass_repeats_the_test_of_training(tmp_path: Path):
    changes = {
        "data.limit": 100,
        "data.cache": str(tmp_path / "cache"),
        "model.depths": [1, 1],
        "model.channels": [4, 8],
        "model.encoding": "bernoulli",
        "train.epochs": 1,
        "train.warmup_epochs": 0,
        "train.batch_size": 16,
        "train.device": "cpu",
        "train.seed": 4,
    }
    summary = train(load_recipe("digits", changes), tmp_path / "run")
    result = evaluate(Run(tmp_path / "run"), device="cpu")
    assert (result.top1.mean, result.top5.mean) == (summary["test_top1"], summary["test_top5"])
    assert result.loss.mean == summary["test_loss"]


@pytest.mark.slow
def test_test_time_flips_stand_beside_the_plain_scores(make_run, images: Path):
    run = make_run()
    _, scores = by_a_loop(run, images / "test", flips=True)
    plain, both = evaluate(run, batch_size=4), evaluate(run, batch_size=4, flips=True)
    assert (both.loss, both.top1, both.top5) == (plain.loss, plain.top1, plain.top5)
    assert torch.equal(both.confusion, plain.confusion)
    assert {name: spread.mean for name, spread in both.with_flips.items()} == pytest.approx(scores, rel=1e-5)
    assert both.with_flips["loss"] != both.loss
    assert (plain.with_flips, plain.to_json()["with_flips"]) == ({}, None)
    assert both.to_json()["with_flips"]["top1"] == {"mean": both.with_flips["top1"].mean, "std": None}


def test_flips_leave_a_network_in_its_mode(make_run):
    run = make_run()
    network = run.model()
    evaluate(run, model=network, flips=True)
    assert not network.training


def test_flips_of_a_drawing_network_are_seen_as_often(make_run):
    result = evaluate(make_run(encoding="bernoulli"), passes=3, flips=True)
    assert result.with_flips["loss"].std > 0


def test_flips_average_logits_over_time_too():
    logits = torch.rand(3, 4, 5)  # (T, 2 B, K)

    class Network(torch.nn.Module):
        def forward(self, images):
            self.images = images
            return logits

    network, images = Network(), torch.rand(2, 1, 4, 4)
    assert torch.allclose(Flips(network)(images), (logits[:, :2] + logits[:, 2:]).mean(0) / 2)
    assert torch.equal(network.images, torch.cat([images, images.flip(3)]))


@pytest.mark.slow
def test_parts_and_checkpoints(make_run):
    run = make_run()
    assert evaluate(run, part="train").images == 7
    assert evaluate(run, part="validation").images == 7
    assert [evaluate(run, which=which).epochs for which in ("best", "last")] == [1, 2]
    assert not torch.equal(evaluate(run, which="best").confusion, evaluate(run, which="last").confusion)


def test_double_precision(make_run):
    one, two = (evaluate(make_run(folder=kind), precision=kind) for kind in ("fp32", "fp64"))
    assert one.loss.mean == pytest.approx(two.loss.mean, rel=1e-5)
    assert one.loss.mean != two.loss.mean


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        (
            {"classes": (*tuple(TEST_IMAGES)[:-1], "gorilla")},
            {},
            "the classes of folder are not the network's: class 6 is 'gnu', where the network has 'gorilla'",
        ),
        (
            {"classes": ("ant", "bee")},
            {},
            "the classes of folder are not the network's: 7 of them, where the network has 2",
        ),
        ({"channels": 3}, {}, "the images of folder have 1 channels, the network takes 3"),
        (
            {"size": 32},
            {},
            "the images of folder have 16 pixels a side, the network takes 32: pass --data.image_size 32",
        ),
        ({}, {"batch_size": 0}, "batch size: expected at least 1, got 0"),
        ({}, {"part": "tests"}, "unknown part 'tests': did you mean 'test'?"),
        ({}, {"precision": 16}, "unknown precision '16': "),
    ],
)
def test_what_does_not_suit(make_run, run, arguments, message):
    with pytest.raises(OnespikeError, match=re.escape(message)):
        evaluate(make_run(**run), **arguments)


def test_a_part_without_images(make_run, data):
    with pytest.raises(OnespikeError, match="folder has no validation images"):
        evaluate(make_run(), replace(data, holdout=0.0), part="validation")


@pytest.mark.parametrize("changed", [{"holdout": 0.2}, {"limit": 10}])
def test_what_was_trained_on_is_not_called_held_out(make_run, data, changed):
    run = make_run()
    with pytest.raises(
        OnespikeError, match=r"^--part validation: its training held out 0\.5 of .*: leave both options"
    ):
        evaluate(run, replace(data, **changed), part="validation")
    assert evaluate(run, replace(data, **changed)).images == sum(TEST_IMAGES.values())
    assert evaluate(run, replace(data, **changed), part="train").images


def test_other_test_images_in_the_place_of_those_of_training_are_told(make_run, data, monkeypatch, capsys):
    run = make_run()
    own = evaluate(run).test_set
    for known, elsewhere, told in ((own, False, 0), ("other", False, 1), ("other", True, 0), (None, False, 0)):
        monkeypatch.setattr("onespike.training.run.Run.summary", {"test_set": known} if known else {})
        folder = Path(data.root).parent / "linked"
        folder.unlink(missing_ok=True)
        folder.symlink_to(data.root)
        evaluate(run, replace(data, root=str(folder)) if elsewhere else None)
        folder.unlink()
        assert capsys.readouterr().err.count("was tested on other images than these") == told


def test_a_network_that_diverged(make_run):
    run = make_run()
    checkpoint = run.checkpoint("best")
    checkpoint.weights["head.bias"].fill_(torch.nan)
    checkpoint.save(run.best)
    with pytest.raises(OnespikeError, match="not finite"):
        evaluate(run)

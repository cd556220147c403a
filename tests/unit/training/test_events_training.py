"""Training on frames of events, from the recipe to every command that takes a run."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onespike import export
from onespike.audit.audit import audit_run
from onespike.data import DataConfig, open_dataset
from onespike.data.dataset import expect_used_with
from onespike.data.loader import EvalLoader, TrainLoader
from onespike.errors import OnespikeError
from onespike.evaluation import evaluate
from onespike.evaluation.convert import convert_run
from onespike.inference.optimise import optimise
from onespike.training import Run, load_recipe, teacher, train
from onespike.training.pruning import prune_time
from onespike.training.set_up import set_up
from tests.unit.data.recordings import events, write_shd

CLASSES = 3
SHD = {"model.unit": "gru", "model.width": 32, "train.epochs": 12, "data.holdout": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three classes that differ by where events are."""
    root = tmp_path_factory.mktemp("events")
    for part, count in (("train", 16), ("test", 6)):
        for label in range(CLASSES):
            folder = root / "data" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                made = events(120, 5, 100 * label + number + (50 if part == "test" else 0))
                made["x"] += 5 * label
                np.save(folder / f"{number}.npy", made)
    return root


def recipe(root, **overrides):
    """Small, of the folder, of a VGG; what another model does not know is left out."""
    values = {
        "data.name": "events-folder",
        "data.root": str(root / "data"),
        "data.cache": str(root / "cache"),
        "data.sensor": [16, 16],
        "data.frames": 3,
        "data.workers": 0,
        "data.crop_padding": 0,
        "data.flip": 0,
        "model.name": "spiking-vgg-xs",
        "model.width": 4,
        "model.stages": [1, 2],
        "train.epochs": 1,
        "train.batch_size": 12,
        "train.warmup_epochs": 0,
        "train.track": [],
        "train.device": "cpu",
    }
    values |= overrides
    if values["model.name"] == "spiking-mlp":
        del values["model.stages"]
    return load_recipe("events/digits", values)


def test_the_loader_gives_time_ahead_and_every_frame_is_moved_alike(root):
    made = recipe(root)
    config = replace(made.data, crop_padding=2, flip=0.5, holdout=0)
    data = open_dataset(config)
    images, labels = next(TrainLoader(data, config, 8, 0).epoch(0))
    assert images.shape == (3, 8, 2, 16, 16)
    assert images[0].is_contiguous(memory_format=torch.channels_last)
    # Raw frames one by one, through the loader of images, are moved by the same draws.
    for frame in range(3):
        alone = replace(data, train=replace(data.train, images=np.array(data.train.images[..., frame, :])))
        single, same = next(TrainLoader(alone, config, 8, 0).epoch(0))
        assert torch.equal(single, images[frame])
        assert torch.equal(same, labels)
    tested, _ = next(iter(EvalLoader(data.test, data.mean, data.std, 5)))
    raw = torch.from_numpy(data.test.gather(np.arange(5))[0].numpy()).double() / 255
    expected = (raw - torch.tensor(data.mean)) / torch.tensor(data.std)
    torch.testing.assert_close(tested, expected.permute(3, 0, 4, 1, 2).float())


def test_changed_recordings_are_the_same_with_workers(root):
    config = replace(recipe(root).data, drop_events=0.3, spatial_jitter=0.5, workers=0)
    found = []
    for workers in (0, 1):
        config = replace(config, workers=workers)
        found.append(list(TrainLoader(open_dataset(config), config, 12, 0).epoch(1))[-1])
    assert found[0][0].shape == (3, 12, 2, 16, 16)
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize(
    ("opened", "asked", "said"),
    [
        (None, {"denoise": 9.0}, "data.denoise: passed-from-python has images, no events; expected 0.0"),
        (
            {"name": "digits", "root": None, "sensor": None},
            {"sensor": None, "representation": "voxel"},
            "data.representation: passed-from-python has images, no events; expected histogram, got voxel",
        ),
        (
            {},
            {"drop_events": 0.5},
            "data.drop_events: events-folder was opened with 0.0; expected 0.0, got 0.5; "
            "pass --data.drop_events 0.0, or open it with 0.5",
        ),
        ({}, {"frames": 2}, "data.frames: events-folder was opened with 1; expected 1, got 2"),
        ({}, {"frames_by": "count"}, "data.frames_by: events-folder was opened with time; expected time, got count"),
        ({}, {"representation": "voxel"}, "data.representation: events-folder was opened with histogram; expected"),
        ({}, {"denoise": 9.0}, "data.denoise: events-folder was opened with 0.0; expected 0.0, got 9.0; "),
        (
            {},
            {"sensor": None},
            "data.sensor: events-folder was opened with (16, 16); expected (16, 16), got None; "
            "pass --data.sensor 16,16, or open it with None",
        ),
        ({"drop_events": 0.5}, {}, "data.drop_events: events-folder was opened with 0.5; expected 0.5, got 0.0"),
        ({"drop_events": 0.5, "flip": 0.5}, {"drop_events": 0.5}, "data.flip: events-folder was opened with 0.5"),
        (
            {"drop_events": 0.5, "flip": 0.5},
            {"drop_events": 0.5, "flip": 0.5, "alternate_flip": True},
            "data.alternate_flip: events-folder was opened with False; expected False, got True",
        ),
        (
            {"name": "digits", "root": None, "sensor": None},
            {"sensor": None, "limit": 60},
            "data.limit: digits was opened with 1,437 training images; got 60; open it with that, or set "
            "data.limit to 0",
        ),
        ({}, {"image_size": 8}, "data.image_size: events-folder was opened with images of 16 pixels a side; got 8;"),
        (
            {"name": "digits", "root": None, "sensor": None, "limit": 60, "holdout": 0.1},
            {"sensor": None, "limit": 55},
            "data.limit: digits was opened with 60 training images; got 55",
        ),
        (
            {"name": "digits", "root": None, "sensor": None, "limit": 60, "holdout": 0.1},
            {"sensor": None, "holdout": 0.2},
            "data.holdout: digits was opened with 6 images held out; got 0.2; open it with that, or set data.holdout "
            "to 0.1",
        ),
        (
            {"name": "digits", "root": None, "sensor": None, "holdout": 0.1},
            {"sensor": None, "holdout": 0},
            "data.holdout: digits was opened with 144 images held out; got 0;",
        ),
    ],
)
def test_options_of_events_that_data_from_python_ignore(root, opened, asked, said):
    made = recipe(root, **{"data.frames": 1, "data.sensor": None if opened is None else [16, 16]})
    data = [(np.zeros((16, 16, 3), np.uint8), 0)] * 9
    if opened is not None:
        data = open_dataset(replace(made.data, **opened))
    made = replace(made, data=replace(made.data, **asked))
    with pytest.raises(OnespikeError, match=f"^{re.escape(said)}"):
        set_up(made, data=data)


def test_recordings_from_python_that_were_opened_alike_are_taken(root):
    made = recipe(root, **{"data.drop_events": 0.5, "data.flip": 0.5})
    assert set_up(made, data=open_dataset(made.data)).recipe.data.drop_events == 0.5


@pytest.mark.parametrize(("opened", "asked"), [(0.2, 0.2), (0.2, 0.1), (0, 0), (None, 0.2)])
def test_data_of_the_library_is_taken_if_as_many_are_held_out_or_nothing_is_asked_or_they_are_its_own(opened, asked):
    data = open_dataset(DataConfig("digits", limit=60, holdout=opened or 0))
    if opened is None:
        data = replace(data, validation=data.test)
    expect_used_with(data, DataConfig(holdout=asked))


def test_recordings_from_python_set_the_models_time_steps_too(root):
    made = recipe(root)
    images = load_recipe(
        "digits", {"data.frames": 3, "data.sensor": [16, 16], "model.depths": [1], "model.channels": [4]}
    )
    assert images.model.time_steps == 1
    assert set_up(images, data=open_dataset(made.data)).recipe.model.time_steps == 3


def test_recordings_from_python_are_compared_with_those_of_the_run(root, tmp_path, capsys):
    made = recipe(root)
    alike, other = open_dataset(made.data), open_dataset(replace(made.data, representation="binary"))
    train(made, tmp_path / "run", data=alike, quiet=True)
    run = Run.open(tmp_path / "run")
    evaluate(run, alike)
    assert "warning" not in capsys.readouterr().err
    evaluate(run, other)
    said = "data.representation: events-folder was opened with binary"
    assert f"warning: {said}, the run says histogram" in capsys.readouterr().err
    with pytest.raises(OnespikeError, match=f"^{said}; expected binary, got histogram"):
        train(run.recipe, run.folder, resume=True, data=other)


def test_the_models_time_steps_are_the_datas_frames(root):
    assert recipe(root).model.time_steps == 3
    assert recipe(root, **{"data.frames": 1}).model.time_steps == 1
    assert load_recipe("events/digits", {"model.name": "spiking-vgg11"}).model.time_steps == 1
    assert recipe(root, **{"model.time_steps": "3"}).model.time_steps == 3
    said = (
        r"^model.time_steps: the time steps are the frames of digits-saccades; expected 1, got 4; pass --data.frames 4$"
    )
    with pytest.raises(OnespikeError, match=said):
        load_recipe("events/digits", {"model.time_steps": "4"})
    with pytest.raises(OnespikeError, match="neuron relu: expected one time step, got 3"):
        recipe(root, **{"model.preset": "ann"})
    relu = {"model.name": "spiking-vgg11", "model.neuron": "relu", "data.frames": 1}  # its default is four
    assert load_recipe("events/digits", relu).model.time_steps == 1
    learnt = {"model.name": "conv-tiny", "model.fusion": "none", "model.neuron.learnable_decay": "layer"}
    for frames in (3, 1):
        assert load_recipe("events/digits", {**learnt, "data.frames": frames}).model.time_steps == frames


@pytest.mark.parametrize("options", [{}, {"train.mixup": 0.2, "train.accumulate": 2, "data.cutout": 4}])
def test_tet_is_the_mean_of_each_frames_loss(root, options):
    made = recipe(root, **{"train.loss": "tet", "train.label_smoothing": 0, **options})
    trainer = set_up(made)
    images, labels = next(trainer.batches.epoch(0))
    seen, targets, own = [], [], trainer.loss
    trainer.network.register_forward_pre_hook(lambda _module, given: seen.append(given[0].clone()))
    trainer.loss = lambda logits, given: (targets.append(given), own(logits, given))[1]
    loss, _ = trainer.step(0, images.clone(), labels)
    if not options:
        assert torch.equal(seen[0], images)
        assert torch.equal(targets[0], labels)
    again, each = set_up(made).network.train(), []
    for part, target in zip(seen, targets, strict=True):
        logits = again(part)
        assert logits.shape == (3, 12 // len(seen), CLASSES)
        each += [torch.nn.functional.cross_entropy(step, target).item() for step in logits]
    assert loss == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_tet_shows_an_image_as_frames(tmp_path):
    made = load_recipe("digits", {"model.time_steps": 2, "train.loss": "tet", "data.workers": 0, "train.device": "cpu"})
    trainer, seen = set_up(replace(made, data=replace(made.data, limit=64, cache=str(tmp_path)))), []
    trainer.network.register_forward_hook(lambda _, images, logits: seen.append((images[0].shape, logits.shape)))
    trainer.step(0, *next(trainer.batches.epoch(0)))
    assert seen == [((2, 32, 1, 32, 32), (2, 32, 10))]


@pytest.mark.slow
def test_of_an_image_as_frames_a_teacher_sees_the_image(tmp_path, monkeypatch):
    network, seen = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(1), torch.nn.Linear(1800, 10)), []
    monkeypatch.setitem(teacher.SOURCES, "timm", lambda _: teacher.Found(network, (0.5,), (0.25,), 32))
    values = {"model.time_steps": 2, "train.loss": "tet", "train.teacher": "timm:any", "train.device": "cpu"}
    trainer = set_up(load_recipe("digits", {**values, "data.limit": 64, "data.cache": str(tmp_path)}))
    network[1].register_forward_pre_hook(lambda _, maps: seen.append(maps[0].shape))
    trainer.flops.start(trainer)
    seen.clear()
    trainer.step(0, *next(trainer.batches.epoch(0)))
    assert seen == [(32, 2, 30, 30)]
    trainer.after_step(0, 1.0, 32)
    assert trainer.flops.problem == ""


@pytest.mark.slow
def test_a_run_goes_through_every_command(root, tmp_path, command):
    made = recipe(root, **{"train.epochs": 2, "train.energy_budget": 1000.0})
    summary = train(made, tmp_path / "run", quiet=True)
    run = Run.open(tmp_path / "run")
    assert evaluate(run).top1.mean == pytest.approx(summary["test_top1"])
    assert evaluate(run, flips=True).images == 6 * CLASSES
    with pytest.raises(OnespikeError, match="2 frames of each recording, the network takes 3"):
        evaluate(run, replace(made.data, frames=2))
    with pytest.raises(OnespikeError, match="3 frames of each recording, the network takes 2"):
        evaluate(run, time_steps=2)
    audit = audit_run(run, latency=False)
    assert audit.operations.images == 6 * CLASSES
    once = audit_run_at_one(root, tmp_path)
    assert audit.operations.macs == pytest.approx(3 * once.operations.macs)
    assert audit.operations.potentials.reads > 0 == once.operations.potentials.reads
    assert audit.test_set == once.test_set, "the same recordings, in other frames"
    assert audit.accuracy == summary["test_top1"]
    framed = audit_run(run, replace(made.data, representation="binary"), images=2, latency=False)
    assert (framed.test_set, framed.accuracy) == (audit.test_set, None)
    passed = audit_run(run, open_dataset(made.data), images=2, latency=False)
    assert (passed.test_set, passed.accuracy) == (audit.test_set, audit.accuracy), "however they are given"
    for make in (optimise, convert_run, export):
        with pytest.raises(OnespikeError, match="3 frames; expected one"):
            make(run, tmp_path / "out")
    code, printed, complaint = command("inspect", run.folder, "--sample", 4, "--out", tmp_path / "a.png")
    assert code == 0, complaint
    assert "events-folder-4" in printed
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3
    code, _, complaint = command("inspect", run.folder, "--sample", 99)
    assert code == 2
    assert "sample: expected 0 to 17" in complaint


def audit_run_at_one(root, folder):
    train(recipe(root, **{"data.frames": 1}), folder / "one", quiet=True)
    return audit_run(Run.open(folder / "one"), latency=False)


def test_time_is_pruned_with_the_frames(root, tmp_path):
    summaries = prune_time(recipe(root, **{"model.neuron.learnable_decay": "layer"}), 2, tmp_path)
    assert list(summaries) == [2, 1]
    stages = [Run.open(tmp_path / f"T{steps}").recipe for steps in (2, 1)]
    assert [(one.data.frames, one.model.time_steps) for one in stages] == [(2, 2), (1, 1)]
    assert summaries[1]["epochs_before"] == 1


@pytest.mark.slow
def test_channels_without_a_map(tmp_path, command):
    draws = np.random.default_rng(0)
    (tmp_path / "SHD").mkdir()
    for part in ("train", "test"):
        made = [
            (np.sort(draws.uniform(0, 1, 30)), draws.integers(350 * (n % 2), 350 * (n % 2) + 350, 30))
            for n in range(24)
        ]
        write_shd(tmp_path / "SHD" / f"shd_{part}.h5", made)
    shd = {"data.name": "shd", "data.root": str(tmp_path), "data.sensor": None, "model.name": "spiking-mlp"}
    made = recipe(tmp_path, **shd, **SHD)
    summary = train(made, tmp_path / "run", quiet=True)
    assert summary["test_top1"] == 100
    code, _, complaint = command("inspect", tmp_path / "run", "--sample", 1)
    assert code == 0, complaint
    with Image.open(tmp_path / "run" / "inspection" / "sample-1.gif") as gif:
        assert gif.n_frames == 3


def test_one_pixel_is_not_cropped():
    data = open_dataset(DataConfig())
    tiny = replace(data, train=replace(data.train, images=np.array(data.train.images[:, :1, :1])))
    with pytest.raises(OnespikeError, match=r"data\.crop_padding: expected at most 0"):
        TrainLoader(tiny, DataConfig(), 8, 0)

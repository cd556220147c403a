"""`onespike inspect`, as it is typed."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onespike.evaluation import inspect_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a [b] $c.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_what_is_printed_and_drawn(make_run, image: Path, command, tmp_path: Path):
    run = make_run()
    code, printed, complaints = command("inspect", run.folder, "--image", image, "--json", tmp_path / "numbers.json")
    assert (code, complaints) == (0, "")
    view = inspect_image(run, image)
    assert json.loads((tmp_path / "numbers.json").read_text()) == view.to_json()
    (guess, probability), *_ = view.guesses(1)
    assert f"{image}: {guess} {probability:.1%}, " in printed
    assert "the image was resized from 30x20 to 16x16, the centre kept" in printed
    assert re.search(rf"\n2 +8x8 dilated +{view.blocks[1].firing_rate:.3f} +encoder 0\.\d+, unit.neuron1", printed)
    out = run.folder / "inspection" / "a [b] $c.png"
    assert printed.endswith(f"the picture is {out}\n")
    with Image.open(out) as picture:
        assert picture.format == "PNG"


@pytest.mark.slow
def test_options(make_run, image: Path, command, tmp_path: Path):
    run = make_run(encoding="bernoulli")
    arguments = ("--seed", 4, "--checkpoint", "last", "--json", "-", "--out", tmp_path / "new" / "x.png")
    code, printed, complaints = command("inspect", "--image", image, *arguments, run.folder)
    assert code == 0
    assert json.loads(printed) == inspect_image(run, image, "last", 4).to_json()
    assert "the picture is" in complaints
    assert (tmp_path / "new" / "x.png").is_file()
    assert not (run.folder / "inspection").exists()


@pytest.mark.slow
def test_a_sample_is_shown_with_its_true_class(make_run, command, tmp_path: Path):
    run = make_run()
    code, printed, _ = command("inspect", run.folder, "--sample", 1, "--json", tmp_path / "numbers.json")
    assert code == 0
    true = run.dataset().classes[run.dataset().test[1][1]]
    assert re.search(rf"-1: .*; true class: {true}\n", printed)
    assert json.loads((tmp_path / "numbers.json").read_text())["label"] == true


@pytest.mark.slow
def test_a_sample_of_images_that_moved_is_found_at_their_new_place(make_run, images: Path, command, tmp_path: Path):
    run, moved = make_run(), tmp_path / "moved"
    assert command("inspect", run.folder, "--sample", 1, "--out", tmp_path / "before.png")[0] == 0
    gone = replace(run.recipe, data=replace(run.recipe.data, root=str(tmp_path / "gone")))
    run.begin(gone)
    shutil.copytree(images, moved)
    code, _, complaint = command("inspect", run.folder, "--sample", 1)
    assert (code, "correct --data.root" in complaint) == (2, True)
    picture = tmp_path / "after.png"
    code, _, complaint = command("inspect", run.folder, "--sample", 1, "--data.root", moved, "--out", picture)
    assert (code, complaint) == (0, "")
    assert picture.read_bytes() == (tmp_path / "before.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected RUN: onespike inspect RUN --image FILE"),
        (["{run}"], "expected a run folder and an image: onespike inspect RUN --image FILE"),
        (["{tmp}", "--image", "{image}"], "is not a run"),
        (["{run}", "--image", "{tmp}/missing.png"], "cannot read the image {tmp}/missing.png: No such file"),
        (["{run}", "--image", "{tmp}"], "cannot read the image {tmp}: not a regular file"),
        (["{run}", "--image", "{tmp}/text.png"], "{tmp}/text.png: corrupt image"),
        (["{run}", "--image", "{tmp}/cut.png"], "{tmp}/cut.png: corrupt image"),
        (["{run}", "--image", "{tmp}/empty.png"], "{tmp}/empty.png: corrupt image"),
        (["{run}", "--imgae", "{image}"], "unknown option '--imgae': did you mean '--image'?"),
        (["{run}", "--image", "{image}", "--data.root", "x"], "--data.root: --image FILE is no sample of a data set"),
        (["{run}", "--sample", "0", "--data.rot", "x"], "unknown option '--data.rot': did you mean '--data.root'?"),
        (["{run}", "--image", "{image}", "--seed", "x"], "seed: expected"),
        (
            ["{run}", "--image", "{image}", "--seed", "-1"],
            "seed: expected a whole number of 0 or more, below 2^63, got -1",
        ),
        (["{run}", "--image", "{image}", "--checkpoint", "first"], "unknown --checkpoint 'first': known: best, last"),
        (["{run}", "--image", "{image}", "--out", "{tmp}/text.png/x.png"], "cannot write {tmp}/text.png/x.png"),
        (
            ["{run}", "--image", "{image}", "--out", "{tmp}/a.pdf"],
            "--out: expected the name of a PNG, such as spikes.png",
        ),
        (["{run}", "--sample", "0", "--out", "{tmp}/a.gif"], "expected the name of a PNG"),
        (["{run}", "--sample", "0", "--out", "{tmp}/a"], "expected the name of a PNG"),
        (["{run}", "--sample", "0", "--out", "{tmp}/a.png", "--json", "{tmp}/a.gif"], "two things are to go there"),
        (["{run}", "another", "--image", "{image}"], "unexpected 'another': onespike inspect RUN"),
    ],
)
def test_bad_input(arguments, message, make_run, image: Path, tmp_path: Path, command):
    run = make_run()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:900])
    before = sorted(tmp_path.rglob("*"))

    def filled_in(text: str) -> str:
        return text.replace("{run}", str(run.folder)).replace("{tmp}", str(tmp_path)).replace("{image}", str(image))

    code, printed, complaints = command("inspect", *map(filled_in, arguments))
    assert (code, printed) == (2, "")
    assert complaints.startswith("error: ")
    assert filled_in(message) in complaints
    assert complaints.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before

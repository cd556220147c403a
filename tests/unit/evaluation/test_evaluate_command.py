"""`onespike evaluate`, as it is typed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from noise import write_images

from onespike.cli.evaluate import _line
from onespike.evaluation import evaluate
from onespike.evaluation.evaluate import Spread


def test_what_is_printed_and_left(make_run, command):
    run = make_run(encoding="bernoulli")
    code, printed, complaints = command("evaluate", run.folder, "--passes", 2)
    assert (code, complaints) == (0, "")
    expected = evaluate(run, passes=2)
    assert "folder, test: 25 images, best weights (epoch 1), 2 passes" in printed
    assert f"top-1 {expected.top1.mean:.2f}% ± {expected.top1.std:.2f}" in printed
    assert f"top-5 {expected.top5.mean:.2f}% ± {expected.top5.std:.2f}" in printed
    for name, accuracy in expected.per_class.items():
        assert f"{name}{accuracy:>{14 - len(name)}.1f}%" in printed
    first = expected.most_confused(1)[0]
    assert [first.truth, first.guess, str(first.images), f"{first.share:.1f}%"] in map(str.split, printed.splitlines())
    assert f"evaluation.json are in {run.folder / 'evaluation'}" in printed
    assert json.loads((run.folder / "evaluation" / "evaluation.json").read_text()) == expected.to_json()


def test_of_few_classes_there_is_no_top_5():
    assert _line(False, Spread(80, None), Spread(100, None), Spread(0.5, None)) == "top-1 80.00%   loss 0.5000"


def test_flips_are_an_extra_line_and_have_a_name_of_their_own(make_run, command):
    run = make_run()
    code, printed, complaints = command("evaluate", run.folder, "--flips")
    assert (code, complaints) == (0, "")
    expected = evaluate(run, flips=True)
    lines = [line for line in printed.splitlines() if "top-1" in line]
    assert lines[0].startswith(f"top-1 {expected.top1.mean:.2f}%   top-5 ")
    flips = expected.with_flips
    assert lines[1].startswith(f"with test-time flips, beside that: top-1 {flips['top1'].mean:.2f}%   top-5 ")
    assert lines[1].endswith(f"loss {flips['loss'].mean:.4f}")
    written = json.loads((run.folder / "evaluation" / "evaluation.json").read_text())
    assert written["top1"]["mean"] == expected.top1.mean
    assert written["with_flips"]["loss"]["mean"] == flips["loss"].mean


def test_options_before_the_run_and_numbers_on_the_standard_output(make_run, command, tmp_path: Path):
    run = make_run()
    out = tmp_path / "elsewhere"
    arguments = ("--part", "train", "--data.holdout=0", "--checkpoint", "last", "--json", "-", "--passes", 3)
    code, printed, complaints = command("evaluate", *arguments, "--out", out, run.folder)
    assert code == 0
    content = json.loads(printed)
    assert (content["part"], content["images"], content["epochs"], content["passes"]) == ("train", 14, 2, 1)
    assert "every pass is the same" in complaints
    assert (out / "confusion.png").is_file()
    assert not (run.folder / "evaluation").exists()


def test_many_classes_and_another_folder(make_run, command, tmp_path: Path):
    names = [f"[b{number:02}]" for number in range(24)]  # what rich would take for markup
    for part in ("train", "test"):
        write_images(tmp_path / "many" / part, dict.fromkeys(names, 1), seed=2)
    run = make_run(classes=tuple(names))
    arguments = ("--data.root", tmp_path / "many", "--data.holdout", 0, "--json", tmp_path / "numbers.json")
    code, printed, _ = command("evaluate", run.folder, *arguments)
    assert code == 0
    worst = printed.split("the 10 worst of 24 classes:")[1].split("true class")[0]
    accuracies = json.loads((tmp_path / "numbers.json").read_text())["per_class"]
    ten = sorted(names, key=lambda name: accuracies[name])[:10]
    assert [name for name in names if name in worst] == sorted(ten)


def test_a_network_of_another_device_is_told_by_which_option_it_is_evaluated(make_run, command):
    run = make_run()
    run.begin(replace(run.recipe, train=replace(run.recipe.train, precision="fp16")))
    code, _, complaint = command("evaluate", run.folder, "--device", "cpu")
    assert (code, complaint) == (2, "error: --precision trained: fp16 does not work on cpu; use bf16 or fp32\n")
    assert command("evaluate", run.folder, "--device", "cpu", "--precision", "fp32")[0] == 0


def test_help_needs_no_run(command):
    code, printed, _ = command("evaluate", "--help")
    assert code == 0
    assert "onespike evaluate RUN [options]" in printed
    assert "--data.root" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected RUN: onespike evaluate RUN"),
        (["nowhere"], "nowhere is not a run"),
        (["RUN", "--prat", "test"], "unknown option '--prat': did you mean '--part'?"),
        (["RUN", "--data.rot", "x"], "unknown option '--data.rot': did you mean '--data.root'?"),
        (["RUN", "--part", "tests"], "unknown --part 'tests': did you mean 'test'?"),
        (["RUN", "--checkpoint", "worst"], "unknown --checkpoint 'worst': known: best, last"),
        (["RUN", "--passes", "many"], "passes: expected"),
        (["RUN", "--batch-size", "8.5"], "--batch-size: expected a whole number, got 8.5"),
        (["RUN", "--precision", "fp17"], "unknown --precision 'fp17': did you mean 'fp16'?"),
        (["RUN", "--passes", "0"], "passes: expected at least 1, got 0"),
        (["RUN", "--data.holdout", "2"], "data.holdout: expected a share in [0, 1)"),
        (["RUN", "--precision", "fp16", "--device", "cpu"], "--precision fp16: fp16 does not work on cpu; use bf16"),
        (["RUN", "--data.limit", "--out", "x"], "data.limit: expected a value behind --data.limit, got --out"),
        (["RUN", "--data.limit"], "data.limit: expected a value behind --data.limit, got nothing"),
        (["RUN/best"], "RUN/best is not a run: expected a folder with config.yaml"),
        (["RUN/config.yaml"], "RUN/config.yaml is not a run that can be read (Not a directory): expected a folder"),
        (["RUN", "another"], "unexpected 'another': onespike evaluate RUN"),
        (["RUN", "--data.name", "flowers"], "unknown data set 'flowers'"),
        (["RUN", "--data.root", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(arguments, message, make_run, command):
    run = make_run()
    code, printed, complaints = command("evaluate", *(a.replace("RUN", str(run.folder)) for a in arguments))
    assert (code, printed) == (2, "")
    assert complaints.startswith("error: ")
    assert message in complaints.replace(str(run.folder), "RUN")
    assert complaints.count("\n") == 1
    assert not (run.folder / "evaluation").exists()


def test_a_folder_is_taken_as_it_is_called(make_run, command):
    run = make_run(folder="run:1")
    assert command("evaluate", run.folder)[0] == 0
    assert (run.folder / "evaluation" / "evaluation.json").is_file()
    assert [path.name for path in run.folder.parent.glob("run*")] == ["run:1"]


@pytest.mark.slow
def test_two_processes_count_each_image_once(make_run):
    run = make_run()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*launcher, "-m", "onespike", "evaluate", str(run.folder), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("top-1") == 1
    found, alone = json.loads((run.folder / "evaluation" / "evaluation.json").read_text()), evaluate(run).to_json()
    assert found.pop("loss")["mean"] == pytest.approx(alone.pop("loss")["mean"])
    assert found == alone

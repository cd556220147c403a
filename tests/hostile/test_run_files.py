"""Run folders from strangers: every file of a run, every key of it, every tensor, every byte."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onespike.conversion import ConversionConfig
from onespike.durable import digest_of
from onespike.errors import OnespikeError
from onespike.tensors import not_finite
from onespike.training import Run, load, load_recipe, train
from onespike.training.checkpoint import ModelCard, read_state
from onespike.training.recipe import dump
from tests.hostile.harness import SPECIAL, fine_or_a_line, in_time, rewrite

DEEP = b"[" * 200_000
GARBAGE = {
    "empty": b"",
    "binary": bytes(range(256)),
    "number": b"3",
    "null": b"null",
    "list": b"[1, 2]",
    "text": b'"x"',
    "deep": DEEP,
    "deep enough": b'{"model": {"class_path": "a.B", "init_args": {"a": %b}}}' % (b"[" * 500 + b"]" * 500),
    "deep and whole": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "not a number": b"NaN",
    "too large": b'{"a": 1e400}',
    "half": b'{"a": ',
    "thousands of digits": b"9" * 10_000,
    "empty mapping": b"{}",
}
#: What the values of JSON files are replaced by; other types are taken where they are other types.
WRONG = (None, -1, 10**9, 1e300, "x", [], [[]], {}, True, "\x1b[31m")
COMMANDS = ("evaluate", "resume", "init-from", "optimise", "check-spikes", "inspect", "audit", "convert")


def arguments(command: str, run: Path, tmp_path: Path) -> list[object]:
    image = tmp_path / "image.pgm"
    image.write_bytes(b"P5 32 32 255 " + bytes(1024))
    return {
        "resume": ["train", "--resume", run, "--quiet", "--train.epochs", 3],
        "init-from": [
            "train",
            "--recipe",
            run / "config.yaml",
            "--init-from",
            run,
            "--out",
            tmp_path / "out",
            "--quiet",
            "--train.epochs",
            1,
        ],
        "inspect": ["inspect", run, "--image", image, "--out", tmp_path / "out.png"],
        "convert": ["convert", run, "--out", tmp_path / "out"],
        "audit": ["audit", run, "--no-latency", "--images", 2],
        "optimise": ["optimise", run, "--out", tmp_path / "out", "--rounds", 1],
    }.get(command, [command, run])


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("file", ["state.json", "model.json"])
@pytest.mark.parametrize("verb", ["evaluate", "resume"])
def test_garbage_in_a_checkpoint(verb, file, what, run, refused, tmp_path):
    rewrite(run, lambda files: files.update({file: GARBAGE[what]}))
    refused(*arguments(verb, run, tmp_path), words=("damaged",))


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_for_a_summary(what, run, refused):
    (run / "summary.json").write_bytes(GARBAGE[what])
    refused("audit", run, "--no-latency", "--images", 2, words=("summary.json",))


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_for_a_config(what, run, refused):
    (run / "config.yaml").write_bytes(b"resolved_by: onespike\n" + GARBAGE[what] + b"\n")
    if what in ("empty",):
        pytest.skip("a config without values has the defaults")
    refused("evaluate", run, words=("config.yaml",))


def _places(tree: Any, path: tuple = ()) -> list[tuple]:
    """Paths to all values of JSON, the first few of lists."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in items:
        found += _places(value, (*path, key))
    return found


def _put(tree: Any, path: tuple, value: Any) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    before, tree[path[-1]] = tree[path[-1]], value
    return before


@pytest.fixture(scope="session")
def undamaged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What comes of the run by `arguments` if nobody damages it, by command; nobody changes it."""
    folder = tmp_path_factory.mktemp("undamaged")
    shutil.copytree(trained, folder / "resume")
    train(load_recipe(trained / "config.yaml", {"train.epochs": 3}), folder / "resume", resume=True, quiet=True)
    once = load_recipe(trained / "config.yaml", {"train.epochs": 1})
    train(once, folder / "init-from", init_from=trained, quiet=True)
    return {name: folder / name for name in ("resume", "init-from")}


@pytest.fixture
def survives_or_says(command, run, tmp_path, undamaged) -> Callable[..., None]:
    """A command ends in one line; or else all goes well, and the weights are those of an undamaged run."""

    def check(verb: str) -> None:
        with in_time():
            code, _, error = command(*arguments(verb, run, tmp_path))
        said = [line for line in error.splitlines() if line.startswith("error: ")]
        assert code == (2 if said else 0), error
        assert len(said) <= 1
        assert "Traceback" not in error
        assert all(line.isprintable() and len(line) < 1100 for line in error.splitlines())
        out = {"resume": run, "init-from": tmp_path / "out"}.get(verb)
        assert code == 0 or not (tmp_path / "out").exists()
        if code == 0 and out:
            found, expected = (Run(one).checkpoint("last").weights for one in (out, undamaged[verb]))
            assert all(found[name].equal(one) for name, one in expected.items())

    return check


@pytest.mark.parametrize(
    "seed", [*(pytest.param(one, marks=pytest.mark.slow) for one in range(150)), *range(1000, 1012)]
)
def test_any_value_of_any_file_is_replaced(seed, run, survives_or_says):
    draws = random.Random(seed)
    file, wrong = draws.choice(["state.json", "state.json", "model.json"]), draws.choice(WRONG)

    def change(files: dict[str, Any]) -> None:
        random.seed(seed)  # the same place in both checkpoints
        places = _places(files[file])
        _put(files[file], random.choice(places), wrong)

    rewrite(run, change)
    survives_or_says(draws.choice(["evaluate", "resume", "init-from"]))


@pytest.mark.parametrize("key", ["test_top1", "test_images", "best_epoch"])
@pytest.mark.parametrize("wrong", [None, "x", [], {}, True])
def test_wrong_numbers_in_a_summary(key, wrong, run, refused):
    content = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(content | {key: wrong}))
    refused("audit", run, "--no-latency", "--images", 2, words=("summary.json", key))


CHANGES = {
    "smaller": lambda one: one.flatten()[:1].clone(),
    "larger": lambda one: torch.zeros(*(side + 1 for side in one.shape), 2),
    "of integers": lambda one: one.to(torch.int16),
    "of tiny floats": lambda one: one.to(torch.float8_e4m3fn),
    "without values": lambda one: one.new_zeros(0),
    "turned": lambda one: one.reshape(-1, 1).clone() if one.ndim else one.reshape(1, 1).clone(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("verb", COMMANDS)
def test_weights_of_another_form(verb, change, run, refused, tmp_path):
    rewrite(run, lambda files: files["model.safetensors"].update(_changed(files["model.safetensors"], change)))
    refused(*arguments(verb, run, tmp_path))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", [0, 3, -1])
def test_tensors_of_the_optimiser_of_another_form(change, which, run, refused, tmp_path):
    rewrite(
        run, lambda files: files["training.safetensors"].update(_changed(files["training.safetensors"], change, which))
    )
    refused(*arguments("resume", run, tmp_path), words=("damaged", "optimiser"))


def _changed(tensors: dict[str, torch.Tensor], change: str, which: int = 0) -> dict[str, torch.Tensor]:
    name = sorted(name for name, one in tensors.items() if one.numel() > 1)[which]
    return {name: CHANGES[change](tensors[name])}


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors"])
@pytest.mark.parametrize("how", ["missing", "renamed", "added"])
def test_tensors_of_other_names(file, how, run, refused, tmp_path):
    def change(files: dict[str, Any]) -> None:
        tensors = files[file]
        name = sorted(tensors)[0]
        one = tensors[name] if how == "added" else tensors.pop(name)
        if how != "missing":
            tensors["\x1b[31mother"] = one.clone()

    rewrite(run, change)
    refused(*arguments("resume", run, tmp_path))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("verb", COMMANDS)
def test_weights_that_are_no_numbers(verb, value, run, refused, tmp_path):
    def change(files: dict[str, Any]) -> None:
        next(one for name, one in sorted(files["model.safetensors"].items()) if "weight" in name).view(-1)[0] = value

    rewrite(run, change)
    refused(*arguments(verb, run, tmp_path), words=("finite",))


@pytest.mark.parametrize("params", [[1, 0], [0, 0], ["x"], None, 10**9, "reversed"])
def test_groups_of_other_weights(params, run, refused, tmp_path):
    def change(files: dict[str, Any]) -> None:
        pairs = dict(files["state.json"]["optimizer"]["pairs"])
        for group in pairs["param_groups"]:
            for pair in group["pairs"]:
                if pair[0] == "params":
                    pair[1] = pair[1][::-1] if params == "reversed" else params

    rewrite(run, change)
    refused(*arguments("resume", run, tmp_path), words=("damaged",))


@pytest.mark.parametrize("key", ["depths", "channels", "time_steps", "mlp_ratio"])
def test_models_without_end(key, run, refused):
    def change(files: dict[str, Any]) -> None:
        value = files["model.json"]["model"][key]
        files["model.json"]["model"][key] = [10**9 for _ in value] if isinstance(value, list) else 10**9

    rewrite(run, change)
    refused("evaluate", run, words=("damaged", key))


@pytest.mark.parametrize("key", ["in_channels", "image_size", "classes", "mean", "std"])
@pytest.mark.parametrize("value", [10**9, 0, -1, [], "x", None, [1e300] * 3])
def test_images_without_end(key, value, run, refused):
    rewrite(run, lambda files: files["model.json"].update({key: value}))
    refused("evaluate", run)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_of_a_checkpoint_is_noticed(seed, run, capsys):
    draws = random.Random(seed)
    path = draws.choice(sorted((run / "best").iterdir()))
    content = bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)
    Run.open(run).checkpoint("best")  # the last one does as well
    assert "damaged" in capsys.readouterr().err
    with pytest.raises(OnespikeError, match="damaged"):
        load(run / "best")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("file", ["config.yaml", "summary.json"])
def test_a_changed_digit_of_what_else_is_read_is_noticed(file, seed, run, command):
    content = bytearray((run / file).read_bytes())
    place = random.Random(seed).choice([place for place, byte in enumerate(content) if chr(byte).isdigit()])
    content[place] ^= 1
    (run / file).write_bytes(content)
    code, _, error = command("audit", run, "--no-latency", "--images", 2)
    assert file in error
    assert code in (0, 2)
    assert "Traceback" not in error


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("file", ["config.yaml", "summary.json", "metrics.csv", "environment.json", "curves.png"])
def test_a_flipped_byte_of_any_other_file_is_noticed(file, seed, run, capsys):
    draws, content = random.Random(seed), bytearray((run / file).read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    (run / file).write_bytes(content)
    try:
        Run.open(run)
    except OnespikeError as error:  # no run any more
        assert file == "config.yaml"
        assert "lacks the line resolved_by" in str(error)  # noqa: PT017
        return
    assert file in capsys.readouterr().err


@pytest.mark.parametrize("file", ["metrics.csv", "environment.json", "curves.png"])
def test_a_file_that_went_is_noticed(file, run, capsys):
    (run / file).unlink()
    Run.open(run)
    assert f"{file} is not what was written" in capsys.readouterr().err


def test_what_was_written_is_no_news(run, capsys):
    Run.open(run)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [None, 10**400, "nan", True, [], {}])
@pytest.mark.parametrize("column", ["epoch", "lr", "train_loss", "train_top1", "valid_top1", "epoch_seconds", "other"])
def test_rows_of_the_history(column, value, run, survives_or_says):
    def change(files: dict[str, Any]) -> None:
        for row in files["state.json"]["progress"]["history"]:
            row[column] = value

    rewrite(run, change)
    survives_or_says("resume")


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("changed", [{"seed": 5}, {"optimizer": "adamw"}, {"ema": 0.5}, "model"], ids=str)
def test_a_checkpoint_of_another_run(changed, which, run, refused, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))

    def change(files: dict[str, Any]) -> None:
        if changed == "model":
            files["model.json"]["model"]["theta"] = 0.3
        else:
            files["state.json"]["train"] |= changed

    rewrite(other, change)
    shutil.rmtree(run / which)
    (other / which).rename(run / which)
    verbs = {"best": ("evaluate", "audit", "optimise", "init-from"), "last": ("resume",)}[which]
    name = "model" if changed == "model" else f"train.{min(changed)}"
    for verb in verbs:
        refused(*arguments(verb, run, tmp_path), words=("of another run, whose", f"{name} is not that of"))
    refused("push", run, "--out", tmp_path / "out", "--checkpoint", which, words=("of another run",))


def test_a_checkpoint_of_a_converted_run(run, refused, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    text = dump(replace(Run.open(other).recipe, conversion=ConversionConfig(time_steps=4)))
    (other / "config.yaml").write_text(text)
    refused(*arguments("evaluate", other, tmp_path), words=("of another run, whose conversion is not that of",))


@pytest.mark.parametrize("epochs", [[2, 1], [1, 1], [0, 1], [1], [], [1, 77]])
def test_epochs_of_another_order(epochs, run, refused, tmp_path):
    def change(files: dict[str, Any]) -> None:
        progress = files["state.json"]["progress"]
        progress["history"] = [{**progress["history"][0], "epoch": epoch} for epoch in epochs]

    rewrite(run, change)
    refused(*arguments("resume", run, tmp_path), words=("damaged",))


GROUP = {"lr": "x", "momentum": "x", "nesterov": [], "weight_decay": None, "closure": "os.system", "maximize": {}}


@pytest.mark.parametrize("key", [*GROUP, "less"])
def test_groups_of_another_form(key, run, refused, tmp_path):
    rewrite(
        run,
        lambda files: _groups(
            files, lambda group: group.pop("lr") if key == "less" else group.update({key: GROUP[key]})
        ),
    )
    refused(*arguments("resume", run, tmp_path), words=("damaged",))


def _groups(files: dict[str, Any], change: Any) -> None:
    for group in dict(files["state.json"]["optimizer"]["pairs"])["param_groups"]:
        values = dict(group["pairs"])
        change(values)
        group["pairs"] = [list(pair) for pair in values.items()]


@pytest.mark.parametrize(
    "changed", [{"maximize": True}, {"momentum": -5.0}, {"nesterov": False}, {"dampening": 0.9}], ids=str
)
def test_how_an_optimiser_works_follows_from_the_recipe(changed, run, command, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    rewrite(other, lambda files: _groups(files, lambda group: group.update(changed)))
    for one in (run, other):
        assert command(*arguments("resume", one, tmp_path))[0] == 0
    weights = [Run.open(one).checkpoint("last").weights for one in (run, other)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["running_var", "running_mean"])
def test_statistics_that_mean_nothing(name, value):
    network = torch.nn.BatchNorm2d(3)
    getattr(network, name)[0] = value
    assert not_finite(network.state_dict(), network) == (name if (name, value) != ("running_mean", -1) else "")


@pytest.mark.parametrize("verb", ["evaluate", "audit", "optimise", "inspect", "export"])
def test_answers_that_are_no_numbers(verb, run, refused, tmp_path):
    rewrite(run, lambda files: [one.fill_(3e38) for name, one in files["model.safetensors"].items() if "head" in name])
    export = ["export", run, "--out", tmp_path / "out", "--images", 2]
    refused(*(export if verb == "export" else arguments(verb, run, tmp_path)), words=("finite",))


@pytest.mark.parametrize("what", ["FIFO", "a link to mine", "folder"])
@pytest.mark.parametrize("file", [".last.new", ".last.old", ".best.new", ".metrics.csv.new", ".summary.json.new"])
def test_what_lies_in_the_way_of_a_run(file, what, run, survives_or_says, tmp_path):
    (tmp_path / "mine").write_text("mine")
    path = run / file
    {"FIFO": os.mkfifo, "a link to mine": lambda path: path.symlink_to(tmp_path / "mine"), "folder": Path.mkdir}[what](
        path
    )
    survives_or_says("resume")
    assert (tmp_path / "mine").read_text() == "mine"
    Run.open(run).checkpoint("last")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_optimiser_that_holds_no_numbers(value, run, refused, tmp_path):
    rewrite(run, lambda files: next(iter(files["training.safetensors"].values())).view(-1)[:1].fill_(value))
    refused(*arguments("resume", run, tmp_path), words=("damaged", "finite"))


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("file", ["config.yaml", "metrics.csv", "environment.json", "last/state.json", "last", "best"])
def test_special_files_in_a_run(file, what, run, survives_or_says):
    path = run / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    SPECIAL[what](path)
    survives_or_says("resume")


@pytest.mark.parametrize(
    "file", [".lock", "config.yaml", "metrics.csv", "environment.json", "summary.json", "curves.png"]
)
def test_a_link_in_a_run_overwrites_nothing(file, run, survives_or_says, tmp_path):
    mine = tmp_path / "mine"
    mine.write_bytes((run / file).read_bytes() if (run / file).exists() else b"mine")
    before = mine.read_bytes()
    (run / file).unlink(missing_ok=True)
    (run / file).symlink_to(mine)
    survives_or_says("resume")
    assert mine.read_bytes() == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_anywhere_passes_the_schema_or_is_a_line(trained, data):
    name, read = data.draw(st.sampled_from([("model.json", ModelCard.from_json), ("state.json", read_state)]))
    content = json.loads((trained / "last" / name).read_text())
    _put(content, data.draw(st.sampled_from(_places(content))), data.draw(JSON))
    for tree in (content, data.draw(JSON)):
        with fine_or_a_line():
            read(tree)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seconds", -1e300), ("epochs_before", -5), ("flops", -1), ("epoch_seconds", -1)],
)
def test_progress_that_cannot_be(name, value, trained):
    content = json.loads((trained / "last" / "state.json").read_text())
    read_state(content)
    content["progress"][name] = value
    with pytest.raises(OnespikeError, match=f"progress: {name}: expected"):
        read_state(content)


def test_numbers_in_a_file_are_no_text(trained):
    content = json.loads((trained / "last" / "state.json").read_text())
    content["progress"]["history"][0]["valid_top1"] = "93"
    with pytest.raises(OnespikeError, match="valid_top1: expected a number, got the text 93"):
        read_state(content)


def test_the_best_epoch_follows_from_the_history(run, command):
    rewrite(run, lambda files: files["state.json"]["progress"].update(best=1e300))
    assert command("train", "--resume", run, "--train.epochs", 4, "--quiet")[0] == 0
    found = Run(run)
    assert found.summary["best_epoch"] == found.checkpoint("best").state["progress"]["epoch"] > 2


@pytest.mark.parametrize("name", ["test_top1", "test_top5", "valid_top1"])
@pytest.mark.parametrize("value", [1e9, -1, "93"])
def test_shares_that_cannot_be(name, value, run):
    summary = json.loads((run / "summary.json").read_text()) | {name: value}
    content = {key: one for key, one in summary.items() if key != "sha256"}
    (run / "summary.json").write_text(json.dumps(content | {"sha256": digest_of(content)}, indent=2))
    with pytest.raises(OnespikeError, match=f"{name}: expected"):
        _ = Run(run).summary


@pytest.mark.parametrize("which", ["worst", "", None, 3])
def test_there_are_two_checkpoints(which, run):
    with pytest.raises(OnespikeError, match="checkpoint"):
        load(run, which)


def test_a_network_of_other_layers_is_a_short_line(run, refused, tmp_path):
    said = refused("train", "--init-from", run, "--out", tmp_path / "out", "--model.name", "conv12")
    assert len(said) < 1000


def test_what_resumes_is_the_same(run, command, undamaged, tmp_path):
    rewrite(run, dict)
    code, _, error = command(*arguments("resume", run, tmp_path))
    assert (code, error) == (0, "")
    found, expected = (Run(one).checkpoint("last").weights for one in (run, undamaged["resume"]))
    assert all(found[name].equal(one) for name, one in expected.items())

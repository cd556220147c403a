"""Files that travel: tensors, exports, engines, conversions, streams, kernels, journals; and where outputs go."""

import json
import math
import os
import pwd
import random
import shutil
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save
from torch import nn

import onespike
from onespike.cli.main import dispatch
from onespike.durable import expect_writable, write_whole
from onespike.errors import OnespikeError
from onespike.exporting.export import expect_free
from onespike.exporting.hub import save_pretrained
from onespike.folders import write_folder
from onespike.inference.optimise import optimise
from onespike.inference.storage import load_engine
from onespike.models.streaming import stream
from onespike.training import Run
from tests.hostile.harness import SPECIAL, in_time, rewrite
from tests.hostile.test_run_files import GARBAGE
from tests.running import raising


def _safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _one(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}


TENSORS = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a header without end": _safetensors({}, length=10**15),
    "the longest header": _safetensors({}, length=2**64 - 1),
    "no JSON": _safetensors(b"xxxx"),
    "a list": _safetensors(b"[1]"),
    "null": _safetensors(b"null"),
    "deep": _safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "overlapping": _safetensors(
        {"a": _one("F32", [2], 0, 8)["a"], "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)
    ),
    "a hole": _safetensors(_one("F32", [2], 4, 12), bytes(12)),
    "beyond the end": _safetensors(_one("F32", [200], 0, 800), bytes(12)),
    "another size": _safetensors(_one("F32", [200], 0, 12), bytes(12)),
    "a size that overflows": _safetensors(_one("F32", [2**62, 2**62, 4], 0, 0)),
    "a negative size": _safetensors(_one("F32", [-1], 0, 4), bytes(4)),
    "offsets reversed": _safetensors(_one("F32", [1], 4, 0), bytes(4)),
    "an unknown type": _safetensors(_one("F99", [1], 0, 4), bytes(4)),
    "a type that PyTorch lacks": _safetensors(_one("F4", [8], 0, 4), bytes(4)),
    "exponents alone": _safetensors(_one("F8_E8M0", [4], 0, 4), bytes(4)),
    "complex": _safetensors(_one("C64", [1], 0, 8), bytes(8)),
    "nothing, but huge": _safetensors(_one("F32", [0, 2**40], 0, 0)),
    "odd metadata": _safetensors({"__metadata__": {"a": 3}}),
    "more behind": _safetensors(_one("F32", [1], 0, 4), bytes(400)),
    "no name": _safetensors({"": _one("F32", [1], 0, 4)["a"]}, bytes(4)),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Whatever travels, made of the run; nobody changes it."""
    place = tmp_path_factory.mktemp("made")
    before, os.environ["ONESPIKE_CACHE"] = os.environ.get("ONESPIKE_CACHE"), str(cache)
    save_pretrained(trained, place / "pushed")
    optimise(Run.open(trained), place / "engine", "int8", "best", 4, 1)
    onespike.convert(_artificial(), torch.rand(16, 3, 8, 8)).save(place / "conversion")
    os.environ.pop("ONESPIKE_CACHE") if before is None else os.environ.update(ONESPIKE_CACHE=before)
    return place


def _artificial() -> nn.Module:
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *head).eval()


def says(act: Callable[[], object], *words: str) -> None:
    with in_time(), pytest.raises(OnespikeError) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable()
    assert "<class" not in message
    for word in words:
        assert word in message, message


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "pushed": ("model.safetensors", onespike.load),
    "engine": ("engine.safetensors", load_engine),
    "conversion": ("model.safetensors", lambda path: onespike.load_converted(path, _artificial())),
}


#: What gives changed tensors the digest that fits; a pushed network has none.
SEALS: dict[str, Callable[[Path], None]] = {
    "engine": lambda folder: _describe(folder, {}),
    "conversion": lambda folder: _convert(dict)(folder),
}


@pytest.mark.parametrize("reader", SEALS)
def test_a_digest_that_fits_is_taken(reader, made, tmp_path):
    folder = Path(shutil.copytree(made / reader, tmp_path / reader))
    description = folder / JSON[reader][0]
    description.write_text(description.read_text().replace('"sha256": "', '"sha256": "0'))
    says(lambda: READERS[reader][1](folder), "not what was written")
    SEALS[reader](folder)
    READERS[reader][1](folder)


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("reader", READERS)
def test_tensors_that_are_none(reader, what, made, tmp_path):
    folder = Path(shutil.copytree(made / reader, tmp_path / reader))
    name, read = READERS[reader]
    (folder / name).write_bytes(TENSORS[what])
    if reader in SEALS:
        SEALS[reader](folder)
    says(lambda: read(folder))


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors"])
def test_tensors_of_a_checkpoint_that_are_none(file, what, run, refused):
    rewrite(run, lambda files: files.update({file: TENSORS[what]}))
    verb = ["evaluate", run] if file == "model.safetensors" else ["train", "--resume", run, "--train.epochs", 3]
    refused(*verb, "--data.limit", 60)


@pytest.mark.parametrize("what", [*TENSORS, "a FIFO", "a folder", "nothing"])
def test_states_of_a_stream(what, tmp_path):
    path = tmp_path / "state"
    if what in TENSORS:
        path.write_bytes(TENSORS[what])
    elif what in SPECIAL:
        SPECIAL[what](path)
    says(lambda: stream(onespike.create_model("spiking-vgg-xs")).load(path), "state")


#: Where JSON lies that is read, and what reads it.
JSON = {
    "pushed": ("model.json", onespike.load),
    "engine": ("engine.json", load_engine),
    "conversion": ("conversion.json", READERS["conversion"][1]),
}


@pytest.mark.parametrize("what", [*GARBAGE, *SPECIAL])
@pytest.mark.parametrize("reader", JSON)
def test_garbage_for_json(reader, what, made, tmp_path):
    folder = Path(shutil.copytree(made / reader, tmp_path / reader))
    name, read = JSON[reader]
    path = folder / name
    path.unlink()
    if what in GARBAGE:
        path.write_bytes(GARBAGE[what])
    else:
        SPECIAL[what](path)
    says(lambda: read(folder))


def _convert(change: Callable[[dict[str, Any]], object], fit: bool = True) -> Callable[[Path], None]:
    """Change what is said of a conversion; its digest fits."""

    def act(folder: Path) -> None:
        path, weights = folder / "conversion.json", (folder / "model.safetensors").read_bytes()
        card = json.loads(path.read_text())
        change(card)
        if fit:
            card.pop("sha256", None)
            text = json.dumps(card, sort_keys=True).encode()
            card["sha256"] = sha256(weights + sha256(text).hexdigest().encode()).hexdigest()
        path.write_text(json.dumps(card, indent=2))

    return act


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = read_tensors(path.read_bytes())
        change(tensors)
        path.write_bytes(save(tensors))
        _convert(dict)(folder)

    return act


def _first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return _tensors(lambda tensors: tensors.update({(name := sorted(tensors)[0]): change(tensors[name])}))


CONVERSIONS = {
    "images of 10^21 numbers": _convert(lambda card: card.update(traced=[10**6, 3, 10**6, 10**6])),
    "fewer than no images": _convert(lambda card: card.update(traced=[-1, 3, 8, 8])),
    "images of one number": _convert(lambda card: card.update(traced=[3])),
    "images of text": _convert(lambda card: card.update(traced="abc")),
    "images of nothing": _convert(lambda card: card.update(traced=None)),
    "an unknown option": _convert(lambda card: card["config"].update(x=1)),
    "options in a list": _convert(lambda card: card.update(config=[])),
    "10^9 time steps": _convert(lambda card: card["config"].update(time_steps=10**9)),
    "10^9 neurons for one": _convert(lambda card: card["config"].update(population=10**9)),
    "odd layers": _convert(lambda card: card.update(layers=[{"x": 1}])),
    "a number of layers": _convert(lambda card: card.update(layers=3)),
    "a number for a graph": _convert(lambda card: card.update(graph=3)),
    "another graph": _convert(lambda card: card.update(graph=["\x1b[31m"])),
    "a text of images": _convert(lambda card: card.update(calibration_images="\x1b")),
    "no digest": _convert(lambda card: card.pop("sha256"), fit=False),
    "another number": _convert(lambda card: card.update(calibration_images=17), fit=False),
    "no numbers": _first(lambda one: one * float("nan")),
    "tiny floats": _first(lambda one: one.to(torch.float8_e4m3fn)),
    "integers": _first(lambda one: one.to(torch.int32)),
    "another shape": _first(lambda one: one.flatten()[:1].clone()),
    "another name": _tensors(lambda tensors: tensors.update({"\x1b": tensors.pop(sorted(tensors)[0])})),
}


@pytest.mark.parametrize("what", CONVERSIONS)
def test_conversions_of_strangers(what, made, tmp_path):
    folder = Path(shutil.copytree(made / "conversion", tmp_path / "conversion"))
    CONVERSIONS[what](folder)
    says(lambda: onespike.load_converted(folder, _artificial()))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("reader", ["engine", "conversion"])
def test_a_flipped_byte_of_what_travels_is_noticed(reader, seed, made, tmp_path):
    folder, draws = Path(shutil.copytree(made / reader, tmp_path / reader)), random.Random(seed)
    path = draws.choice([folder / READERS[reader][0], folder / JSON[reader][0]])
    content = bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)
    says(lambda: READERS[reader][1](folder))


#: What is changed in the description, and words of the complaint.
ENGINES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "another precision": ({"precision": "x"}, ("unknown precision 'x'",)),
    "a path for a name": ({"engine": "../../x"}, ("unknown engine '../../x'",)),
    "a runtime without a file": ({"engine": "ONNX Runtime"}, ("holds no engine",)),
    "a list for a model": ({"model": []}, ("engine.json", "model")),
    "a number for a name": ({"engine": 3}, ("engine.json", "engine: ")),
}


@pytest.mark.parametrize("what", ENGINES)
def test_engines_of_strangers(what, made, tmp_path):
    folder = Path(shutil.copytree(made / "engine", tmp_path / "engine"))
    _describe(folder, ENGINES[what][0])
    says(lambda: load_engine(folder), *ENGINES[what][1])


ODD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no number": (lambda tensors: tensors["stem_bias"].fill_(math.nan), "stem_bias is not of finite numbers"),
    "whole numbers": (lambda tensors: tensors.update(stem_bias=tensors["stem_bias"].long()), "stem_bias"),
    "one less": (lambda tensors: tensors.pop("stem_bias"), "stem_bias"),
}


def _rewrite_engine(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "engine.safetensors"
    tensors = read_tensors(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))
    _describe(folder, {})


@pytest.mark.parametrize("what", ODD_TENSORS)
def test_tensors_of_no_engine(what, made, tmp_path):
    folder = Path(shutil.copytree(made / "engine", tmp_path / "engine"))
    change, said = ODD_TENSORS[what]
    _rewrite_engine(folder, change)
    says(lambda: load_engine(folder), said)


def test_an_engine_has_its_own_kind_of_floats(made, tmp_path):
    folder = Path(shutil.copytree(made / "engine", tmp_path / "engine"))
    _rewrite_engine(folder, lambda tensors: tensors.update(stem_bias=tensors["stem_bias"].double()))
    assert load_engine(folder).stem_bias.dtype == torch.float32


def _describe(folder: Path, changes: dict[str, Any]) -> None:
    """Change what is said of an engine; its digest fits."""
    path = folder / "engine.json"
    content = json.loads(path.read_text()) | changes
    content.pop("sha256")
    weights = next(one for one in (folder / "engine.safetensors", folder / "model.onnx") if one.exists()).read_bytes()
    text = json.dumps(content, sort_keys=True).encode()
    content["sha256"] = sha256(weights + sha256(text).hexdigest().encode()).hexdigest()
    path.write_text(json.dumps(content, indent=2))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x08\x07" * 50], ids=["empty", "garbage", "half"])
@pytest.mark.parametrize("runtime", ["ONNX Runtime", "OpenVINO"])
def test_engines_of_no_onnx(runtime, content, made, tmp_path):
    pytest.importorskip(runtime.lower().replace(" ", ""))
    folder = Path(shutil.copytree(made / "engine", tmp_path / "engine"))
    (folder / "engine.safetensors").unlink()
    (folder / "model.onnx").write_bytes(content)
    _describe(folder, {"engine": runtime})
    says(lambda: load_engine(folder), f"{runtime} does not take model.onnx")


CONTRACTS = {name: content for name, content in GARBAGE.items() if name not in ("empty mapping",)} | {
    "files of numbers": b'{"files": 3}',
    "files of lists": b'{"files": [[1]]}',
    "no files": b'{"files": null}',
    "an empty mapping": b"{}",
}


@pytest.mark.parametrize("what", [*CONTRACTS, *SPECIAL])
def test_exports_of_strangers_are_not_replaced(what, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    path = folder / "contract.json"
    if what in CONTRACTS:
        path.write_bytes(CONTRACTS[what])
    else:
        SPECIAL[what](path)
    says(lambda: expect_free(folder), "of no earlier export")
    assert (folder / "mine").read_text() == "mine"


IN_THE_WAY = {name: SPECIAL[name] for name in ("a FIFO", "a folder", "a link to itself")} | {
    "a link to mine": lambda path: path.symlink_to(path.parent.parent / "mine"),
    "a link to a folder": lambda path: path.symlink_to(path.parent.parent / "folder"),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("name", [".x.new", ".x.old", ".x.json.new", "x"])
def test_what_lies_where_something_is_written(name, what, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    IN_THE_WAY[what](run / name)
    for act, file in (
        (lambda: write_folder(run / "x", {"new": b"new"}), run / "x" / "new"),
        (lambda: write_whole(run / "x.json", "new"), run / "x.json"),
    ):
        with in_time():
            try:
                act()
            except OSError:
                assert (name, file.name) == ("x", "new")
            else:
                assert file.read_text() == "new"
    assert (tmp_path / "mine").read_text() == (tmp_path / "folder" / "mine").read_text() == "mine"


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "/sys/x", "/dev/null/x", "/dev/full/x"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_places_that_only_trying_tells(kind, place):
    if not Path(place).parents[-2].is_dir():
        pytest.skip("no such file system")
    says(lambda: expect_writable(folder=Path(place)) if kind == "folder" else expect_writable(place), "cannot write")


def test_a_place_that_is_a_loop_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    says(lambda: expect_writable(tmp_path / "loop"), "cannot write")
    says(lambda: expect_writable(tmp_path / "loop" / "x", tmp_path / "x.json"), "cannot write")


def test_one_place_by_two_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnespikeError, match="two things are to go there"):
        expect_writable("x.json", tmp_path / "x.json")
    with pytest.raises(OnespikeError, match="two things are to go there"):
        expect_writable("x", folder=tmp_path / "x")


@pytest.mark.parametrize("place", ["OUT", "OUT/engine.json", "OUT/new/x.json", "OUT/../out/x", "OUT/../link/x"])
@pytest.mark.parametrize("line", ["optimise RUN --out OUT --json", "export RUN --out OUT --json"])
def test_no_report_lies_in_a_folder_that_is_replaced(line, place, refused, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "checkpoint", None)
    (tmp_path / "link").symlink_to("out")
    words = f"{line} {place}".replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")).split()
    refused(*words, words=("cannot write", "two things" if place == "OUT" else "replaced as a whole"))


def test_a_folder_that_is_gone_is_said_to_be(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for act in (lambda: expect_writable("x.json"), lambda: expect_writable(folder=Path("runs/x"))):
        says(act, "the current folder is gone")
    expect_writable(tmp_path / "x.json")


def test_no_command_starts_in_a_folder_that_is_gone(refused, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused("models", words=("the current folder is gone: cd to another",))


def test_a_state_of_somebody_elses_is_no_checkpoint(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    expect_writable(tmp_path / "report.json")


def test_trying_leaves_nothing(tmp_path):
    (tmp_path / "x.json").write_text("mine")
    expect_writable(tmp_path / "x.json", "-", None, "/dev/stdout", folder=tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "inspect RUN --sample 0 --out RUN/best/picture.png",
        "audit RUN --json RUN/best/new.json",
        "audit RUN --csv RUN/last/state.json",
        "audit RUN --html RUN/.lock",
        "optimise RUN --out RUN/best",
        "evaluate RUN --out RUN/last",
        "audit RUN --csv OUT --json OUT",
        "audit RUN --html OUT --csv OUT",
        "inspect RUN --sample 0 --out OUT.png --json OUT.png",
        "push RUN --out RUN/config.yaml",
        "evaluate RUN --out /proc/x",
        "export RUN --out /proc/x",
        "audit RUN --json /proc/x",
        "demo RUN --no-serve --out /proc/x",
    ],
)
def test_places_that_may_not_be_written_are_found_before_the_work(line, refused, run, tmp_path, monkeypatch):
    (run / ".lock").write_text("")
    monkeypatch.setattr(Run, "checkpoint", None)
    refused(*line.replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")).split(), words=("cannot write",))


@pytest.mark.parametrize("line", ["train --out", "evaluate RUN --out", "export RUN --out"])
def test_homes_that_are_not_there(line, refused, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*(run if word == "RUN" else word for word in line.split()), "~nobody-here/x", words=("home",))
    assert not Path("~nobody-here").exists()


def test_a_home_that_no_shell_wrote_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Run("~/runs/x").folder == tmp_path / "runs" / "x"


JOURNALS = {
    "null": lambda out: (out / "study.journal").write_bytes(b"null\n"),
    "an unknown step": lambda out: (out / "study.journal").write_bytes(b'{"op_code": 99, "worker_id": "x"}\n'),
    "a FIFO": lambda out: os.mkfifo(out / "study.journal"),
    "a folder": lambda out: (out / "study.journal").mkdir(),
    "/dev/zero": lambda out: (out / "study.journal").symlink_to("/dev/zero"),
    "a lock that is a FIFO": lambda out: os.mkfifo(out / ".study.journal.lock"),
    "a lock that is a link": lambda out: (out / ".study.journal.lock").symlink_to(out.parent / "mine"),
    "a lock that is a folder": lambda out: (out / ".study.journal.lock").mkdir(),
}


@pytest.mark.parametrize("what", JOURNALS)
def test_searches_of_strangers(what, refused, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "space.yaml").write_text("train.lr: [0.01, 0.1]\n")
    (tmp_path / "search").mkdir()
    JOURNALS[what](tmp_path / "search")
    words = ["--space", tmp_path / "space.yaml", "--trials", 1, "--out", tmp_path / "search"]
    refused("search", *words, words=("study.journal",))
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("place", ["~nobody-here/x", "/dev/null", "x" * 300, "a\nb", "/proc/x"])
def test_caches_that_cannot_be(place, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESPIKE_CACHE", place)
    if place == "a\nb":  # a name like any other
        assert dispatch(["cache", "verify"]) == 0
        return
    refused("train", "--out", tmp_path / "out")


def test_a_cache_without_a_home(refused, monkeypatch):
    for name in ("HOME", "ONESPIKE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", raising(KeyError))
    refused("cache", "verify", words=("no home", "$ONESPIKE_CACHE", "--data.cache"))


SPACES = (
    *("{}", "[]", "3", "1: [1, 2]", "train.lr: .nan", "train.lr: [.nan, 1]", "train.lr: [0, .inf]", "train.lr: [2, 1]"),
    *("train.lr: {low: 0, high: 1, log: true}", "train.lr: {low: 1, high: 2, step: 0}", "train.lr: [a, b]"),
    *("train.lr: {low: 1, high: 2, step: 1.0e-300}", "train.lr: {low: 1, high: 2, step: -1}", "train.zzz: [1, 2]"),
    *(
        "train.lr: {choices: []}",
        "train.lr: {choices: [[1], {a: 1}]}",
        "train.lr: {choices: [.nan, 1]}",
        "train.lr: [1]",
    ),
    *("train.epochs: [1, 1.0e+18]", "train.epochs: [1, 9223372036854775807]", "model.preset: {choices: [x, y]}"),
    *("train.lr: {choices: [0.1, 0.1]}", "train.lr: {choices: [1, 1.0]}", "model.depths: {choices: [[1, 2], [1, 2]]}"),
    "model.neuron: {choices: [lif, plif]}\nmodel.neuron.name: {choices: [lif, plif]}",
    *("train.lr: {low: 1, high: 2, zzz: 1}", "train.lr: {low: 1}", "train.lr: [true, false]", "? [1]\n: [1, 2]"),
)


@pytest.mark.parametrize("content", SPACES)
def test_spaces_of_no_sense(content, refused, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "space.yaml").write_text(content + "\n")
    option = content.split(":")[0]
    words = ("space.yaml", option.rpartition(".")[2] if option.startswith(("train.", "model.")) else "")
    refused("search", "--space", tmp_path / "space.yaml", "--out", tmp_path / "out", words=words)

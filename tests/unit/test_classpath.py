"""What a class path leads to is called by what it is, whatever it is."""

import sys
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from onespike.classpath import ClassPath, allow_imports, allowed, call
from onespike.errors import OnespikeError
from tests.running import raising


def test_a_part_of_a_function_is_called_as_a_class_is():
    made = call(partial(nn.Linear, 3), {"bias": False}, "model", {"out_features": 2, "num_classes": 5})
    assert (made.in_features, made.out_features, made.bias) == (3, 2, None)
    with pytest.raises(OnespikeError, match=r"^model.init_args: .*; expected those of functools.partial\(out_features"):
        call(partial(nn.Linear, 3), {"colour": 1}, "model", {})


def test_what_is_built_in_and_tells_no_parameters_is_one_line():
    allow_imports("torch")
    with pytest.raises(OnespikeError, match=r"^model.class_path: torch.zeros is built in and has no signature; wrap"):
        ClassPath("torch.zeros").make("model")


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, AttributeError, KeyError, AssertionError])
def test_arguments_that_are_refused_are_one_line(error: type[Exception]):
    def make(weights: str) -> None:
        raise error(weights)

    with pytest.raises(OnespikeError, match=r"^model.init_args: .*make refuses {'weights': 'foo'}: '?foo'?$"):
        call(make, {"weights": "foo"}, "model", {})


def test_too_little_memory_is_no_refusal_of_arguments():
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"):
        call(raising(RuntimeError("CUDA out of memory")), {}, "model", {})


def test_arguments_of_any_depth_have_texts_for_keys():
    ClassPath("pkg.Net", {"a": [{"b": ({"c": 1},)}]})
    with pytest.raises(OnespikeError, match=r"^pkg.Net: init_args: checkpoints know no keys but texts, got .*; write"):
        ClassPath("pkg.Net", {"a": [0, {"b": ({1: 1},)}]})


def test_an_object_is_known_by_its_class_and_a_function_or_class_by_itself():
    paths = [ClassPath.of(one) for one in (nn.Linear(1, 1), nn.Linear, call)]
    assert [one.class_path for one in paths] == [*["torch.nn.modules.linear.Linear"] * 2, "onespike.classpath.call"]
    assert [one.name for one in paths] == ["Linear", "Linear", "call"]
    with pytest.raises(OnespikeError, match=r"^loss: .* pass it again \(loss=…\)$"):
        paths[0].make("loss")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Net", "model.class_path: expected a path such as pkg.Net, got 'Net'"),
        ("torchvision.Net", "model: torchvision.Net is not this package's, .*, add --import torchvision "),
        ("torchx.Net", "model: torchx.Net is not this package's"),
        ("torch.nn.Nothing", "model.class_path: there is no torch.nn.Nothing: .*Nothing"),
        ("torch.nowhere.Net", "model.class_path: there is no torch.nowhere.Net: No module named"),
        ("torch.pi", "model.class_path: expected a class or a function, torch.pi is 3.14"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_line(path: str, message: str):
    allow_imports("torch")
    with pytest.raises(OnespikeError, match=f"^{message}"):
        ClassPath(path).make("model")


def test_a_module_that_fails_is_named_with_the_line_and_trusted_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "broken_part.py").write_text("def deep():\n    raise KeyError('colour')\n\n\ndeep()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])
    with pytest.raises(OnespikeError, match=r"KeyError in .*broken_part\.py, line 2: 'colour'$"):
        allow_imports("broken_part")
    assert allowed() == []

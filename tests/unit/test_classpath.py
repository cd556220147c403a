"""What a class path leads to is called by what it is, whatever it is."""

from functools import partial

import pytest
from torch import nn

from onespike.classpath import ClassPath, allow_imports, call
from onespike.errors import OnespikeError


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


def test_arguments_of_any_depth_have_texts_for_keys():
    ClassPath("pkg.Net", {"a": [{"b": ({"c": 1},)}]})
    with pytest.raises(OnespikeError, match=r"^pkg.Net: init_args: checkpoints know no keys but texts, got .*; write"):
        ClassPath("pkg.Net", {"a": [{"b": ({1: 1},)}]})


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

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

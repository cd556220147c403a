"""Models that users register: their fields may be called as ours are, and their builders may look at values."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from onespike import OnespikeError, create_model
from onespike.models import MODELS, ModelConfig, model_config, register_model
from onespike.neurons import NeuronConfig


@dataclass(frozen=True)
class Fields(ModelConfig):
    """Fields of our names and of other types."""

    table: ClassVar[dict[str, int]] = {}
    name: str = "own"
    width: float = 0.5
    depth: str = "deep"
    depths: int = 3
    channels: tuple[float, ...] = (0.25,)
    _: KW_ONLY
    levels: int = 2


@dataclass(frozen=True)
class Either(ModelConfig):
    """A field of either of two types."""

    name: str = "own"
    drop: int | float = 0.5


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register a family for one test."""

    def register(config: type[ModelConfig], builder: Callable[..., nn.Module] = lambda *_: nn.Identity()) -> None:
        monkeypatch.setitem(MODELS, "own", None)
        register_model(config, {"own": {}})(builder)

    return register


def test_fields_of_other_types_are_not_judged_by_the_ranges_of_ours(own: Callable[..., None]) -> None:
    own(Fields)
    found = model_config("own", width="0.25", levels="4")
    assert (found.width, found.depth, found.depths, found.channels, found.levels) == (0.25, "deep", 3, (0.25,), 4)
    for wrong, said in (
        ({"levels": 0}, "levels: expected at least 1, got 0"),
        ({"depths": 1001}, "depths: expected at most 1,000, got 1001"),
        ({"table": {}}, "unknown option 'model.table'"),
        ({"_": 1}, "unknown option 'model._'"),
    ):
        with pytest.raises(OnespikeError, match=said):
            model_config("own", **wrong)


def test_a_field_of_either_of_two_types_is_refused(own: Callable[..., None]) -> None:
    own(Either)
    with pytest.raises(OnespikeError, match=r"^drop: its type is int \| float; expected one type, or one type or None"):
        Either()


TRIANGLE = NeuronConfig(surrogate="triangle", surrogate_width=2.0)


@dataclass(frozen=True)
class Nested(ModelConfig):
    """A nested config that is a default itself, not made by a factory."""

    name: str = "own"
    neuron: NeuronConfig = TRIANGLE


def test_a_nested_config_keeps_the_familys_values_however_they_are_written(own: Callable[..., None]) -> None:
    own(Nested)
    neuron = model_config("own", neuron={"threshold": 0.4}).neuron
    assert (neuron.threshold, neuron.surrogate, neuron.surrogate_width) == (0.4, "triangle", 2.0)


class Stateful(nn.Linear):
    """It saves more than tensors."""

    def get_extra_state(self) -> Any:
        return {"seen": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2, round(torch.linspace(2, 4, 3)[1].item())),
        lambda: Stateful(2, 3),
    ],
)
def test_a_builder_may_look_at_values_and_a_module_may_keep_more_than_tensors(
    make: Callable[[], nn.Linear], own: Callable[..., None]
) -> None:
    own(Fields, lambda *_: make())
    assert create_model("own").weight.shape == (3, 2)


def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(own: Callable[..., None]) -> None:
    own(Fields, lambda *_: nn.Sequential(Stateful(2, 3), nn.Linear(1 << 24, 1 << 24)))
    with pytest.raises(OnespikeError, match="model own: its weights take 1,048,576 GiB, of memory there are"):
        create_model("own")


@dataclass(frozen=True)
class NoConfig:
    name: str = "own"


def test_what_is_no_family_is_not_registered():
    with pytest.raises(
        OnespikeError, match=r"^register_model: expected a dataclass derived from ModelConfig, got .*No"
    ):
        register_model(NoConfig, {"own": {}})
    for name in ("", " ", "a\nb", 3):
        with pytest.raises(OnespikeError, match=r"^register_model: expected printable names of models, got "):
            register_model(Either, {name: {}})


def test_a_builder_that_makes_no_module_is_told(own):
    own(Fields, lambda *_: None)
    with pytest.raises(
        OnespikeError, match=r"^model own: expected its builder to make a torch\.nn\.Module, got a None"
    ):
        create_model("own")

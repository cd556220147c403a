import errno
import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from onespike.classpath import ClassPath, allow_imports
from onespike.data.loader import EvalLoader
from onespike.errors import OnespikeError
from onespike.models import OnespikeConfig
from onespike.training.checkpoint import Checkpoint, ModelCard, join_tensors, read_state, split_tensors
from onespike.training.recipe import Recipe
from onespike.training.run import Run
from tests.running import thorough


def make(value: float = 1.0) -> Checkpoint:
    config = OnespikeConfig(depths=(1,), channels=(4,), region_threshold=None)
    card = ModelCard(config, ("a", "b"), in_channels=1, image_size=4, mean=(0.5,), std=(0.2,), data="digits")
    weights = {name: torch.full_like(t, value) for name, t in card.build().state_dict().items()}
    return Checkpoint(card, weights, {"momentum": torch.arange(3.0)}, {"progress": {"epoch": 1}, "none": None})


def test_raw_images_are_normalised_as_they_were_in_training():
    run = Run.open("pretrained:digits-spiking-vgg-xs")
    card, test = run.checkpoint().card, run.dataset().test
    raw, _ = test.gather(np.arange(20))
    (expected, _), *_ = EvalLoader(test, card.mean, card.std, 20)
    assert torch.equal(card.normalised(raw.movedim(-1, 1)), expected)


@pytest.mark.parametrize(
    "raw",
    [torch.zeros(2, 1, 4, 4), *(torch.zeros(one).byte() for one in ((2, 4, 4, 1), (1, 4, 4), (1, 1, 4, 8)))],
)
def test_what_is_no_batch_of_raw_images_is_not_normalised(raw):
    with pytest.raises(OnespikeError, match=r"^pixels: expected uint8 \(B, 1, \d+, \d+\), got (uint8|float32) \("):
        make().card.normalised(raw)


def value_of(checkpoint: Checkpoint) -> float:
    return checkpoint.weights["head.weight"].flatten()[0].item()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    saved = make()
    saved.save(tmp_path / "last")
    loaded = Checkpoint.load(tmp_path / "last")
    assert loaded.card == saved.card
    assert loaded.weights.keys() == saved.weights.keys()
    assert all(torch.equal(loaded.weights[name], saved.weights[name]) for name in saved.weights)
    assert torch.equal(loaded.training["momentum"], saved.training["momentum"])
    assert (loaded.state["progress"], loaded.state["none"]) == ({"epoch": 1}, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_a_digest_is_of_the_weights_and_of_how_the_network_is_built(tmp_path: Path):
    saved = make()
    saved.save(tmp_path / "last")
    assert Checkpoint.load(tmp_path / "last").digest == saved.digest
    built = replace(saved, card=replace(saved.card, model=replace(saved.card.model, theta=0.3)))
    assert len({saved.digest, built.digest, make(2.0).digest}) == 3


def test_lazy_layers_of_a_class_path_take_their_sizes_from_blank_images():
    allow_imports("torch")
    card = replace(make().card, model=ClassPath("torch.nn.LazyLinear", {"out_features": 2}))
    before = torch.get_rng_state()
    weights = card.build().state_dict()
    assert weights["weight"].shape == (2, 4)
    assert torch.equal(before, torch.get_rng_state())
    network = Checkpoint(card, weights, {}, {}).network()
    assert (type(network), network.training) == (nn.Linear, False)
    assert torch.equal(network.weight, weights["weight"])


def test_channels_last_weights_are_saved_by_value(tmp_path: Path):
    weights = {"w": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)}
    Checkpoint(make().card, weights, {}, {}).save(tmp_path / "last")
    assert torch.equal(load_file(tmp_path / "last" / "model.safetensors")["w"], weights["w"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (math.inf, "Infinity is no finite number"),
        ([{"deep": math.nan}], "NaN is no finite number"),
        (nn.ReLU, "Object of type type is not JSON serializable"),
        (functools.reduce(lambda inner, _: [inner], range(250), 0), "more than 200 levels of lists"),
    ],
)
def test_arguments_that_no_checkpoint_could_be_read_with_are_refused_before_the_training(value: object, found: str):
    with pytest.raises(OnespikeError, match=f"^model.init_args: .*{found}.*; expected finite numbers, text, True"):
        replace(make().card, model=ClassPath("pkg.Net", {"clip": value}))


@pytest.mark.parametrize("moment", ["first rename", "second rename"])
def test_a_kill_while_renaming_leaves_a_whole_checkpoint(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(1.0).save(tmp_path / "last")
    rename, calls = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == ["first rename", "second rename"].index(moment) + 1:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        make(2.0).save(tmp_path / "last")
    monkeypatch.undo()
    assert value_of(Checkpoint.load(tmp_path / "last")) == 1.0
    make(3.0).save(tmp_path / "last")
    assert value_of(Checkpoint.load(tmp_path / "last")) == 3.0


def test_a_full_disk_is_an_error_that_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(1.0).save(tmp_path / "last")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OnespikeError, match=r"No space left.*--resume"):
        make(2.0).save(tmp_path / "last")
    monkeypatch.undo()
    assert value_of(Checkpoint.load(tmp_path / "last")) == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", thorough(["truncated", "flipped", "gone"], 2))
def test_a_damaged_checkpoint_is_refused_and_the_other_one_taken(
    name: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = Run(tmp_path / "run")
    run.begin(Recipe(model=make().card.model))
    make(1.0).save(run.best)
    make(2.0).save(run.last)
    path = run.last / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    with pytest.raises(OnespikeError, match=r"last is damaged"):
        Checkpoint.load(run.last)
    assert value_of(run.checkpoint("last")) == 1.0
    assert "damaged" in capsys.readouterr().err
    (run.best / name).unlink()
    with pytest.raises(OnespikeError, match="no usable checkpoint"):
        run.checkpoint("last")


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(torch.arange(3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None)
@given(trees)
def test_trees_of_tensors_survive_json(tree: object):
    def plain(node: object) -> object:
        if isinstance(node, torch.Tensor):
            return ("tensor", node.tolist())
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items()}
        return [plain(value) for value in node] if isinstance(node, list) else node

    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(split_tensors(tree, "root", tensors))
    assert plain(join_tensors(json.loads(text), tensors)) == plain(tree)


@pytest.mark.parametrize("value", [True, 3, 2.5, None])
def test_what_a_callback_adds_to_a_row_is_read_again(value) -> None:
    row = {"epoch": 1, "lr": 0.1, "train_loss": 1.0, "train_top1": 50.0, "valid_loss": None, "valid_top1": None}
    row |= {"epoch_seconds": 1.0, "images_per_second": 10.0, "mine": value}
    state = {"progress": {"epoch": 1, "history": [row]}, "sha256": {}}
    assert read_state(state) == state

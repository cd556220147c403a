"""What does not suit a training is refused in one line, before anything is written."""

import errno
import os
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.loss import JsdCrossEntropy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import TensorDataset

import onespike
from onespike import OnespikeError
from onespike.classpath import ClassPath, trust
from onespike.training import Pruning, run
from onespike.training.requirements import expect_loss
from onespike.training.set_up import set_up
from tests.forward import Forward
from tests.running import raising


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits * self.scale, labels)


class Silent(nn.Module):
    """It refuses whatever it gets, and does not say why."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.linear, self.error = nn.Linear(1024, 10), error

    def forward(self, *_: Tensor) -> Tensor:
        raise self.error


REFUSALS = (AssertionError, AttributeError, KeyError, IndexError)


class Forgetful(onespike.Callback):
    """Its state cannot be read again."""

    def state(self) -> dict[str, Any]:
        return {"seen": 1}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: ARG002
        raise AssertionError  # as a bare assert does


class Describing(nn.Linear):
    """It has more to save than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}


class Versioned(nn.Sequential):
    """A hook adds to its state what it does not load."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(1024, 10))
        self._register_state_dict_hook(lambda _self, state, prefix, _: state.update({f"{prefix}v": torch.ones(1)}))


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))


def sparse() -> nn.Module:
    network = plain()
    network[1].weight = nn.Parameter(torch.zeros(10, 1024).to_sparse())
    return network


def test_a_network_in_place_of_the_recipe(tmp_path: Path):
    with pytest.raises(OnespikeError, match=r"^recipe: expected a recipe, .* got a network: pass that as model=…$"):
        onespike.train(plain(), tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))}, "model: 1.weight has no values yet: show it"),
        ({"model": plain().to("meta")}, "model: 1.weight has no values yet: .* or load its weights"),
        ({"model": sparse()}, "model: 1.weight is torch.sparse_coo; expected a dense tensor: call its to_dense"),
        (
            {"model": nn.Sequential(nn.EmbeddingBag(9, 9, sparse=True))},
            "model: 0 has sparse gradients; .*: sparse=False",
        ),
        ({"model": 3}, "model: expected a torch.nn.Module, got a int"),
        ({"model": nn.DataParallel(nn.Linear(2, 2))}, "model: it is wrapped in DataParallel: pass its .module, and"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(2, 2, dtype=torch.complex64))}, "model: 1.weight is complex"),
        (
            {"model": nn.Sequential(nn.Flatten(), Describing(1024, 10))},
            "model: 1._extra_state is a dict, .*: remove its get_extra_state",
        ),
        ({"model": Versioned()}, "model: it does not load its own state_dict: .* Versioned: Unexpected key"),
        (
            {"data": TensorDataset(torch.rand(100, 1, 8, 8), torch.zeros(100).long())},
            "data: TensorDataset has one class, 0: expected two or more, to tell apart",
        ),
        ({"model": plain(), "callbacks": [3]}, "callbacks: expected onespike.Callback, got a int"),
        ({"model": plain(), "callbacks": Forgetful()}, "callbacks: expected a list of .*, got a Forgetful"),
        ({"model": plain(), "callbacks": None}, "callbacks: expected a list of .*, got a NoneType"),
        (
            {"model": plain(), "loss": nn.CrossEntropyLoss(reduction="none")},
            r"loss: expected a tensor of one number for logits \(2, 10\) and labels \(2,\), got shape \(2,\)",
        ),
        (
            {"model": plain(), "loss": lambda logits, labels: F.cross_entropy(logits[:1], labels)},
            r"loss: it does not take logits \(2, 10\) and labels \(2,\)",
        ),
        ({"model": plain(), "loss": nn.CrossEntropyLoss}, r"^loss: it does not take .*; it is a class: call it first"),
        ({"model": plain(), "loss": Scaled()}, "loss: its weight scale would not be trained: put it into the model"),
        *(
            (
                {"model": Silent(error)},
                rf"^model: with the images of digits, the network does not take .*: {error.__name__}:?$",
            )
            for error in REFUSALS
        ),
        *(
            (
                {"model": plain(), "loss": Silent(error).forward},
                rf"^loss: it does not take logits \(2, 10\) and labels \(2,\): {error.__name__}$",
            )
            for error in REFUSALS
        ),
    ],
)
def test_parts_that_do_not_suit(given: dict[str, Any], message: str, tmp_path: Path):
    recipe = onespike.load_recipe("digits", {"train.epochs": 1, "data.limit": 100})
    with pytest.raises(OnespikeError, match=message):
        onespike.train(recipe, tmp_path / "run", quiet=True, **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("section", ["model", "data", "loss"])
def test_arguments_that_no_file_holds_are_refused_before_anything_is_opened(section: str, monkeypatch):
    monkeypatch.setattr("onespike.training.set_up.open_dataset", raising(AssertionError("it was opened")))
    values = {f"{section}.class_path": "pkg.Mine", f"{section}.init_args.a": print}
    with pytest.raises(
        OnespikeError, match=rf"^{section}.init_args: Object of type builtin.* is not JSON serializable"
    ):
        set_up(onespike.load_recipe("digits", values))


def test_arguments_of_data_that_others_replace_may_be_anything():
    values = {"data.class_path": "pkg.Mine", "data.init_args.a": print}
    images = onespike.data.open_dataset(onespike.data.DataConfig(limit=100))
    assert set_up(onespike.load_recipe("digits", values), plain(), images).recipe.data.init_args == {}


def test_a_network_that_cannot_recompute_is_refused_again(tmp_path: Path):
    recipe, network = onespike.load_recipe("digits", {"data.limit": 100, "train.recompute": True}), plain()
    for _ in range(2):
        with pytest.raises(OnespikeError, match=r"^train.recompute: expected a network of the library"):
            onespike.train(recipe, tmp_path / "run", model=network, quiet=True)
        assert not hasattr(network, "recompute")


def test_in_several_processes_a_weight_that_does_not_reach_the_loss_is_named(tmp_path: Path):
    network = plain()
    network.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    made = set_up(
        onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0, "train.device": "cpu"}), network
    )
    distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        made.model = DistributedDataParallel(network)
        batches = made.batches.epoch(0)
        made.step(0, *next(batches))
        with pytest.raises(
            OnespikeError, match=r"^model: in several processes each weight must reach the loss: freeze"
        ):
            made.step(1, *next(batches))
    finally:
        distributed.destroy_process_group()


def test_pruning_by_held_out_images_needs_some():
    recipe = onespike.load_recipe("digits", {"data.limit": 100, "data.holdout": 0})
    with pytest.raises(OnespikeError, match=r"^pruning: there is no valid_top1 without held-out images: pass --data.h"):
        Pruning(None).start(set_up(recipe, plain()))
    row = {"epoch": 1, "train_loss": 0.5, "valid_loss": None}
    with pytest.raises(OnespikeError, match=r"there is no mine in metrics.csv; expected one of epoch, train_loss$"):
        Pruning(None, "mine").after_epoch(None, row)


class Closed(GeneralTracker):
    """A tracker that cannot be opened."""

    name, requires_logging_directory = "wandb", False

    def __init__(self, *_: object) -> None:
        raise RuntimeError("not logged in\nrun wandb login")


def test_a_tracker_that_cannot_be_opened_leaves_no_run(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Closed)
    monkeypatch.setattr("onespike.training.trackers.get_available_trackers", lambda: ["wandb", "tensorboard"])
    recipe = onespike.load_recipe("digits", {"data.limit": 100, "train.track": ["tensorboard", "wandb"]})
    message = r"^train.track: wandb, tensorboard cannot be opened: not logged in run wandb login$"
    with pytest.raises(OnespikeError, match=message):
        onespike.train(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(OnespikeError, match=message):
        onespike.train(recipe, tmp_path / "run", model=plain(), quiet=True)
    onespike.Run(tmp_path / "run").expect_free()


class Refusing(onespike.Callback):
    """It refuses the first step, once all else is open."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def before_step(self, trainer: Any, number: int) -> None:  # noqa: ARG002
        raise self.error


def test_a_resumption_that_is_refused_leaves_a_complete_run_as_it_is(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Closed)
    monkeypatch.setattr("onespike.training.trackers.get_available_trackers", lambda: ["wandb"])

    def trained(epochs: int, track: list[str], *callbacks: onespike.Callback) -> dict[str, Any]:
        values = {"data.limit": 100, "data.workers": 0, "train.epochs": epochs, "train.track": track}
        recipe = onespike.load_recipe("digits", values)
        return onespike.train(recipe, tmp_path, epochs > 1, model=plain(), callbacks=callbacks, quiet=True)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    trained(1, [])
    before = files()
    with pytest.raises(OnespikeError, match=r"^train.track: wandb cannot be opened"):
        trained(2, ["wandb"])
    assert files() == before
    monkeypatch.setattr("onespike.training.saving.draw_curves", lambda _, path: path.write_text("another hand's"))
    for error in (ValueError("not now"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            trained(2, [], Refusing(error))
        assert files() == before
    write = run.write_whole

    def full(path: Path, content: str | bytes) -> None:
        if path.name != "summary.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    class Filling(Refusing):
        def before_step(self, trainer: Any, number: int) -> None:
            monkeypatch.setattr(run, "write_whole", full)
            super().before_step(trainer, number)

    with pytest.raises(ValueError, match="not now"):
        trained(2, [], Filling(ValueError("not now")))
    monkeypatch.setattr(run, "write_whole", write)
    summary = tmp_path / "summary.json"
    assert summary.read_bytes() == before[summary]
    assert trained(2, [])["epochs"] == 2


class Failing(GeneralTracker):
    """A tracker that fails in one of its methods, with an error."""

    name, requires_logging_directory, tracker = "wandb", False, None
    method, error = "", Exception()

    def __init__(self, *_: object) -> None:
        super().__init__()

    def log(self, *_: object, **__: object) -> None:
        self._fail("log")

    def finish(self) -> None:
        self._fail("finish")

    def _fail(self, method: str) -> None:
        if method == self.method:
            raise self.error


@pytest.mark.parametrize(
    ("method", "error"), [("log", ConnectionError(111, "refused\nby its server")), ("finish", RuntimeError("gone"))]
)
def test_a_tracker_that_fails_later_does_not_end_the_training(
    method: str, error: Exception, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", type("Mine", (Failing,), {"method": method, "error": error}))
    monkeypatch.setattr("onespike.training.trackers.get_available_trackers", lambda: ["wandb", "tensorboard"])
    values = {"data.limit": 100, "data.workers": 0, "train.epochs": 1, "train.track": ["wandb", "tensorboard"]}
    onespike.train(onespike.load_recipe("digits", values), tmp_path / "run", model=plain(), quiet=True)
    said = f"warning: train.track: wandb: {' '.join(str(error).split())}; it is left out from here on\n"
    assert capsys.readouterr().err == said
    assert onespike.Run(tmp_path / "run").is_complete
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    assert len(read.Scalars("epoch/train_loss")) == 1, "the others go on"


def test_a_disk_that_is_full_for_a_tracker_is_full(tmp_path: Path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", type("Mine", (Failing,), {"method": "log", "error": full}))
    monkeypatch.setattr("onespike.training.trackers.get_available_trackers", lambda: ["wandb"])
    values = {"data.limit": 100, "data.workers": 0, "train.epochs": 1, "train.track": ["wandb"]}
    with pytest.raises(OnespikeError, match=r"^the disk of .* is full"):
        onespike.train(onespike.load_recipe("digits", values), tmp_path / "run", model=plain(), quiet=True)


def test_a_loss_of_each_step_wants_logits_of_each():
    def made(steps: int) -> nn.Module:
        images, layers = torch.rand(4, 1, 32, 32), [nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 10)]
        return onespike.convert(nn.Sequential(nn.Flatten(), *layers), images, time_steps=steps).network

    recipe = onespike.load_recipe("digits", {"data.limit": 100, "train.loss": "tet"})
    for network in (plain(), made(4)):  # which may have several steps, and has
        message = r"^train\.loss: tet expects logits of each time step \(T, B, K\), got \(2, 10\); use mean$"
        with pytest.raises(OnespikeError, match=message):
            set_up(recipe, network)
    set_up(recipe, made(1))
    set_up(recipe, plain(), loss=nn.CrossEntropyLoss())


def test_with_tet_a_loss_of_ones_own_gets_the_logits_of_each_step():
    values = {"data.limit": 100, "data.workers": 0, "train.loss": "tet", "model.time_steps": 2}
    recipe = onespike.load_recipe("digits", values | {"model.depths": [1], "model.channels": [4]})
    with pytest.raises(OnespikeError, match=r"^loss: it does not take logits \(2, 2, 10\) .*: take their mean in it$"):
        set_up(recipe, loss=nn.CrossEntropyLoss())
    made = set_up(recipe, loss=lambda logits, labels: F.cross_entropy(logits[-1], labels))
    made.step(0, *next(made.batches.epoch(0)))


def test_the_loss_that_was_passed_is_written_down_in_place_of_the_recipes():
    values = {"data.limit": 100, "loss.class_path": f"{__name__}.Silent"}
    recipe = onespike.load_recipe("digits", values)
    other = set_up(recipe, plain(), loss=nn.MultiMarginLoss()).recipe.loss
    assert (other.class_path, other.init_args) == ("torch.nn.modules.loss.MultiMarginLoss", None)
    same = replace(recipe, loss=ClassPath("torch.nn.modules.loss.MultiMarginLoss", {"margin": 2.0}))
    assert set_up(same, plain(), loss=nn.MultiMarginLoss()).recipe.loss == other
    assert set_up(recipe, plain(), loss=nn.MultiMarginLoss(), resumed=same).recipe.loss == same.loss


def test_the_network_that_was_passed_is_written_down_in_place_of_the_recipes():
    recipe = onespike.load_recipe("digits", {"data.limit": 100, "model.class_path": f"{__name__}.Leaky"})
    same = replace(recipe, model=ClassPath(f"{__name__}.Leaky", {"detached": False}))
    for resumed, expected in ((None, ClassPath(f"{__name__}.Leaky", None)), (same, same.model)):
        assert set_up(same, Leaky(detached=True), resumed=resumed).recipe.model == expected


@pytest.mark.parametrize("passed", ["always", "later"])
def test_a_run_of_a_class_goes_on_with_its_object_by_the_same_recipe(passed: str, tmp_path: Path):
    def trained(epochs: int, resume: bool) -> None:
        named = {"model.class_path": f"{__name__}.make", "model.init_args": {"width": 5}}
        own = {"data.limit": 100, "data.workers": 0, "train.epochs": epochs}
        network = make(5) if resume or passed == "always" else None
        onespike.train(onespike.load_recipe("digits", named | own), tmp_path, resume, model=network, quiet=True)

    trust(__name__)
    trained(1, resume=False)
    trained(2, resume=True)
    expected = {"width": 5} if passed == "later" else None
    assert run.Run.open(tmp_path).recipe.model.init_args == expected


def make(width: int) -> nn.Module:
    """A network by a function, whose class has another name."""
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, width), nn.Linear(width, 10))


class Counting(nn.Module):
    """A loss that knows how often it was called, and weighs by it."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("recent", torch.zeros(0))  # it grows
        self.register_buffer("share", None)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        self.recent = torch.cat([self.recent, logits.detach().mean()[None]])
        self.share = self.recent.mean()
        return F.cross_entropy(logits, labels) * (1 + self.calls)


def test_what_a_loss_keeps_is_resumed(tmp_path: Path):
    def trained(folder: str, epochs: int, resume: bool = False) -> Tensor:
        torch.manual_seed(0)
        values = {"train.epochs": epochs, "data.limit": 100, "data.workers": 0}
        loss = Counting()
        recipe = onespike.load_recipe("digits", values)
        onespike.train(recipe, tmp_path / folder, resume, model=plain(), loss=loss, quiet=True)
        return torch.cat([loss.calls[None], loss.recent, loss.share[None]])

    straight, half = trained("straight", 2), trained("stopped", 1)
    assert half[0] == straight[0] / 2, "what was tried before the first step is not counted"
    assert trained("stopped", 2, resume=True).equal(straight)


def test_a_loss_that_keeps_a_state_is_asked_for_again(tmp_path: Path):
    def trained(epochs: int, loss: Any, resume: bool = False) -> None:
        recipe = onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0, "train.epochs": epochs})
        onespike.train(recipe, tmp_path / type(loss).__name__, resume, model=plain(), loss=loss, quiet=True)

    trained(1, Counting())
    (tmp_path / "CrossEntropyLoss").symlink_to(tmp_path / "Counting")
    with pytest.raises(OnespikeError, match=r"was trained with a loss that kept a state: pass it again \(loss=…\)$"):
        trained(2, nn.CrossEntropyLoss(), resume=True)


def test_class_weights_may_change_when_a_run_goes_on(tmp_path: Path):
    def trained(epochs: int, weight: Tensor | None, resume: bool) -> None:
        recipe = onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0, "train.epochs": epochs})
        loss = nn.CrossEntropyLoss(weight)
        onespike.train(recipe, tmp_path, resume, model=plain(), loss=loss, quiet=True)
        assert weight is None or loss.weight.equal(weight)

    trained(1, torch.ones(10), resume=False)
    trained(2, 2 * torch.ones(10), resume=True)
    trained(3, None, resume=True)


def test_a_loss_that_cannot_be_copied_trains():
    class Locked(nn.CrossEntropyLoss):
        def __init__(self) -> None:
            super().__init__()
            self.lock = Lock()

    recipe = onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0})
    made = set_up(recipe, plain(), loss=Locked())
    made.step(0, *next(made.batches.epoch(0)))


def test_a_twin_has_a_loss_of_its_own(small: Any, tmp_path: Path):
    recipe, loss = small(train__teacher="twin", train__epochs=1, train__mixup=0.0), Counting()
    onespike.train(recipe, tmp_path / "run", loss=loss, quiet=True)
    kept = run.Run.open(tmp_path / "run" / "teacher").checkpoint("last").training
    (calls,) = (one for name, one in kept.items() if name.endswith("calls"))
    assert calls == loss.calls > 0


def test_random_numbers_of_a_callback_depend_on_the_step_alone():
    class Drawing(onespike.Callback):
        def before_step(self, trainer: Any, number: int) -> None:  # noqa: ARG002
            self.drawn = torch.rand(())

    def drawn(*steps: int) -> Tensor:
        callback = Drawing()
        made = set_up(recipe, plain(), callbacks=[callback])
        for number in steps:
            made.step(number, *next(made.batches.epoch(0)))
        return callback.drawn

    def loss(*callbacks: onespike.Callback) -> float:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(1024, 10))
        made = set_up(recipe, network, callbacks=callbacks)
        return made.step(0, *next(made.batches.epoch(0)))[0]

    recipe = onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0})
    assert drawn(0, 1) == drawn(1) != drawn(0)
    assert loss(Drawing()) == loss(), "the training's own are as if it had drawn none"


def test_a_penalty_without_a_gradient_is_refused():
    class Mistaken(onespike.Callback):
        def penalty(self, trainer: Any, images: int) -> float:  # noqa: ARG002
            return trainer.network[1].weight.norm().item()

    recipe = onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0})
    made = set_up(recipe, plain(), callbacks=[Mistaken()])
    with pytest.raises(OnespikeError, match=r"^callbacks: the penalty of Mistaken is a number, .*: return a tensor"):
        made.step(0, *next(made.batches.epoch(0)))


def test_images_are_evaluated_in_the_parts_that_fit_in_training():
    values = {"data.limit": 100, "data.workers": 0, "train.batch_size": 32, "train.accumulate": 8}
    made = set_up(onespike.load_recipe("digits", values), plain())
    for batches in (made.test, made.held_out):
        assert max(len(labels) for _, labels in batches) == 4


def test_a_loss_has_the_precision_of_the_training():
    recipe = onespike.load_recipe("digits", {"data.limit": 100, "train.precision": "fp64", "train.mixup": 0.0})
    set_up(recipe, plain(), loss=nn.CrossEntropyLoss(weight=torch.ones(10)))


def test_logits_without_a_gradient_are_named():
    network = plain()
    network.register_forward_hook(lambda _module, _given, logits: logits.detach())
    made = set_up(onespike.load_recipe("digits", {"data.limit": 100, "data.workers": 0}), network)
    with pytest.raises(OnespikeError, match=r"^model: in training its logits have no gradient; .* no_grad and detach$"):
        made.step(0, *next(made.batches.epoch(0)))


class Leaky(nn.Linear):
    """It keeps a potential from batch to batch, its graph, too, if it is not detached."""

    potential: Tensor | float = 0.0

    def __init__(self, detached: bool) -> None:
        super().__init__(1024, 10)
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        before = self.potential if isinstance(self.potential, Tensor) and len(self.potential) == len(x) else 0.0
        self.potential = torch.sigmoid(super().forward(x.flatten(1)) + before)
        logits = self.potential
        self.potential = logits.detach() if self.detached else logits
        return logits


class Beside(nn.Linear):
    """Its answers depend on the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1) - x.mean())


class Drawing(nn.Linear):
    """It draws, for each image of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.rand_like(x).flatten(1) + x.flatten(1))


@pytest.mark.parametrize(("network", "warned"), [(Beside(1024, 10), True), (Drawing(1024, 10), False)])
def test_an_answer_that_depends_on_the_batch_is_told(network: nn.Module, warned: bool, capsys):
    set_up(onespike.load_recipe("digits", {"data.limit": 200, "data.workers": 0}), network)
    assert ("depends on the other images of the batch" in capsys.readouterr().err) == warned


def test_batch_norm_without_running_statistics_is_told(capsys: pytest.CaptureFixture):
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, 4), norm, onespike.neurons.LIF(8), nn.Flatten(), nn.Linear(512, 10))
    set_up(onespike.load_recipe("digits", {"data.limit": 200, "data.workers": 0}), network)
    assert "depends on the other images of the batch" in capsys.readouterr().err


class Centred(nn.Linear):
    """It subtracts a running mean, a buffer that may not be saved."""

    mean: Tensor

    def __init__(self, saved: bool, num_classes: int = 10) -> None:
        super().__init__(1024, num_classes)
        self.register_buffer("mean", torch.zeros(1024), persistent=saved)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.training:
            self.mean.lerp_(x.detach().mean(0) + 1, 0.5)
        return super().forward(x - self.mean)


@pytest.mark.parametrize("saved", [True, False])
def test_what_training_changed_and_nobody_saved_is_told(saved: bool, tmp_path: Path, capsys: pytest.CaptureFixture):
    values = {"model.class_path": f"{__name__}.Centred", "model.init_args": {"saved": saved}, "train.epochs": 1}
    recipe = onespike.load_recipe("digits", values | {"data.limit": 200, "data.workers": 0})
    trust(__name__)
    onespike.train(recipe, tmp_path / "run", quiet=True)
    assert ("training changed more of it than is saved" in capsys.readouterr().err) != saved
    onespike.train(recipe, tmp_path / "passed", model=Centred(saved), quiet=True)
    assert ("training changed more of it than is saved" in capsys.readouterr().err) != saved


class Sharp(nn.Linear):
    """Its answers depend on how numbers are rounded, as those of neurons at their threshold do."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return (1e3 * super().forward(x.flatten(1))).sin()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rounding_is_not_taken_for_a_lost_state(precision: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    values = {"model.class_path": f"{__name__}.Sharp", "train.epochs": 1, "train.precision": precision}
    trust(__name__)
    recipe = onespike.load_recipe("digits", values | {"data.limit": 200, "data.workers": 0})
    onespike.train(recipe, tmp_path / "run", quiet=True)
    assert "training changed more of it" not in capsys.readouterr().err


def test_a_loss_that_adds_up_images_takes_no_batch_in_parts():
    logits = torch.zeros(2, 10)

    def total(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    expect_loss(total, logits, soft=False)
    expect_loss(F.cross_entropy, logits, soft=False, parts=2)
    expect_loss(F.cross_entropy, logits, soft=True, parts=2)
    for soft in (True, False):
        with pytest.raises(
            OnespikeError, match=r"^loss: it sums over images, and a batch of 2 parts takes the mean of"
        ):
            expect_loss(total, logits, soft, parts=2)
    recipe = onespike.load_recipe("digits", {"data.limit": 200, "train.accumulate": 2})
    with pytest.raises(OnespikeError, match=r"^loss: it sums over images"):
        set_up(recipe, plain(), loss=total)


def test_a_network_that_changes_its_images_in_place_keeps_nothing(capsys: pytest.CaptureFixture):
    class InPlace(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.sub_(0.5).flatten(1))

    set_up(onespike.load_recipe("digits", {"data.limit": 200, "data.workers": 0}), InPlace(1024, 10))
    assert "model:" not in capsys.readouterr().err


@pytest.mark.parametrize("detached", [True, False])
def test_a_state_that_nobody_resets_is_told(detached: bool, capsys: pytest.CaptureFixture):
    made = set_up(onespike.load_recipe("digits", {"data.limit": 200, "data.workers": 0}), Leaky(detached))
    assert "it answers the same images differently the second time" in capsys.readouterr().err
    first, second = islice(made.batches.epoch(0), 2)
    made.step(0, *first)
    with nullcontext() if detached else pytest.raises(OnespikeError, match=r"^model: it goes on from the batch before"):
        made.step(1, *second)


def test_draws_are_no_state(capsys: pytest.CaptureFixture):
    drawing = Forward(lambda net, x: net.linear(torch.rand_like(x).flatten(1)), linear=nn.Linear(1024, 10))
    set_up(onespike.load_recipe("digits", {"data.limit": 100}), drawing)
    assert capsys.readouterr().err == ""


def test_weights_that_are_computed_cannot_be_rounded_to_8_bits():
    network = plain()
    weight_norm(network[1])
    recipe = onespike.load_recipe("digits", {"data.limit": 100, "train.int8_weights": True})
    with pytest.raises(OnespikeError, match=r"^train\.int8_weights: 1\.weight is computed from other tensors;"):
        set_up(recipe, network)
    set_up(recipe, plain())


def test_a_loss_of_splits_gets_a_label_for_each_image_and_logits_for_each_split():
    splits = {"data.augmix_splits": 3, "train.mixup": 0.0, "data.limit": 100, "data.workers": 0}
    recipe = onespike.load_recipe("digits", splits)
    made = set_up(recipe, plain(), loss=JsdCrossEntropy(3))
    made.step(0, *next(made.batches.epoch(0)))
    with pytest.raises(OnespikeError, match=r"^loss: it does not take logits \(6, 10\) and labels \(2,\)"):
        set_up(recipe, plain(), loss=nn.CrossEntropyLoss())


def test_a_loss_of_classes_that_meets_soft_labels_hears_of_mixup():
    with pytest.raises(OnespikeError, match=r"labels \(2, 3\): .*; Mixup makes labels soft: --train.mixup 0$"):
        expect_loss(nn.MultiMarginLoss(), torch.zeros(2, 3), soft=True)


def test_a_state_that_is_refused_without_a_reason_is_named_by_the_error(tmp_path: Path):
    def trained(epochs: int, resume: bool) -> None:
        recipe = onespike.load_recipe("digits", {"train.epochs": epochs, "data.limit": 100, "data.workers": 0})
        onespike.train(recipe, tmp_path, resume, model=plain(), callbacks=[Forgetful()], quiet=True)

    trained(1, resume=False)
    with pytest.raises(OnespikeError, match=r"^the checkpoint of .* is damaged: AssertionError$"):
        trained(2, resume=True)

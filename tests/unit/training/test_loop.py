import math
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import TensorDataset

from onespike.data.dataset import Dataset
from onespike.data.loader import EvalLoader
from onespike.data.sets import ImageSet
from onespike.errors import OnespikeError
from onespike.evaluation import evaluate
from onespike.models import create_model, model_config
from onespike.models.strict_layers import TiedConv
from onespike.neurons import Neuron, NeuronConfig, make_neuron
from onespike.training import Diverged, Stopped, load_recipe, train
from onespike.training.callbacks import Callback, Monitor, MovingAverage, Step
from onespike.training.checkpoint import Checkpoint
from onespike.training.config import TrainConfig
from onespike.training.display import Display, _next
from onespike.training.interrupt import Interrupt
from onespike.training.loop import expect_numbers, finish_epoch, train_epoch
from onespike.training.monitor import SpikeMonitor
from onespike.training.progress import Progress
from onespike.training.run import Run
from onespike.training.saving import Saving
from onespike.training.scores import score
from onespike.training.set_up import learn_from, set_up
from onespike.training.trainer import Trainer
from tests.running import raising, thorough

QUIET = {"model__encoding": "threshold", "model__norm": "none", "model__dropout": 0.0, "train__mixup": 0.0}


def some_steps(recipe, steps: int) -> dict[str, torch.Tensor]:
    made = set_up(recipe)
    made.network.train()
    batches = list(made.batches.epoch(0))[:steps]
    for number, (images, labels) in enumerate(batches):
        made.step(number, images, labels)
    return made.network.state_dict()


@pytest.mark.parametrize(
    ("side", "frames", "expected"), [(32, 1, 10), (64, 1, 10), (128, 1, 2), (256, 1, 1), (32, 4, 10), (64, 5, 2)]
)
def test_layers_learn_from_fewer_of_large_images_and_of_many_frames(side, frames, expected, monkeypatch):
    class Learner(torch.nn.Module):
        def learn_from(self, images: torch.Tensor) -> None:
            seen.append(tuple(images.shape))

    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr("onespike.training.set_up.LEARNT_FROM", 10)
    shape = (12, side, side, frames, 1) if frames > 1 else (12, side, side, 1)
    images = ImageSet(np.zeros(shape, np.uint8), np.arange(12) % 2, np.arange(12))
    described = {"name": "some", "classes": ("0", "1"), "mean": (0.5,), "std": (0.5,)}
    learn_from(Learner(), Dataset.of({"train": images, "test": images}, **described))
    assert seen == [(frames * expected, 1, side, side)]


def test_a_whitening_that_nothing_has_set_is_set_by_the_images_in_a_network_that_was_passed_too(small):
    recipe = replace(small(train__mixup=0.0), model=model_config("spiking-vgg-xs", width=4))

    def whitening(network: torch.nn.Module | None = None) -> torch.Tensor:
        return set_up(recipe, network).network.stem[0].weight

    passed = create_model("spiking-vgg-xs", width=4, in_channels=1)
    expected = whitening()
    assert torch.equal(whitening(passed), expected)
    for value in (3.0, 4.0):  # loaded, and then passed again
        state = {name: one.clone() for name, one in passed.state_dict().items()}
        passed.load_state_dict(state | {"stem.0.weight": torch.full_like(expected, value)})
        assert (whitening(passed) == value).all()


def test_a_moving_average_of_a_network_that_was_passed_has_its_whitening(small):
    recipe = replace(small(train__mixup=0.0, train__ema=0.9), model=model_config("spiking-vgg-xs", width=4))
    trainer = set_up(recipe, create_model("spiking-vgg-xs", width=4, in_channels=1))
    with trainer.averaged():
        assert torch.equal(trainer.network.stem[0].weight, set_up(recipe).network.stem[0].weight)
    assert torch.equal(trainer.checkpoint().weights["stem.0.weight"], trainer.network.stem[0].weight)


def test_a_whitening_under_a_norm_that_has_seen_images_stays(small):
    recipe = replace(small(train__mixup=0.0), model=model_config("spiking-vgg-xs", width=4))
    passed = create_model("spiking-vgg-xs", width=4, in_channels=1)
    before = passed.stem[0].weight.clone()
    passed.train()(torch.randn(2, 1, 32, 32))
    assert torch.equal(set_up(recipe, passed).network.stem[0].weight, before)


def test_a_network_that_is_refused_keeps_its_whitening(small):
    recipe = replace(small(train__mixup=0.0), model=model_config("spiking-vgg-xs", width=4))
    for loss, channels, said in ((lambda *_: 1.0, 1, "loss"), (None, 3, "model")):
        passed = create_model("spiking-vgg-xs", width=4, in_channels=channels)
        before = passed.stem[0].weight.clone()
        with pytest.raises(OnespikeError, match=f"^{said}"):
            set_up(recipe, passed, loss=loss)
        assert torch.equal(passed.stem[0].weight, before)
        assert not passed.stem[0].is_set
    grey = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), create_model("spiking-vgg-xs", width=4))
    with pytest.raises(OnespikeError, match=r"^whitening: expected images of 3 channels, got 1"):
        set_up(recipe, grey)


def test_a_layer_that_does_not_say_whether_it_is_set_keeps_what_it_is_passed_with(small):
    class Learner(torch.nn.Linear):
        def learn_from(self, images: torch.Tensor) -> None:  # noqa: ARG002
            raise AssertionError

    set_up(small(train__mixup=0.0), torch.nn.Sequential(torch.nn.Flatten(), Learner(1024, 10)))


def test_images_from_python_get_the_side_that_is_asked_for(small, tmp_path):
    images = TensorDataset(torch.zeros(40, 1, 16, 16, dtype=torch.uint8), torch.arange(40) % 2)
    made, run = set_up(small(data__image_size=8), data=images), Run(tmp_path / "run")
    assert (made.data.image_size, made.card.image_size) == (8, 8)
    run.begin(made.recipe)
    assert run.dataset(images).image_size == 8


@pytest.mark.parametrize("clip", [20.0, 0.01])
def test_a_step_is_the_recipe_written_out_in_plain_torch(clip, small):
    options = {"train__optimizer": "momentum", "train__lr": 0.1, "train__weight_decay": 0.01, "train__clip_grad": clip}
    recipe, norms = small(**QUIET, train__precision="fp64", **options), []
    got = some_steps(recipe, 3)
    made = set_up(recipe)
    network, steps = made.network, recipe.train.epochs * len(made.batches)
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for number, (images, labels) in enumerate(list(made.batches.epoch(0))[:3]):
        loss = F.cross_entropy(network(images), labels, label_smoothing=recipe.train.label_smoothing)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        norms.append(norm.item())
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * number / steps))
        with torch.no_grad():
            for (name, p), gradient in zip(network.named_parameters(), gradients, strict=True):
                clipped = gradient * min(1.0, recipe.train.clip_grad / (norm.item() + 1e-6))
                decayed = clipped + (0.01 * p if p.ndim > 1 else 0)
                velocity[name] = 0.9 * velocity[name] + decayed
                p -= rate * velocity[name]
    expected = network.state_dict()
    assert all(torch.allclose(got[name], expected[name], rtol=0, atol=1e-9) for name in got)
    assert (min(norms) > clip) == (clip == 0.01), "the small one clips every step, the large one none"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp64", torch.float64)]
)
def test_layers_compute_in_the_precision_asked_for_in_training_and_in_tests(precision, dtype, small):
    made, seen = set_up(small(train__precision=precision, train__device="cpu")), set[torch.dtype]()
    layer = next(one for one in made.network.modules() if isinstance(one, torch.nn.Conv2d))
    layer.register_forward_hook(lambda _module, _given, out: seen.add(out.dtype))
    made.step(0, *next(made.batches.epoch(0)))
    assert seen == {dtype}
    seen.clear()
    made.evaluate(made.held_out)
    assert seen == {dtype}


def test_mixup_mixes_images_and_smoothed_labels_by_one_share(small):
    made = set_up(small(**QUIET | {"train__mixup": 5.0}, train__precision="fp64"))
    seen, targets, own = [], [], made.loss
    made.network.register_forward_pre_hook(lambda _module, given: seen.append(given[0].clone()))
    made.loss = lambda logits, labels: (targets.append(labels), own(logits, labels))[1]
    images, labels = next(made.batches.epoch(0))
    made.step(0, images.clone(), labels)
    (mixed,), other, images = seen, images.flip(0).double(), images.double()
    share = (((mixed - other) * (images - other)).sum() / (images - other).square().sum()).item()
    assert 0.05 < share < 0.95
    torch.testing.assert_close(mixed, share * images + (1 - share) * other)
    smooth = F.one_hot(labels, 10).double() * 0.9 + 0.01
    torch.testing.assert_close(targets[0], share * smooth + (1 - share) * smooth.flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"train__accumulate": 4}, {"train__mixup": 5.0}], ids=["plain", "parts", "mixup"])
def test_hits_of_steps_and_the_row_of_their_epoch_by_hand(more, small):
    class Noting(Callback):
        def after_step(self, trainer, step):  # noqa: ARG002
            told.append(step)

    answers, steps, told = [], [], []
    made = set_up(small(**QUIET | more, train__norm_lr_factor=3.0), callbacks=[Noting()])
    torch.nn.init.normal_(made.network.head.weight)
    loss, step = made.loss, made.step
    made.loss = lambda *both: answers.append([one.detach().clone() for one in both]) or loss(*both)
    made.step = lambda *batch: steps.append(step(*batch)) or steps[-1]
    for callback in made.callbacks:
        callback.start(made)
    made.progress.start_clock()
    with Interrupt() as interrupt:
        train_epoch(made, interrupt)
    row, smoothing = finish_epoch(made), 0 if made.mixup else 0.1
    right = [logits.argmax(1) == (labels.argmax(1) if labels.ndim > 1 else labels) for logits, labels in answers]
    hits = torch.cat(right).view(8, 16).sum(1).tolist()  # 8 steps of 16 images
    losses = [F.cross_entropy(*both, label_smoothing=smoothing).item() for both in answers]
    assert sum(hits) > 0
    assert [found for _, found in steps] == hits
    assert row["train_top1"] == pytest.approx(100 * sum(hits) / 128)
    assert row["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    rates = [made.config.lr * 0.5 * (1 + math.cos(math.pi * number / 16)) for number in range(8)]
    assert told == [Step(number, steps[number][0], 16, pytest.approx(rate)) for number, rate in enumerate(rates)]
    assert row["lr"] == told[-1].lr, "that of the weights"
    assert row["images_per_second"] == pytest.approx(128 / row["epoch_seconds"])


def test_augmix_is_cross_entropy_and_divergence_in_parts_too(small):
    options = {**QUIET, "train__precision": "fp64", "data__augmix_splits": 3, "data__workers": 0}
    losses, weights = [], []
    for parts in (1, 2):
        made = set_up(small(**options, train__accumulate=parts))
        torch.manual_seed(0)
        torch.nn.init.normal_(made.network.head.weight)
        images, labels = next(made.batches.epoch(0))
        logits = made.network.train()(images.double()).detach()
        losses.append(made.step(0, images, labels)[0])
        weights.append(made.network.state_dict())
    views = [one.softmax(1) for one in logits.chunk(3)]
    mixture = (sum(views) / 3).log()
    divergence = sum(F.kl_div(mixture, view, reduction="batchmean") for view in views) / 3
    assert divergence > 1e-4
    expected = F.cross_entropy(logits.chunk(3)[0], labels, label_smoothing=0.1) + 12 * divergence
    assert losses == pytest.approx([expected.item()] * 2, rel=1e-6)
    assert all(torch.allclose(weights[0][name], weights[1][name], rtol=0, atol=1e-12) for name in weights[0])


@pytest.mark.parametrize(("capability", "precision"), [("AVX2", "bf16"), ("AVX512", "bf16"), ("AVX2", "fp32")])
def test_that_bf16_is_emulated_is_said(capability, precision, small, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    display = Display()
    display.start(set_up(small(train__precision=precision, train__device="cpu")))
    display.close()
    said = "has no instructions for bf16" in " ".join(capsys.readouterr().out.split())
    assert said == ((capability, precision) == ("AVX2", "bf16"))


@pytest.mark.parametrize(
    ("passed", "modules", "then"),
    [
        ((), [], "onespike evaluate 'my run'; onespike inspect 'my run' --sample 0"),
        ((), ["pkg"], "onespike evaluate 'my run' --import pkg; onespike inspect 'my run' --sample 0 --import pkg"),
        (("model",), [], "onespike.evaluate('my run', model=…)"),
        (("model", "data"), ["pkg"], "onespike.evaluate('my run', model=…, data=…)"),
        (("data",), [], "onespike.evaluate('my run', data=…)"),
    ],
)
def test_what_to_do_next_with_a_run_is_what_works(passed, modules, then, small, monkeypatch):
    monkeypatch.setattr("onespike.classpath.allowed", lambda: modules)
    images = TensorDataset(torch.zeros(200, 1, 16, 16), torch.arange(200) % 10)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 10))
    parts = {"model": network, "data": images}
    made = set_up(small(), **{name: parts[name] for name in passed})
    assert _next(made.recipe, Path("my run")) == then


@pytest.mark.parametrize("hoyer", [0.0, 0.01])
def test_accumulating_in_parts_is_the_same_step(small, hoyer):
    whole = some_steps(small(**QUIET, train__precision="fp64", train__hoyer=hoyer), 2)
    parts = some_steps(small(**QUIET, train__precision="fp64", train__hoyer=hoyer, train__accumulate=4), 2)
    assert all(torch.allclose(whole[name], parts[name], rtol=0, atol=1e-12) for name in whole)


def test_a_network_that_was_passed_computes_in_its_own_precision_again(small, tmp_path: Path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    recipe = small(train__precision="bf16", train__epochs=1, data__limit=60)
    train(recipe, tmp_path / "run", model=network, quiet=True)
    images = torch.randn(4, 1, 32, 32)
    assert torch.equal(network(images), F.linear(images.flatten(1), network[1].weight, network[1].bias))
    assert not vars(network).keys() & {"forward", "_original_forward", "_is_accelerate_prepared"}


@pytest.mark.parametrize(
    ("weights", "precision", "warned"),
    [
        (torch.float64, "fp32", True),
        (torch.float64, "fp64", False),
        (torch.float32, "fp64", False),
        (torch.bfloat16, "fp32", False),
    ],
)
def test_a_network_whose_weights_lose_digits_is_warned_of(weights, precision, warned, small, capsys):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10)).to(weights)
    set_up(small(train__precision=precision, train__device="cpu"), network)
    said = "warning: model: its weights are float64, and become float32: train.precision fp64 keeps them\n"
    assert capsys.readouterr().err == (said if warned else "")


def test_a_network_that_somebody_has_prepared_computes_in_the_recipes_precision_all_the_same(small):
    network, seen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10)), []
    network._is_accelerate_prepared = True  # as accelerate leaves it
    made = set_up(small(train__precision="bf16", train__device="cpu"), network)
    network[1].register_forward_hook(lambda _module, _given, out: seen.append(out.dtype))
    made.step(0, *next(made.batches.epoch(0)))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("refused", [{"train__track": ["nowhere"]}, {}], ids=["tracker", "whitening"])
def test_a_network_that_is_refused_is_left_as_it_was(small, refused, tmp_path: Path):
    recipe = small(train__precision="bf16", train__device="cpu", train__recompute=True, **refused)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), create_model("spiking-vgg-xs", width=4))
    network.recompute = False
    with pytest.raises(
        OnespikeError, match=r"^unknown train.track 'nowhere'|^whitening: expected images of 3 channels"
    ):
        train(recipe, tmp_path / "run", model=network, quiet=True)
    assert not network.recompute
    assert not vars(network).keys() & {"forward", "_original_forward", "_is_accelerate_prepared"}


def test_a_network_may_say_itself_that_it_recomputes_nothing(small, tmp_path: Path):
    class Fixed(torch.nn.Sequential):
        @property
        def recompute(self) -> bool:
            return False

    network = Fixed(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    train(small(train__epochs=1, data__limit=60), tmp_path, model=network, quiet=True)


def test_a_forward_that_a_network_was_given_is_given_back(small, tmp_path: Path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    network.forward = given = lambda images: 2 * network[1](network[0](images))
    recipe = small(train__precision="bf16", train__epochs=1, data__limit=60)
    train(recipe, tmp_path / "run", model=network, quiet=True)
    assert network.forward is given
    assert network(torch.randn(4, 1, 32, 32)).dtype == torch.float32


def test_a_callbacks_columns_are_read_again_whoever_made_their_numbers(small, tmp_path: Path):
    class Mine(Callback):
        def measure(self, trainer, row):  # noqa: ARG002
            row |= {"a": np.float32(1.5), "b": torch.tensor(2), "c": np.True_, "d": None}

    train(small(train__epochs=1, data__limit=60), tmp_path / "run", callbacks=[Mine()], quiet=True)
    (row,) = Run.open(tmp_path / "run").checkpoint().state["progress"]["history"]
    assert [row[name] for name in "abcd"] == [1.5, 2, True, None]


@pytest.mark.parametrize("value", [math.nan, np.float32("inf"), "text", torch.zeros(2), [1.0]], ids=str)
def test_a_column_that_no_checkpoint_could_be_read_with_is_named(value):
    with pytest.raises(OnespikeError, match=r"^Mine: its column loss is .*; expected a finite number, .* its measure$"):
        expect_numbers({"epoch": 1, "loss": value}, "Mine", 1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epoch", 0, "the row after its measure: expected epoch 1, got 0"),
        ("lr", None, "the row after its measure: lr: expected a number, got None"),
        ("train_loss", True, "the row after its measure: train_loss: expected a number, got True"),
        (3, 1.0, "expected text for the name of a column, got 3; mend its measure"),
    ],
)
def test_a_column_of_the_runs_own_that_a_callback_spoils_is_named(name, value, said):
    row = {"epoch": 1, "lr": 0.1, "train_loss": 1.0, "train_top1": 50.0, "valid_loss": None, "valid_top1": None}
    row |= {"epoch_seconds": 1.0, "images_per_second": 10.0}
    expect_numbers(row, "Mine", 1)
    with pytest.raises(OnespikeError, match=f"^Mine: {said}$"):
        expect_numbers({**row, name: value}, "Mine", 1)


def test_bf16_trains_and_keeps_weights_in_fp32(small, tmp_path: Path):
    train(small(train__precision="bf16", train__epochs=1, data__limit=60), tmp_path / "run")
    state = Run.open(tmp_path / "run").checkpoint().weights
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"data__auto_augment": "original"},
        {"data__augmix_splits": 3, "train__mixup": 0.0},
        {"data__random_erasing": 0.5},
    ],
    ids=["autoaugment", "augmix", "erasing"],
)
def test_policies_train(small, overrides, tmp_path: Path):
    short = {"data__workers": 0, "data__limit": 60, "train__epochs": 1, "train__accumulate": 2}
    assert train(small(**short, **overrides), tmp_path / "run")["epochs"] == 1


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_try(small, tmp_path: Path):
    recipe = small(train__lr=1e30, train__clip_grad=0.0, model__norm="none", train__epochs=3)
    with pytest.raises(OnespikeError) as error:
        train(recipe, tmp_path / "run")
    message = str(error.value)
    assert "\n" not in message
    for part in ("epoch 1", "--train.lr", "--train.warmup_epochs", "--model.norm batch"):
        assert part in message
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("held_out", "held-out images of epoch 1 is no finite number"),
        ("test", "test images is no longer a finite number"),
    ],
)
def test_a_loss_of_images_that_nobody_trains_on_stops_the_run_if_it_is_no_number(
    small, part, said, tmp_path, monkeypatch
):
    evaluate = Trainer.evaluate

    def failing(self, batches, **how):
        scores = evaluate(self, batches, **how)
        return replace(scores, loss=math.nan) if batches is getattr(self, part) else scores

    monkeypatch.setattr(Trainer, "evaluate", failing)
    with pytest.raises(Diverged, match=rf"^the loss on the {said}"):
        train(small(train__epochs=1, data__limit=60), tmp_path / "run", quiet=True)
    assert not Run.open(tmp_path / "run").is_complete


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_penalty_that_is_no_number_stops_the_run_as_the_loss_does(small, value, tmp_path):
    class Mine(Callback):
        def penalty(self, trainer, images):  # noqa: ARG002
            return trainer.network.head.weight.sum() * 0 + value

    with pytest.raises(Diverged, match=r"^the loss is no longer a finite number, in epoch 1, step 1"):
        train(small(train__epochs=1, data__limit=60), tmp_path / "run", callbacks=[Mine()], quiet=True)


@pytest.mark.parametrize("average", [False, True])
def test_weights_that_are_not_finite_are_not_saved(small, average):
    trainer = set_up(small(train__ema=0.9, data__limit=60))
    with trainer.averaged() if average else nullcontext():
        trainer.network.head.bias.data[0] = math.inf
    with pytest.raises(
        Diverged, match=r"^the weights head\.bias are no longer finite numbers, after 0 epochs and 0 steps: "
    ):
        trainer.checkpoint()


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_what_to_try_against_bad_numbers_is_another_precision_only_if_there_is_a_better_one(precision, small):
    said = str(set_up(small(train__precision=precision, train__device="cpu")).diverged("it is no number"))
    assert said.startswith("it is no number: try a lower --train.lr")
    assert ("--train.precision fp32" in said) == (precision == "bf16")


def test_of_several_processes_one_that_was_asked_to_stop_goes_on_until_all_know_it():
    class Batches(list):
        def epoch(self, _epoch, start):
            return self[start:]

    def steps(processes: int) -> list[int]:
        def after_step(number: int, *_: object) -> None:
            done.append(number)
            made.stop |= number == 3

        done: list[int] = []
        made = SimpleNamespace(progress=Progress(), batches=Batches([(None, [0])] * 8), network=torch.nn.Identity())
        made.accelerator, made.stop = SimpleNamespace(num_processes=processes), False
        made.step, made.add_up, made.after_step = (lambda *_: (1.0, 0.0)), (lambda numbers: numbers), after_step
        made.progress.start_clock()
        with pytest.raises(Stopped):
            train_epoch(made, Interrupt())
        return done

    assert (steps(1), steps(2)) == ([0, 1, 2, 3], [0, 1, 2, 3, 4])


def test_processes_share_statistics_but_no_potentials(small, monkeypatch):
    made = set_up(small(**QUIET | {"model__norm": "batch"}))
    made.network.register_buffer("potentials", torch.zeros(3), persistent=False)  # of as many images as each has
    made.accelerator, shared = SimpleNamespace(num_processes=2), []
    monkeypatch.setattr("onespike.training.trainer.broadcast", shared.append)
    monkeypatch.setattr("onespike.training.trainer.score", lambda *_: None)
    made.evaluate(made.held_out)
    statistics = [one for name, one in made.network.named_buffers() if name != "potentials"]
    assert statistics
    assert [id(one) for one in shared] == [id(one) for one in statistics]


def test_a_silent_block_is_warned_of(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(small(model__neuron__threshold=50.0, train__epochs=1), tmp_path / "run")
    assert "warning: block01, block02: a layer fires less than once in a thousand" in " ".join(
        capsys.readouterr().out.split()
    )


def test_running_blocks_again_trains_the_same_weights(small):
    settings = {"model__norm": "batch", "train__precision": "fp64", "train__accumulate": 2}
    plain, again = (some_steps(small(**settings, train__recompute=recompute), 3) for recompute in (False, True))
    for name, value in plain.items():
        if "num_batches" not in name:
            torch.testing.assert_close(again[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_strict_networks_run_again_in_steps_that_are_watched_and_others(cache: Path, steps):
    values = {"data.limit": 150, "data.cache": str(cache), "train.batch_size": 16, "train.mixup": 0}
    values |= {"model.name": "spiking-vgg-xs", "model.width": 8, "model.time_steps": steps, "train.monitor_every": 2}
    found = []
    for recompute in (False, True):
        recipe = load_recipe("digits", {**values, "train.precision": "fp64", "train.recompute": recompute})
        found.append(some_steps(recipe, 3))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("before", [False, True])
def test_a_network_that_was_passed_runs_again_afterwards_only_if_it_did_before(small, before, tmp_path):
    network = create_model("spiking-vgg-xs", width=4, in_channels=1)
    network.recompute = before
    recipe = small(train__epochs=1, train__recompute=True, data__limit=60)
    train(recipe, tmp_path / "run", model=network, quiet=True)
    assert network.recompute == before


def test_an_artificial_network_has_no_blocks_to_run_again(small):
    with pytest.raises(OnespikeError, match=r"train.recompute: expected a network of the library, .* got resnet18"):
        set_up(replace(small(train__recompute=True), model=model_config("resnet18")))
    for option in ("train__rate_penalty", "train__energy_budget"):
        with pytest.raises(OnespikeError, match=r"train.recompute and train.rate_penalty .* set only one"):
            small(train__recompute=True, **{option: 1.0})


def test_ema_is_the_moving_average_of_the_weights(small):
    recipe = small(**QUIET, train__ema=0.5, train__precision="fp64")
    made = set_up(recipe)
    made.network.train()
    average = None
    for number, (images, labels) in enumerate(list(made.batches.epoch(0))[:4]):
        made.after_step(number, *made.step(number, images, labels))
        weight = made.network.head.weight.detach().clone()
        # timm's warm-up of the decay: 0 at first, then 1 - n^(-2/3), at most the one asked for
        decay = min(0.5, 1 - (1 + number) ** (-2 / 3)) if number else 0.0
        average = weight if average is None else decay * average + (1 - decay) * weight
    assert torch.allclose(made.checkpoint().weights["head.weight"], average, rtol=0, atol=1e-12)
    assert torch.equal(made.network.head.weight, weight)


def test_of_a_shared_layer_the_average_moves_once_a_step():
    shared = torch.nn.Linear(3, 3)
    network = torch.nn.Sequential(shared, torch.nn.BatchNorm1d(3), shared)
    average, before = MovingAverage(network, 0.25), shared.weight.detach().clone()
    torch.nn.init.ones_(shared.weight)
    network[1].num_batches_tracked += 5
    average.after_step(SimpleNamespace(network=network), Step(9, 1.0, 16, 0.1))
    with average.used():
        assert torch.equal(shared.weight, before.lerp(torch.ones(3, 3), 0.75))
        assert network[1].num_batches_tracked == 5
    assert torch.equal(shared.weight, torch.ones(3, 3))


def test_the_average_of_a_network_that_no_copy_stands_for_is_evaluated(small):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    network.lock = threading.Lock()  # cannot be copied
    network.forward = lambda images: network[1](network[0](images))  # of a copy, too
    trainer = set_up(small(train__ema=0.9, data__limit=60), network)
    with trainer.averaged():
        torch.nn.init.zeros_(network[1].weight)
        torch.nn.init.zeros_(network[1].bias)
    assert trainer.evaluate(trainer.test).loss == pytest.approx(math.log(10))
    assert network[1].weight.any()


def test_scores_equal_a_count_by_hand(small):
    recipe = small(**QUIET)
    made = set_up(recipe)
    torch.nn.init.normal_(made.network.head.weight)
    data, network = made.data, made.network.eval()
    loader = EvalLoader(data.test, data.mean, data.std, 50)
    scores = score(network, loader, 10, made.accelerator)
    with torch.no_grad():
        logits = torch.cat([network(images) for images, _ in loader])
    labels = torch.tensor([data.test[i][1] for i in range(len(data.test))])
    order = logits.argsort(1, descending=True)
    assert scores.images == len(labels) == 360
    assert scores.top1 == pytest.approx(100 * (order[:, 0] == labels).double().mean().item())
    assert scores.top5 == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).double().mean().item())
    assert scores.loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    table = torch.zeros(10, 10, dtype=torch.long)
    for truth, guess in zip(labels, order[:, 0], strict=True):
        table[truth, guess] += 1
    assert torch.equal(scores.confusion, table)


def test_a_run_in_fp64_is_evaluated_with_all_digits_of_its_weights(small, tmp_path: Path):
    trainer, run = set_up(small(train__precision="fp64", data__limit=60)), Run(tmp_path / "run")
    torch.nn.init.normal_(trainer.network.head.weight)  # by digits that float32 has not
    run.begin(trainer.recipe)
    trainer.checkpoint().save(run.best)
    found = evaluate(run, part="validation", device="cpu")
    assert found.loss.mean == pytest.approx(trainer.evaluate(trainer.held_out).loss, rel=1e-13)


def test_of_equal_logits_the_first_is_the_guess(small):
    made = set_up(small(**QUIET))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 100), torch.nn.Hardtanh(1, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.fill_(3).view(2, 50)[0] = 0  # 50 of 1, and 50 of 2, as counts of spikes are
    scores = score(network, [(torch.rand(100, 1, 32, 32), torch.arange(100))], 100, made.accelerator)
    assert scores.confusion.sum(0).nonzero().tolist() == [[50]]
    assert (scores.top1, scores.top5) == (1, 5)


def test_scoring_adds_up_the_spikes_of_tied_neurons(small):
    made, network = set_up(small()), create_model("spiking-vgg-xs", in_channels=1, tied=True, head="mean").eval()
    layers, arrived = [layer for layer in network.modules() if isinstance(layer, TiedConv)], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, read: arrived.append(read[0].shape[1] == layer.in_channels))
    loader = EvalLoader(made.data.test, made.data.mean, made.data.std, 360)
    score(network, loader, 10, made.accelerator)
    assert arrived == [True] * len(layers)
    network(next(iter(loader))[0])
    assert arrived[len(layers) :] == [False] * len(layers), "afterwards each spike is an event of its own again"


def test_scoring_is_repeatable_with_bernoulli_draws_and_leaves_the_mode(small):
    made = set_up(small(model__norm="none"))
    torch.nn.init.normal_(made.network.head.weight)
    made.network.train()
    loader = EvalLoader(made.data.validation, made.data.mean, made.data.std, 50)
    first, again, other = (score(made.network, loader, 10, made.accelerator, seed).loss for seed in (0, 0, 1))
    assert first == again != other
    assert made.network.training


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_each_process_draws_for_itself(where, small, monkeypatch):
    def loss(process: int) -> float:
        made = set_up(small(model__norm="none", model__dropout=0.0, train__mixup=0.0))
        torch.nn.init.normal_(made.network.head.weight)
        monkeypatch.setattr(Accelerator, "process_index", process)
        if where == "training":
            return made.step(0, *next(made.batches.epoch(0)))[0]
        return made.evaluate(made.held_out).loss

    assert loss(0) == loss(0) != loss(1)


def test_monitor_counts_what_hooks_see():
    torch.manual_seed(0)
    network = create_model("conv-tiny", in_channels=1, depths=(1, 1), channels=(4, 6), encoding="bernoulli").eval()
    seen: dict[torch.nn.Module, list] = {}
    layers = [[m for m in block.unit.modules() if isinstance(m, Neuron)] for block in network.blocks()]
    for layer in (layer for block in layers for layer in block):
        layer.register_forward_hook(lambda m, inputs, out: seen.setdefault(m, []).append((inputs[0], out)))
    monitor = SpikeMonitor(network)
    assert monitor.summary() == {}
    with torch.no_grad():
        for _ in range(3):
            with monitor.watch():
                network(torch.randn(5, 1, 32, 32))
        summary = monitor.summary()
        network(torch.randn(5, 1, 32, 32))  # not watched
    assert monitor.summary() == summary
    for block, activity in zip(layers, summary.values(), strict=True):
        rates = torch.cat([torch.cat([s for _, s in seen[m][:3]], 1).mean(1).flatten() for m in block])
        distances = torch.cat([(v - 0.5).abs().flatten() for m in block for v, _ in seen[m][:3]])
        assert activity.firing_rate == pytest.approx(rates.mean().item(), abs=1e-6)
        assert activity.dead == pytest.approx((rates == 0).float().mean().item(), abs=1e-6)
        assert activity.always_firing == pytest.approx((rates == 1).float().mean().item(), abs=1e-6)
        assert activity.in_support == pytest.approx((distances < 0.5).float().mean().item(), abs=1e-6)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_the_support_is_as_wide_as_the_surrogate(width):
    config = NeuronConfig(surrogate="triangle", surrogate_width=width, learnable_threshold="channel")
    neuron, v = make_neuron(6, config), 3 * torch.randn(50, 6)
    torch.nn.init.normal_(neuron.raw_threshold)
    monitor = SpikeMonitor(neuron)
    with monitor.watch():
        neuron(v)
    (activity,) = monitor.summary().values()
    distances = (v - neuron.threshold.flatten()).abs()
    assert activity.in_support == pytest.approx((distances < 0.99 * width).float().mean().item())


def test_the_support_of_neurons_that_fire_both_ways_is_around_both_thresholds():
    v = 3 * torch.randn(50, 6)
    expected = {"ternary": pytest.approx(((v.abs() - 0.5).abs() < 0.5).float().mean().item()), "relu": None}
    for name, share in expected.items():
        monitor = SpikeMonitor(neuron := make_neuron(6, NeuronConfig(name=name)))
        with monitor.watch():
            fired = neuron(v) != 0
        assert monitor.summary()[""].in_support == share
        assert monitor.summary()[""].firing_rate == pytest.approx(fired.float().mean().item()), "below 0 as well"


def test_a_group_is_silent_if_one_of_its_layers_is():
    network = torch.nn.Sequential(*(make_neuron(3, NeuronConfig(threshold=threshold)) for threshold in (0.5, 5.0)))
    network.neuron_groups = lambda: {"all": list(network), "first": [network[0]]}
    monitor = SpikeMonitor(network)
    with monitor.watch():
        network(torch.ones(2, 3))
    assert {label: (one.silent, one.layers) for label, one in monitor.summary().items()} == {
        "all": (True, (1.0, 0.0)),
        "first": (False, (1.0,)),
    }


def test_counts_of_neurons_without_channels_go_on_too():
    neuron = make_neuron(1, NeuronConfig())
    monitor, later = SpikeMonitor(neuron), SpikeMonitor(neuron)
    with monitor.watch():
        neuron(torch.tensor([0.0, 1.0]))  # one neuron, two images
    later.load_state(monitor.state())
    assert later.summary() == monitor.summary()
    assert later.summary()[""].firing_rate == 0.5


def test_the_first_step_of_an_epoch_is_watched_and_each_of_so_many():
    neuron, due, rates = make_neuron(3, NeuronConfig()), [], []
    monitor, trainer = Monitor(neuron, 3), SimpleNamespace(progress=Progress())
    for number in range(8):
        trainer.progress.epoch = number // 4
        monitor.before_step(trainer, number)
        due.append(monitor.due)
        with monitor.forward():
            neuron(torch.full((2, 3), 1.0 - trainer.progress.epoch))  # no neuron fires in the second epoch
        if number % 4 == 3:
            monitor.measure(trainer, row := {})
            rates.append(row["_firing_rate"])
    assert due == [True, False, False, True, True, False, True, False]
    assert rates == [1.0, 0.0], "each epoch's own"


@pytest.mark.slow
def test_watching_changes_nothing(small, tmp_path: Path):
    often, seldom = small(train__monitor_every=1), small(train__monitor_every=1000)
    summaries = [train(recipe, tmp_path / name) for recipe, name in ((often, "often"), (seldom, "seldom"))]
    assert summaries[0]["test_loss"] == summaries[1]["test_loss"]


def test_times_of_a_busy_machine_are_marked(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("onespike.clock.OWN", 0.0)  # whatever else this machine does
    monkeypatch.setattr("onespike.clock.OTHERS", 4.0)
    for load in (0.0, 9.0):
        by_all = lambda load=load: time.process_time() + load * time.perf_counter()  # noqa: E731
        monkeypatch.setattr("onespike.clock._processors_seconds", by_all)
        train(small(train__epochs=1, data__limit=60), tmp_path / str(load))
        assert ("NOT TO BE TRUSTED, the machine was busy" in capsys.readouterr().out) == (load > 0)


@pytest.mark.parametrize("sessions", thorough([2, 1], 1), ids=["resumed", "straight"])
def test_tensorboard_has_the_rows_of_metrics_csv(small, sessions, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in (1, 2)[-sessions:]:
        train(small(train__epochs=epochs), tmp_path / "run", resume=(epochs, sessions) == (2, 2), quiet=True)
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    rows = Run.open(tmp_path / "run").checkpoint().state["progress"]["history"]
    found = [(one.step, one.value) for one in read.Scalars("epoch/valid_top1")]
    assert found == [(8 * row["epoch"] - 1, pytest.approx(row["valid_top1"])) for row in rows], "8 steps an epoch"
    watched = [read.Scalars(f"train/{name}") for name in ("loss", "lr")]
    assert [[one.step for one in values] for values in watched] == [[0, 4, 8, 12]] * 2
    assert all(loss.value > 1 > rate.value > 0 for loss, rate in zip(*watched, strict=True))
    assert "firing_rate/block01" in read.Tags()["scalars"]


def test_whatever_fails_to_close_all_else_is_closed(small, tmp_path: Path):
    class Mine(Callback):
        def close(self):
            closed.append(self)
            raise ValueError("not closed")

    closed: list[Callback] = []
    first, second = Mine(), Mine()
    with pytest.raises(ValueError, match="not closed"):
        train(small(train__epochs=1, data__limit=60), tmp_path / "run", callbacks=[first, second], quiet=True)
    assert closed == [second, first]
    assert Run.open(tmp_path / "run").is_complete


def test_a_checkpoint_is_due_after_so_many_minutes(tmp_path: Path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr("onespike.training.saving.time.monotonic", lambda: now[0])
    checkpoint = SimpleNamespace(save=lambda _folder: saved.append(now[0]))
    trainer = SimpleNamespace(stop=False, config=TrainConfig(save_minutes=2.0), checkpoint=lambda: checkpoint)
    saving = Saving(Run(tmp_path / "run"))
    for now[0] in (60.0, 119.0, 121.0, 200.0, 242.0):
        saving.after_step(trainer, None)
    assert saved == [121.0, 242.0]


@pytest.mark.parametrize(
    ("epoch", "enough", "drawn"), [(0, False, 0), (0, True, 0), (1, False, 0), (2, False, 1), (1, True, 1)]
)
def test_before_the_first_step_only_a_run_at_its_end_is_drawn(epoch, enough, drawn, tmp_path: Path, monkeypatch):
    """A session that could not draw its last epoch owes that to the run; any other epoch is drawn by the next one."""
    pictures = []
    monkeypatch.setattr("onespike.training.saving.draw_curves", lambda drawn, _: pictures.append(len(drawn.history)))
    progress = SimpleNamespace(epoch=epoch, history=[{"epoch": n + 1} for n in range(epoch)])
    Saving(Run(tmp_path)).start(SimpleNamespace(progress=progress, enough=enough, config=TrainConfig(epochs=2)))
    assert pictures == [epoch] * drawn
    assert (tmp_path / "metrics.csv").exists() == bool(drawn)


def test_a_callback_may_set_the_rate_of_a_step_or_end_the_training(small, tmp_path: Path, monkeypatch):
    class Mine(Callback):
        def before_step(self, trainer, number):
            for group in trainer.optimizer.param_groups:
                group["lr"] = 0.01 + number

        def after_step(self, trainer, step):  # noqa: ARG002
            assert step.lr == 0.01 + step.number

        def after_epoch(self, trainer, row):
            trainer.enough = row["epoch"] == 2

    recipe, drawn = small(train__epochs=5), []
    monkeypatch.setattr("onespike.training.saving.draw_curves", lambda progress, _: drawn.append(len(progress.history)))
    summary = train(recipe, tmp_path / "run", callbacks=[Mine()], quiet=True)
    assert summary["epochs"] == drawn[-1] == 2, "the picture is that of the end"
    assert Run.open(tmp_path / "run").is_complete
    with pytest.raises(OnespikeError, match=r"is complete after 2 epochs: to train longer"):
        train(recipe, tmp_path / "run", resume=True, callbacks=[Mine()], quiet=True)
    fewer = replace(recipe, train=replace(recipe.train, epochs=1))
    with pytest.raises(
        OnespikeError, match=r"has been trained for 2 epochs already, more than --train.epochs 1: raise"
    ):
        train(fewer, tmp_path / "run", resume=True, callbacks=[Mine()], quiet=True)
    more = replace(recipe, train=replace(recipe.train, epochs=6))
    Run.open(tmp_path / "run").begin(more)  # and is killed before it saves anything
    assert train(more, tmp_path / "run", resume=True, quiet=True)["epochs"] == 6


@pytest.mark.parametrize("known", thorough([True, False], 1), ids=["", "an older version's"])
def test_a_training_that_had_enough_does_not_go_on_if_it_is_killed_before_its_test(
    small, tmp_path: Path, monkeypatch, known
):
    class Enough(Callback):
        def after_epoch(self, trainer, row):
            trainer.enough = row["epoch"] == 2

    recipe = small(train__epochs=5)
    monkeypatch.setattr("onespike.training.loop.test", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", callbacks=[Enough()], quiet=True)
    monkeypatch.undo()
    if not known:
        saved = Checkpoint.load(tmp_path / "run" / "last")
        del saved.state["progress"]["enough_of"]
        saved.save(tmp_path / "run" / "last")
    assert train(recipe, tmp_path / "run", resume=True, callbacks=[Enough()], quiet=True)["epochs"] == 2


def test_batch_norm_of_a_single_value_is_refused(small, tmp_path: Path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(1024), torch.nn.Linear(1024, 10))
    with pytest.raises(OnespikeError, match=r"train\.batch_size, train\.accumulate: .* batch norm one value"):
        train(small(train__epochs=1, train__batch_size=1, train__mixup=0), tmp_path / "run", model=network, quiet=True)


def test_the_callers_random_numbers_go_on_after_training_and_evaluation(small, tmp_path: Path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(small(train__epochs=1, data__limit=60), tmp_path / "run", quiet=True)
    evaluate(tmp_path / "run", device="cpu")
    assert torch.equal(torch.rand(2), expected)


def test_a_network_that_was_passed_is_left_with_its_best_weights_in_evaluation_mode(small, tmp_path: Path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(1024), torch.nn.Linear(1024, 10)).eval()
    train(small(train__epochs=2, train__ema=0.9), tmp_path / "run", model=network, quiet=True)
    best = Run.open(tmp_path / "run").checkpoint("best").weights
    assert network[1].num_batches_tracked == 8 * Run.open(tmp_path / "run").summary["best_epoch"], "it was trained"
    assert not network.training
    assert all(torch.equal(tensor, best[name]) for name, tensor in network.state_dict().items())


def test_gradients_that_a_network_comes_with_do_not_count(small, tmp_path: Path):
    def trained(stale: float | None) -> torch.Tensor:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 8), torch.nn.Linear(8, 10))
        network[1].requires_grad_(False)  # whose gradient no step would ever take away
        for weight in network.parameters():
            weight.grad = None if stale is None else torch.full_like(weight, stale)
        recipe = small(train__epochs=1, data__limit=60)
        train(recipe, tmp_path / str(stale), model=network, quiet=True)
        return network[2].weight.detach()

    assert torch.equal(trained(None), trained(1.0))


class Halved(Callback):
    """Computes with half the weights, and would halve those once more that are computed with."""

    @contextmanager
    def weights(self):
        parameters = [*self.network.parameters()]
        own = [one.data for one in parameters]
        for one in parameters:
            one.data = one.data / 2
        yield
        for one, data in zip(parameters, own, strict=True):
            one.data = data


def test_weights_that_a_callback_has_made_to_compute_with_are_tested_as_they_are_saved(small, tmp_path: Path):
    halved = Halved()
    torch.manual_seed(0)
    halved.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    recipe = small(train__epochs=1, data__limit=60)
    summary = train(recipe, tmp_path, model=halved.network, callbacks=[halved], quiet=True)
    tested = evaluate(tmp_path, model=halved.network, device="cpu")
    assert summary["test_loss"] == pytest.approx(tested.loss.mean, rel=1e-6)


def test_an_average_in_place_of_a_callbacks_weights_is_refused(small):
    with pytest.raises(OnespikeError, match=r"callbacks and train\.ema: Halved changes the weights to compute with"):
        set_up(small(train__ema=0.9, data__limit=60), callbacks=[Halved()])


def test_a_network_of_several_outputs_in_training_is_refused(small, tmp_path: Path):
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1024, 10)

        def forward(self, x):
            logits = self.layer(x.flatten(1))
            return (logits, logits) if self.training else logits

    with pytest.raises(OnespikeError, match=r"^model: in training it gives a tuple, in evaluation a tensor; expected"):
        train(small(train__epochs=1), tmp_path / "run", model=Two(), quiet=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y[:, :, None, None],
        lambda y: y[:, :1],
        lambda y: y[:4],
        lambda y: y.t(),
        lambda y: torch.cat([y, y]),
        lambda y: torch.cat([y, y], 1),
    ],
    ids=["map", "one class", "few", "turned", "twice", "twice the classes"],
)
def test_a_network_of_other_logits_in_training_is_refused(small, tmp_path: Path, change):
    class Changed(torch.nn.Linear):
        def forward(self, x):
            logits = super().forward(x.flatten(1))
            return change(logits) if self.training else logits

    with pytest.raises(OnespikeError, match=r"^model: in training it answers \d+ images with \(.*; expected logits"):
        train(small(train__epochs=1), tmp_path / "run", model=Changed(1024, 10), quiet=True)

import math
from dataclasses import replace
from datetime import date
from enum import StrEnum
from pathlib import Path

import pytest
from torch import nn

from onespike.configs import Text
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.models import model_config
from onespike.training import Recipe, load_recipe, recipe_names
from onespike.training.recipe import differences, dump


def test_every_recipe_in_the_package_loads():
    assert {"digits", "cifar10/conv12", "cifar100/conv12", "tiny-imagenet/conv12"} <= set(recipe_names())
    for name in recipe_names():
        load_recipe(name)


def test_conv12_recipe_is_section_8_of_the_method():
    recipe = load_recipe("cifar10/conv12")
    train = recipe.train
    assert (train.optimizer, train.momentum, train.weight_decay, train.lr) == ("momentum", 0.9, 2e-5, 0.05)
    assert (train.warmup_epochs, train.warmup_lr, train.clip_grad, train.epochs) == (3, 0.001, 20, 300)
    assert (train.mixup, train.label_smoothing, train.batch_size, train.noise_range) == (0.1, 0.1, 128, None)
    assert (recipe.data.crop_padding, recipe.data.flip, recipe.data.auto_augment) == (4, 0.5, "original")
    assert (recipe.model.dropout, recipe.model.depths, recipe.model.theta) == (0.1, (2, 2, 6, 2), 0.5)
    assert load_recipe("tiny-imagenet/conv12").train.epochs == 250


def test_command_line_beats_recipe_beats_model_beats_defaults(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {name: conv-tiny, theta: 0.3, neuron: {decay: 0.2, threshold: 0.7}}\ntrain: {lr: 1e-3}\n")
    recipe = load_recipe(str(file), {"model.neuron.decay": 0.1})
    assert (recipe.model.neuron.decay, recipe.model.neuron.threshold, recipe.model.theta) == (0.1, 0.7, 0.3)
    assert (recipe.model.depths, recipe.train.lr, recipe.train.momentum) == ((2, 2, 2), 1e-3, 0.9)
    other = load_recipe(str(file), {"model.name": "conv12"})
    assert (other.model.depths, other.model.theta) == ((2, 2, 6, 2), 0.3)
    assert load_recipe(str(file), {"model.name": "resnet18"}).model == model_config("resnet18")


def test_a_preset_on_the_command_line_takes_the_place_of_a_recipes(tmp_path: Path):
    assert load_recipe("cifar10/conv12-modern", {"model.preset": "strict"}).model == model_config("conv12", "strict")
    file = tmp_path / "mine.yaml"
    file.write_text("model: {preset: modern, theta: 0.3}")
    found = load_recipe(file, {"model.preset": "ann", "model.mlp_ratio": "2"}).model
    assert found == model_config("conv12", "ann", theta=0.3, mlp_ratio=2)


def test_the_size_that_a_name_has_goes_before_that_of_the_file(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {name: spiking-resnet-m, width: 40, head: mean}")
    small = load_recipe(file, {"model.name": "spiking-resnet-xs"}).model
    assert small == model_config("spiking-resnet-xs", head="mean")
    assert load_recipe(file, {"model.name": "spiking-resnet-m"}).model.width == 40
    assert load_recipe(file, {"model.name": "spiking-resnet-xs", "model.width": 24}).model.width == 24


def test_what_a_run_lists_belongs_to_its_own_name_and_preset(tmp_path: Path):
    file = tmp_path / "config.yaml"  # as a run's, with every value in it
    file.write_text(dump(load_recipe("cifar10/conv12", {"model.preset": "released-cifar10", "model.theta": 0.2})))
    assert load_recipe(file, {"model.theta": 0.4}).model == model_config("conv12", "released-cifar10", theta=0.4)
    for name, preset in (("conv12", "strict"), ("lstm20", "binary"), ("mlp36", "ann"), ("conv-tiny", "modern")):
        assert load_recipe(file, {"model.name": name, "model.preset": preset}).model == model_config(name, preset)
    assert load_recipe(file, {"model.name": "vit12"}).model == model_config("vit12")


def test_a_recipe_starts_from_a_runs_model_and_data():
    start = load_recipe("cifar10/conv12", {"model.preset": "strict", "model.theta": 0.2, "data.limit": 7})
    same = load_recipe("cifar10/finetune", start=start)
    assert (same.model, same.data, same.train.optimizer) == (start.model, start.data, "adam")
    assert load_recipe("cifar10/finetune", {"model.theta": "0.3"}, start).model.theta == 0.3
    again = load_recipe("cifar10/finetune", {"model.preset": "modern"}, start)
    assert again.model == model_config("conv12", "modern")
    assert load_recipe("digits", start=start).model == load_recipe("digits").model


def test_a_neuron_may_be_named_alone():
    recipe = load_recipe("cifar10/conv12", {"model.neuron": "plif"})
    assert recipe.model.neuron.name == "plif"
    both = load_recipe("cifar10/conv12", {"model.neuron": "plif", "model.neuron.decay": "0.3"})
    assert (both.model.neuron.name, both.model.neuron.decay) == ("plif", 0.3)
    options = {"model.neuron.threshold": "0.3", "model.neuron": "plif"}
    either = (load_recipe("tiny-imagenet/fast", dict(order)) for order in (options.items(), reversed(options.items())))
    for recipe in either:
        neuron = recipe.model.neuron
        assert (neuron.name, neuron.threshold, neuron.surrogate_width) == ("plif", 0.3, 2.0)


@pytest.mark.parametrize("given", [Text("{threshold: 0.4}"), "{threshold: 0.4}", {"threshold": 0.4}], ids=repr)
def test_a_mapping_changes_the_values_that_it_names_alone(given: object, tmp_path: Path):
    (run := tmp_path / "config.yaml").write_text(dump(load_recipe("tiny-imagenet/fast")))
    for name in ("tiny-imagenet/fast", run):
        neuron = load_recipe(name, {"model.neuron": given}).model.neuron
        assert (neuron.threshold, neuron.surrogate, neuron.surrogate_width) == (0.4, "triangle", 2.0)


def test_a_mapping_as_text_and_single_values_add_up_in_any_order():
    options = {"data.init_args": Text("{a: 1}"), "data.init_args.b": Text("2"), "data.class_path": Text("pkg.Data")}
    for order in (options.items(), reversed(options.items())):
        assert load_recipe("digits", dict(order)).data.init_args == {"a": 1, "b": 2}


@pytest.mark.parametrize("section", ["model", "data", "loss"])
def test_another_class_comes_without_the_arguments_of_the_one_that_it_replaces(section: str, tmp_path: Path):
    (file := tmp_path / "mine.yaml").write_text(f"{section}: {{class_path: pkg.Old, init_args: {{a: 1, b: 2}}}}\n")

    def arguments(**given: object) -> object:
        return getattr(load_recipe(file, {f"{section}.{key}": one for key, one in given.items()}), section).init_args

    assert arguments(class_path="pkg.New") == {}
    assert arguments(class_path="pkg.New", init_args={"c": 3}) == {"c": 3}
    assert arguments(class_path="pkg.Old", init_args={"b": 3}) == {"a": 1, "b": 3}


def test_a_model_of_the_library_replaces_a_recipes_class(tmp_path: Path):
    (file := tmp_path / "mine.yaml").write_text("model: {class_path: pkg.Net, init_args: {a: 1}}\n")
    given = {"model.name": "conv-tiny", "model.theta": 0.3}
    assert load_recipe(file, given).model == load_recipe("digits", given).model


class Colour(StrEnum):
    """A text to JSON, and not to YAML."""

    RED = "red"


@pytest.mark.parametrize("section", ["model", "data", "loss"])
@pytest.mark.parametrize("value", [print, {1, 2}, b"a", date(2026, 1, 1), math.inf, Colour.RED], ids=str)
def test_arguments_that_no_file_holds_are_refused(section: str, value: object):
    recipe = load_recipe("digits", {f"{section}.class_path": "pkg.Mine", f"{section}.init_args.deep": [{"a": value}]})
    with pytest.raises(OnespikeError, match=rf"^{section}.init_args: .*; expected finite numbers, text, True, False"):
        dump(recipe)


def test_only_what_changes_the_outcome_is_a_difference():
    recipe = load_recipe("digits")
    other = load_recipe("digits", {"model.neuron.decay": 0.3, "train.save_minutes": 1, "data.workers": 0})
    assert differences(recipe, other) == ["model.neuron.decay was 0.4, now 0.3"]


def test_a_dumped_recipe_is_the_same_recipe(tmp_path: Path):
    recipe = load_recipe("digits", {"train.noise_range": [0.4, 0.9], "model.region_threshold": None, "data.root": "x"})
    (tmp_path / "config.yaml").write_text(dump(recipe))
    assert load_recipe(str(tmp_path / "config.yaml")) == recipe


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--recipe", "cifar10/conv13"], ["unknown recipe 'cifar10/conv13'", "'cifar10/conv12'"]),
        (["--recipe", "absent.yaml"], ["no recipe file absent.yaml"]),
        (["--train.epoch", "3"], ["'--train.epoch'", "'--train.epochs'"]),
        (["--tran.epochs=3"], ["'--tran.epochs'", "'--train.epochs'"]),
        (["--train.epochs", "many"], ["train.epochs: expected a whole number, got many"]),
        (["--model", '{"preset": "strict"}'], ["unknown option '--model'", "'--model."]),
        (["--model.threshold", "0.4"], ["'--model.threshold'", "'--model.neuron.threshold'"]),
        (["--model.neuron.treshold", "0.4"], ["'--model.neuron.threshold'"]),
        (["--conversion.time_stepz", "2"], ["'--conversion.time_steps'"]),
        (["--train.epochs", "0"], ["train.epochs", "at least 1"]),
        (["--train.epochs"], ["train.epochs"]),
        (["--model.name", "conv13"], ["unknown model 'conv13'", "'conv12'"]),
        (["--model.neuron.surrogate", "tri"], ["unknown surrogate 'tri'", "a module of yours", "--import MODULE"]),
        (["--model.init_args.a", "1"], ["model.init_args: arguments of what? add --model.class_path"]),
        (["--model.name", "conv12", "--model.class_path", "pkg.Net"], ["and --model.class_path: name one of them"]),
        (["--data.name", "digits", "--data.class_path", "pkg.Data"], ["and --data.class_path: name one of them"]),
        (["--loss.init_args.a", "1"], ["loss.init_args: arguments of what? add --loss.class_path"]),
        (["--data.init_args.a", "1"], ["data.init_args: arguments of what? add --data.class_path"]),
        (["--model.theta", "2"], ["theta", "0 < theta <= 1"]),
        (["--model.fusion", "sincoss"], ["unknown fusion 'sincoss'", "'sincos'"]),
        (["--model.depths", "[1,2]"], ["depths", "channels"]),
        (["--data.name", "digit"], ["'digit'", "digits"]),
        (["--data.augmix_splits", "3", "--train.mixup", "0.1"], ["augmix_splits", "mixup"]),
        (["--train.precision", "fp16", "--train.device", "cpu"], ["fp16", "cpu", "bf16"]),
        (["--train.optimizer", "momentun"], ["momentun", "'momentum'"]),
        (["--train.optimizer", "lookahead_momentun"], ["momentun", "'momentum'"]),
        (["--train.norm_lr_factor", "0"], ["train.norm_lr_factor", "more than 0"]),
        (["--train.norm_lr_factor", "inf"], ["train.norm_lr_factor", "finite"]),
        (["--train.hoyer", "-1"], ["train.hoyer", "at least 0"]),
        (["--train.surrogate_width_end", "nan"], ["train.surrogate_width_end", "finite"]),
        (["--train.surrogate_width_end", "1e40"], ["train.surrogate_width_end", "at most 1,000,000"]),
        (["--train.teacher_temperature", "1e200"], ["train.teacher_temperature", "at most 1,000"]),
        (["--model.neuron.surrogate_width", "0"], ["surrogate_width", "1e-6 <="]),
        (["--train.optimizer", "adahessian"], ["adahessian", "second derivatives"]),
        (["--train.seed", "99999999999999999999"], ["train.seed", "2^63"]),
        (["--train.noise_range", "[0.9,0.1]"], ["train.noise_range", "from < to"]),
        (["--train.noise_range", "[0,1]", "--train.noise_limit", "1.1"], ["train.noise_limit", "<= 1, got 1.1"]),
        (["--train.noise_range", "[0,1]", "--train.noise_limit", "1e-9"], ["train.noise_limit", "0.001 <="]),
        (["--train.lr", "0.1", "--train.min_lr", "0.2"], ["train.min_lr", "at most train.lr, 0.1, got 0.2"]),
        (["--data.auto_augment", "nonsense"], ["auto_augment", "nonsense"]),
        (["--train.batch_size", "100000"], ["batch_size", "training images"]),
        (["--train.batch_size", "15", "--train.mixup", "0.1"], ["even", "15"]),
        (["--model.depths", "[1,1,1,1,1,1]", "--model.channels", "[4,4,4,4,4,4]"], ["image_size", "multiple of 64"]),
        (["stray"], ["stray"]),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    arguments: list[str], parts: list[str], command, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ONESPIKE_CACHE", str(cache))
    code, _, error = command("train", "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train: {epoch: 3}", ["train.epoch", "'train.epochs'"]),
        ("trainn: {epochs: 3}", ["trainn", "'train'"]),
        ("train: 3", ["train"]),
        ("- 1", ["sections"]),
        ("train: {epochs: [", ["YAML"]),
        ("model: {name: conv13}", ["conv13"]),
        ("loss: {init_args: {}}", ["loss: class_path is missing"]),
        ("model: {class_path: a.B, init_args: {c: [{1: 2}]}}", ["a.B: init_args: checkpoints know no keys but texts"]),
        ("model: {name: [1]}", ["model.name: expected text, got [1]"]),
    ],
)
def test_a_bad_recipe_file_is_an_error_that_names_it(text: str, parts: list[str], tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(OnespikeError) as error:
        load_recipe(str(file))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_unknown_command_names_the_nearest(command):
    code, _, error = command("trian")
    assert (code, "'train'" in error) == (2, True)


def test_citation_is_bibtex_of_the_paper(command):
    code, printed, _ = command("cite")
    assert (code, "Training a General Spiking Neural Network" in printed) == (0, True)


def test_names_make_parts():
    recipe = Recipe(data="digits", model="conv12", loss={"class_path": "pkg.Loss"})
    assert (recipe.data.name, recipe.model, recipe.loss.name) == ("digits", model_config("conv12"), "Loss")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"model": nn.Linear(1, 1)},
            r"^model: expected .*, got a Linear; a network goes to onespike.train\(…, model=network\)$",
        ),
        ({"model": None}, "^model: expected a name, .*, got a NoneType"),
        ({"model": "conv13"}, "^unknown model 'conv13'"),
        ({"data": 5}, "^data: expected keys and values, got 5$"),
        ({"train": [1]}, r"^train: expected keys and values, got \[1\]$"),
        ({"loss": "pkg.Loss"}, "^loss: expected keys and values or null, got pkg.Loss$"),
    ],
)
def test_what_is_no_part(parts: dict[str, object], message: str):
    with pytest.raises(OnespikeError, match=message):
        Recipe(**parts)


def test_what_is_no_start():
    with pytest.raises(OnespikeError, match=r"^start: expected a recipe, got 'digits'$"):
        load_recipe("digits", start="digits")


def test_a_class_of_data_comes_without_the_root_of_the_data_set_that_it_replaces(tmp_path: Path):
    before = load_recipe("digits", {"data.name": "folder", "data.root": str(tmp_path)})
    (file := tmp_path / "recipe.yaml").write_text(dump(before))
    assert load_recipe(file, {"data.class_path": "pkg.Data"}).data.root is None
    assert load_recipe(file, {"data.class_path": "pkg.Data", "data.root": "x"}).data.root == "x"


def test_of_an_older_run_that_names_a_root_beside_its_class_of_data_the_class_alone_counts(tmp_path: Path):
    older = Recipe(data=DataConfig(class_path="pkg.Data", init_args={"size": 4}, root=str(tmp_path)))
    (file := tmp_path / "config.yaml").write_text(dump(older))
    assert load_recipe(file) == replace(older, data=replace(older.data, root=None))
    assert load_recipe(file, {"data.root": "x"}).data.root == "x", "it is refused when the data are opened"
    assert load_recipe(file, {"data.name": "folder"}).data == DataConfig(name="folder", root=str(tmp_path))
    file.write_text(file.read_text().partition("\n")[2])
    assert load_recipe(file) == older, "so it is in a recipe"

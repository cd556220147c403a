import re
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from onespike.errors import OnespikeError
from onespike.search.space import read_space


@pytest.fixture
def read(tmp_path: Path):
    def from_text(text: str, recipe: str = "digits", **overrides: object):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return read_space(path, recipe, {key.replace("__", "."): value for key, value in overrides.items()})

    return from_text


def test_every_form(read):
    space = read(
        """
        train.batch_size: [16, 64]
        data.image_size: [16, 64]
        train.epochs: {low: 2, high: 9, step: 3}
        train.warmup_epochs: [0, 1]
        train.lr: {low: 0.001, high: 1, log: true}
        train.momentum: {low: 0, high: 0.9, step: 0.2}
        train.label_smoothing: {low: 0.01, high: 0.1, step: 0.01}
        train.ema: {low: 0.7, high: 0.9, step: 0.1}
        train.mixup: {low: 0.2, high: 0.3, step: 0.1}
        model.preset: {choices: [modern, paper]}
        model.channels: {choices: [[4, 8, 8], [8, 16, 16]]}
        """
    )
    assert space == {
        "train.batch_size": IntDistribution(16, 64),
        "data.image_size": IntDistribution(16, 64),
        "train.epochs": IntDistribution(2, 8, step=3),
        "train.warmup_epochs": FloatDistribution(0, 1),  # the option is a number, whole ends or not
        "train.lr": FloatDistribution(0.001, 1, log=True),
        "train.momentum": FloatDistribution(0, 0.8, step=0.2),
        "train.label_smoothing": FloatDistribution(0.01, 0.1, step=0.01),
        "train.ema": FloatDistribution(0.7, 0.9, step=0.1),
        "train.mixup": FloatDistribution(0.2, 0.3, step=0.1),
        "model.preset": CategoricalDistribution(["modern", "paper"]),
        "model.channels": CategoricalDistribution(["[4, 8, 8]", "[8, 16, 16]"]),
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train.lrr: [0.1, 0.2]", r"space.yaml: unknown option '--train.lrr': did you mean '--train.lr'\?"),
        (
            "data.holdout: [0.1, 0.3]",
            r"data.holdout: it decides which images are held out, .* trials by --data.holdout",
        ),
        ("data: {choices: [digits, cifar10]}", r"data: it decides which images are held out"),
        ("data.limit: {choices: [60, 90]}", r"data.limit: it decides which images are held out"),
        ("train.lr: [0.2, 0.2]", r"train.lr: the range is empty: expected low < high, got 0.2 and 0.2"),
        ("train.lr: [0.3, 0.2]", r"train.lr: the range is empty"),
        ("train.lr: {low: 0, high: 1, log: true}", r"train.lr: log: true needs a low above 0"),
        ("train.epochs: [1.5, 3]", r"train.epochs: expected a whole number, got 1.5"),
        ("train.epochs: {low: 1, high: 9, step: 0.5}", r"train.epochs.step: expected a whole number, got 0.5"),
        ("train.epochs: {low: 16, high: 64, step: 16.0}", r"train.epochs.step: expected a whole number, got 16.0"),
        ("train.epochs: {low: 1, high: 9, step: 10}", r"train.epochs.step: expected more than 0 and no more than"),
        ("train.epochs: [0, 3]", r"train.epochs: expected at least 1, got 0"),
        ("train.lr: [0.1, 0.2, 0.3]", r"train.lr: expected \[low, high\], .* or \{choices: "),
        ("train.lr: 0.1", r"train.lr: expected \[low, high\]"),
        ("train.lr: [a, b]", r"train.lr.low: expected a number, got a"),
        ("train.lr: {low: 0.1}", r"train.lr: expected \[low, high\]"),
        ("train.lr: {low: 0.1, high: 1, lgo: true}", r"unknown option '.*space.yaml: train.lr.lgo'"),
        ("train.lr: {choices: [0.1, 0.2, 0.1]}", r"train.lr: expected choices of which no two are equal, got \[0"),
        ("model.depths: {choices: [[1, 2], [1, 2]]}", r"model.depths: expected choices of which no two are equal"),
        ("model.preset: {choices: [paper]}", r"model.preset: expected \{choices: .* at least two values"),
        ("model.preset: {choices: paper}", r"model.preset: expected \{choices: .* at least two values"),
        ("model.preset: {choices: [paper, strict], low: 0}", r"model.preset: expected \{choices: .* at least two"),
        ("1: [0, 1]", r"space.yaml: 1: expected the name of an option, such as train.lr"),
        ("train.lr: {low: 0.1, high: 1, log: true, step: 0.1}", r"train.lr: log: true needs a low above 0 and no step"),
        ("train.lr: {low: 0.1, high: 1, step: 0}", r"train.lr.step: expected more than 0"),
        ("train.lr: {low: 0.1, high: 1, step: 1e-7}", r"train.lr.step: .* 1,000,000 steps at most, got 1e-07"),
        ("model.preset: {choices: [paper, papre]}", r"space.yaml: .*preset.*papre"),
        ("", "expected options and what each may be"),
        ("{}", "expected options and what each may be"),
        ("- 1", "expected options and what each may be"),
    ],
)
def test_bad_input_is_one_line(read, text: str, complaint: str):
    with pytest.raises(OnespikeError, match=complaint) as raised:
        read(text)
    assert "\n" not in str(raised.value)


def test_what_all_trials_have_is_not_searched_for(read):
    with pytest.raises(OnespikeError, match=r"--train.lr: .*space.yaml searches for it; leave one of the two out"):
        read("train.lr: [0.1, 0.2]", train__lr="0.1")


def test_a_name_alone_is_the_name_of_what_it_names(read):
    names = "{choices: [lif, plif]}"
    with pytest.raises(OnespikeError, match=r"model.neuron and model.neuron.name are one option; leave one"):
        read(f"model.neuron: {names}\nmodel.neuron.name: {names}")
    for searched, given in (("neuron", "neuron__name"), ("neuron.name", "neuron"), ("neuron", "neuron")):
        with pytest.raises(OnespikeError, match=rf"--model.{searched}: .*space.yaml searches for it; leave one"):
            read(f"model.{searched}: {names}", **{f"model__{given}": "plif"})
    assert len(read(f"model.neuron: {names}\nmodel.neuron.decay: [0.1, 0.9]")) == 2
    assert len(read(f"model.neuron.name: {names}", model__neuron="{decay: 0.1}")) == 1


def test_a_value_that_suits_some_of_the_others_is_possible(read):
    pair = "train.ema: {choices: [0, 0.9]}\ntrain.int8_weights: {choices: [true, false]}"
    assert len(read(pair)) == 2
    with pytest.raises(OnespikeError, match=r"int8_weights and train\.ema"):
        read("train.int8_weights: {choices: [true, false]}", train__ema="0.9")


def test_an_option_of_some_models_alone_is_a_whole_number_where_the_model_is_searched_for_as_well(read):
    model = "model.name: {choices: [spiking-vgg-xs, spiking-resnet-xs]}"
    assert read(f"{model}\nmodel.width: [8, 32]")["model.width"] == IntDistribution(8, 32)


def test_an_argument_of_ones_own_class_is_whole_if_its_ends_are(read):
    space = read("data.init_args.size: [4, 8]\ndata.init_args.noise: [0.0, 1]", data__class_path="pkg.Data")
    assert space == {"data.init_args.size": IntDistribution(4, 8), "data.init_args.noise": FloatDistribution(0, 1)}


ROOT = Path(__file__).parents[3]


def test_the_space_of_penalties_and_twins_and_that_of_the_page_are_spaces(read):
    assert len(read((ROOT / "reproduce" / "pareto.yaml").read_text())) == 2
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "search.md").read_text(), re.DOTALL)
    assert len(read(block)) == 5

"""What `onespike models` lists."""

import pytest

from onespike.models import model_names


def test_each_family_is_listed_once_with_its_models(command):
    code, printed, _ = command("models")
    listed = printed.partition("\n\n")[0]
    assert code == 0
    assert set(model_names()) <= set(listed.replace(",", " ").split())
    assert listed.count("The paper's networks") == 1


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("conv-tiny", ["--model.preset paper", "--model.neuron.threshold 0.5", "--model.depths [2, 2, 2]"]),
        ("spiking-vgg-xs", ["spiking-vgg-xs: the presets ann, windows", "--model.strict true"]),
        ("resmlp12", ["resmlp12: no presets"]),
    ],
)
def test_options_are_shown_as_they_are_typed(name, lines, command):
    code, printed, _ = command("models", name)
    said = [" ".join(line.split()) for line in printed.splitlines()]
    assert code == 0
    assert all(any(one.startswith(line) for one in said) for line in lines)
    assert "{'" not in printed

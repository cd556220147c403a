"""What a command's --help says of defaults, and of the networks that it takes."""

import re

import pytest

from onespike.cli.command import SHARED
from onespike.cli.main import COMMANDS, dispatch


@pytest.fixture
def helped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The help of a command, in one line."""
    monkeypatch.setenv("COLUMNS", "10000")  # words are broken at hyphens

    def of(name: str) -> str:
        with pytest.raises(SystemExit, match=r"^0$"):
            dispatch([name, "--help"])
        return " ".join(capsys.readouterr().out.split())

    return of


def test_the_list_of_commands_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch([]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if "data" in command.sections])
def test_defaults_are_shown_where_they_hold_alone(name: str, helped) -> None:
    printed = helped(name)
    by_recipe = name in ("train", "search", "prune-time")
    assert ("(default: digits)" in printed.partition("--data.name")[2]) == by_recipe
    assert ("data options; the recipe's values come before these defaults:" in printed) == by_recipe
    assert ("data options; by default those of the run, if there is one:" in printed) != by_recipe
    assert ("(default: 300)" in printed) == by_recipe


def test_the_options_of_fine_tuning_are_those_of_its_recipe(helped) -> None:
    printed = helped("convert")
    assert "train options; by default those of the recipe cifar10/finetune:" in printed
    assert "(default:" not in printed.partition("--train.epochs")[2].partition("calibration options")[0]
    assert "(default: weights)" in printed.partition("calibration options:")[2]


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if "loss" in command.sections])
def test_losses_and_conversions_are_named_where_they_may_be_given(name: str, helped) -> None:
    printed = helped(name)
    assert "--loss.class_path pkg.Loss" in printed
    assert ("--conversion.time_steps TIME_STEPS" in printed) == ("conversion" in COMMANDS[name].sections)


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if re.match(r"\[?RUN\b", one.arguments)])
def test_commands_that_read_a_run_take_shared_networks(name: str, helped) -> None:
    printed = helped(name)
    assert (SHARED if name != "audit" else "pretrained:NAME or hub:USER/NAME") in printed

"""The page of a search: one HTML file that needs nothing else, and a table for other programs."""

import base64
import io
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onespike.classpath import allowed
from onespike.configs import Text, convert
from onespike.durable import csv_text, save_text
from onespike.errors import printable
from onespike.search.space import as_chosen
from onespike.search.study import Tried

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

PAGE, TABLE = "search.html", "search.csv"
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; border-radius: 4px; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid #8888; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
tr.best { font-weight: 600; }
"""


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Options as the command line takes them: text that would be read as another value, such as `no`, in quotes."""
    words = list[str]()
    for name, value in values.items():
        untyped = ".init_args." in name and not isinstance(value, Text)
        same = isinstance(value, str) and not (untyped and convert(Text(value), Any, name) != value)
        text = value if same else json.dumps(value, ensure_ascii=False)
        words += [f"--{name}={text}"] if text.startswith("--") else [f"--{name}", text]
    return words


def words_of(recipe: str, given: Mapping[str, Any]) -> list[str]:
    """The words that the commands of all trials share: modules that may be imported, the recipe, values of it."""
    imports = [word for name in allowed() for word in ("--import", name)]
    return [*imports, "--recipe", recipe, *as_words(given)]


def command_of(one: Tried, command: Sequence[str]) -> str:
    """The command that trains with the values of a trial; `command` are the words from `words_of`."""
    own = as_words({key: as_chosen(value) for key, value in one.values.items()})
    return shlex.join(["onespike", "train", *command, *own])


def best_of(found: Sequence[Tried]) -> list[Tried]:
    """The best trials, the most accurate first."""
    return sorted((one for one in found if one.best), key=lambda one: -(one.accuracy or 0.0))


def write_report(out: Path, found: Sequence[Tried], command: Sequence[str], energy: str, study: "optuna.Study") -> None:
    """Write page and table of the trials so far into the folder of a search."""
    names = list(dict.fromkeys(name for one in found for name in one.values))
    columns = ["trial", "outcome", "held out %", *(["µJ"] if energy else []), "best", *names, "epoch", "seconds", "run"]
    rows = [_row(one, names, energy) for one in found]
    save_text(csv_text(columns, rows), out / TABLE)
    title = escape(printable(out.resolve().name))
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    parts = [f"{head}<title>{title}</title><style>{_STYLE}</style>", f"<h1>{title}</h1>"]
    parts += [*_findings(found, command, energy, study), "<h2>Trials</h2>", _table(columns, rows, found)]
    save_text("\n".join(parts) + "\n", out / PAGE)


def _row(one: Tried, names: Sequence[str], energy: str) -> list[Any]:
    costs = [one.energy] if energy else []
    own = [one.values.get(name) for name in names]
    facts = [one.facts.get(key) for key in ("epoch", "seconds", "folder")]
    return [one.number, one.outcome, one.accuracy, *costs, "best" if one.best else "", *own, *facts]


def _findings(found: Sequence[Tried], command: Sequence[str], energy: str, study: "optuna.Study") -> list[str]:
    """What was searched for, what is best, and the pictures."""
    from onespike.search import drawing

    aims = "accuracy on the held-out images" + (f", and energy by the convention {energy}" if energy else "")
    counts = Counter(one.outcome.split(":")[0] for one in found)
    summary = ", ".join(f"{count} {word}" for word, count in counts.items()) or "none yet"
    about = "No test image has a say: train the best anew, or evaluate its run folder, to see how it does on those."
    parts = [f"<p>Searched for: {escape(aims)}. Trials: {escape(summary)}.</p>", f"<p>{about}</p>"]
    if best := best_of(found):
        parts.append(f"<h2>{'The front' if energy else 'The best'}</h2>")
        parts += [f"<p>{escape(describe(one))}</p><pre>{escape(command_of(one, command))}</pre>" for one in best]
        if energy:
            parts.append(_image(drawing.draw_front(found, energy), "Accuracy against energy"))
        parts += ["<h2>History</h2>", _image(drawing.draw_history(found), "Accuracy of each trial")]
        parts += ["<h2>Values</h2>", _image(drawing.draw_slices(found, study, energy), "Accuracy by value")]
        if shares := importances(study, energy):
            parts += ["<h2>Which option matters</h2>", _image(drawing.draw_importances(shares), "Importances")]
            what = "Share of the variance that each option explains in a forest of regression trees (fANOVA)."
            parts.append(f"<p>{what}</p>")
    return parts


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], found: Sequence[Tried]) -> str:
    header = "".join(f"<th>{escape(printable(name))}</th>" for name in columns)
    cells = ["".join(f"<td>{escape(_cell(value))}</td>" for value in row) for row in rows]
    kinds = ["best" if one.best else "" for one in found]
    lines = [f'<tr class="{kind}">{row}</tr>' for kind, row in zip(kinds, cells, strict=True)]
    return f'<div class="wide"><table><tr>{header}</tr>{"".join(lines)}</table></div>'


def describe(one: Tried) -> str:
    """A trial in a line."""
    accuracy = f" {one.accuracy:.2f}% of the held-out images" if one.accuracy is not None else ""
    costs = f", {one.energy:.4g} µJ an image" if one.energy is not None else ""
    values = ", ".join(f"{key} {_cell(value)}" for key, value in one.values.items())
    return printable(f"trial {one.number}: {one.outcome}{accuracy}{costs} ({values})")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return printable(value if isinstance(value, str) else json.dumps(value), 80)


def _image(figure: "Figure", about: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    return f'<img alt="{about}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def importances(study: "optuna.Study", energy: str) -> dict[str, dict[str, float]]:
    """How much each option matters, 0..1, by objective; empty where too few trials are done to tell."""
    import optuna

    shares, done = {}, [one for one in study.get_trials(deepcopy=False) if one.state.name == "COMPLETE"]
    for number, objective in enumerate(["accuracy", *(["energy"] if energy else [])]):
        if len({one.values[number] for one in done}) < 4 or len({tuple(one.params) for one in done}) > 1:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        target: Any = lambda one, number=number: one.values[number]  # noqa: E731
        shares[objective] = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    return shares

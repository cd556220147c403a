"""The paper's claims about energy beside what is counted, by each convention, never without the two accuracies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onespike.audit import CONVENTIONS, Audit, EnergyTable, audit_run, compare
from onespike.counting.energy import Convention
from onespike.errors import OnespikeError
from onespike.models import model_config
from onespike.training.loop import complete
from onespike.training.recipe import Recipe
from onespike.training.run import Run
from reproduce.baselines import RESNET19
from reproduce.published import ENERGY
from reproduce.report import Table, write_report
from reproduce.trained import open_or_train

#: What the small networks change in the recipe "digits"; the twins have the preset of their name.
SMALL = {"train.epochs": 6, "train.warmup_epochs": 1}
#: The standard spiking network, and its width unless the user says otherwise.
VGG, WIDTH = "spiking-vgg11", 8
ASSUMED = "ASSUMED, not verified"
_SMALL = (
    f"The network, its twins and the VGG-11 are **small: trained on the digits for {SMALL['train.epochs']} epochs, "
    "by one recipe, one seed**; the claims are about CIFAR-10. Give your own runs by --run, --ann, --binary, --vgg."
)


@dataclass(frozen=True)
class Subject:
    """A network in the comparison.

    Attributes:
        audit: What it costs.
        claim: A key of `published.ENERGY`: what the paper says of networks of its kind; None if it says nothing.
        assumed: Whether its firing rate is assumed and its accuracy cited, instead of both being measured.
    """

    audit: Audit
    claim: str | None = None
    assumed: bool = False


def energy(
    out: Path = Path("results"),
    run: Path | None = None,
    ann: Path | None = None,
    binary: Path | None = None,
    vgg: Path | None = None,
    width: int | None = None,
    images: int = 512,
    work: Path = Path("runs/paper"),
) -> None:
    """The claims "10x below the ANN, 3x below a standard SNN" beside what is counted, by each convention.

    Args:
        out: Folder for energy.csv, energy.md and energy.png.
        run: Run folder of the network; by default it and all others are small and trained on the digits.
        ann: Run folder of its ANN twin (--model.preset ann).
        binary: Run folder of its binary twin (--model.preset binary).
        vgg: Run folder of a spiking VGG-11; where it does not exist, one is trained there by the recipe of the run.
        width: Channels of the first convolution of a VGG-11 that is trained, by default 8; 64 in the original.
        images: Test images on which each network is audited, at most.
        work: Folder in which the small networks are trained.
    """
    for name, number in (("images", images), ("width", width)):
        if number is not None and number < 1:
            raise OnespikeError(f"{name}: expected at least 1, got {number}")
    small = run is None
    if small and (ann or binary or vgg):
        raise OnespikeError("--ann, --binary and --vgg stand beside a network of yours: give its run by --run")
    if width and not small and not vgg:
        raise OnespikeError("--width is that of a VGG-11: say by --vgg where it is, or is to be trained")
    if small:
        run, ann, binary = (_train_small(preset, work) for preset in ("paper", "ann", "binary"))
        vgg, origin = work / "energy-digits-vgg", _SMALL
    else:
        origin = "The network is a run of the user's."
    own = Run.open(run)
    subjects = [Subject(_audit(own, images))]
    for folder, preset, claim in ((ann, "ann", "ann"), (binary, "binary", None)):
        if folder:
            twin = _audit(_kin(own, folder, preset=preset), images)
            subjects.append(Subject(replace(twin, name="ANN twin" if claim else "binary twin"), claim))
    if vgg:
        given = not small and Run(vgg).is_complete
        other = _kin(own, vgg, name=VGG, width=width) if given else _open_or_train_vgg(vgg, own.recipe, width or WIDTH)
        subjects.append(Subject(_audit(other, images), "snn"))
    table = EnergyTable.load()
    for one in RESNET19:
        found = Audit(one.name, one.operations(), table, data="cifar10", accuracy=one.accuracy)
        subjects.append(Subject(found, "snn", assumed=True))
    claims, refused = _claims(subjects)
    parts: list[str | Table] = [
        f"The claims: {'; '.join(f'*{claim.text}*' for claim in ENERGY.values())}. {origin}",
        _networks(subjects),
        "Energy for one image. "
        + " ".join(f"*{one}*: {table.titles[one]}." for one in CONVENTIONS)
        + " Spikes are accumulated; where real values arrive, whatever the layer is called, products are "
        "multiply-accumulates.",
        claims.markdown() if claims.rows else "No ratio can be given.",
        "found: the energy of the other network over that of this one. A ratio says nothing without the accuracies "
        "beside it: a network that is worse may well be cheaper.",
        *(["\n".join(f"- {reason}" for reason in refused)] if refused else []),
        f"**{ASSUMED}**: {RESNET19[0].source}. The dense counts are exact.",
    ]
    write_report(out, "energy", "Energy: the claims, and what is counted", claims, parts, _draw(subjects))


def _audit(run: Run, images: int) -> Audit:
    found = audit_run(run, images=images, latency=False)
    model = run.recipe.model
    return replace(found, name=f"{model.name}, preset {found.preset}" if found.preset else model.name)


def _train_small(preset: str, work: Path) -> Path:
    return open_or_train(None, f"energy-digits-{preset}", {**SMALL, "model.preset": preset}, work).folder


def _kin(own: Run, folder: Path, **expected: Any) -> Run:
    """Open a run of the user's that stands beside a network: the same but for what is expected, on the same data."""
    run, model = Run.open(folder), own.recipe.model
    expected = {"name": model.name, "data": own.recipe.data.name, **expected}
    found = {name: getattr(run.recipe.model, name, None) for name in expected} | {"data": run.recipe.data.name}
    for name, value in expected.items():
        if value not in (None, found[name]):
            raise OnespikeError(f"{folder}: expected a run of {name} {value} here, got {name} {found[name]}")
    return run


def _open_or_train_vgg(folder: Path, recipe: Recipe, width: int) -> Run:
    """Open a run of a spiking VGG-11, or train one: by the recipe of the network that it is compared with."""
    # It learns from the labels alone, by the plain loss: a teacher, say, is of the other network.
    plain: dict[str, Any] = {"rate_penalty": 0.0, "energy_budget": 0.0, "teacher": "", "teacher_features": 0.0}
    train, run = replace(recipe.train, recompute=False, **plain), Run(folder)
    complete(Recipe(recipe.data, model_config(VGG, width=width), train), run)
    return run


def _networks(subjects: Sequence[Subject]) -> Table:
    rows = []
    for subject in subjects:
        found, ops = subject.audit, subject.audit.operations
        counts = ops.macs, 100 * ops.macs_of("real") / ops.macs, ops.synaptic_operations
        energies = (1e6 * found.energy(one).total for one in CONVENTIONS)
        rows.append([found.name, found.data, found.accuracy, *counts, *energies, _rates(subject)])
    columns = {"network": "", "images": "", "top-1 %": ".2f"}
    columns |= {"dense MACs": ",.0f", "real %": ".1f", "synaptic operations": ",.0f"}
    return Table({**columns, **{f"{one} µJ": ".3f" for one in CONVENTIONS}, "firing rates": ""}, rows)


def _rates(subject: Subject) -> str:
    return ASSUMED if subject.assumed else "measured"


def _claims(subjects: Sequence[Subject]) -> tuple[Table, list[str]]:
    """Hold the first network against each of the others, claim by claim; and say which cannot be."""
    ours, *others = subjects
    rows: list[list[Any]] = []
    refused: list[str] = []
    for subject in others:
        made, reasons = compare([ours.audit, subject.audit])
        refused += reasons
        times = ENERGY[subject.claim].times if subject.claim else None
        for one in made:
            for convention, ratio in one.ratios.items():
                holds = None if times is None else "yes" if ratio >= times else "no"
                rows.append([one.second, convention, *one.accuracies, times, ratio, holds, _rates(subject)])
    columns = {"against": "", "convention": "", "top-1 %": ".2f", "its top-1 %": ".2f"}
    return Table(columns | {"claimed": ".0f", "found": ".2f", "holds": "", "firing rates": ""}, rows), refused


def _draw(subjects: Sequence[Subject]) -> Figure:
    figure = Figure(figsize=(12, 1.5 + 0.45 * len(subjects)), layout="constrained")
    axes = figure.subplots(1, len(CONVENTIONS), sharey=True)
    for axis, convention in zip(axes, CONVENTIONS, strict=True):
        _panel(axis, subjects, convention)
    names = [f"{one.audit.name}\n{one.audit.data}, {_accuracy(one)}" for one in subjects]
    axes[0].set_yticks(range(len(subjects)), names, fontsize=8.5)
    axes[0].invert_yaxis()
    return figure


def _accuracy(subject: Subject) -> str:
    accuracy = subject.audit.accuracy
    text = "accuracy not known" if accuracy is None else f"top-1 {accuracy:.1f}%"
    return f"{text}, ASSUMED rates" if subject.assumed else text


def _panel(axis: Axes, subjects: Sequence[Subject], convention: Convention) -> None:
    """Draw the energies by one convention; what is claimed of a network is a mark on its line."""
    energies = [1e6 * one.audit.energy(convention).total for one in subjects]
    for position, (subject, value) in enumerate(zip(subjects, energies, strict=True)):
        colour, hatch = ("lightgrey", "///") if subject.assumed else ("C1" if position else "C0", None)
        axis.barh(position, value, color=colour, height=0.62, hatch=hatch, edgecolor="white")
        text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        axis.annotate(text, (value, position), (4, 0), textcoords="offset points", va="center", fontsize=8)
        if subject.claim and subject.audit.data == subjects[0].audit.data:
            claimed = energies[0] * ENERGY[subject.claim].times
            label = None if any(line.get_label() == "claimed" for line in axis.lines) else "claimed"
            axis.plot([claimed] * 2, [position - 0.4, position + 0.4], color="C3", linewidth=2, label=label)
    axis.set_xscale("log")
    axis.set_xlim(min(energies) / 3, max(energies) * 5)
    axis.set_xlabel("µJ for one image")
    titles = {"field": "the field's convention", "int8": "8 bits", "memory": "8 bits, memory traffic"}
    axis.set_title(titles[convention], loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    if axis.lines:
        axis.legend(frameon=False, fontsize=8.5, loc="upper right")

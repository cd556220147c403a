"""Conversion: the artificial network, converted at several numbers of time steps, and trained on at one."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from scipy.stats import binomtest

from onespike.audit import audit_run
from onespike.conversion.convert import convert_run
from onespike.durable import write_whole
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import evaluate
from onespike.model import AnnConfig
from onespike.paper.report import Table, write_report
from onespike.paper.trained import open_or_train
from onespike.training.run import Run

#: What the small network for a first look changes in the recipe "digits".
SMALL = {"model.name": "resmlp12", "train.epochs": 10, "train.lr": 0.05, "train.mixup": 0.0}
#: Images that energy and latency are measured on.
MEASURED = 64


@dataclass(frozen=True)
class Outcome:
    """One network of the comparison.

    Attributes:
        network: What it is.
        time_steps: T; 0 for an artificial network.
        epochs: Epochs it was trained for, before and after conversion together.
        top1: Accuracy on the test images, in percent.
        low: Lower end of its 95% interval (Wilson).
        high: Upper end.
        milliseconds: Time for one image in a batch of 64.
        microjoules: Energy for one image by the field's convention.
        memory_microjoules: Likewise with 8-bit arithmetic and memory traffic.
    """

    network: str
    time_steps: int
    epochs: int
    top1: float
    low: float
    high: float
    milliseconds: float
    microjoules: float
    memory_microjoules: float


def conversion(
    run: Path | None = None,
    longer: tuple[Path, ...] = (),
    finetuned: tuple[Path, ...] = (),
    time_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    images: int = 512,
    allow_real: bool = False,
    out: Path = Path("results"),
    work: Path = Path("runs/paper"),
) -> None:
    """An artificial network, converted at several numbers of time steps, and after training on at one.

    Args:
        run: The run of the artificial network; a small ResMLP on the digits, trained first, by default.
        longer: Runs of the same network trained for as many epochs as those of `finetuned` have in all.
        finetuned: Runs that were trained on at one time step after conversion, by any route.
        time_steps: Numbers of time steps to convert for.
        images: Training images that calibrate.
        allow_real: Leave real-valued what cannot be converted, as the softmax of an attention.
        out: Folder for conversion.csv, conversion.md and conversion.png.
        work: Folder for the converted runs; what is there is not made again.
    """
    if not time_steps or min(time_steps) < 1:
        raise OnespikeError(f"time_steps: expected numbers of at least 1, got {list(time_steps)}")
    ann = open_or_train(run, "conversion/ann", SMALL, work)
    config = ann.checkpoint("best").card.config
    if not isinstance(config, AnnConfig) or config.neurons != "none":
        raise OnespikeError(f"{ann.folder}: expected a run of an artificial network, such as of cifar10/resnet18")
    found = [_measure(ann, "artificial network")]
    found += [_measure(Run.open(folder), "artificial network, trained as long") for folder in longer]
    for steps in time_steps:
        converted = Run(work / "conversion" / f"{ann.folder.name}-T{steps}")
        if not converted.has_checkpoint():
            convert_run(ann, converted.folder, time_steps=steps, images=images, allow_real=allow_real)
        found.append(_measure(converted, "converted"))
    found += [_measure(Run.open(folder), _route(Run.open(folder))) for folder in finetuned]
    columns = {
        "network": "",
        "T": "d",
        "epochs": "d",
        "top-1 %": ".2f",
        "from": ".2f",
        "to": ".2f",
        "ms an image": ".2f",
        "µJ, field": ".2f",
        "µJ, memory": ".2f",
    }
    table = Table(columns, [tuple(asdict(one).values()) for one in found])
    about = (
        f"{config.name} with {config.activation} activations on {ann.checkpoint('best').card.data}. *from* and *to* "
        f"are the 95% interval (Wilson) over the test images; T = 0 marks an artificial network. Time and energy are "
        f"measured on {MEASURED} test images, in a batch of {MEASURED}, by `onespike audit`; both grow with T."
    )
    write_report(out, "conversion", "Conversion", table, [about, table], _draw(found))


def _measure(run: Run, network: str) -> Outcome:
    """Evaluate and audit a run, once: the outcome is kept beside its checkpoints."""
    kept = run.folder / "conversion-outcome.json"
    if kept.is_file():
        return Outcome(**json.loads(kept.read_text()))
    evaluation = evaluate(run)
    right = round(evaluation.top1.mean / 100 * evaluation.images)
    interval = binomtest(right, evaluation.images).proportion_ci(method="wilson")
    audit = audit_run(run, images=MEASURED)
    checkpoint = run.checkpoint("best")
    config = checkpoint.card.config
    steps = config.time_steps if isinstance(config, AnnConfig) and config.neurons != "none" else 0
    outcome = Outcome(
        network,
        steps,
        evaluation.epochs,
        evaluation.top1.mean,
        100 * interval.low,
        100 * interval.high,
        1e3 / audit.latency[-1].images_per_second,
        1e6 * audit.energy("field").total,
        1e6 * audit.energy("memory").total,
    )
    write_whole(kept, json.dumps(asdict(outcome), indent=2))
    return outcome


def _route(run: Run) -> str:
    config = run.checkpoint("best").card.config
    staircase = isinstance(config, AnnConfig) and config.activation == "qcfs"
    return f"trained on, {'staircase' if staircase else 'calibrated'} route"


def _draw(found: list[Outcome]) -> Figure:
    figure = Figure((7, 4), layout="constrained")
    axis = figure.subplots()
    converted = [one for one in found if one.network == "converted"]
    steps = [one.time_steps for one in converted]
    error = [[one.top1 - one.low for one in converted], [one.high - one.top1 for one in converted]]
    axis.errorbar(steps, [one.top1 for one in converted], error, marker="o", capsize=3, label="converted")
    for number, one in enumerate(one for one in found if one.network != "converted"):
        color = f"C{number + 1}"
        if one.time_steps:
            error = [[one.top1 - one.low], [one.high - one.top1]]
            axis.errorbar([one.time_steps], [one.top1], error, fmt="s", capsize=3, color=color, label=one.network)
        else:
            axis.axhline(one.top1, color=color, linestyle="--", label=one.network)
    axis.set(xscale="log", xlabel="time steps", ylabel="top-1, %", xticks=steps)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize="small")
    return figure

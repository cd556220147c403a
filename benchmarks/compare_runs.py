"""`python -m benchmarks.compare_runs RUN RUN …`: finished runs side by side."""

from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.durable import expect_writable
from onespike.errors import OnespikeError, damage_named, reason
from onespike.search.drawing import plain_figure
from onespike.training import Run
from reproduce.report import Table, facts_of, read_rows, write_report

#: Below the table.
MEANING = (
    "*minutes* is the time of the training epochs alone, each at the pace of the run's fastest, by its operations, "
    "since a machine that does other things as well slows some of them down; *by the clock* is what the clock said. Of "
    "one seed a point or two says little."
)
COLUMNS = {
    "run": "",
    "preset": "",
    "test top-1 %": ".2f",
    "test top-5 %": ".2f",
    "held out %": ".2f",
    "minutes": ".1f",
    "by the clock": ".1f",
    "epochs": "d",
    "images/s": ".0f",
    "optimiser": "",
    "lr": "g",
    "warm-up": "g",
    "batch": "d",
    "augmentation": "",
    "seed": "d",
    "commit": "",
    "machine": "",
}


def compare_runs(
    runs: list[Path],
    add_to: Path | None = None,
    out: Path = Path("results"),
    name: str = "runs",
    title: str = "Runs",
    note: Path | None = None,
) -> int:
    """Finished runs side by side: what each reached, in what time, from which commit, on which machine.

    Args:
        runs: Run folders.
        add_to: A table that was written before, whose rows come first: for runs whose folders are no longer there. Of
            these the last epoch alone is drawn.
        out: Folder for NAME.csv, NAME.md and NAME.png.
        name: What the files are called.
        title: The heading.
        note: A file with paragraphs for above the table.
    """
    expect_writable(folder=out)
    try:
        above = [note.read_text(encoding="utf-8").strip()] if note else []
    except (OSError, UnicodeDecodeError) as error:
        raise OnespikeError(f"--note {note}: expected a file of text: {reason(error)}") from error
    earlier = kept(add_to) if add_to else []
    table = Table(COLUMNS, [*earlier, *(row(folder) for folder in runs)])
    write_report(out, name, title, table, [*above, table, MEANING], draw(runs, earlier))
    print(table.markdown())
    return 0


def row(folder: Path) -> list[object]:
    """What is told of one run, in the order of the columns."""
    run = Run.open(folder)
    recipe, summary = run.recipe, run.summary
    if summary is None:
        raise OnespikeError(f"{folder}: expected a finished run: onespike train --resume {folder} goes on with it")
    facts = facts_of(run)
    train = recipe.train
    flip = "alternating flip" if recipe.data.alternate_flip else "flip"
    augmentation = [f"crop {recipe.data.crop_padding}, {flip}", recipe.data.auto_augment and "AutoAugment"]
    augmentation.append(recipe.data.cutout and f"Cutout {recipe.data.cutout}")
    augmentation.append(train.mixup and f"Mixup {train.mixup}")
    accelerators = ", ".join(facts["accelerators"]) if train.device == "auto" else ""
    return [
        folder.name,
        getattr(recipe.model, "preset", ""),
        summary["test_top1"],
        summary["test_top5"],
        summary["valid_top1"],
        minutes(folder)[-1],
        sum(float(epoch["epoch_seconds"]) for epoch in read_rows(folder / "metrics.csv")) / 60,
        summary["epochs"],
        summary["images_per_second"],
        train.optimizer,
        train.lr,
        train.warmup_epochs,
        train.batch_size,
        ", ".join(part for part in augmentation if part),
        train.seed,
        facts["commit"] or "unknown",
        f"{accelerators or facts['processor']}, {facts['threads']} threads, {train.precision}",
    ]


def kept(path: Path) -> list[list[object]]:
    """The rows of a table that was written before."""
    kinds = {"": str, "d": int}
    with damage_named(f"--add-to {path}", "it is no such table", "a table that this script wrote"):
        return [
            [kinds.get(spec, float)(one[name]) if one[name] else None for name, spec in COLUMNS.items()]
            for one in read_rows(path)
        ]


def minutes(folder: Path) -> list[float]:
    """When each epoch ended, in minutes of training at the pace of the fastest, counted by its operations."""
    # Images may grow: epochs do not cost the same. Where not all operations were counted, they do.
    history = read_rows(folder / "metrics.csv")
    counted = all(float(epoch["pflop"] or 0) > 0 for epoch in history)
    spent = [float(epoch["pflop" if counted else "epoch"]) for epoch in history]
    seconds = [float(epoch["epoch_seconds"]) for epoch in history]
    own = [after - before for before, after in zip([0.0, *spent], spent, strict=False)]
    fastest = min(one / cost for one, cost in zip(seconds, own, strict=True))
    return [fastest * cost / 60 for cost in spent]


def draw(folders: list[Path], earlier: list[list[object]]) -> Figure:
    """Accuracy on the held-out images over the minutes of training; a run that held out none is not drawn."""
    figure, axes = plain_figure(7, 4.5)
    columns = list(COLUMNS)
    for one in earlier:
        if one[columns.index("held out %")] is not None:
            axes.plot(one[columns.index("minutes")], one[columns.index("held out %")], marker="o", label=one[0])
    for folder in folders:
        epochs = read_rows(folder / "metrics.csv")
        accuracies = [float(epoch["valid_top1"]) for epoch in epochs if epoch["valid_top1"]]
        if accuracies:
            axes.plot(minutes(folder), accuracies, marker="o", label=folder.name)
    axes.set(xlabel="minutes of training", ylabel="held-out top-1, %", xlim=(0, None))
    axes.legend()
    return figure


main = partial(call, compare_runs, usage="python -m benchmarks.compare_runs RUN RUN …")


if __name__ == "__main__":
    exit_with(main)

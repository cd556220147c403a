"""`onespike evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onespike.cli.command import Overrides
from onespike.terminal import person, plain_table

if TYPE_CHECKING:
    from onespike.evaluation.evaluate import Spread

#: Most classes that are all printed; else this many of the worst; and this many confusions.
CLASSES, WORST, CONFUSIONS = 20, 10, 5


def evaluate(
    run: Path,
    overrides: Overrides,
    part: Literal["test", "validation", "train"] = "test",
    checkpoint: Literal["best", "last"] = "best",
    passes: int = 1,
    batch_size: int | None = None,
    precision: Literal["trained", "fp32", "bf16", "fp16", "fp64"] = "trained",
    time_steps: int | None = None,
    device: Literal["auto", "cpu"] = "auto",
    flips: bool = False,
    out: Path | None = None,
    json: str | None = None,
) -> int:
    """Accuracy of a run's network, by class, and which classes it takes for which.

    The images are the run's own; --data.* choose others, such as --data.name folder --data.root FOLDER.

    Args:
        run: Run folder.
        overrides: Other images.
        part: Which images of the data set: test, validation or train.
        checkpoint: Which weights of the run: best or last.
        passes: How often to show the images to a network that draws random numbers.
        batch_size: Images in a batch; by default as in training.
        precision: Arithmetic: fp32, bf16, fp16, fp64, or trained, as in training.
        time_steps: How often the network runs on one image.
        device: auto takes the accelerator if there is one, cpu never.
        flips: Score test-time flips as well: the mean of the logits of each image and its mirror image.
        out: Folder for the results; by default RUN/evaluation.
        json: A further file for the numbers; - prints them.
    """
    from accelerate import PartialState

    from onespike.durable import expect_writable, save_json
    from onespike.evaluation.evaluate import TABLES
    from onespike.evaluation.evaluate import evaluate as evaluate_run
    from onespike.training.pretrained import beside
    from onespike.training.run import Run

    opened, folder = Run.open(run), out or beside(run) / "evaluation"
    expect_writable(json, *(folder / name for name in TABLES), folder=folder)
    data = opened.recipe_with(overrides).data
    how = (passes, batch_size, precision, device, time_steps)
    result = evaluate_run(opened, data, part, checkpoint, *how, flips=flips)
    if not PartialState().is_main_process:
        return 0
    result.save(folder)
    if json:
        save_json(result.to_json(), json)
    console = person(json)
    weights = f"{result.checkpoint} weights (epoch {result.epochs})"
    several = f", {result.passes} passes" if result.passes > 1 else ""
    console.print(f"{result.data}, {result.part}: {result.images:,} images, {weights}{several}")
    if passes > result.passes:
        console.print("the encoding draws nothing, so every pass is the same: one was made")
    many = len(result.classes) > 5  # else top-5 is 100%
    console.print(_line(many, result.top1, result.top5, result.loss))
    if result.with_flips:
        console.print(f"with test-time flips, beside that: {_line(many, **result.with_flips)}")
    console.print()
    accuracies = [(name, value) for name, value in result.per_class.items() if value is not None]
    if len(accuracies) > CLASSES:
        accuracies = sorted(accuracies, key=lambda pair: pair[1])[:WORST]
        console.print(f"the {WORST} worst of {len(result.classes)} classes:")
    bars = [(name, f"{value:.1f}%", "█" * round(value / 5)) for name, value in accuracies]
    console.print(plain_table("class", ">accuracy", "", rows=bars, wrap=True), soft_wrap=False)
    if confusions := result.most_confused(CONFUSIONS):
        rows = [(one.truth, one.guess, f"{one.images:,}", f"{one.share:.1f}%") for one in confusions]
        columns = ("true class", "taken for", ">images", ">of the class")
        console.print()
        console.print(plain_table(*columns, rows=rows, wrap=True), soft_wrap=False)
    console.print(f"\nconfusion.png, confusion.csv, per_class.csv and evaluation.json are in {folder}")
    return 0


def _line(many: bool, top1: "Spread", top5: "Spread", loss: "Spread") -> str:
    tops = {"top-1": top1, "top-5": top5} if many else {"top-1": top1}
    shown = (f"{k} {mean:.2f}%" + ("" if std is None else f" ± {std:.2f}") for k, (mean, std) in tops.items())
    return "   ".join((*shown, f"loss {loss.mean:.4f}"))

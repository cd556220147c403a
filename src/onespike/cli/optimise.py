"""`onespike optimise`."""

from pathlib import Path
from typing import Literal

from onespike.cli.tables import person, plain_table


def optimise(
    run: Path,
    out: Path | None = None,
    precision: Literal["int8", "int16"] = "int8",
    checkpoint: Literal["best", "last"] = "best",
    images: int = 0,
    rounds: int = 20,
    json: str | None = None,
) -> int:
    """Make an engine for fast inference on CPUs: batch norm folded, spikes as bytes, weights as integers.

    It is then compared with the run's network on the run's test images. In Python:
    onespike.inference.load_engine(FOLDER)(images)

    Args:
        run: Run folder.
        out: Folder for the engine; by default RUN/engine.
        precision: int8, 8 bits for weights that meet spikes, bf16 in layers that read real values; or int16, 16 bits
            and fp32, slower, and nearly every spike stays the same.
        checkpoint: Which weights of the run: best or last.
        images: Compare at most so many test images; 0 takes all.
        rounds: Timings for each batch size.
        json: A further file for the report; - prints it.
    """
    from onespike.durable import expect_writable, save_json
    from onespike.inference.optimise import optimise as make_engine
    from onespike.training.run import Run, environment

    folder = out or run / "engine"
    expect_writable(json, folder=folder)
    report = make_engine(Run.open(run), folder, precision, checkpoint, images, rounds)
    console = person(json)
    tops = f"top-1 {report.engine_top1:.2f}% instead of {report.top1:.2f}% on {report.images:,} images"
    console.print(f"{report.precision}: {tops}, the same class on {report.same_class:.2f}%\n")
    rows = [
        (str(number), f"{one.firing_rate:.4f}", f"{one.engine_firing_rate:.4f}", f"{one.flipped:.2%}")
        for number, one in enumerate(report.blocks, 1)
    ]
    console.print(plain_table("block", ">firing rate", ">engine's", ">spikes flipped", rows=rows), soft_wrap=False)
    rows = [(str(one.batch), f"{one.eager:.2f}", f"{one.engine:.2f}", f"{one.ratio:.2f}") for one in report.latencies]
    console.print()
    console.print(plain_table("batch", ">eager fp32, ms", ">engine, ms", ">ratio", rows=rows), soft_wrap=False)
    console.print(f"medians, on {report.threads} {'thread' if report.threads == 1 else 'threads'}")
    facts = environment()
    machine = {name: facts[name] for name in ("processor", "onespike", "commit", "packages")}
    content = report.to_json() | {"environment": machine}
    save_json(content, str(folder / "report.json"))
    if json:
        save_json(content, json)
    console.print(f"\nthe engine and report.json are in {folder}")
    return 0

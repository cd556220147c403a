"""`onespike optimise`."""

from pathlib import Path
from typing import Literal

from onespike.cli.command import Overrides
from onespike.terminal import person, plain_table


def optimise(
    run: Path,
    overrides: Overrides,
    out: Path | None = None,
    precision: Literal["auto", "int8", "int16", "fp32"] = "auto",
    checkpoint: Literal["best", "last"] = "best",
    images: int = 0,
    rounds: int = 20,
    json: str | None = None,
) -> int:
    """Make an engine for fast inference on CPUs, and compare it with the run's network on test images.

    Our own engine (batch norm folded, spikes as bytes, weights as integers) takes the paper's networks with lif
    neurons, at one time step, with a spiking encoding, the stem patch and the norm none or batch (not the preset
    improved). Any other network is written as ONNX, for ONNX Runtime or OpenVINO, whichever is faster here; that needs
    the extra export. In Python: onespike.inference.load_engine(FOLDER)(images)

    Args:
        run: Run folder.
        overrides: Other images, or another place of the run's own.
        out: A new folder for the engine, or that of an earlier one; by default RUN/engine.
        precision: int8: 8 bits for weights that meet spikes (and, in our own engine, bf16 in layers that read real
            values). int16, of our own engine alone: 16 bits and fp32, slower, and nearly every spike stays the same.
            fp32, of ONNX alone. auto: int8, or fp32 of ONNX if layers behind the stem read real values.
        checkpoint: Which weights of the run: best or last.
        images: Most test images to compare on; 0 takes all.
        rounds: Timings for each batch size.
        json: A further file for the report; - prints it.
    """
    from onespike.durable import expect_writable, save_json
    from onespike.environment import environment
    from onespike.folders import expect_outside
    from onespike.inference.optimise import optimise as make_engine
    from onespike.inference.storage import REPORT
    from onespike.training.pretrained import beside
    from onespike.training.run import Run

    opened, folder = Run.open(run), out or beside(run) / "engine"
    expect_writable(json, folder=folder)
    expect_outside(json, folder)
    data = opened.recipe_with(overrides).data
    report = make_engine(opened, folder, precision, checkpoint, images, rounds, data=data)
    console = person(json)
    for line in report.compared.markdown().splitlines():
        console.print(line)
    if report.blocks:
        rows = [
            (str(number), f"{one.firing_rate:.4f}", f"{one.engine_firing_rate:.4f}", f"{one.flipped:.2%}")
            for number, one in enumerate(report.blocks, 1)
        ]
        console.print(plain_table("block", ">firing rate", ">engine's", ">spikes flipped", rows=rows), soft_wrap=False)
    facts = environment()
    machine = {name: facts[name] for name in ("processor", "onespike", "commit", "packages")}
    content = report.to_json() | {"environment": machine}
    save_json(content, str(folder / REPORT))
    if json:
        save_json(content, json)
    console.print(f"the engine, {report.engine}, and report.json are in {folder}")
    return 0

"""`onespike convert`."""

import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from onespike.classpath import command
from onespike.cli.command import Overrides
from onespike.cli.train import fit
from onespike.conversion import Calibration, ConversionConfig
from onespike.errors import OnespikeError
from onespike.terminal import person, plain_table


def convert(
    run: Path,
    overrides: Overrides,
    conversion: ConversionConfig,
    out: Path | None = None,
    images: int = 512,
    finetune: bool = False,
) -> int:
    """Turn the artificial network of a run into a spiking one: integrate-and-fire neurons in place of activations.

    Thresholds are calibrated on training images: the run's own; --data.* choose others, or say where they are now, such
    as --data.root FOLDER. The options --train.* are for --finetune, those of --calibration.* say how thresholds are
    found.

    Args:
        run: Run folder of an artificial network.
        overrides: Other images, another training, another calibration.
        conversion: How to convert.
        out: Run folder of the spiking network, new or empty.
        images: How many training images to calibrate on.
        finetune: Then fine-tune at one time step, into the run folder OUT-finetuned; batch norm is kept for that.
    """
    from onespike.configs import make
    from onespike.evaluation.convert import convert_run
    from onespike.training import Run, load_recipe
    from onespike.training.set_up import set_up

    given: dict[str, Any] = dict(conversion)  # type: ignore[call-overload]
    if out is None:
        raise OnespikeError("expected two run folders: onespike convert RUN --out RUN")
    of_data, of_train, of_calibration = (
        {key: value for key, value in overrides.items() if key.split(".")[0] == section}
        for section in ("data", "train", "calibration")
    )
    if of_train and not finetune:
        raise OnespikeError("--train.* options are for --finetune; leave them out, or add it")
    values = {key.removeprefix("calibration."): value for key, value in of_calibration.items()}
    calibration = make(Calibration, values, "calibration")
    source = Run.open(run)
    Run(out).expect_free()
    data = source.recipe_with(of_data).data
    training = load_recipe("cifar10/finetune", of_train, source.recipe).train
    if finetune:  # what training would refuse is refused before anything is written
        given.setdefault("batch_norm", "kept")
        if given.get("time_steps", 1) != 1:
            raise OnespikeError(f"--finetune is for one time step: leave out --time-steps {given['time_steps']}")
        finetuned = Run(out.absolute().with_name(f"{out.absolute().name}-finetuned"))
        finetuned.expect_free()
        config = make(ConversionConfig, given, "conversion")
        set_up(replace(source.recipe, data=data, train=training, conversion=config))
    made = convert_run(source, out, data=data, images=images, calibration=calibration, **given)
    if not source.is_complete:
        unfinished = f"{source.folder} is not trained to its end (epochs so far: {source.epochs()})"
        print(f"warning: {unfinished}: its best weights until now were converted", file=sys.stderr)
    console = person()
    rows = [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in astuple(layer)] for layer in made.layers]
    columns = ("layer", "replaces", ">thresholds", ">mean", ">L2 error", ">cosine", ">rate")
    console.print(plain_table(*columns, rows=rows), soft_wrap=False)
    if made.real:
        console.print(f"\nleft real-valued: {', '.join(made.real)}")
    each = f", {made.network.population} for each activation" if made.network.population > 1 else ""
    then = f", then: {command('evaluate', out)}; to fine-tune it at one time step, convert with --finetune"
    done = f"the run is in {out}, see conversion.csv{'' if finetune else then}"
    steps = "one time step" if made.network.time_steps == 1 else f"{made.network.time_steps} time steps"
    how = f"{steps}, calibrated on {made.images} images"
    console.print(f"\n{len(made.layers)} layers of neurons{each}, {how}; {done}")
    if not finetune:
        return 0
    converted = Run.open(out)
    return fit(replace(converted.recipe, train=training), finetuned, init_from=converted)

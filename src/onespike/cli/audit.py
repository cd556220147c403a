"""`onespike audit`."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onespike.audit.audit import NOISE, audit_model, audit_run
from onespike.audit.report import Comparison, compare, save_report
from onespike.audit.result import Audit
from onespike.counting.energy import CONVENTIONS, VARIANTS, EnergyTable
from onespike.data.config import DataConfig
from onespike.durable import save_json, save_text
from onespike.errors import OnespikeError, unknown
from onespike.evaluation.evaluate import Device
from onespike.models import ANNS, MODELS, AnnConfig, ModelConfig
from onespike.training.recipe import parse, recipe_path
from onespike.training.run import Run

#: Characters in a line that goes to a file: room for long names of layers.
_WIDTH = 120


def run(arguments: Sequence[str]) -> int:
    """Audit a run or a model.

    Args:
        arguments: The command line behind `onespike audit`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike audit",
        usage="onespike audit RUN|MODEL [options]",
        description="What a network costs: operations by what arrives at each layer, energy under several conventions, "
        "latency, memory. RUN is a run folder and brings its images along; MODEL is a registered model with fresh "
        "weights, its images are chosen by --data.* (noise without them) and its architecture by --model.*",
        exit_on_error=False,
    )
    parser.add_argument("subject", type=str | None, nargs="?", metavar="RUN|MODEL", help="run folder or model")
    parser.add_argument("--images", type=int, default=512, help="how many test images, evenly spread")
    parser.add_argument("--compare", type=str, nargs="+", default=[], metavar="RUN", help="other runs beside it")
    parser.add_argument("--energy", type=str | None, help="YAML file with the constants of energy")
    parser.add_argument("--latency", type=bool, default=True, help="measure time, memory, joules")
    parser.add_argument("--scaling", type=bool, default=False, help="count and time other sizes as well")
    parser.add_argument("--device", type=Device, default="auto", help="auto takes the accelerator if there is one")
    parser.add_argument("--html", type=str | None, help="file for the report, one page for a browser")
    parser.add_argument("--csv", type=str | None, help="file for the layers")
    parser.add_argument("--json", type=str | None, help="file for everything; - prints it")
    subject = _subject(arguments)
    given = any(argument.startswith("--data") for argument in arguments)
    values = _parse(parser, arguments, subject)
    if subject is None:
        raise OnespikeError("expected a run folder or a model: onespike audit RUN|MODEL")
    if values.images < 1:
        raise OnespikeError(f"--images: expected at least 1, got {values.images}")
    others = [name for name in values.compare if name != subject]
    for name in others:
        Run.open(Path(name))
    table = EnergyTable.load(values.energy)
    audits = [_audit(name, subject, values, table, given) for name in (subject, *others)]
    # Where the standard output is for JSON, a person reads the standard error.
    console = Console(stderr=values.json == "-", highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH  # in a file nothing needs to be cut
    for one in audits:
        _print(one, console)
    for section, source in table.sources.items():
        console.print(f"{table.file}, {section}: {source}", markup=False, soft_wrap=True, style="dim")
    comparisons, refused = compare(audits)
    _print_comparisons(audits, comparisons, refused, console)
    _save(audits, comparisons, refused, values, console)
    return 0


def _subject(arguments: Sequence[str]) -> str | None:
    """Find RUN or MODEL ahead of the parser, whose defaults depend on it; without one, the first run to compare."""
    compared: list[str] = []
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option = "" if "=" in argument else argument
        elif option == "--compare":
            compared.append(argument)
        elif option:
            option = ""  # this was its value
        else:
            return argument
    return compared[0] if compared else None


def _parse(parser: ArgumentParser, arguments: Sequence[str], subject: str | None) -> Namespace:
    if subject is None:
        return parse(parser, arguments, None)
    if Path(subject).is_dir():
        return parse(parser, arguments, Run.open(Path(subject)).config, sections=("data",))
    if subject not in (*MODELS, *ANNS):
        raise unknown("run folder or model", subject, [*MODELS, *ANNS])
    recipe = recipe_path("digits" if subject == "conv-tiny" else "cifar10/conv12")
    return parse(parser, [*arguments, f"--model.name={subject}"], recipe, sections=("data", "model"))


def _audit(name: str, subject: str, values: Namespace, table: EnergyTable, given: bool) -> Audit:
    """Audit a run or a model; a model without images of its own, where none are `given`, on noise."""
    data = DataConfig(**values.data.as_dict())
    choices = (values.images, table, values.device, values.latency, values.scaling)
    if Path(name).is_dir():
        # The images of --data.* are for the first network; the others bring theirs along.
        return audit_run(Run.open(Path(name)), data if name == subject else None, *choices)
    kind = AnnConfig if name in ANNS else ModelConfig
    return audit_model(kind(**values.model.as_dict()), data if given else None, *choices)


def _save(
    audits: list[Audit], comparisons: list[Comparison], refused: list[str], values: Namespace, console: Console
) -> None:
    if values.html:
        save_report(audits, Path(values.html))
        console.print(f"\nthe report is {values.html}", markup=False, soft_wrap=True)
    if values.csv:
        save_text(audits[0].to_csv(), Path(values.csv))
    if values.json:
        content = audits[0].to_json() | {
            "compared": [one.to_json() for one in audits[1:]],
            "comparisons": [one.to_json() for one in comparisons],
            "not_compared": refused,
        }
        save_json(content, values.json)


def _print(audit: Audit, console: Console) -> None:
    """Print what was found, for a person."""
    ops = audit.operations
    preset = f", preset {audit.preset}" if audit.preset else ""
    console.print(
        f"{audit.name}{preset}: {ops.macs:,.0f} dense multiply-accumulates for one image, {ops.macs_of('real'):,.0f} "
        f"of them on real values ({100 * ops.macs_of('real') / ops.macs:.1f}%)",
        markup=False,
        soft_wrap=True,
    )
    if not audit.trained:
        console.print(
            "the weights are UNTRAINED: dense counts are exact; firing rates, and what follows from them, mean little",
            soft_wrap=True,
        )
    known = f"top-1 {audit.accuracy:.2f}%" if audit.accuracy is not None else "accuracy not known"
    images = "images of NOISE: choose real ones by --data.*" if audit.data == NOISE else f"test images of {audit.data}"
    console.print(f"{known}; {ops.weights:,} weights; counted on {ops.images:,} {images}\n", markup=False)
    _print_layers(audit, console)
    potentials = ops.potentials
    work = ", ".join(f"{kind} {times:,.0f}" for kind, times in ops.elementwise.items())
    console.print(f"\nfor one image: {ops.synaptic_operations:,.0f} synaptic operations", end="")
    console.print(f" (spikes that meet a weight); element-wise {work};", soft_wrap=True)
    console.print(f"potentials handed on: {potentials.reads:,.0f} values read, {potentials.writes:,.0f} written\n")
    _print_energy(audit, console)
    for one in audit.latency:
        memory = f", peak memory of the process {one.memory / 2**20:,.0f} MiB" if one.memory else ""
        console.print(
            f"batch {one.batch}: {1e3 * one.median:.2f} ms (quartiles {1e3 * one.low:.2f} to {1e3 * one.high:.2f}, "
            f"{one.runs} passes), {one.images_per_second:,.0f} images/s{memory}; {one.dtype}, {one.device}, "
            f"threads {one.threads}" + (f"; NOT TO BE TRUSTED, the machine was busy: {one.busy}" if one.busy else ""),
            style="dim" if one.busy else None,
            soft_wrap=True,
        )
    joules = f"{audit.joules.per_image:.3g} J for one image, " if audit.joules.per_image is not None else ""
    console.print(f"real joules: {joules}{audit.joules.meter}", markup=False, soft_wrap=True)
    for scale in audit.scaling:
        seconds = f", seconds ~ {scale.axis}^{scale.seconds_exponent:.2f}" if scale.seconds_exponent else ""
        console.print(f"multiply-accumulates ~ {scale.axis}^{scale.exponent:.2f}{seconds}")


def _print_layers(audit: Audit, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("layer", "product", "arrives"):
        table.add_column(column, no_wrap=True)
    for column in ("rate", "dense MACs", "operations"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for layer in audit.operations.layers:
        for product in layer.products:
            unit = "MAC" if product.arrives == "real" else "AC"
            numbers = (f"{product.rate:.3f}", f"{product.macs:,.0f}", f"{product.operations:,.0f}", unit)
            table.add_row(escape(layer.path or layer.type), product.name, product.arrives, *numbers)
    console.print(table)


def _print_energy(audit: Audit, console: Console) -> None:
    titles = audit.table.titles
    table = Table("energy for one image", box=None, pad_edge=False, header_style="dim")
    for variant in VARIANTS:
        name = titles[variant].split(":")[0]
        table.add_column(name if variant == "network" else f"{name}, estimate", justify="right")
    for convention in CONVENTIONS:
        energies = (f"{1e6 * audit.energy(convention, variant).total:,.2f} µJ" for variant in VARIANTS)
        table.add_row(convention, *energies)
    console.print(table)
    for name in CONVENTIONS:
        console.print(f"  {name}: {titles[name]}", soft_wrap=True, style="dim")
    for name in VARIANTS[1:]:
        console.print(f"  {titles[name]}", soft_wrap=True, style="dim")
    console.print(
        "The twins are estimates from this network's counts and have no accuracy, so no ratio is given: train them "
        "(--model.preset binary, ann) and pass the runs by --compare",
        soft_wrap=True,
    )
    spent = audit.energy("memory")
    parts = ", ".join(f"{name} {100 * joule / spent.total:.0f}%" for name, joule in vars(spent).items() if joule)
    console.print(f"memory, by what it is spent on: {parts}; storage is one reading of all weights\n", soft_wrap=True)


def _print_comparisons(
    audits: list[Audit], comparisons: list[Comparison], refused: list[str], console: Console
) -> None:
    if len(audits) == 1:
        return
    console.print()
    for one in comparisons:
        for convention, ratio in one.ratios.items():
            console.print(
                f"{one.first} ({one.accuracies[0]:.2f}%) takes {1 / ratio:.2f} times the energy of {one.second} "
                f"({one.accuracies[1]:.2f}%): {audits[0].table.titles[convention]}",
                markup=False,
                soft_wrap=True,
            )
    for reason in refused:
        console.print(reason, markup=False, soft_wrap=True)

"""`onespike audit`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError, unregistered
from onespike.terminal import Terminal, person, plain_table

if TYPE_CHECKING:
    from onespike.audit import Audit, EnergyTable

Device = Literal["auto", "cpu"]


def audit(
    subject: str | None = None,
    /,
    *,
    overrides: Overrides,
    images: int = 512,
    compare: list[str] = [],  # noqa: B006 - only read
    energy: Path | None = None,
    latency: bool = True,
    scaling: bool = False,
    device: Device = "auto",
    html: Path | None = None,
    csv: Path | None = None,
    json: str | None = None,
) -> int:
    """Audit what a network costs: operations by the kind of each layer's inputs, energy, latency, memory.

    Args:
        subject: A run folder, pretrained:NAME or hub:USER/NAME, audited on its own images; or a registered model with
            fresh weights, on the images of --data.* (noise without them) and with the architecture of --model.*
        overrides: Other images; of a model the architecture.
        images: How many test images, evenly spread.
        compare: Other run folders to compare it with.
        energy: YAML file with the constants of energy.
        latency: Measure time, memory, joules.
        scaling: Count and time other sizes as well.
        device: auto takes the accelerator if there is one, cpu never.
        html: File for the report, one page for a browser.
        csv: File for the layers.
        json: File for everything; - prints it.
    """
    from onespike.audit import EnergyTable, save_report
    from onespike.audit import compare as compare_audits
    from onespike.durable import expect_writable, save_json, save_text
    from onespike.training.run import Run

    if subject is None and not compare:
        raise OnespikeError("expected a run folder or a model: onespike audit RUN|MODEL")
    subject = subject or compare[0]
    others = [name for name in dict.fromkeys(compare) if name != subject]
    for name in others:
        Run.open(name)
    if Path("-") in (html, csv):
        raise OnespikeError("-: expected a file for --html and --csv; --json alone prints to the standard output")
    expect_writable(html, csv, json)
    table = EnergyTable.load(energy)
    choices = (images, table, device, latency, scaling)
    # The images of --data.* are for the first network; the others bring theirs along.
    audits = [_audit(subject, overrides, choices), *(_audit(name, {}, choices) for name in others)]
    console = person(json)
    for one in audits:
        _print(one, console, explained=one is audits[0])
    for section, source in table.sources.items():
        console.print(f"{table.file}, {section}: {source}", style="dim")
    comparisons, refused = compare_audits(audits)
    if others:
        console.print()
    for pair in comparisons:
        for convention, ratio in pair.ratios.items():
            first, second = f"{pair.first} ({pair.accuracies[0]:.2f}%)", f"{pair.second} ({pair.accuracies[1]:.2f}%)"
            console.print(f"{first} takes {1 / ratio:.2f} times the energy of {second}, by {convention}")
    for reason in refused:
        console.print(reason)
    if html:
        save_report(audits, html)
        console.print(f"\nthe report is {html}")
    if csv:
        save_text(audits[0].to_csv(), csv)
    if json:
        content = audits[0].to_json() | {"compared": [one.to_json() for one in audits[1:]]}
        content |= {"comparisons": [asdict(one) for one in comparisons], "not_compared": refused}
        save_json(content, json)
    return 0


def _audit(name: str, overrides: Overrides, choices: "tuple[int, EnergyTable, Device, bool, bool]") -> "Audit":
    """Audit a run, or a model, which is shown noise unless images are chosen."""
    from onespike.audit import audit_model, audit_run
    from onespike.models import model_names
    from onespike.training import Run, load_recipe
    from onespike.training.pretrained import HUB, PACKAGE

    other = [key for key in overrides if key.startswith("data.")]
    if Path(name).is_dir() or name.startswith((PACKAGE, HUB)):
        run = Run.open(name)
        if wrong := [key for key in overrides if key not in other]:
            raise OnespikeError(f"--{wrong[0]}: a run has the architecture that it was trained with; leave it out")
        return audit_run(run, run.recipe_with(overrides).data if other else None, *choices)
    if name not in model_names() and "/" in name:
        raise OnespikeError(f"{name}: no such folder; expected a run's, or a model, which onespike models lists")
    if name not in model_names():
        raise unregistered("run folder or model", name, model_names())
    if "model.name" in overrides:
        raise OnespikeError(f"--model.name {overrides['model.name']}: the model is {name}; name one of them alone")
    recipe = load_recipe("digits" if name == "conv-tiny" else "cifar10/conv12", {**overrides, "model.name": name})
    return audit_model(recipe.model, recipe.data if other else None, *choices)


def _print(audit: "Audit", console: Terminal, explained: bool = True) -> None:
    from onespike.audit.audit import NOISE
    from onespike.audit.scaling import SIZE

    say, ops = console.print, audit.operations
    preset, real = f", preset {audit.preset}" if audit.preset else "", ops.macs_of("real")
    say(f"{audit.name}{preset}: {ops.macs:,.0f} dense multiply-accumulates for one image,", end=" ")
    say(f"{real:,.0f} of them on real values" + (f" ({100 * real / ops.macs:.1f}%)" if ops.macs else ""))
    if not audit.trained:
        say("the weights are UNTRAINED: dense counts are exact; firing rates, and what follows from them, mean little")
    known = f"top-1 {audit.accuracy:.2f}%" if audit.accuracy is not None else "accuracy not known"
    images = "images of NOISE: choose real ones by --data.*" if audit.data == NOISE else f"test images of {audit.data}"
    say(f"{known}; {ops.weights:,} weights; counted on {ops.images:,} {images}\n")
    table = plain_table("layer", "product", "arrives", ">rate", ">dense MACs", ">operations", "")
    for layer in ops.layers:
        for product in layer.products:
            unit = "MAC" if product.arrives == "real" else "AC"
            numbers = (f"{product.rate:.3f}", f"{product.macs:,.0f}", f"{product.operations:,.0f}", unit)
            table.add_row(layer.path or layer.type, product.name, product.arrives, *numbers)
    console.print(table, soft_wrap=False)
    work = ", ".join(f"{kind} {times:,.0f}" for kind, times in ops.elementwise.items())
    say(f"\nfor one image: {ops.synaptic_operations:,.0f} synaptic operations (spikes that meet a weight);", end=" ")
    say(f"element-wise {work};")
    say(f"potentials handed on: {ops.potentials.reads:,.0f} values read, {ops.potentials.writes:,.0f} written\n")
    _print_energy(audit, console, explained)
    for one in audit.latency:
        whose = "allocated" if one.device.startswith("cuda") else "of the process"
        memory = f", peak memory {whose} {one.memory / 2**20:,.0f} MiB" if one.memory else ""
        text = f"batch {one.batch}: {1e3 * one.median:.2f} ms (quartiles {1e3 * one.low:.2f} to {1e3 * one.high:.2f}, "
        text += f"{one.runs} passes), {one.images_per_second:,.0f} images/s{memory}; {one.dtype}, {one.device}, "
        say(f"{text}threads {one.threads}{_distrust(one.busy)}", style="dim" if one.busy else None)
    joules = f"{audit.joules.per_image:.3g} J for one image, " if audit.joules.per_image is not None else ""
    say(f"real joules: {joules}{audit.joules.meter}")
    for scale in audit.scaling:
        seconds = f", seconds ~ {scale.axis}^{scale.seconds_exponent:.2f}" if scale.seconds_exponent else ""
        text = f"multiply-accumulates ~ {scale.axis}^{scale.exponent:.2f}{seconds}{_distrust(scale.busy)}"
        say(text, style="dim" if scale.busy else None)
    if audit.scaling and SIZE not in [scale.axis for scale in audit.scaling]:
        say(f"no exponent of the {SIZE}: only one size fits its stages and its stem")


def _distrust(busy: str | None) -> str:
    """What is said of a time that was taken on a busy machine."""
    return f"; NOT TO BE TRUSTED, the machine was busy: {busy}" if busy else ""


def _joule(energy: float) -> str:
    """An energy in three digits and a unit that suits it."""
    units = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ"))
    size, unit = next((one for one in units if energy >= 0.9995 * one[0]), units[-1])
    number = energy / size
    return f"{number:,.0f} {unit}" if number >= 999.5 else f"{number:#.3g}".rstrip(".") + f" {unit}"


def _print_energy(audit: "Audit", console: Terminal, explained: bool) -> None:
    from onespike.counting.energy import CONVENTIONS

    titles, variants = audit.table.titles, audit.variants
    names = [titles[variant].split(":")[0] + (", estimate" if variant != "network" else "") for variant in variants]
    table = plain_table("energy for one image", *(f">{name}" for name in names))
    for convention in CONVENTIONS:
        energies = (_joule(audit.energy(convention, variant).total) for variant in variants)
        table.add_row(convention, *energies)
    console.print(table, soft_wrap=False)
    lines = (*(f"{name}: {titles[name]}" for name in CONVENTIONS), *(titles[name] for name in variants[1:]))
    for line in lines if explained else ():
        console.print(f"  {line}", style="dim")
    if "ann" not in variants:
        text = f"it would run once where this network takes {audit.operations.steps} time steps"
        console.print(f"  no ANN twin is estimated: {text}", style="dim")
    if explained:
        why = "The twins are estimates from this network's counts and have no accuracy, so no ratio is given"
        how = "--model.preset ann, and of the paper's networks --model.preset binary; a network of yours with ReLUs"
        console.print(f"{why}: train them ({how}) and pass the runs by --compare")
    spent = audit.energy("memory")
    parts = ", ".join(f"{name} {100 * joule / spent.total:.0f}%" for name, joule in vars(spent).items() if joule)
    console.print(f"memory, by what it is spent on: {parts}; storage is one reading of all weights\n")

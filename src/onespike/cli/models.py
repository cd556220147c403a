"""`onespike models`."""

from typing import Any

from onespike.cli.command import documented
from onespike.terminal import person, plain_table


def models(name: str | None = None, /) -> int:
    """List the registered models; with a name, that model's presets and options.

    Args:
        name: A registered model.
    """
    from onespike.configs import plain
    from onespike.models import family, model_config, model_names
    from onespike.models.pretrained import pretrained_names, pretrained_summary

    console = person()
    if name is None:
        rows = [(one, (family(one).config.__doc__ or "").split("\n")[0]) for one in model_names()]
        console.print(plain_table("model", "family", rows=rows, wrap=True))
        trained = [(one, pretrained_summary(one)) for one in pretrained_names()]
        columns = (">top-1", ">test images", ">weights", ">synaptic operations", ">firing rate", ">energy (int8), uJ")
        facts = [(one, *_facts(summary)) for one, summary in trained]
        console.print()
        console.print(plain_table("trained, in the package", *columns, rows=facts, wrap=True), soft_wrap=False)
        console.print(
            "\nonespike evaluate pretrained:NAME runs one of them; so do audit, export, inspect, check-spikes"
        )
        console.print("onespike models NAME lists a model's presets and options")
        return 0
    chosen, values = family(name), plain(model_config(name))
    texts = dict[str, str]()
    for kind in reversed(chosen.config.__mro__):
        texts |= documented(kind)[1]
    console.print(f"{name}: {len(chosen.presets)} presets: {', '.join(chosen.presets)}\n")
    options = [(f"--model.{key}", str(value), texts.get(key, "")) for key, value in values.items()]
    console.print(plain_table("option", "value", "meaning", rows=options, wrap=True))
    return 0


def _facts(summary: dict[str, Any]) -> list[str]:
    audit = summary["audit"]
    rate = "-" if audit["firing_rate"] is None else f"{audit['firing_rate']:.3f}"
    numbers = f"{summary['test_images']:,}", f"{audit['weights']:,}", f"{audit['synaptic_operations']:,.0f}"
    return [f"{summary['test_top1']:.2f}%", *numbers, rate, f"{1e6 * audit['joules']['int8']:.3g}"]

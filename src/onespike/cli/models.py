"""`onespike models`."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from onespike.cli.command import documented
from onespike.terminal import person, plain_table


def models(name: str | None = None, /) -> int:
    """List the registered models; with a name, that model's presets and options.

    Args:
        name: A registered model.
    """
    from onespike.models import family, model_config, model_names
    from onespike.models.pretrained import pretrained_names, pretrained_summary

    console = person()
    if name is None:
        families = defaultdict[str, list[str]](list)
        for one in model_names():
            about = (family(one).config.__doc__ or "").split("\n")[0]
            families[re.split(r"(?<=\.) (?=[A-Z])", about)[0]].append(one)  # its first sentence
        rows = [(about, ", ".join(names)) for about, names in families.items()]
        console.print(plain_table("family", "models", rows=rows, wrap=True))
        trained = [(one, pretrained_summary(one)) for one in pretrained_names()]
        columns = (">top-1", ">test images", ">weights", ">synaptic operations", ">energy (int8), uJ")
        facts = [(one, *_facts(summary)) for one, summary in trained]
        console.print()
        table = plain_table("trained, in the package", *columns, rows=facts, wrap=True)
        table.columns[0].no_wrap = True
        console.print(table, soft_wrap=False)
        console.print(
            "\nonespike evaluate pretrained:NAME runs one of them; so do audit, export, inspect, check-spikes"
        )
        console.print("onespike models NAME lists a model's presets and options")
        return 0
    presets = ", ".join(family(name).presets)
    console.print(f"{name}: {f'the presets {presets}' if presets else 'no presets'}\n")
    options = _options(model_config(name), "--model.")
    console.print(plain_table("option", "value", "meaning", rows=options, wrap=True))
    return 0


def _options(config: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """The options of a config and of the configs inside, as a command line has them, their values, their meaning."""
    from onespike.configs import plain

    texts = dict[str, str]()
    for kind in reversed(type(config).__mro__):
        texts |= documented(kind)[1]
    for key, value in plain(config).items():
        if is_dataclass(inside := getattr(config, key)):
            yield from _options(inside, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value), texts.get(key, "")


def _facts(summary: dict[str, Any]) -> list[str]:
    audit = summary["audit"]
    numbers = f"{summary['test_images']:,}", f"{audit['weights']:,}", f"{audit['synaptic_operations']:,.0f}"
    return [f"{summary['test_top1']:.2f}%", *numbers, f"{1e6 * audit['joules']['int8']:.3g}"]

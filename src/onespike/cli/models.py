"""`onespike models`."""

from collections.abc import Sequence

from onespike.cli.command import call


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    return call(models, arguments, "onespike models [NAME]")


def models(name: str | None = None, /) -> int:
    """List the registered models; with a name, that model's presets and options.

    Args:
        name: A registered model.
    """
    from docstring_parser import parse
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from onespike.configs import plain
    from onespike.models import family, model_config, model_names

    console = Console(highlight=False, soft_wrap=True)
    if name is None:
        table = Table("model", "family", box=None, pad_edge=False, header_style="dim")
        for one in model_names():
            table.add_row(one, " ".join((family(one).config.__doc__ or "").split("\n")[0].split()))
        console.print(table)
        console.print("\nonespike models NAME lists a model's presets and options", markup=False)
        return 0
    chosen, values = family(name), plain(model_config(name))
    texts = {
        one.arg_name: " ".join((one.description or "").split())
        for kind in reversed(chosen.config.__mro__)
        for one in parse(kind.__doc__ or "").params
    }
    console.print(f"{name}: {len(chosen.presets)} presets: {', '.join(chosen.presets)}\n", markup=False)
    table = Table("option", "value", "meaning", box=None, pad_edge=False, header_style="dim")
    for key, value in values.items():
        table.add_row(f"--model.{key}", escape(str(value)), escape(texts.get(key, "")))
    console.print(table)
    return 0

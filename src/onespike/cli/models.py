"""`onespike models`."""

from onespike.cli.tables import person, plain_table


def models(name: str | None = None, /) -> int:
    """List the registered models; with a name, that model's presets and options.

    Args:
        name: A registered model.
    """
    from docstring_parser import parse

    from onespike.configs import plain
    from onespike.models import family, model_config, model_names

    console = person()
    if name is None:
        rows = [(one, (family(one).config.__doc__ or "").split("\n")[0]) for one in model_names()]
        console.print(plain_table("model", "family", rows=rows, wrap=True))
        console.print("\nonespike models NAME lists a model's presets and options")
        return 0
    chosen, values = family(name), plain(model_config(name))
    described = [one for kind in reversed(chosen.config.__mro__) for one in parse(kind.__doc__ or "").params]
    texts = {one.arg_name: " ".join((one.description or "").split()) for one in described}
    console.print(f"{name}: {len(chosen.presets)} presets: {', '.join(chosen.presets)}\n")
    options = [(f"--model.{key}", str(value), texts.get(key, "")) for key, value in values.items()]
    console.print(plain_table("option", "value", "meaning", rows=options, wrap=True))
    return 0

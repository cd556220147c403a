"""`onespike inspect`."""

from pathlib import Path
from typing import Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person, plain_table


def inspect(
    run: Path,
    overrides: Overrides,
    image: Path | None = None,
    sample: int | None = None,
    out: Path | None = None,
    json: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    seed: int = 0,
) -> int:
    """Draw what a run's network does with one image: spikes and potentials of each block or layer, windows, the answer.

    Args:
        run: Run folder.
        overrides: Other images for --sample, or another place of the run's own.
        image: The image file; made to fit the network's size and channels.
        sample: Instead of an image, a test sample of the run's data, by its number from 0. Events are drawn as frames;
            several frames also become a GIF beside the picture.
        out: The PNG to write; by default RUN/inspection/IMAGE.png.
        json: A file for the same as numbers; - prints them.
        checkpoint: Which weights of the run: best or last.
        seed: Seed of the draws of a network that draws random numbers.
    """
    from onespike.durable import expect_writable, save_json, save_text
    from onespike.evaluation.drawing import draw_inspection, save_figure
    from onespike.evaluation.inspect import inspect_image, inspect_sample
    from onespike.evaluation.recordings import animation
    from onespike.training.pretrained import beside
    from onespike.training.run import Run

    if (image is None) == (sample is None):
        found = "" if image is None else ", not both"
        expected = "expected a run folder and an image: onespike inspect RUN --image FILE, or --sample NUMBER"
        raise OnespikeError(f"{expected}{found}")
    if image and overrides:
        raise OnespikeError(f"--{next(iter(overrides))}: --image FILE is no sample of a data set; leave one out")
    opened = Run.open(run)
    picture = out or beside(run) / "inspection" / f"{(image.stem or 'image') if image else f'sample-{sample}'}.png"
    if picture.suffix.lower() != ".png":
        raise OnespikeError(f"--out: expected the name of a PNG, such as spikes.png, got {picture}")
    moving = picture.with_suffix(".gif")
    expect_writable(picture, json, None if image else moving)
    if image:
        view = inspect_image(opened, image, checkpoint, seed)
    else:
        view, raw = inspect_sample(opened, sample or 0, checkpoint, seed, data=opened.recipe_with(overrides).data)
        if raw.ndim == 4:
            save_text(animation(raw), moving)
    save_figure(draw_inspection(view), picture, dpi=100)
    if json:
        save_json(view.to_json(), json)
    console = person(json)
    answer = ", ".join(f"{name} {probability:.1%}" for name, probability in view.guesses(3))
    console.print(f"{view.path}: {answer}{'' if view.label is None else f'; true class: {view.label}'}")
    if view.note:
        console.print(f"the image was {view.note}\n")
    of_layers = ["layers of neurons"] if any(block.windows for block in view.blocks) else []
    table = plain_table("block", "map", ">firing rate", *of_layers, wrap=True)
    for block in view.blocks:
        rates = ", ".join(f"{layer.name} {layer.firing_rate:.3f}" for layer in block.layers) if block.windows else ""
        name, shape = str(block.number) if block.windows else block.name, f"{block.shape} {block.window_kind}"
        table.add_row(name, shape.rstrip(), f"{block.firing_rate:.3f}", *[rates for _ in of_layers])
    console.print(table, soft_wrap=False)
    console.print(f"\nthe picture is {picture}")
    return 0

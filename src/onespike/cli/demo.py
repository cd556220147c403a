"""`onespike demo`."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person

PRETRAINED = "pretrained:digits-spiking-vgg-xs"


def demo(
    run: Path | None = None,
    /,
    *,
    overrides: Overrides,
    model: Path | None = None,
    out: Path | None = None,
    serve: bool = True,
    open_: bool = True,
    port: int = 0,
    images: int = 200,
    energy: Path | None = None,
    checkpoint: Literal["best", "last"] = "best",
) -> int:
    """Show a run's network in the browser: it looks at drawings, photos or the camera, and shows its spikes.

    The page is static, and all that it does happens in the browser. It is served on 127.0.0.1 until Ctrl-C. The first
    time, ONNX Runtime for browsers (33 MB) is fetched from the npm registry into the cache.

    Args:
        run: Run folder; by default the package's network of the digits.
        overrides: Other test images.
        model: The run, as an option.
        out: Folder for the page, to be kept; by default it is removed when the command ends.
        serve: Serve the page; --no-serve only writes it to --out.
        open_: Open a browser.
        port: Port; 0 takes a free one.
        images: On how many test images the network is proved and its mean cost is counted.
        energy: YAML file with the constants of energy.
        checkpoint: Which weights of the run: best or last.
    """
    import webbrowser
    from threading import Thread

    from onespike.counting import EnergyTable
    from onespike.demo import build
    from onespike.demo.serve import address, server
    from onespike.training.run import Run

    if run and model:
        raise OnespikeError("expected one run folder: onespike demo RUN")
    if out is None and not serve:
        raise OnespikeError("expected a folder to write: onespike demo RUN --no-serve --out FOLDER")
    if port and not serve:
        raise OnespikeError(f"--port {port}: with --no-serve nothing is served; leave one of them out")
    opened, table, console = Run.open(run or model or PRETRAINED), EnergyTable.load(energy), person()
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(TemporaryDirectory())) / "page"
        page = stack.enter_context(server(folder, port)) if serve else None  # a port that is taken is found out now
        made = build(opened, folder, checkpoint, opened.recipe_with(overrides).data, images, table)
        proof = made.parity
        verdict = "holds" if proof.holds else "DOES NOT HOLD"
        console.print(f"parity {verdict} on {proof.images:,} test images: same class {proof.same_class:.2f}%")
        if page is None:
            console.print(f"the page is {folder}: any web server shows it")
        else:
            console.print(f"the page is at {address(page)}; Ctrl-C ends it")
            if open_:
                # Beside the server: a browser of the terminal is back only when it has been left.
                Thread(target=webbrowser.open, args=[address(page)], daemon=True).start()
            try:
                page.serve_forever()
            except KeyboardInterrupt:
                console.print("\nended")
        return 0 if proof.holds else 1

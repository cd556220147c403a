"""`onespike push`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person

if TYPE_CHECKING:
    from onespike.training.run import Run


def push(
    run: str,
    overrides: Overrides,
    out: Path | None = None,
    repo: str | None = None,
    weights: Literal["fp32", "int8"] = "fp32",
    checkpoint: Literal["best", "last"] = "best",
    images: int = 512,
    private: bool = False,
) -> int:
    """Write a run's weights with all that is needed to use them and a model card, into a folder or to the Hub.

    The weights are evaluated as they are written, on all test images, and audited; the card has the results.
    onespike.load reads them, and so do all commands that do not train.

    Args:
        run: Run folder.
        overrides: Where the test images are, such as --data.root FOLDER.
        out: A new folder, or that of an earlier push, which it replaces.
        repo: A repository of the Hub, user/name; the token is that of hf auth login.
        weights: fp32; or int8, rounded to 8 bits, a quarter of the size.
        checkpoint: Which weights of the run: best or last.
        images: How many test images the audit sees, evenly spread.
        private: Whether a new repository is private.
    """
    from onespike.exporting.hub import expect_free, expect_repository, push_to_hub, save_pretrained
    from onespike.training.run import Run

    if (out is None) == (repo is None):
        raise OnespikeError("expected one place to write: onespike push RUN --out FOLDER, or --repo USER/NAME")
    if private and out is not None:
        raise OnespikeError("--private is for a repository of the Hub, --repo: leave it out, or --out")
    if images < 1:
        raise OnespikeError(f"--images: expected at least 1, got {images}")
    if out is not None:  # before the work
        expect_free(out)
    if repo is not None:
        expect_repository(repo)
    opened, console = Run.open(run), person()
    data, before = opened.recipe_with(overrides).data, opened.checkpoint(checkpoint).digest
    with TemporaryDirectory() as made:
        draft = save_pretrained(opened, Path(made) / "draft", weights=weights, which=checkpoint)
        results = _measured(Run.open(draft), data, images)
    if opened.checkpoint(checkpoint).digest != before:
        raise OnespikeError(f"{run} was trained on while it was measured: push it again")
    if repo is not None:
        place = push_to_hub(opened, repo, private=private, weights=weights, which=checkpoint, results=results)
    else:
        assert out is not None
        place = str(save_pretrained(opened, out, weights=weights, which=checkpoint, results=results))
    console.print(f"{results['test_top1']:.2f}% of {results['test_images']:,} test images, weights {weights}: {place}")
    return 0


def _measured(run: "Run", data: Any, images: int) -> dict[str, Any]:
    from onespike.audit import CONVENTIONS, audit_run
    from onespike.evaluation.evaluate import evaluate

    found = evaluate(run, data, precision="fp32")
    audited = audit_run(run, data, images, latency=False)
    ops = audited.operations
    audit = {
        "images": ops.images,
        "weights": ops.weights,
        "macs": {"dense": ops.macs},
        "synaptic_operations": ops.synaptic_operations,
        "firing_rate": ops.firing_rate,
        "joules": {one: audited.energy(one).total for one in CONVENTIONS},
    }
    tops = {"test_top1": found.top1.mean, "test_top5": found.top5.mean, "test_loss": found.loss.mean}
    about = {"test_data": found.data, "test_images": found.images, "test_set": found.test_set}
    return {**tops, **about, "audit": audit}

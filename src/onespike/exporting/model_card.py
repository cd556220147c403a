"""The model card of a saved network, its README.md: what was measured, and nothing else."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from onespike._version import __version__
from onespike.classpath import ClassPath
from onespike.data.augment import are_as_given
from onespike.training.checkpoint import ModelCard

#: Standard deviations on either side of the mean that hold 95% of a normal distribution.
Z = 1.96
HEAD = """---
library_name: onespike
pipeline_tag: image-classification
tags:
{tag}- onespike
---

# {name} on {data}

{kind}, written by onespike {version}.

```python
import onespike

{load}
```

Images: {side}x{side} pixels, {channels}, {how}.

Classes: {classes}.
"""
COST = """
## Cost of an image

{audit[weights]:,} weights; {audit[macs][dense]:,.0f} multiply-accumulates if it were dense;
{audit[synaptic_operations]:,.0f} synaptic operations, measured on {audit[images]} test images;
{neurons}. Energy by the estimates of `onespike audit`, microjoules:
{joules}.
"""
CITATION = """
## Citation

Yao, Wu, Chen, Zhang: Training a General Spiking Neural Network with Improved Efficiency and Minimum Latency. \
ACML 2023, PMLR 222. `onespike cite` prints it in BibTeX.
"""


def model_card(
    card: ModelCard, spiking: bool, summary: Mapping[str, Any], proofs: Iterable[Mapping[str, Any]], recipe: str
) -> str:
    """The text, in Markdown; `spiking` says whether any neurons of the network are known to spike."""
    scaled = f"(pixel / 255 - mean) / std with mean {_few(card.mean)} and std {_few(card.std)}"
    text = HEAD.format(
        name=card.name,
        data=card.data or "unknown data",
        tag="- spiking-neural-network\n" if spiking else "",
        kind=f"A {'' if card.conversion is None else 'converted '}{'spiking ' if spiking else ''}network",
        version=__version__,
        load=_load(card.model),
        side=card.image_size,
        channels="1 channel" if card.in_channels == 1 else f"{card.in_channels} channels",
        how="floats as the data set gives them, or pixel / 255" if are_as_given(card.mean, card.std) else scaled,
        classes=f"{', '.join(card.classes[:20])}{', …' if len(card.classes) > 20 else ''}",
    )
    if "test_top1" in summary and summary.get("test_images"):
        text += f"\n## Accuracy\n\n{_accuracy(summary)}\n"
    if audit := summary.get("audit"):
        rate = audit.get("firing_rate")
        neurons = "no neurons that are known" if rate is None else f"firing rate {rate:.3f}, the mean over layers"
        joules = ", ".join(f"{key} {1e6 * value:.3g}" for key, value in audit["joules"].items())
        text += COST.format(audit=audit, neurons=neurons, joules=joules)
    text += "".join(f"\nExported to {proof['target']}: {_proved(proof)}.\n" for proof in proofs)
    if recipe:
        text += f"\n## Recipe\n\n```yaml\n{recipe.strip()}\n```\n"
    return text + CITATION


def _load(model: Any) -> str:
    """The code that loads the network; a user's class has to be allowed, or passed where it was an object."""
    load = 'network = onespike.load("FOLDER or user/repo"'
    if not isinstance(model, ClassPath):
        return f"{load})"
    if model.init_args is None:
        return f"{load}, model=…)  # a {model.name} like the one that was saved"
    return f'onespike.allow_imports("{model.class_path.rpartition(".")[0]}")  # the module of {model.name}\n{load})'


def interval(percent: float, images: int) -> tuple[float, float]:
    """The 95% interval of Wilson around an accuracy, both in percent."""
    share, spread = percent / 100, Z**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / images + spread / images / 4) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def _accuracy(summary: Mapping[str, Any]) -> str:
    low, high = interval(summary["test_top1"], summary["test_images"])
    data = f" of {summary['test_data']}" if "test_data" in summary else ""
    seed = "" if summary.get("seed") is None else f", one seed ({summary['seed']})"
    found = f"{summary['test_top1']:.2f}% of {summary['test_images']:,} test images{data}"
    weights = "8 bits" if summary.get("weights") == "int8" else "float32"
    return f"{found} (95% interval {low:.2f} to {high:.2f}%, of the images alone){seed},\nweights in {weights}."


def _proved(proof: Mapping[str, Any]) -> str:
    same = f"{proof['same_class']:.2f}% of {proof['images']:,} images in the same class"
    spikes = f", {proof['differing']:,} of {proof['spikes']:,} spikes differ" if proof["layers"] else ""
    where = " in the first layer where any do" if proof["differing"] else ""  # behind it all may
    return f"{same}{spikes}{where}{'' if proof['holds'] else '; parity does not hold'}"


def _few(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)

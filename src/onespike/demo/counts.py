"""Counts for images of the page's own: the audit's products, in a form in which only the spikes are missing.

The energy of a product is a constant, plus a price for each input spike and for each accumulate. The audit's equations
are linear in these two, so the prices are read off them.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from onespike.counting import CONVENTIONS, EnergyTable, Layer, Operations, Product, count_operations
from onespike.counting.products import taps
from onespike.units import Traffic


class Counted:
    """The layers that the page counts itself: two-dimensional convolutions and linear layers that read spikes.

    For other layers the page has the audit's mean. `images` are a batch that shows which layer is called when.
    """

    def __init__(self, network: nn.Module, operations: Operations, images: Tensor) -> None:
        self.products = {
            layer.path: layer.products[0]
            for layer in operations.layers
            if len(layer.products) == 1 and _can_count(network.get_submodule(layer.path), layer.products[0])
        }
        self.calls: list[str] = []  # the paths of their calls, in order
        self._modules = {path: network.get_submodule(path) for path in self.products}
        sides, values, sizes = defaultdict[str, set[tuple[int, ...]]](set), Counter[str](), Counter[str]()

        def see(path: str, _layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = (*args, *named.values())[0]
            self.calls.append(path)
            sides[path].add(tuple(x.shape[-2:]))
            values[path] += x.numel()
            sizes[path] += x.double().abs().sum().item()

        with ExitStack() as stack, torch.no_grad():
            for path, module in self._modules.items():
                stack.callback(module.register_forward_pre_hook(partial(see, path), with_kwargs=True).remove)
            network(images)
        # A layer of a user's class may read something else than its product does, such as potentials of which it makes
        # spikes, and any layer maps of several sizes.
        here = {one.path: one.products[0] for one in count_operations(network, [images]).layers if one.products}
        total = {path: one.rate * one.inputs * abs(one.step or 0) * len(images) for path, one in here.items()}
        strange = {path for path, one in self.products.items() if values[path] != one.inputs * len(images)}
        strange |= {path for path in self.products if not math.isclose(sizes[path], total.get(path, 0), rel_tol=1e-4)}
        strange |= {path for path, one in self._modules.items() if isinstance(one, nn.Conv2d) and len(sides[path]) > 1}
        self.products = {path: one for path, one in self.products.items() if path not in strange}
        self.calls = [path for path in self.calls if path not in strange]
        self._sides = {path: found.pop() for path, found in sides.items()}

    def fan_out(self, path: str) -> dict[str, Any]:
        """How many weights a value meets: `each`, and on a map times the taps that meet its row and its column."""
        layer = self._modules[path]
        if isinstance(layer, nn.Linear):
            return {"each": layer.out_features}
        assert isinstance(layer, nn.Conv2d)
        axes = []
        for side, kernel, stride, padding, dilation in zip(
            self._sides[path], layer.kernel_size, layer.stride, map(int, layer.padding), layer.dilation, strict=True
        ):
            out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            axes.append(taps(False, side, kernel, stride, padding, dilation, out).tolist())
        return {"each": layer.out_channels // layer.groups, "rows": axes[0], "columns": axes[1]}


def _can_count(layer: nn.Module, product: Product) -> bool:
    if product.arrives == "real" or (product.arrives == "graded" and product.step is None):
        return False
    plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain or isinstance(layer, nn.Linear)


def described(
    operations: Operations, table: EnergyTable, counted: Counted, outputs: Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    """Describe everything for the page; `outputs` are the graph's outputs that hold the inputs of counted layers."""
    products = []
    for layer in operations.layers:
        for product in layer.products:
            spikes = product.rate * product.inputs if product.weights else 0
            one: dict[str, Any] = {"path": layer.path or layer.type, "name": product.name, "arrives": product.arrives}
            mean = {"inputs": product.inputs, "spikes": spikes, "operations": product.operations}
            one |= {"macs": product.macs, "mean": mean, "energy": _energy(layer, product, operations, table)}
            if counted.products.get(layer.path) is product:
                known = {"step": product.step, "outputs": [*outputs[layer.path]]}
                one |= {"counted": known | counted.fan_out(layer.path)}
            products.append(one)
    without = [replace(layer, products=()) for layer in operations.layers]
    rest = {
        name: sum(table.layer(layer, operations, name, "network").total for layer in without) for name in CONVENTIONS
    }
    titles = {name: table.titles[name] for name in CONVENTIONS}
    return {"products": products, "rest": rest, "titles": titles, "sources": table.sources}


def _energy(layer: Layer, product: Product, network: Operations, table: EnergyTable) -> dict[str, dict[str, float]]:
    """Energy of a product, in joule, by convention: `constant`, plus that of each `spike` and of each `operation`."""

    def total(convention: Any, spikes: float, operations: float) -> float:
        changed = replace(product, rate=spikes / max(product.inputs, 1), operations=operations)
        alone = replace(layer, products=(changed,), elementwise={}, potentials=Traffic(0, 0))
        return table.layer(alone, network, convention, "network").total

    prices: dict[str, dict[str, float]] = {}
    for name in CONVENTIONS:
        constant = total(name, 0, 0)
        spike, operation = total(name, 1, 0) - constant, total(name, 0, 1) - constant
        prices[name] = {"constant": constant, "spike": spike, "operation": operation}
    return prices

"""Potentials of a trained RNN-SNN over depth and windows, and what their differences come to: see `taylor`."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from onespike.functional import fuse
from onespike.models import Block, Network
from onespike.units.tokens import TravellingUnit


@dataclass(frozen=True)
class Potentials:
    """Potentials of one block, all of shape (V, N), N neurons over all images.

    Attributes:
        block: Its number in the network, from 1.
        here: V[eta, v] at the moment of firing.
        above: V[eta-1, v] as the block receives it.
        current: I[eta, v], what the unit's layer delivers.
        residual: Largest difference between `here` and alpha * Omega + I, computed anew: 0 but for rounding.
    """

    block: int
    here: Tensor
    above: Tensor
    current: Tensor
    residual: float


@dataclass(frozen=True)
class Finding:
    """What the differences of one block come to. Sizes are root mean squares.

    Attributes:
        block: Its number.
        potential: Size of V[eta, v].
        down: Size of the first difference over depth.
        across: Size of the first difference over windows.
        mixed: Size of the mixed second difference.
        expected: Size that it would have if the four potentials in it were unrelated.
        error: Size of Eq. 4 - Eq. 5, in units of the size of Eq. 4.
        error_without_alpha: Likewise, with 1 in place of alpha.
        best_alpha: The alpha with which Eq. 5 comes nearest to Eq. 4.
        correlation: Correlation of Eq. 5 with the current I that the block really receives.
        plain_correlation: Correlation of V[eta, v] itself with that current.
        residual: See `Potentials`.
    """

    block: int
    potential: float
    down: float
    across: float
    mixed: float
    expected: float
    error: float
    error_without_alpha: float
    best_alpha: float
    correlation: float
    plain_correlation: float
    residual: float


def analyse(seen: Potentials, alpha: float) -> Finding:
    """Take the differences of one block, of two windows or more; `alpha` is the decay."""
    here, before = seen.here[1:], seen.here[:-1]  # windows 2.., and the one before each
    above, corner = seen.above[1:], seen.above[:-1]
    down, across = here - above, here - before
    mixed = here - above - before + corner
    eq4, eq5 = down + across, here - alpha * corner
    variances = sum(part.var(correction=0) for part in (here, above, before, corner))
    return Finding(
        block=seen.block,
        potential=size(seen.here),
        down=size(down),
        across=size(across),
        mixed=size(mixed),
        expected=float(torch.as_tensor(variances).sqrt()),
        error=size(eq4 - eq5) / size(eq4),
        error_without_alpha=size(eq4 - (here - corner)) / size(eq4),
        best_alpha=((here - eq4) * corner).mean().item() / corner.square().mean().item(),
        correlation=correlation(eq5, seen.current[1:]),
        plain_correlation=correlation(here, seen.current[1:]),
        residual=seen.residual,
    )


def size(values: Tensor) -> float:
    """Root mean square."""
    return values.square().mean().sqrt().item()


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of two tensors of the same shape."""
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()


@torch.no_grad()
def record(network: Network, batches: list[Tensor]) -> list[Potentials]:
    """Run a network in float64 and keep the potentials of every block that follows another one in its stage, in order.

    Its potentials travel, and it has one time step. The batches are images, (B, C, H, W).
    """
    network = network.double().eval()
    numbers = {block: number for number, block in enumerate(network.blocks(), 1)}
    following = [b for a, b in pairwise(network.layers) if isinstance(a, Block) and isinstance(b, Block)]
    kept: dict[Block, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {block: [] for block in following}

    for block in following:
        _watch(block, kept[block])
    torch.manual_seed(0)
    for images in batches:
        network(images.double())

    found = []
    for block in following:
        above, current, here, handed = (torch.cat(parts, 1) for parts in zip(*kept[block], strict=True))
        unit = _travelling(block)
        before = torch.cat([above[1:2], handed[:-1]])
        again = unit.neuron.decay * fuse(above, before, unit.fusion, unit.theta) + current
        residual = (again - here).abs().max().item()
        found.append(Potentials(numbers[block], here.flatten(1), above.flatten(1), current.flatten(1), residual))
    return found


def _travelling(block: Block) -> TravellingUnit:
    if not isinstance(block.unit, TravellingUnit):
        raise TypeError(f"a {type(block.unit).__name__} hands nothing from block to block")
    return block.unit


def _watch(block: Block, kept: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
    """Keep what passes through a block: potentials from above, currents, potentials here, what is handed on."""
    passing: dict[str, Tensor] = {}
    unit = _travelling(block)

    def enter(_unit: nn.Module, inputs: tuple) -> None:
        passing["above"] = inputs[1]

    def deliver(_norm: nn.Module, _inputs: tuple, current: Tensor) -> None:
        passing["current"] = current.unflatten(0, passing["above"].shape[:2])

    def fire(_neuron: nn.Module, inputs: tuple, _spikes: Tensor) -> None:
        kept.append((passing["above"], passing["current"], inputs[0], unit.neuron.handed_on(inputs[0])))

    unit.register_forward_pre_hook(enter)
    unit.norm.register_forward_hook(deliver)
    unit.neuron.register_forward_hook(fire)

"""Patch embedding, from images to maps, and patch merging, from maps to smaller ones."""

from torch import Tensor, nn

from onespike.units.channel import ChannelLinear, Norm


# Not a plain convolution: saved conversions tell a network by the names of its layers' classes.
class PatchEmbedding(nn.Conv2d):
    """The stem: non-overlapping patches of side `stride`, each mapped to a vector: (B, C, H, W) to a map."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride, stride=stride)


class PatchMerging(nn.Module):
    """2x2 pixels become one: a linear layer maps their 4C channels to the next stage's (2C in the paper)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduction = ChannelLinear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L), L even, to (B, C_out, L/2, L/2)."""
        patches = x.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2))  # (B, C, L/2, 2, L/2, 2)
        stacked = patches.permute(0, 2, 4, 5, 3, 1).flatten(3)  # (B, L/2, L/2, 4C): four pixels, column by column
        return self.reduction(stacked.movedim(-1, 1))


class Merging(nn.Module):
    """Between two stages: patch merging of the features and, with a layer of its own, of the travelling potential map.

    `before` and `behind` are the channels of the two stages, `potentials` those of the potential map, if there is one.
    `norm` makes the normalisation after the merging of the features; `firing`, if given, turns features into spikes
    before they are merged.
    """

    def __init__(
        self, before: int, behind: int, potentials: tuple[int, int] | None, norm: Norm, firing: nn.Module | None
    ) -> None:
        super().__init__()
        self.firing = firing
        self.features = nn.Sequential(PatchMerging(before, behind), norm(behind))
        self.potential = PatchMerging(*potentials) if potentials else None

    def forward(self, x: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map features (B, C, L, L) and potentials (B, C', L, L), if they are merged, to maps of side L/2."""
        merged = None if self.potential is None or potential is None else self.potential(potential)
        return self.features(x if self.firing is None else self.firing(x)).to(x.dtype), merged

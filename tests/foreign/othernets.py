"""Networks, a data set and a loss of somebody else's: nothing here is known to the package."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


def stem(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=4, padding=2), nn.BatchNorm2d(width))


class ReluNet(nn.Module):
    """A plain network of rectified linear units."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(stem(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images).mean((2, 3)))


class OurNet(nn.Module):
    """A network of this package's neurons, in an order of its own."""

    def __init__(self, num_classes: int = 10, width: int = 8, neuron: str = "lif") -> None:
        from onespike.neurons import NeuronConfig, make_neuron

        super().__init__()
        config = NeuronConfig(neuron, surrogate="triangle")
        self.stem, self.first = stem(width), make_neuron(width, config)
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.head = make_neuron(width, config), nn.Linear(width * 64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        spikes = self.second(self.norm(self.conv(self.first(self.stem(images)))))
        return self.head(spikes.flatten(1))


class JellyNet(nn.Module):
    """A network of SpikingJelly's neurons, which keep a state from step to step; its logits are those of each step."""

    def __init__(self, num_classes: int = 10, width: int = 8, time_steps: int = 2) -> None:
        from spikingjelly.activation_based import neuron, surrogate

        super().__init__()
        self.time_steps = time_steps
        self.stem, self.first = stem(width), neuron.LIFNode(surrogate_function=surrogate.ATan())
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.head = neuron.IFNode(), nn.Linear(width * 64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        current = self.stem(images)
        steps = []
        for _ in range(self.time_steps):
            spikes = self.second(self.norm(self.conv(self.first(current))))
            steps.append(self.head(spikes.flatten(1)))
        return torch.stack(steps)


class TorchNet(nn.Module):
    """A network of snnTorch's neurons, which hide their state, over two steps."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        import snntorch

        super().__init__()
        self.stem, self.first = stem(width), snntorch.Leaky(beta=0.5, init_hidden=True)
        self.conv, self.second = nn.Conv2d(width, width, 3, padding=1), snntorch.Leaky(beta=0.9, init_hidden=True)
        self.head = nn.Linear(width * 64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        current = self.stem(images)
        return torch.stack([self.head(self.second(self.conv(self.first(current))).flatten(1)) for _ in range(2)])


class WrongNet(ReluNet):
    """Gives logits for 7 classes, whatever the data have."""

    def __init__(self) -> None:
        super().__init__(num_classes=7)


class NoNet:
    """No network at all."""


class Stripes(Dataset):
    """Grey images of 32 pixels a side with stripes, across or along, of two widths: four classes."""

    classes = ("thin rows", "thick rows", "thin columns", "thick columns")

    def __init__(self, train: bool = True, count: int = 96) -> None:
        self.train, self.count = train, count

    def __len__(self) -> int:
        return self.count if self.train else self.count // 2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(2 * index + self.train)
        label = index % 4
        wave = torch.sin(torch.arange(32) * (2.0 if label % 2 == 0 else 0.6))
        image = wave[:, None].expand(32, 32) if label < 2 else wave[None, :].expand(32, 32)
        noisy = 127 + 60 * image + 30 * torch.randn(32, 32, generator=generator)
        return noisy.clamp(0, 255).to(torch.uint8)[None], label


class Unlabelled(Stripes):
    """Images alone."""

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index)[0]


class Margin(nn.Module):
    """A loss of somebody's."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.mean(0) if logits.ndim == 3 else logits
        return nn.functional.multi_margin_loss(logits, labels, margin=self.margin)

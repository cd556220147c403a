"""Networks that nobody here wrote: SpikingJelly's, snnTorch's, plain ReLU, and our neurons in a plain Sequential."""

import torch
from torch import Tensor, nn

from onespike.neurons import NeuronConfig, make_neuron

STEPS = 3


class Jelly(nn.Module):
    """SpikingJelly, step by step ("s") or all steps at once ("m"): 1x6x6 images, a convolution, a linear layer."""

    def __init__(self, mode: str, kind: str = "LIFNode", **options: object) -> None:
        super().__init__()
        from spikingjelly.activation_based import layer, neuron, surrogate

        make, shared = getattr(neuron, kind), surrogate.ATan()
        self.mode = mode
        self.conv = layer.Conv2d(1, 4, 3, padding=1, bias=False, step_mode=mode)
        self.first = make(surrogate_function=shared, step_mode=mode, **options)
        self.flatten = layer.Flatten(step_mode=mode)
        self.linear = layer.Linear(4 * 36, 10, bias=False, step_mode=mode)
        nn.init.normal_(self.linear.weight)
        self.second = make(surrogate_function=shared, step_mode=mode, **options)

    def forward(self, x: Tensor) -> Tensor:
        steps = [x.expand(STEPS, *x.shape)] if self.mode == "m" else [x] * STEPS
        out = [self.second(self.linear(self.flatten(self.first(self.conv(one))))) for one in steps]
        return out[0] if self.mode == "m" else torch.stack(out)


class Torch(nn.Module):
    """snnTorch, states inside the neurons (`hidden`) or handed from step to step by the network."""

    def __init__(self, hidden: bool, **options: object) -> None:
        super().__init__()
        import snntorch

        self.hidden = hidden
        self.fc1, self.fc2 = nn.Linear(36, 12, bias=False), nn.Linear(12, 10, bias=False)
        self.lif1 = snntorch.Leaky(0.9, init_hidden=hidden, **options)
        self.lif2 = snntorch.Leaky(0.9, init_hidden=hidden, **options)

    def forward(self, x: Tensor) -> Tensor:
        out = []
        mem1 = mem2 = None if self.hidden else torch.zeros(())
        for _ in range(STEPS):
            current = self.fc1(x.flatten(1))
            if self.hidden:
                out.append(self.lif2(self.fc2(self.lif1(current))))
                continue
            mem1 = mem1 * torch.ones_like(current) if not out else mem1
            spikes, mem1 = self.lif1(current, mem1)
            current = self.fc2(spikes)
            spikes, mem2 = self.lif2(current, torch.zeros_like(current) if not out else mem2)
            out.append(spikes)
        return torch.stack(out)


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


def ours() -> nn.Module:
    neuron = make_neuron(4, NeuronConfig(learnable_threshold="channel"), integrates=False)
    return nn.Sequential(nn.Conv2d(1, 4, 3), neuron, nn.Flatten(), nn.Linear(64, 10))


def ternary() -> nn.Module:
    """-1, 0 and 1."""
    return make_neuron(1, NeuronConfig("ternary", threshold=0.3), integrates=False)

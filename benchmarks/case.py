"""One thing to be timed: which task, on which model, implemented by whom, in which arithmetic."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import PEERS, PeerUnit, with_peer_units, with_plain_layers
from onespike.counting import count_operations
from onespike.errors import OnespikeError
from onespike.inference import PRECISIONS, Engine
from onespike.models import OnespikeConfig, create_model, model_config
from onespike.models.strict import StrictConfig
from onespike.neurons import LIF, Incoming
from onespike.training.config import TrainConfig
from onespike.training.optim import make_optimizer
from onespike.units import ConvUnit
from tests.reference.plain_units import PlainConvUnit, PlainNeuron
from tests.reference.sequential import SequentialNetwork

CLASSES = 10
#: What the task unit times: windows as in the dilated block of conv12's first stage.
UNIT_CHANNELS, UNIT_SIDE = 48, 12
#: Operations of forward and backward pass, in those of the forward pass: itself, gradients of inputs and of weights.
BOTH_WAYS = 3


def expect_blocks(model: str, preset: str) -> None:
    """Raise an `OnespikeError` unless a registered model, with a preset, is a network that cases can be made of."""
    if not isinstance(model_config(model, preset), OnespikeConfig | StrictConfig):
        raise OnespikeError(f"{model}: expected a network of spiking blocks, or a strict one")


@dataclass(frozen=True)
class Case:
    """One thing to be timed.

    Attributes:
        task: "train", "infer", "neuron" or "conv-unit"; "data" is timed, but not built.
        implementation: "onespike", "sequential" or a name in `PEERS`; for "train" also "recompute", the library with
            activation checkpointing; for "infer" also "engine".
        dtype: "fp32" or "bf16"; for the engine "int8" or "int16".
        batch: Images in a batch.
        model: A registered model.
        preset: A preset of it.
        image_size: Side of the images, in pixels.
        overrides: Further fields of the model's config.
        device: Where it is computed: "cpu", "cuda" or "mps".
    """

    task: str
    implementation: str
    dtype: str
    batch: int
    model: str = "conv12"
    preset: str = "paper"
    image_size: int = 32
    overrides: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def network(self) -> Any:
        """The network, with fresh weights, a head that is not 0, and batch norm's statistics of noise."""
        torch.manual_seed(0)
        with torch.device(self.device):
            size = {"num_classes": CLASSES, "image_size": self.image_size}
            network = create_model(self.model, **size, preset=self.preset, **self.overrides)
            nn.init.normal_(network.head.weight, std=0.05)
            if isinstance(network.config, StrictConfig) or network.config.norm == "batch":
                with torch.no_grad():
                    network(self._images(16))
        return network

    def build(self) -> Callable[[], object]:
        """Make what does it once; an `OnespikeError` if nobody has implemented it."""
        make = {"train": self._train, "infer": self._infer, "neuron": self._unit, "conv-unit": self._unit}
        with torch.device(self.device):
            return make[self.task]()

    def check(self) -> None:
        """Raise an `OnespikeError`, before anything is timed, if it cannot be built."""
        replace(self, batch=1).build()

    def operations(self) -> int | None:
        """Floating-point operations of one image, counted dense; None where there is no weight layer."""
        if self.task in ("neuron", "data"):
            return None
        if self.task == "conv-unit":
            windows = torch.zeros(4, 1, UNIT_CHANNELS, UNIT_SIDE, UNIT_SIDE)
            macs = count_operations(ConvUnit(UNIT_CHANNELS), [windows]).macs
        else:
            here = replace(self, device="cpu")
            macs = count_operations(here.network(), [here._images(1)]).macs
        return 2 * macs * (1 if self.task == "infer" else BOTH_WAYS)

    def _model(self) -> Any:
        if self.implementation in PEERS and self.overrides.get("time_steps", 1) > 1:
            raise OnespikeError(f"bench: {self.implementation} stands in at one time step only; use --vs sequential")
        network = self.network()
        if isinstance(network.config, StrictConfig):
            if self.implementation in ("sequential", *PEERS):
                network = with_plain_layers(network, self.implementation)
            elif self.implementation != "onespike":
                raise self._cannot()
        elif self.implementation == "sequential":
            return SequentialNetwork(network)
        elif self.implementation in PEERS:
            network = with_peer_units(network, self.implementation)
        elif self.implementation == "recompute" and self.task == "train":
            network.recompute = True
        elif self.implementation != "onespike":
            raise self._cannot()
        return network.to(memory_format=self._layout())  # type: ignore[call-overload]

    def _cannot(self) -> OnespikeError:
        return OnespikeError(f"bench: there is no {self.implementation} for the task {self.task}")

    def _layout(self) -> torch.memory_format:
        peer = PEERS.get(self.implementation)
        strict = bool(self.model) and isinstance(model_config(self.model), StrictConfig)
        plain = (self.implementation == "sequential" and not strict) or (peer is not None and not peer.channels_last)
        return torch.contiguous_format if plain else torch.channels_last

    def _images(self, count: int) -> Tensor:
        images = torch.randn(count, 3, self.image_size, self.image_size, device=self.device)
        return images.contiguous(memory_format=self._layout())

    def _autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16) if self.dtype == "bf16" else nullcontext()

    def _train(self) -> Callable[[], object]:
        model, images = self._model().train(), self._images(self.batch)
        labels = torch.randint(CLASSES, (self.batch,))
        optimizer = make_optimizer(TrainConfig(), model)

        def step() -> None:
            with self._autocast():
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 20.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _infer(self) -> Callable[[], object]:
        images = self._images(self.batch)
        if self.implementation == "engine":
            if self.dtype not in PRECISIONS:
                raise OnespikeError(f"bench: the engine computes in {' or '.join(PRECISIONS)}, not in {self.dtype}")
            if self.device != "cpu":
                raise OnespikeError(f"bench: the engine computes on a cpu, not on {self.device}")
            engine = Engine(self.network(), self.dtype)
            return lambda: engine(images)
        model = self._model().eval()

        def classify() -> Tensor:
            with torch.no_grad(), self._autocast():
                return model(images)

        return classify

    def _unit(self) -> Callable[[], object]:
        torch.manual_seed(0)
        config, layout = OnespikeConfig(), self._layout()
        values = torch.randn(4 * self.batch, UNIT_CHANNELS, UNIT_SIDE, UNIT_SIDE)
        if self.task == "conv-unit":
            values = (values > 0.5).float()
        windows = values.contiguous(memory_format=layout).unflatten(0, (4, self.batch))
        unit = ConvUnit(UNIT_CHANNELS, config.units).to(memory_format=layout)  # type: ignore[call-overload]
        layer: Callable[[Tensor], Tensor]
        if self.task == "neuron":
            layer = self._neurons(config)
        elif self.implementation == "onespike":
            layer = lambda x: unit(x).spikes  # noqa: E731
        elif self.implementation == "sequential":
            plain = PlainConvUnit(UNIT_CHANNELS, config)
            plain.load_state_dict(unit.state_dict())
            layer = lambda x: torch.stack(plain(iter(x.unbind()), None, [])[0])  # noqa: E731
        elif self.implementation in PEERS:
            peer = PeerUnit(unit, config.neuron, self.implementation)
            layer = lambda x: peer(x).spikes  # noqa: E731
        else:
            raise self._cannot()
        windows.requires_grad_()

        def forward_and_backward() -> None:
            spikes = layer(windows)
            spikes.backward(torch.ones_like(spikes))
            windows.grad = None

        return forward_and_backward

    def _neurons(self, config: OnespikeConfig) -> Callable[[Tensor], Tensor]:
        """Neurons alone, each of which receives the potential of the window before."""
        if self.implementation == "onespike":
            neuron = LIF(UNIT_CHANNELS, config.neuron)
            return lambda x: neuron.charge_and_fire(x, Incoming())[1]
        if self.implementation in PEERS:
            return PEERS[self.implementation].neurons(config.neuron)
        if self.implementation != "sequential":
            raise self._cannot()
        plain = PlainNeuron(UNIT_CHANNELS, config)

        def one_after_the_other(x: Tensor) -> Tensor:
            out, handed = [], None
            for current in x.unbind():
                handed = plain.charge(current, handed, None)
                out.append(plain(handed))
            return torch.stack(out)

        return one_after_the_other

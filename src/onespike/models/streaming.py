"""Frame by frame: a network over time that answers after each frame, with a state that can be saved."""

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from onespike.configs import plain, read_json
from onespike.durable import open_regular, path_of, save_text
from onespike.errors import OnespikeError, damage_named, reason
from onespike.tensors import weights_digest

_LAYOUT = "layout"


def stream(model: nn.Module) -> "FrameStream":
    """Begin a stream of frames: call the result with one frame after the other.

    Args:
        model: A network over time, as onespike's spiking models are: it has a method `over_time`. It is set to
            evaluation mode. Any number of streams may run on one network, since it keeps no state.

    Raises:
        OnespikeError: The model does not run over time.
    """
    if not hasattr(model, "over_time"):
        name = type(model).__name__
        raise OnespikeError(f"stream: {name} has no over_time: expected a network over time, such as spiking-vgg-xs")
    return FrameStream(model.eval())


class FrameStream:
    """A stream of frames through a network; a new stream starts without a state.

    Attributes:
        model: The network.
        state: Its state; None before the first frame.
        frames: Number of frames so far.
        shape: Shape of each frame, (B, C, H, W); None before the first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.state: list[Any] | None = None
        self.frames = 0
        self.shape: tuple[int, ...] | None = None

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Tensor:
        """Take a normalised frame (B, C, H, W) and return the logits of this step alone, (B, K).

        The logits equal, to the bit, those of a pass over all frames. The network's answer so far is the mean of the
        logits of all steps. A state of another network, or of another batch, is an `OnespikeError`.
        """
        if not isinstance(frame, Tensor) or frame.ndim != 4:
            found = tuple(frame.shape) if isinstance(frame, Tensor) else type(frame).__name__
            raise OnespikeError(f"stream: expected a frame (B, C, H, W), got {found}")
        shape = tuple(frame.shape)
        if self.shape not in (None, shape):
            raise OnespikeError(f"stream: expected a frame of the shape {self.shape}, as the first had, got {shape}")
        if not frame.is_floating_point():
            raise OnespikeError(f"stream: expected a frame of floats, normalised, got {frame.dtype}")
        if frame.is_meta:
            raise OnespikeError("stream: expected a frame with values, got one on the device meta")
        if not frame.isfinite().all():
            raise OnespikeError("stream: expected a frame of finite numbers, got some that are not")
        refusal, expected = "the network refuses this frame", "the channels and the size that it was built for"
        if self.frames:
            refusal, expected = "the state does not suit this network and batch", "one that a stream of it saved"
        with damage_named("stream", refusal, expected):
            logits, state = self.model.over_time(frame[None], self.state)
        if self.frames and _shapes(state) != _shapes(self.state):
            raise OnespikeError(f"stream: {refusal}: it hands on {_shapes(state)}, not {_shapes(self.state)}")
        self.state, self.frames, self.shape = state, self.frames + 1, shape
        return logits[0]

    def save(self, path: str | Path) -> None:
        """Write the state as safetensors, whole or not at all."""
        tensors: dict[str, Tensor] = {}

        def named(one: Tensor) -> str:
            tensors[name := str(len(tensors))] = one.contiguous()
            return name

        layout = {"frames": self.frames, "shape": self.shape, "state": _mapped(self.state, Tensor, named)}
        layout["network"] = self._network()
        save_text(save(tensors, {_LAYOUT: json.dumps(layout)}), path_of(path, "file"))

    def load(self, path: str | Path) -> None:
        """Go on from a saved state; one of other weights or options, or any other file, is an `OnespikeError`."""
        device = next(self.model.parameters(), torch.empty(())).device
        try:
            open_regular(Path(path)).close()  # opening a FIFO would wait for ever
            with safe_open(path, "pt") as file:
                content = read_json((file.metadata() or {})[_LAYOUT].encode(), path)
                tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118 - no mapping
            frames, shape, state = (content[key] for key in ("frames", "shape", "state"))
            if not (type(frames) is int and frames >= 0 and bool(frames) == isinstance(state, list) == bool(shape)):
                raise ValueError(f"{frames} frames of the shape {shape}")
            if any(not one.is_floating_point() or not one.isfinite().all() for one in tensors.values()):
                raise ValueError("numbers that are not finite")
            of, own = content["network"], self._network()
            shape, state = tuple(shape) if shape else None, _mapped(state, str, tensors.__getitem__)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError, OnespikeError) as error:
            found = f"{path}: not the state of a stream ({reason(error)})"
            raise OnespikeError(f"{found}; expected a file that it saved") from None
        if of != own:
            raise OnespikeError(f"{path}: a state of another network; expected one that a stream of this network saved")
        self.frames, self.shape, self.state = frames, shape, state

    def _network(self) -> str:
        """A digest of the network's weights and options, such as a constant threshold, by which it knows its states."""
        config = getattr(self.model, "config", None)
        options = json.dumps(plain(config), sort_keys=True) if is_dataclass(config) else ""
        return sha256((weights_digest(self.model) + options).encode()).hexdigest()


def _mapped(state: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Apply a function to each value of a kind in nested lists; what is neither becomes None."""
    if isinstance(state, kind):
        return function(state)
    return [_mapped(one, kind, function) for one in state] if isinstance(state, list | tuple) else None


def _shapes(state: Any) -> Any:
    return _mapped(state, Tensor, lambda one: tuple(one.shape))

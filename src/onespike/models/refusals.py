"""What several families of spiking networks refuse."""

from onespike.errors import OnespikeError
from onespike.neurons import NeuronConfig

#: Windows of which some overlap.
DILATED = ("dilated", "alternating")


def fires_ones(neuron: NeuronConfig) -> bool:
    """Whether neurons fire, and no spike is larger than 1."""
    return neuron.neuron.spiking and neuron.neuron.levels == 1


def real_values(neuron: NeuronConfig, windows: str, region_threshold: float | None) -> list[str]:
    """The options by which a layer behind the stem would read other values than whole spikes.

    Two windows overlap along an edge, four in the centre, so means of their spikes are multiples of 1/4. What is above
    the region threshold becomes a whole spike; the smallest, 1/4, does if the threshold is below it.
    """
    found = [] if fires_ones(neuron) else [f"neuron {neuron.name}"]
    if windows in DILATED and (region_threshold is None or region_threshold >= 0.25):
        shown = "null" if region_threshold is None else region_threshold
        found.append(f"region_threshold {shown} (expected below 0.25)")
    return found


def expect_region_threshold(neuron: NeuronConfig, windows: str, region_threshold: float | None) -> None:
    """Raise `OnespikeError` for a threshold out of range or, in dilated windows, one that makes 1 of larger values."""
    if region_threshold is None:
        return
    if not 0 <= region_threshold < 1:
        raise OnespikeError(f"region_threshold: expected 0 <= region_threshold < 1, got {region_threshold}")
    if windows in DILATED and not fires_ones(neuron):
        expected = "expected region_threshold null, since a threshold makes 1 of all that is larger"
        remedy = "set --model.region_threshold null"
        raise OnespikeError(f"neuron {neuron.name}: {expected}, got {region_threshold}; {remedy}")


def expect_spikes_over_time(neuron: NeuronConfig, time_steps: int) -> None:
    """Raise `OnespikeError` if neurons that do not spike, whose potentials nothing resets, have several time steps."""
    if time_steps > 1 and not neuron.neuron.spiking:
        raise OnespikeError(f"neuron {neuron.name}: expected one time step, got {time_steps}")


def expect_no_reset(neuron: NeuronConfig) -> None:
    """Raise `OnespikeError` for a reset where no potential is handed to another window: it would be ignored."""
    if neuron.reset != "none":
        state = "no potential is handed from window to window here, and between time steps firing always sets it to 0"
        raise OnespikeError(f"neuron.reset: {state}; expected none, got {neuron.reset}")

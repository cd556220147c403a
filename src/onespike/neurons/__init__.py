"""Neurons: one file each, with its equation. Usable alone, in anybody's network: `LIF(64)(currents)`."""

from onespike.neurons.adaptive import AdaptiveLIF
from onespike.neurons.base import Incoming, Neuron, NeuronConfig
from onespike.neurons.integrate_fire import QCFS, IntegrateFire
from onespike.neurons.lif import LIF
from onespike.neurons.over_time import Carry, OverTime
from onespike.neurons.plif import PLIF
from onespike.neurons.registry import NEURONS, make_neuron
from onespike.neurons.relu import ReLU
from onespike.neurons.ternary import Ternary

__all__ = ["LIF", "NEURONS", "PLIF", "QCFS", "AdaptiveLIF", "Incoming", "IntegrateFire", "Neuron", "NeuronConfig"]
__all__ += ["Carry", "OverTime", "ReLU", "Ternary", "make_neuron"]

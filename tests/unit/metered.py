"""What training's meter counts, against the audit."""

import pytest
import torch
from torch import Tensor, nn

from onespike.audit import audit
from onespike.counting.operations import Operations
from onespike.data.loader import derive_seed
from onespike.neurons.watch import reset_state
from onespike.training.cost import MULTIPLY_ACCUMULATE, CostMeter


def expect_meter_equals_audit(network: nn.Module, images: Tensor, rel: float = 1e-6) -> Operations:
    """Operations, their share and their energy are the audit's; returns its operations."""
    audited, meter = audit(network, [images]), CostMeter(network, tuple(images.shape[1:]))
    operations = audited.operations
    torch.manual_seed(derive_seed(0, 0))  # the draws that the audit made
    reset_state(network)
    with meter.watch(), torch.no_grad():
        network(images)
    cost = meter.read(len(images))
    assert cost.operations.item() == pytest.approx(operations.synaptic_operations, rel=rel)
    assert cost.operations.item() > 0
    assert cost.share.item() == pytest.approx(operations.synaptic_operations / operations.macs, rel=rel)
    assert cost.joules.item() == pytest.approx(audited.energy("field").total, rel=rel, abs=0)
    assert meter.least == pytest.approx(MULTIPLY_ACCUMULATE * operations.macs_of("real"), rel=1e-9, abs=0)
    return operations

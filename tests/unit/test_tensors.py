"""Tensors that have shapes alone, and weights that cannot be trained."""

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from onespike.errors import OnespikeError
from onespike.tensors import expect_weights, shapes_alone


def test_what_fails_on_the_device_meta_with_pytorch_2_6_is_imported_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    monkeypatch.setattr("onespike.tensors.import_module", lambda name: imported.append((name, torch.ones(1).device)))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cu124"))
    with torch.device("meta"):
        assert shapes_alone() == torch.device("meta")
    assert imported == [("torch._dynamo", torch.device("cpu"))]


@pytest.mark.filterwarnings("ignore:`torch.jit")  # it is deprecated
def test_a_network_that_is_scripted_is_refused() -> None:
    traced = torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3))
    for network, name in ((traced, "it"), (nn.Sequential(traced), "0")):
        with pytest.raises(OnespikeError, match=f"^model: {name} is scripted; expected the module it was made of$"):
            expect_weights(network)

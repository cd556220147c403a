"""Tensors that have shapes alone."""

import pytest
import torch
from torch.torch_version import TorchVersion

from onespike.tensors import shapes_alone


def test_what_fails_on_the_device_meta_with_pytorch_2_6_is_imported_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    monkeypatch.setattr("onespike.tensors.import_module", lambda name: imported.append((name, torch.ones(1).device)))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cu124"))
    with torch.device("meta"):
        assert shapes_alone() == torch.device("meta")
    assert imported == [("torch._dynamo", torch.device("cpu"))]

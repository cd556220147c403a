"""Networks by name, one file for each family: `create_model` builds them, `register_model` adds to them."""

from onespike.models.block import Block
from onespike.models.onespike import Network, OnespikeConfig, expect_blocks
from onespike.models.registry import (
    MODELS,
    Family,
    ModelConfig,
    create_model,
    family,
    model_config,
    model_names,
    register_model,
)
from onespike.models.resmlp import ResMLPConfig
from onespike.models.resnet import ResNetConfig
from onespike.models.spiking_resnet import SpikingResNet19, SpikingResNetConfig
from onespike.models.spiking_vgg import SpikingVGG11, SpikingVGGConfig
from onespike.models.vit import ViTConfig

__all__ = [
    "MODELS",
    "Block",
    "Family",
    "ModelConfig",
    "Network",
    "OnespikeConfig",
    "ResMLPConfig",
    "ResNetConfig",
    "SpikingResNet19",
    "SpikingResNetConfig",
    "SpikingVGG11",
    "SpikingVGGConfig",
    "ViTConfig",
    "create_model",
    "expect_blocks",
    "family",
    "model_config",
    "model_names",
    "register_model",
]

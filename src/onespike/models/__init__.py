"""Networks by name, one file for each kind: `create_model` builds them, `register_model` adds to them."""

from onespike.models.artificial import ResMLPConfig, ResNetConfig, ViTConfig
from onespike.models.block import Block
from onespike.models.onespike import Network, OnespikeConfig, expect_blocks
from onespike.models.registry import (
    MODELS,
    ModelConfig,
    create_model,
    family,
    model_config,
    model_names,
    register_model,
)
from onespike.models.spiking import SpikingResNetConfig, SpikingVGGConfig
from onespike.models.spiking_mlp import SpikingMLPConfig
from onespike.models.spiking_resnet import StrictResNetConfig
from onespike.models.spiking_vgg import StrictVGGConfig
from onespike.models.timm import register_timm

__all__ = ["MODELS", "Block", "ModelConfig", "Network", "OnespikeConfig", "ResMLPConfig", "ResNetConfig", "ViTConfig"]
__all__ += ["SpikingMLPConfig", "SpikingResNetConfig", "SpikingVGGConfig", "StrictResNetConfig", "StrictVGGConfig"]
__all__ += ["create_model", "expect_blocks", "family", "model_config", "model_names", "register_model", "register_timm"]

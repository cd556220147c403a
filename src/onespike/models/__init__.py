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
from onespike.models.spiking_mlp import SpikingMLPConfig
from onespike.models.spiking_resnet import SpikingResNetConfig
from onespike.models.spiking_vgg import SpikingVGGConfig
from onespike.models.standard import SpikingResNet19Config, SpikingVGG11Config
from onespike.models.timm import register_timm

__all__ = ["MODELS", "Block", "ModelConfig", "Network", "OnespikeConfig", "ResMLPConfig", "ResNetConfig", "ViTConfig"]
__all__ += ["SpikingMLPConfig", "SpikingResNet19Config", "SpikingResNetConfig"]
__all__ += ["SpikingVGG11Config", "SpikingVGGConfig"]
__all__ += ["create_model", "expect_blocks", "family", "model_config", "model_names", "register_model", "register_timm"]

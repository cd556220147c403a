"""The network: stem, stages of blocks, head; built by name with `create_model`."""

from onespike.models.ann import ANNS, AnnConfig
from onespike.models.block import Block
from onespike.models.config import ModelConfig
from onespike.models.network import Network
from onespike.models.zoo import MODELS, PRESETS, create_model, model_config

__all__ = ["ANNS", "MODELS", "PRESETS", "AnnConfig", "Block", "ModelConfig", "Network", "create_model", "model_config"]

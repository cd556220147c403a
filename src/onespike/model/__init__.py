"""The network: stem, stages of blocks, head; built by name with `create_model`."""

from onespike.model.ann import ANNS, AnnConfig
from onespike.model.block import Block
from onespike.model.config import ModelConfig
from onespike.model.network import Network
from onespike.model.zoo import MODELS, PRESETS, create_model, model_config

__all__ = ["ANNS", "MODELS", "PRESETS", "AnnConfig", "Block", "ModelConfig", "Network", "create_model", "model_config"]

"""The equations of the method: pure functions of tensors, on any device, in any floating-point type."""

from onespike.functional.charge import charge, charge_and_fire
from onespike.functional.conv import conv3x3
from onespike.functional.encoding import ENCODINGS, bernoulli, constant_mask, encode, uniform
from onespike.functional.fire_over_time import fire_over_time, has_kernels_over_time
from onespike.functional.fusion import FUSIONS, fuse
from onespike.functional.gelu import gelu
from onespike.functional.integers import find_integers, to_integers
from onespike.functional.norm_fire import batch_norm, has_kernels, norm_fire
from onespike.functional.pool import max_pool
from onespike.functional.scan import scan_gru, scan_rnn
from onespike.functional.spike import SURROGATES, Surrogate, spike
from onespike.functional.window import (
    WINDOW_KINDS,
    partition,
    recompose,
    region_threshold,
    window_count,
    window_kinds,
    window_side,
)

__all__ = ["ENCODINGS", "FUSIONS", "SURROGATES", "WINDOW_KINDS", "Surrogate", "batch_norm", "bernoulli", "charge"]
__all__ += ["charge_and_fire", "constant_mask", "conv3x3", "encode", "fuse", "gelu", "has_kernels", "max_pool"]
__all__ += ["find_integers", "fire_over_time", "has_kernels_over_time", "norm_fire", "partition", "recompose"]
__all__ += ["region_threshold", "scan_gru", "scan_rnn", "spike", "to_integers", "window_count", "window_kinds"]
__all__ += ["uniform", "window_side"]

"""Read foreign pickles without running anything in them.

A pickle is a program: it may name any function of any module and call it. This reader knows three functions, those
that numpy arrays are made of, and refuses to look up any other name.
"""

import io
import pickle
from typing import Any

import numpy as np
from typing_extensions import override

from onespike.errors import OnespikeError


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes into old pickles as a call of this function, always with latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _Refused(Exception):  # noqa: N818 - the name that the pickle asked for, on its way out of the unpickler
    pass


class _Unpickler(pickle.Unpickler):
    @override
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise _Refused(f"{module_name}.{global_name}")
        return _ADMITTED[module_name, global_name]


def load_pickle(data: bytes, origin: str) -> Any:
    """Unpickle plain containers, numbers, strings and numpy arrays; strings of Python 2 become bytes.

    Args:
        data: The pickle.
        origin: Where it lies, for the error.

    Raises:
        OnespikeError: It names anything else, or is truncated or damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as refused:
        raise OnespikeError(
            f"{origin}: refused a foreign pickle, for it asks for {refused}; expected nothing but plain containers and "
            "numpy arrays; download the official file again"
        ) from None
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OnespikeError(
            f"{origin}: truncated or damaged pickle ({reason}); expected a whole one; download it again"
        ) from error

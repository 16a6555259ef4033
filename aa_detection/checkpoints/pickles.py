"""Read pickles of arrays without running any other code that a pickle may name.

A pickle is a program: it names functions and calls them. The files of detectron2's model zoo are
pickles of numpy arrays in dictionaries. This reader knows the few callables that those need and
refuses a file that names any other, before looking it up.
"""

import importlib
import pickle
from collections import OrderedDict
from typing import IO, Any

import numpy as np

# numpy 2 renamed it
_core: Any = importlib.import_module("numpy._core" if hasattr(np, "_core") else "numpy.core")


class RefusedPickle(pickle.UnpicklingError):
    """The pickle asks for something that is not allowed."""


class _Slotted:
    """A callable without settable attributes: a pickle could set those of an ordinary object."""

    __slots__ = ()


class _Latin1Bytes(_Slotted):
    """``_codecs.encode`` for latin1, with which Python 3 writes bytes at protocol 2."""

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise RefusedPickle(f"it asks for bytes in the encoding {encoding!r}")
        return text.encode("latin1")


class _FromBuffer(_Slotted):
    """``_frombuffer``, which makes an array at protocol 5."""

    def __call__(self, *args: Any) -> np.ndarray:
        return _core.numeric._frombuffer(*args)


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Latin1Bytes(),
}
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _core.multiarray._reconstruct
    _ALLOWED[f"{_package}.multiarray", "scalar"] = _core.multiarray.scalar
    _ALLOWED[f"{_package}.numeric", "_frombuffer"] = _FromBuffer()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise RefusedPickle(
                f"it asks for {module}.{name}, and only arrays, numbers, texts and containers are "
                "read from a pickle"
            )
        return _ALLOWED[module, name]


def load_arrays(file: IO[bytes]) -> Any:
    """Load a pickle that holds only arrays, numbers, texts and containers of them.

    Raises:
        RefusedPickle: the pickle asks for anything else.
        Exception: any error that a damaged pickle causes.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()  # Python 2 wrote the zoo's pickles

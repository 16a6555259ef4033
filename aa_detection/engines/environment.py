"""Describe this machine as text: versions, devices, engines, attention backends."""

import os
import platform
from collections.abc import Iterator

import torch

from ..attention import BACKENDS, native, relative_attention_2d
from ..attention.functional import choose_backend
from ..checkpoints import package_versions
from ..config import ConfigError
from . import ENGINES, engine_name, load_engine

# variables that change what is found or computed
_VARIABLES = (
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "DETECTRON2_DATASETS", "FVCORE_CACHE", "OMP_NUM_THREADS",
    "TRITON_INTERPRET",
)  # fmt: skip


def describe_environment() -> str:
    """Return versions, devices, engines, and which attention backends run on which device.

    Tries every backend on a small map in float32. A broken part is reported with its reason in one
    line.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    sections = {
        "versions": package_versions() | {"platform": platform.platform()},
        "devices": dict(_devices()),
        "engines": dict(_engines()),
        **{f"attention on {device}": dict(_backends(device)) for device in devices},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    width = max(len(name) for rows in sections.values() for name in rows)
    lines = []
    for title, rows in sections.items():
        if rows:
            lines += ["", f"{title}:"]
            lines += [f"  {name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join(lines[1:])


def _devices() -> Iterator[tuple[str, str]]:
    capability = torch.backends.cpu.get_cpu_capability()
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}"
    if not torch.cuda.is_available():
        built = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "none"
        yield "cuda", "not available" if built == "none" else f"not available; {built}"
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield (
            f"cuda:{index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
            f"{properties.major}.{properties.minor}",
        )
    yield "CUDA of PyTorch", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def _engines() -> Iterator[tuple[str, str]]:
    for name in ENGINES:
        try:
            load_engine(name)
        except Exception as error:  # a broken installation may raise anything
            yield name, _reason(error)
        else:
            yield name, "works"
    try:
        yield "auto", engine_name("auto")
    except ConfigError:
        yield "auto", "none"


def _backends(device: str) -> Iterator[tuple[str, str]]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 5, 8, generator=generator) for _ in range(3))
    tables = [torch.randn(11, 8, generator=generator) for _ in range(2)]
    expected = relative_attention_2d(q, k, v, *tables, backend="dense")
    q, k, v, *tables = (x.to(device) for x in (q, k, v, *tables))
    for name in BACKENDS:
        try:
            out = relative_attention_2d(q, k, v, *tables, backend=name).cpu()
        except Exception as error:  # compilers and drivers raise their own
            yield name, _reason(error).replace(f'backend "{name}": ', "")
            continue
        off = float((out - expected).abs().max())
        text = "works" if off < 1e-2 else f"WRONG: off by {off:.1g}"  # TF32 rounds to 1e-3
        if name == "native" and native.library is not None:
            text += f", {native.library.instruction_sets[native.instruction_set]}"
        yield name, text
    large = torch.empty(8, 8, 40, 40, 8, device=device)
    yield "auto", f"{choose_backend(large, large)} for maps of 40 x 40"


def _reason(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"no: {line or type(error).__name__}"

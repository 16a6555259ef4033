"""Write graphs to files, and run these files."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ConfigError

# maps a normalised, zero-padded batch to feature maps by name
Network = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Format:
    """An export file format.

    Args:
        attention: attention backend to trace for this format.
        packages: packages needed for writing and checking, besides torch.
        write: writes a graph and metadata to a file.
        read: loads a file as a function.
    """

    attention: str
    packages: tuple[str, ...]
    write: Callable[[torch.export.ExportedProgram, dict[str, str], Path], None]
    read: Callable[[Path], Network]


def to_onnx(program: torch.export.ExportedProgram) -> Any:
    """Translate to a ``torch.onnx.ONNXProgram`` with input ``images`` and outputs by name."""
    from .onnx_attention import attention

    names = list(program.call_spec.out_spec.unflatten(range(program.call_spec.out_spec.num_leaves)))
    return torch.onnx.export(
        program,
        dynamo=True,
        input_names=["images"],
        output_names=names,
        custom_translation_table={torch.ops.aa_detection.blocked_attention.default: attention},
        verbose=False,
    )


def write_onnx(program: torch.export.ExportedProgram, metadata: dict[str, str], file: Path) -> None:
    """Write one file with input ``images`` (batch, 3, height, width) and outputs by map name."""
    from onnx_ir import Shape

    onnx = to_onnx(program)
    graph = onnx.model.graph
    # replaces the names of torch's symbols
    graph.inputs[0].shape = Shape(["batch", 3, "height", "width"])
    for output in graph.outputs:
        size = [f"{output.name}_height", f"{output.name}_width"]
        output.shape = Shape(["batch", output.shape[1], *size])
    onnx.model.metadata_props.update(metadata)
    onnx.save(file, external_data=False)


def read_onnx(file: Path) -> Network:
    """Load on onnxruntime's CPU provider, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def network(images: Tensor) -> dict[str, Tensor]:
        arrays = session.run(names, {"images": images.numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays)}

    return network


def write_torch_export(
    program: torch.export.ExportedProgram, metadata: dict[str, str], file: Path
) -> None:
    """Write the program, with the metadata in the extra file ``metadata.json``."""
    # opened here, so that a full disk is an OSError
    with open(file, "wb") as opened:
        torch.export.save(program, opened, extra_files={"metadata.json": json.dumps(metadata)})


def read_torch_export(file: Path) -> Network:
    """Load with torch alone, as if this project were not installed."""
    # opened here because torch warns if the name does not end in .pt2
    with open(file, "rb") as opened:
        return torch.export.load(opened).module()


FORMATS = {
    "onnx": Format("blocked", ("onnx", "onnxscript", "onnxruntime"), write_onnx, read_onnx),
    # only torch's own operators, so that the file loads without this project
    "torch_export": Format("folded", (), write_torch_export, read_torch_export),
}


def check_target(file: Path, format: str) -> None:
    """Refuse an export that cannot succeed here, before doing the work.

    Raises:
        ConfigError: a missing package, and how to install it; or a file that cannot be written.
    """
    for package in FORMATS[format].packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--format {format}: {package} is not installed; pip install 'aa_detection[export]'"
            )
    if file.is_dir():
        raise ConfigError(f"--output {file}: is a folder, expected the name of a file")
    if not file.parent.is_dir():
        raise ConfigError(f"--output {file}: there is no folder {file.parent}")

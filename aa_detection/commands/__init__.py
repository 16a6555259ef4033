"""The command lines, one module each.

The list is available without importing them, because each import takes seconds.
"""

import os

# GNU OpenMP, which PyTorch's CPU build runs on, reads this when PyTorch is loaded. By default a
# thread that waits for another spins for milliseconds; beside one busy process a training step
# then takes several times as long. A user's own choice stands.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# the first line of each command's --help
COMMANDS = {
    "analyze-model": "Parameters, FLOPs, activations and attention's memory of a detector.",
    "benchmark": "Time and peak memory of the attention operator and of detectors with it.",
    "check-cuda": "Try everything on this machine's NVIDIA GPU: is it right, how fast is it.",
    "check-dataset": "Everything that is wrong with a dataset, before training finds out.",
    "compare-runs": "Does one detector beat another? A paired comparison on the same annotations.",
    "contact-sheet": "Ground truth beside detections for a handful of images, in one picture.",
    "convert-dataset": "A Pascal VOC or YOLO folder into a COCO annotation file.",
    "convert-weights": "Weights from one framework's names, or one kind of file, to another.",
    "draw-dataset": "Draw one of the project's datasets, unless it is there already.",
    "env": "Versions, devices, engines and backends of this machine, for a bug report.",
    "export-model": "A trained detector's backbone and pyramid as a graph of ONNX or torch.export.",
    "predict": "Detect objects in images, folders of them, videos, or before a webcam.",
    "report": "One HTML page about a training run, or about several and how they differ.",
    "reproduce-gains": "Measure what attention gains, on your data or on the project's own.",
    "study-comparison": "Does the comparison keep its promises? Tried on simulated detectors.",
    "study-starts": "How much of a pretrained detector's AP each way to add attention leaves.",
    "sweep-ratio": "What each choice of the attention costs and gains, one factor at a time.",
    "train": "Train and evaluate a detector.",
    "visualize-attention": "What every attention head looks at, from points of a picture.",
}


def module_name(command: str) -> str:
    """Return the name of a command's module, and of its program in ``tools/``."""
    return "train_net" if command == "train" else command.replace("-", "_")

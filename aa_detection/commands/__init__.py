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
    "analyze-model": "Count a detector's parameters, FLOPs, activations and attention memory.",
    "benchmark": "Measure time and memory of the attention operator and of detectors with it.",
    "check-cuda": "Check correctness and speed of everything on this machine's NVIDIA GPU.",
    "check-dataset": "List everything that is wrong with a dataset, before training on it.",
    "compare-runs": "Does one detector beat another? A paired comparison on the same annotations.",
    "contact-sheet": "Draw ground truth beside detections in one picture, for a handful of images.",
    "convert-dataset": "Convert a Pascal VOC or YOLO folder to a COCO annotation file.",
    "convert-weights": "Convert weights from one framework's names or file format to another.",
    "draw-dataset": "Draw one of the project's datasets, unless it exists already.",
    "env": "Print versions, devices, engines and backends, for a bug report.",
    "export-model": "Export a trained detector or its backbone to ONNX or torch.export.",
    "predict": "Detect objects in images, folders of images, videos or a webcam stream.",
    "report": "Write an HTML page about one training run, or comparing several.",
    "reproduce-gains": "Measure what attention gains, on your data or on the project's own.",
    "study-comparison": "Test the comparison's intervals on simulated detectors.",
    "study-starts": "Measure how much of a detector's AP each way to add attention keeps.",
    "sweep-ratio": "Measure what each attention setting gains and costs, one factor at a time.",
    "train": "Train and evaluate a detector.",
    "visualize-attention": "Draw what each attention head looks at from chosen image points.",
}


def module_name(command: str) -> str:
    """Return the name of a command's module, and of its program in ``tools/``."""
    return "train_net" if command == "train" else command.replace("-", "_")

"""``import aa_detection`` needs torch and nothing heavier."""

import subprocess
import sys

FRAMEWORKS = ("detectron2", "lightning", "torchvision", "fvcore", "cv2", "pycocotools")


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_needs_torch_alone():
    code = (
        "import sys\n"
        f"for name in {FRAMEWORKS}: sys.modules[name] = None\n"
        "from aa_detection import AAConv2d, AttentionSpec, augment, relative_attention_2d\n"
        "import torch\n"
        "layer = AAConv2d(8, 16, 3, padding=1, num_heads=2, max_size=5)\n"
        "print(layer(torch.ones(1, 8, 5, 4)).shape)"
    )
    assert "[1, 16, 5, 4]" in python(code)


def test_without_detectron2_add_aa_config_says_so():
    code = (
        "import sys\n"
        "sys.modules['detectron2'] = None\n"
        "import aa_detection\n"
        "try: aa_detection.add_aa_config(None)\n"
        "except ImportError as error: print(error)"
    )
    assert "needs detectron2" in python(code)

"""The backend "fused" without a GPU: interpreted, and compiled ahead of time for three of them."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aa_detection.attention import fused, relative_attention_2d
from aa_detection.attention.functional import choose_backend

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@needs_triton
def test_it_agrees_with_dense_in_the_interpreter():
    """The tests of interpreted_fused.py, in a process where Triton interprets its kernels."""
    file = Path(__file__).with_name("interpreted_fused.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "only 0-dimensional arrays can be converted to Python scalars" in run.stdout:
        pytest.skip("the interpreter of this Triton does not work with this NumPy")
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


# what a block may take of shared memory, by compute capability
SHARED_MEMORY = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}


class Gpu:
    """In place of Triton's driver: a GPU to compile for, which need not be there."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return self.capability  # by which compiled kernels are told apart

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


class CompiledOnly:
    """In place of a kernel: it is compiled as the launch asks, and not run."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, None

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.compiled = self.kernel.warmup(*arguments, grid=grid, **options)

        return launch

    def usage(self, folder):
        """Bytes: of local memory a thread, where registers are spilled to, and shared a block."""
        import triton.backends.nvidia

        binary = folder / "kernel.cubin"
        binary.write_bytes(self.compiled.asm["cubin"])
        tool = Path(triton.backends.nvidia.__path__[0]) / "bin" / "cuobjdump"
        command = [tool, "--dump-resource-usage", binary]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        used = dict(re.findall(r"(\w+):(\d+)", run.stdout))
        return int(used["STACK"]) + int(used["LOCAL"]), self.compiled.metadata.shared


@pytest.fixture
def compile_all(monkeypatch, tmp_path):
    """``compile_all(…)``: what each kernel uses, by its name, as the operator launches it."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from triton.runtime import driver

    from aa_detection.attention import fused_kernels

    # not set_active: there may be none that it could be set back to
    active = next(name for name in ("_active", "active") if name in vars(driver))

    def _compile_all(capability, dtype, width, d_k, d_v, padded=True):
        monkeypatch.setattr(driver, active, Gpu(capability))
        names = ("forward", "backward_queries", "backward_keys")
        kernels = {name: CompiledOnly(getattr(fused_kernels, name)) for name in names}
        for name, kernel in kernels.items():
            monkeypatch.setattr(fused_kernels, name, kernel)
        q, v = (torch.zeros(1, 1, 2, width, d, dtype=dtype) for d in (d_k, d_v))
        r_h, r_w = torch.zeros(2, 2, d_k), torch.zeros(width, width, d_k)
        valid_size = torch.tensor([[2, width]]) if padded else None
        arguments = (q, q, v, r_h, r_w, valid_size, 0.5)
        out, lse = torch.ops.aa_detection.fused_attention(*arguments)
        torch.ops.aa_detection.fused_attention_backward(v, out, lse, *arguments)
        return {name: kernel.usage(tmp_path) for name, kernel in kernels.items()}

    return _compile_all


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_compiles_and_spills_no_register(compile_all, capability, dtype):
    """On the map of RetinaNet-R50's res4 at 800 x 1344, with ImageNet's key depth."""
    for name, (spilled, shared) in compile_all(capability, dtype, 84, 20, 3).items():
        assert spilled == 0, name
        assert 0 < shared <= SHARED_MEMORY[capability], name


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("d_k, d_v", [(1, 1), (20, 3), (20, 30), (64, 20), (64, 64)])
@pytest.mark.parametrize("width", [10, 20, 84, 128])  # which takes every tile there is
def test_every_tile_compiles(compile_all, capability, dtype, d_k, d_v, width):
    padded = width != 20
    for name, (spilled, shared) in compile_all(capability, dtype, width, d_k, d_v, padded).items():
        assert spilled == 0 and 0 < shared <= SHARED_MEMORY[capability], name


@pytest.mark.parametrize(
    "q, v, reason",
    [
        ({"dtype": torch.float64}, {}, "float32 and half precision, not in torch.float64"),
        ({}, {"dtype": torch.int32}, "float32 and half precision, not in torch.int32"),
        ({}, {"size": 65}, "at most 64 channels a head, got 65"),
        ({}, {}, "it runs on NVIDIA GPUs, q is on cpu"),
    ],
)
def test_where_it_cannot_run_it_says_so(q, v, reason):
    q, v = (
        torch.zeros(1, 1, 2, 3, x.get("size", 4), dtype=x.get("dtype", torch.float32))
        for x in (q, v)
    )
    with pytest.raises(RuntimeError, match=f'backend "fused": .*{reason}'):
        relative_attention_2d(q, q, v, backend="fused")


@pytest.mark.parametrize(
    "capability, cuda, works, expected",
    [
        ((9, 0), "13.0", True, "fused"),
        ((8, 0), "13.0", True, "fused"),
        ((7, 5), "13.0", True, "folded"),
        ((9, 4), None, True, "folded"),  # an AMD GPU
        ((9, 0), "13.0", False, "folded"),
    ],
)
@needs_triton
def test_auto_takes_it_where_it_runs(monkeypatch, capability, cuda, works, expected):
    import triton.runtime

    class Driver:
        def get_current_device(self):
            if not works:
                raise RuntimeError("Failed to find C compiler.\nPlease specify one")
            return 0

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=Driver()))
    fused._look.cache_clear()
    try:
        with torch._subclasses.FakeTensorMode():
            q = torch.empty(2, 8, 40, 40, 20, device="cuda")
            assert choose_backend(q, q) == expected
            double = q.double()
            assert choose_backend(double, double) == "blocked"
            wide = torch.empty(2, 8, 40, 40, 160, device="cuda")
            assert choose_backend(wide, wide) == "folded"
    finally:
        fused._look.cache_clear()

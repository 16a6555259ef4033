"""Exact attention in one compiled pass on the CPU: float32, forward and backward.

The kernel is ``native.cpp``, a shared library that is built with the package if there is a C++
compiler. It is plain C++ and links to neither torch nor Python, so it fits every version of both.
This module loads it, allocates its memory and registers its two passes as torch operators
(``torch.ops.aa_detection``): ``torch.compile`` and ``torch.export`` see one node each.

The threads are PyTorch's: its OpenMP library is already in the process and runs the kernel in
``torch.get_num_threads()`` threads. The kernel starts none of its own.
"""

import ctypes
import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

VERSION = 1  # aa_version in native.cpp; raise it with every change of the interface
FILE = Path(__file__).with_name("libnative.so")

Size, Address = ctypes.c_int64, ctypes.c_void_p


class _View(ctypes.Structure):
    _fields_ = [("data", Address), ("stride", Size * 5)]


class _Problem(ctypes.Structure):
    """Mirror of ``Problem`` in ``native.cpp``, field by field."""

    _fields_ = [
        *((name, Size) for name in ("batch", "heads", "height", "width", "d_k", "d_v")),
        *((name, Size) for name in ("threads", "table_h", "table_w")),
        *((name, Address) for name in ("valid_size", "rel_h", "rel_w")),
        ("scale", ctypes.c_double),
        *((name, _View) for name in ("q", "k", "v", "out")),
        *((name, Address) for name in ("maximum", "total", "workspace")),
        *((name, _View) for name in ("grad", "grad_q", "grad_k", "grad_v")),
        *((name, Address) for name in ("grad_rel_h", "grad_rel_w")),
    ]


class _Library:
    """The functions of ``native.cpp``, and the OpenMP function that it calls."""

    def __init__(self, file: Path) -> None:
        """Raise OSError that names what is missing."""
        if not file.exists():
            raise OSError(
                f"{file} was not built; reinstall aa_detection where there is a C++ compiler"
            )
        library = ctypes.CDLL(str(file))
        if library.aa_version() != VERSION:
            raise OSError(f"{file} was built from other sources; reinstall aa_detection")
        try:
            # torch loads its OpenMP library with global symbols
            self.parallel = ctypes.CDLL(None).GOMP_parallel
        except AttributeError:
            raise OSError("this PyTorch was built without OpenMP") from None
        self.attention, self.workspace = library.aa_attention, library.aa_workspace
        self.workspace.restype = Size
        library.aa_instruction_set.restype = ctypes.c_char_p
        self.instruction_sets: list[str] = []  # of this machine, best first
        while (name := library.aa_instruction_set(len(self.instruction_sets))) is not None:
            self.instruction_sets.append(name.decode())


library: _Library | None = None
absent: str | None = None  # why the library is not loaded
try:
    library = _Library(FILE)
except OSError as error:
    absent = str(error)

instruction_set = 0  # index into library.instruction_sets; tests try the others

# OpenMP's threads do not survive a fork; a child that waits for them would hang
_is_forked = False


def _forked() -> None:
    global _is_forked
    _is_forked = True


os.register_at_fork(after_in_child=_forked)


def native_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    scale: float,
    valid_size: Tensor | None,
) -> Tensor:
    """See :func:`aa_detection.attention.relative_attention_2d` for the arguments.

    Differentiable once: a second derivative raises RuntimeError.

    Raises:
        RuntimeError: not on the CPU, float64, or no library; see :func:`objection`.
    """
    reason = objection(q, v)
    if reason is not None:
        raise RuntimeError(f'backend "native": {reason}')
    # a single zero row, to which all distances are clamped, means no positional term
    rel_h = q.new_zeros(1, q.shape[-1]) if rel_h is None else rel_h
    rel_w = q.new_zeros(1, q.shape[-1]) if rel_w is None else rel_w
    out, _ = _Attention.apply(q, k, v, rel_h, rel_w, valid_size, scale)
    return out


def objection(q: Tensor, v: Tensor) -> str | None:
    """Return the reason why the kernel cannot be used for q and v, or None."""
    if q.device.type != "cpu":
        return f"it runs on the CPU, q is on {q.device.type}"
    for x in (q, v):
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it computes in float32, not in {x.dtype}"
    return absent


@torch.library.custom_op(
    "aa_detection::native_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor rel_h, Tensor rel_w, Tensor? valid_size, "
    "float scale) -> (Tensor, Tensor)",
)
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    valid_size: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the output and, for the backward pass, each query's largest logit and sum of exps."""
    out, statistics = _like(v), _statistics(q)
    if valid_size is not None:
        out.zero_()
        statistics.zero_()
    _call((q, k, v, rel_h, rel_w), valid_size, scale, out, statistics)
    return out.to(v.dtype), statistics


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _like(v).to(v.dtype), _statistics(q)


@torch.library.custom_op(
    "aa_detection::native_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor out, Tensor statistics, Tensor q, Tensor k, Tensor v, "
    "Tensor rel_h, Tensor rel_w, Tensor? valid_size, float scale) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    out: Tensor,
    statistics: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    valid_size: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = _gradients_like(q, k, v, rel_h, rel_w)
    if valid_size is not None or not grads[2].numel():
        for x in grads:
            x.zero_()
    _call((q, k, v, rel_h, rel_w), valid_size, scale, out.float(), statistics, grad.float(), *grads)
    grad_q, grad_k, grad_v, grad_rel_h, grad_rel_w = (
        x.to(like.dtype) for x, like in zip(grads, (q, k, v, rel_h, rel_w))
    )
    return grad_q, grad_k, grad_v, grad_rel_h, grad_rel_w


@_backward.register_fake
def _(grad: Tensor, out: Tensor, statistics: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    likes = inputs[:5]
    return tuple(x.to(like.dtype) for x, like in zip(_gradients_like(*likes), likes))


class _Attention(torch.autograd.Function):
    """Wrap the two operators as one differentiable function, for autograd and ``torch.func``."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel_h: Tensor,
        rel_w: Tensor,
        valid_size: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return _forward(q, k, v, rel_h, rel_w, valid_size, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*_AttentionBackward.apply(grad, *ctx.saved_tensors, ctx.scale), None, None)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad: Tensor,
        out: Tensor,
        statistics: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel_h: Tensor,
        rel_w: Tensor,
        valid_size: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, ...]:  # arguments by name: torch.compile counts them to detect a ctx
        return _backward(grad, out, statistics, q, k, v, rel_h, rel_w, valid_size, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            'relative_attention_2d: backend "native" has no second derivative; use backend="dense"'
        )


def _like(x: Tensor) -> Tensor:
    """Return an empty float32 ``(B, heads, H, W, d)`` in the layout of a convolution's output."""
    batch, heads, height, width, channels = x.shape
    empty = x.new_empty(batch, heads, channels, height, width, dtype=torch.float32)
    return empty.permute(0, 1, 3, 4, 2)


def _statistics(q: Tensor) -> Tensor:
    return q.new_empty(2, *q.shape[:4], dtype=torch.float32)


def _gradients_like(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> list[Tensor]:
    tables = [x.new_empty(x.shape, dtype=torch.float32) for x in (rel_h, rel_w)]
    return [_like(q), _like(k), _like(v), *tables]


def _call(
    inputs: tuple[Tensor, ...],
    valid_size: Tensor | None,
    scale: float,
    out: Tensor,
    statistics: Tensor,
    *gradients: Tensor,
) -> None:
    """Run the kernel: backward if there are gradients, else forward.

    `gradients` are the gradient of the output, then those of the five inputs, which are written.
    """
    if library is None:
        raise RuntimeError(f'backend "native": {absent}')
    # named, so that converted copies live until the kernel is done
    q, k, v, rel_h, rel_w = (x.float() for x in inputs)
    rel_h, rel_w = rel_h.contiguous(), rel_w.contiguous()
    if not q.numel() or not v.numel():
        return
    if valid_size is not None:
        valid_size = valid_size.to(torch.int64).contiguous()
    maximum, total = statistics
    problem = _Problem(
        *q.shape,
        v.shape[-1],
        1 if _is_forked else torch.get_num_threads(),
        len(rel_h),
        len(rel_w),
        None if valid_size is None else valid_size.data_ptr(),
        rel_h.data_ptr(),
        rel_w.data_ptr(),
        scale,
        *(_view(x) for x in (q, k, v, out)),
        maximum.data_ptr(),
        total.data_ptr(),
    )
    if gradients:
        grad, grad_q, grad_k, grad_v, grad_rel_h, grad_rel_w = gradients
        problem.grad, problem.grad_q = _view(grad), _view(grad_q)
        problem.grad_k, problem.grad_v = _view(grad_k), _view(grad_v)
        problem.grad_rel_h, problem.grad_rel_w = grad_rel_h.data_ptr(), grad_rel_w.data_ptr()
    arguments = ctypes.byref(problem), bool(gradients), instruction_set
    workspace = torch.empty(library.workspace(*arguments), dtype=torch.float32)
    problem.workspace = workspace.data_ptr()
    library.attention(*arguments, library.parallel)


def _view(x: Tensor) -> _View:
    return _View(x.data_ptr(), (Size * 5)(*x.stride()))

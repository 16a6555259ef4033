"""The public operator: check the arguments and pick a backend."""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from . import fused, native
from .blocked import blocked_attention
from .dense import dense_attention
from .folded import folded_attention
from .native import native_attention

logger = logging.getLogger(__name__)

BACKENDS = {
    "dense": dense_attention,
    "native": native_attention,
    "blocked": blocked_attention,
    "fused": fused.fused_attention,
    "folded": folded_attention,
}


def relative_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None = None,
    rel_w: Tensor | None = None,
    *,
    scale: float | None = None,
    valid_size: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Multi-head self-attention over the pixels of a map, with relative positions.

    For a query pixel ``(i, x)`` and a key pixel ``(j, y)`` of the same image and head ::

        logit  = scale * (q[i, x] · k[j, y]  +  q[i, x] · rel_h[j - i]  +  q[i, x] · rel_w[y - x])
        output = softmax over all (j, y) of logit, times v

    Source: Bello et al., *Attention Augmented Convolutional Networks*, ICCV 2019, section 3.2.

    Shapes: B images, h heads, maps of H × W pixels, d_k and d_v channels per head.

    Args:
        q, k: ``(B, h, H, W, d_k)``.
        v: ``(B, h, H, W, d_v)``.
        rel_h: ``(2 * max_h - 1, d_k)``: row ``r`` is for the vertical distance
            ``r - (max_h - 1)``, key minus query, in pixels of the map. On a map with ``H > max_h``,
            distances are clamped to the ends of the table. None: no vertical position term.
        rel_w: ``(2 * max_w - 1, d_k)``, the same for columns.
        scale: multiplies the whole logit, content and position; default ``d_k ** -0.5``.
        valid_size: ``(B, 2)`` integers, the number of real rows and columns of each image, counted
            from the top left. Keys outside get no weight and outputs outside are zero. None: all
            pixels are real.
        backend: "auto" picks one of

            - "dense": materialises all logits. The reference that the others are tested against,
              and the only backend that can be differentiated twice.
            - "native": one compiled pass on the CPU, in float32 (half precision is upcast). The
              fastest on the CPU. Available only if it was built, which takes a C++ compiler.
            - "blocked": never holds more than a block of logits, forward and backward. Runs on any
              device, also in float64.
            - "fused": Triton kernels for NVIDIA GPUs of compute capability 8.0 and newer, in
              float16, bfloat16 and float32. Never stores a logit in memory.
            - "folded": passes the position terms as channels to
              :func:`torch.nn.functional.scaled_dot_product_attention`. Its fused kernels lose
              precision in float32 gradients when logits are in the hundreds.

    Returns:
        ``(B, h, H, W, d_v)`` in the dtype of `v`. Logits and softmax are computed in at least
        float32.

    Raises:
        ValueError: the shapes do not fit together, or the backend does not exist.
        RuntimeError: backend "native" or "fused" cannot run here or on these inputs.
    """
    _check(q, k, v, rel_h, rel_w, valid_size)
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {['auto', *BACKENDS]}, got {backend!r}")
    if backend == "auto":
        backend = choose_backend(q, v)
    if scale is None:
        scale = q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        return BACKENDS[backend](q, k, v, rel_h, rel_w, scale, valid_size)


def choose_backend(q: Tensor, v: Tensor) -> str:
    """Return the backend that "auto" picks: the first of `CANDIDATES` that has no objection.

    Logs the choice, and why earlier candidates were passed over, once per kind of input at level
    DEBUG.
    """
    passed_over: list[str] = []
    for backend, objection in CANDIDATES.items():
        reason = objection(q, v)
        if reason is None:
            if not torch.compiler.is_compiling():
                if native.absent is not None and q.device.type == "cpu":
                    _log_absent(native.absent)
                kind = f"{tuple(q.shape)} and d_v = {v.shape[-1]}, {q.dtype}, {q.device.type}"
                _log_choice(backend, kind, "; ".join(passed_over))
            return backend
        passed_over.append(f"not {backend}: {reason}")
    raise AssertionError("the last candidate takes everything")


@functools.lru_cache(maxsize=1024)
def _log_choice(backend: str, kind: str, passed_over: str) -> None:
    logger.debug("attention of q %s by %s%s", kind, backend, passed_over and f" ({passed_over})")


@functools.cache
def _log_absent(reason: str) -> None:
    logger.info('attention runs without the backend "native", the fastest on the CPU: %s', reason)


# Each returns the reason not to use a backend for q and v, or None. The thresholds are from
# docs/benchmark/attention.txt. There the order is the same with and without gradients, so
# gradients are not considered.


def _against_dense(q: Tensor, v: Tensor) -> str | None:
    # With so few logits the number of operator calls dominates, and dense has the fewest. A
    # compiled or exported graph must not depend on the size.
    if torch.compiler.is_compiling():
        return "compiling"
    batch, heads, height, width, _ = q.shape
    return "more than 2**17 logits" if batch * heads * (height * width) ** 2 > 2**17 else None


def _against_blocked(q: Tensor, v: Tensor) -> str | None:
    # SDPA has a fused float64 kernel only on the CPU; elsewhere it materialises the logits.
    if q.device.type == "cpu" or q.dtype == torch.float64:
        return None
    return "slower than fused and folded on a GPU"


def _against_folded(q: Tensor, v: Tensor) -> str | None:
    return None


# in the order in which "auto" tries them
CANDIDATES: dict[str, Callable[[Tensor, Tensor], str | None]] = {
    "native": native.objection,
    "dense": _against_dense,
    "blocked": _against_blocked,
    "fused": fused.objection,
    "folded": _against_folded,
}


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    valid_size: Tensor | None,
) -> None:
    if q.dim() != 5 or q.shape != k.shape:
        raise ValueError(
            "q and k must both have shape (B, heads, H, W, d_k), "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if v.dim() != 5 or v.shape[:4] != q.shape[:4]:
        raise ValueError(
            "v must have shape (B, heads, H, W, d_v) with q's first four sizes "
            f"{tuple(q.shape[:4])}, got {tuple(v.shape)}"
        )
    for name, table in (("rel_h", rel_h), ("rel_w", rel_w)):
        if table is not None and (
            table.dim() != 2 or table.shape[0] % 2 == 0 or table.shape[1] != q.shape[-1]
        ):
            raise ValueError(
                f"{name} must have shape (2 * max_size - 1, d_k) with d_k = {q.shape[-1]}, "
                f"got {tuple(table.shape)}"
            )
    if valid_size is not None:
        if valid_size.shape != (q.shape[0], 2):
            raise ValueError(
                f"valid_size must have shape (B, 2) = ({q.shape[0]}, 2), "
                f"got {tuple(valid_size.shape)}"
            )
        if valid_size.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"valid_size must hold integers, got {valid_size.dtype}")

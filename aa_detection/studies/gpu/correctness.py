"""Compare every backend with the exact result in float64, gradients and padding included."""

import gc

import torch
from torch import Tensor

from ...attention import relative_attention_2d
from .plan import Plan, Size
from .section import Clock, Section, dtype_name, first_line

BACKENDS = ("dense", "blocked", "folded", "fused", "auto")
# relative to the largest value of the exact output or gradient, for the same rounded inputs
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2**-7, torch.bfloat16: 2**-4}
HEADS, KEY_DEPTH, VALUE_DEPTH = 2, 20, 3
DENSE_TOKENS = 2500  # above this, "blocked" in float64 is the reference and "dense" is left out
NAMES = ("output", "q", "k", "v", "rel_h", "rel_w")


def correctness(plan: Plan, device: str, clock: Clock) -> Section:
    """Return a row for every backend, dtype, map and padding, with each tensor's worst error."""
    section = Section("correctness")
    for size in plan.checked_maps:
        for padded in (True, False):
            for dtype in plan.dtypes:
                case = f"{size[0]}x{size[1]} {dtype_name(dtype)}{', padded' if padded else ''}"
                if not clock.left:
                    section.left_out.append(f"correctness: {case}")
                    continue
                _check_case(section, case, size, padded, dtype, device)
                gc.collect()
    section.text = _table(section)
    return section


def _check_case(
    section: Section, case: str, size: Size, padded: bool, dtype: torch.dtype, device: str
) -> None:
    inputs = _inputs(size, dtype, device)
    height, width = size
    valid_size = (
        torch.tensor([[height, width], [-(-2 * height // 3), -(-width // 2)]], device=device)
        if padded
        else None
    )
    few = height * width <= DENSE_TOKENS
    exact = _results([x.double() for x in inputs], "dense" if few else "blocked", valid_size)
    for backend in BACKENDS if few else BACKENDS[1:]:
        row = {
            "name": backend,
            "height": height,
            "width": width,
            "padded": padded,
            "dtype": dtype_name(dtype),
        }
        try:
            found = _results(inputs, backend, valid_size)
        except Exception as error:  # any error: continue with the other backends
            row["error"] = first_line(error)
            section.expect(False, f"{backend}, {case}: {row['error']}")
        else:
            errors = {name: _error(x, y) for name, x, y in zip(NAMES, found, exact)}
            worst = max(errors, key=lambda name: errors[name])
            row |= {"errors": errors}
            section.expect(
                errors[worst] <= TOLERANCE[dtype],
                f"{backend}, {case}: {worst} is off by {errors[worst]:.1e} of its largest number, "
                f"at most {TOLERANCE[dtype]:.1e} was expected",
            )
        section.rows.append(row)


def _inputs(size: Size, dtype: torch.dtype, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    height, width = size
    maps = [random(2, HEADS, height, width, d) for d in (KEY_DEPTH, KEY_DEPTH, VALUE_DEPTH)]
    # a table smaller than the map: distances clamp
    tables = [random(2 * (n - n // 4) - 1, KEY_DEPTH) for n in size]
    return maps + tables


def _results(inputs: list[Tensor], backend: str, valid_size: Tensor | None) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = relative_attention_2d(*leaves, valid_size=valid_size, backend=backend)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device)
    loss = (weight.view(out.shape) * out.double()).sum()
    return [out.detach(), *torch.autograd.grad(loss, leaves)]


def _error(found: Tensor, exact: Tensor) -> float:
    if not found.isfinite().all():
        return float("inf")
    largest = exact.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return ((found.double() - exact).abs().max() / largest).item()


def _table(section: Section) -> str:
    lines = [
        "The largest error over the largest number of the exact result, which is computed in",
        "float64 from the same rounded inputs.",
        "",
        f"{'map':>8}  {'':7}{'':9}{'':8}" + "".join(f"{name:>9}" for name in NAMES),
    ]
    for row in section.rows:
        line = f"{row['height']}x{row['width']}".rjust(8)
        line += f"  {'padded' if row['padded'] else '':7}{row['dtype']:9}{row['name']:8}"
        if "error" in row:
            line += f"  {row['error']}"
        else:
            line += "".join(f"{row['errors'][name]:9.1e}" for name in NAMES)
        lines.append(line)
    return "\n".join(lines)

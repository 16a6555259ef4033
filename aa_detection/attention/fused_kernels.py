"""Triton kernels of the backend "fused": one for the forward pass, two for the backward pass.

No logit leaves the chip, as in Dao et al., *FlashAttention*, NeurIPS 2022. A tile of keys is a
piece of one key row. Of the two position terms in ::

    logit[query, (y, x)] = q · k[y, x] + row_terms[y, query] + column_terms[query, x]

the column term is therefore a matrix that all key rows share: it is loaded once, and the product
``q · k`` is added to it. The row term is one number per query; it is merged into what the softmax
subtracts and costs nothing per logit. Only real pixels are numbered as queries and keys: padding is
neither read nor computed, and the real sizes never leave the device.

No two programs write to the same place and there are no atomic additions, so results are
reproducible from run to run.

Arrays, with ``pixels = height * width`` and the heads of all images in one dimension:

- q, k, v and the output's gradient are ``(heads, pixels, D)`` with rows of ``ROW`` elements, a
  multiple of 16 bytes, because they are read 16 bytes at a time. The output and the gradients of q,
  k and v have no such gaps.
- ``row_terms`` is ``(heads, height, pixels)``; ``column_terms`` is ``(heads, pixels, width)`` with
  rows of ``4 * quads`` elements. ``pixels`` counts queries in both.
- ``lse`` and ``delta`` are ``(heads, pixels)``; ``valid_size`` is ``(images, 2)`` or None.

Exponentials are powers of two: ``scale`` is positive and includes a factor log2(e), and ``lse`` is
the base-2 logarithm of a query's sum of exponentials.
"""
# mypy: allow-untyped-defs

import triton
import triton.language as tl

# detectors see maps of many sizes: do not compile a kernel for each
_kernel = triton.jit(do_not_specialize=["heads", "height", "width", "quads"])


@_kernel
def forward(
    q,
    k,
    v,
    row_terms,
    column_terms,
    valid_size,
    out,
    lse,
    heads,
    height,
    width,
    quads,
    scale,
    D_K: tl.constexpr,
    D_V: tl.constexpr,
    ROW_K: tl.constexpr,
    ROW_V: tl.constexpr,
    PAD_K: tl.constexpr,
    PAD_V: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write ``out`` and ``lse`` of one head's block of queries."""
    pixels = height * width
    head, block = _head_and_block(tl.cdiv(pixels, BLOCK_Q))
    rows, columns = _real_size(valid_size, head // heads, height, width)
    if block * BLOCK_Q >= rows * columns:
        return
    pixel, real = _pixels(block * BLOCK_Q, BLOCK_Q, rows, columns, width)
    k += head * pixels * ROW_K
    v += head * pixels * ROW_V
    row_terms += head * height * pixels
    column_terms += head * pixels * (4 * quads)

    q_tile = _load(q + head * pixels * ROW_K, pixel, real, ROW_K, PAD_K)
    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    sums = tl.zeros([BLOCK_Q, PAD_V], tl.float32)
    for first in range(0, columns, BLOCK_X):
        x = first + tl.arange(0, BLOCK_X)
        column_term = _column_term(column_terms, pixel, x, columns, quads)
        for y in range(0, rows):
            k_tile = _load(k + y * width * ROW_K, x, x < columns, ROW_K, PAD_K)
            v_tile = _load(v + y * width * ROW_V, x, x < columns, ROW_V, PAD_V)
            row_term = tl.load(row_terms + y * pixels + pixel) * scale
            logits = tl.dot(q_tile, tl.trans(k_tile), column_term, input_precision=PRECISION)
            new_highest = tl.maximum(highest, tl.max(logits, 1) * scale + row_term)
            weights = tl.exp2(logits * scale - (new_highest - row_term)[:, None])
            decay = tl.exp2(highest - new_highest)
            total = total * decay + tl.sum(weights, 1)
            sums = tl.dot(
                weights.to(v_tile.dtype), v_tile, sums * decay[:, None], input_precision=PRECISION
            )
            highest = new_highest
    _store(out + head * pixels * D_V, sums / total[:, None], pixel, real, D_V, PAD_V)
    tl.store(lse + head * pixels + pixel, highest + tl.log2(total), mask=real)


@_kernel
def backward_queries(
    grad,
    out,
    lse,
    q,
    k,
    v,
    row_terms,
    column_terms,
    valid_size,
    delta,
    grad_q,
    grad_row_terms,
    grad_column_terms,
    heads,
    height,
    width,
    quads,
    scale,
    D_K: tl.constexpr,
    D_V: tl.constexpr,
    ROW_K: tl.constexpr,
    ROW_V: tl.constexpr,
    PAD_K: tl.constexpr,
    PAD_V: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the gradients of one head's block of queries, before the scale, in float32.

    Writes the gradients of the position terms, ``delta = grad · out``, and ``grad_q`` without the
    share that flows through the position terms. ``grad_row_terms`` must hold zeros on entry.
    """
    pixels = height * width
    head, block = _head_and_block(tl.cdiv(pixels, BLOCK_Q))
    rows, columns = _real_size(valid_size, head // heads, height, width)
    if block * BLOCK_Q >= rows * columns:
        return
    pixel, real = _pixels(block * BLOCK_Q, BLOCK_Q, rows, columns, width)
    k += head * pixels * ROW_K
    v += head * pixels * ROW_V
    row_terms += head * height * pixels
    column_terms += head * pixels * (4 * quads)
    grad_row_terms += head * height * pixels
    grad_column_terms += head * pixels * (4 * quads)

    q_tile = _load(q + head * pixels * ROW_K, pixel, real, ROW_K, PAD_K)
    grad_tile = _load(grad + head * pixels * ROW_V, pixel, real, ROW_V, PAD_V)
    out_tile = _load(out + head * pixels * D_V, pixel, real, D_V, PAD_V)
    grad_out = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    tl.store(delta + head * pixels + pixel, grad_out, mask=real)
    shift = tl.load(lse + head * pixels + pixel)
    sums = tl.zeros([BLOCK_Q, PAD_K], tl.float32)
    for first in range(0, columns, BLOCK_X):
        x = first + tl.arange(0, BLOCK_X)
        column_term = _column_term(column_terms, pixel, x, columns, quads)
        grad_column_term = tl.zeros([BLOCK_Q, BLOCK_X], tl.float32)
        # other threads may have written the gradients of the row terms so far
        tl.debug_barrier()
        for y in range(0, rows):
            k_tile = _load(k + y * width * ROW_K, x, x < columns, ROW_K, PAD_K)
            v_tile = _load(v + y * width * ROW_V, x, x < columns, ROW_V, PAD_V)
            row_term = tl.load(row_terms + y * pixels + pixel) * scale
            logits = tl.dot(q_tile, tl.trans(k_tile), column_term, input_precision=PRECISION)
            weights = tl.exp2(logits * scale - (shift - row_term)[:, None])
            grad_weights = tl.dot(grad_tile, tl.trans(v_tile), input_precision=PRECISION)
            grad_logits = weights * (grad_weights - grad_out[:, None])
            grad_column_term += grad_logits
            grad_row_term = grad_row_terms + y * pixels + pixel
            before = tl.load(grad_row_term)
            tl.store(grad_row_term, before + tl.sum(grad_logits, 1), mask=real)
            sums = tl.dot(grad_logits.to(k_tile.dtype), k_tile, sums, input_precision=PRECISION)
        at = grad_column_terms + pixel[:, None] * (4 * quads) + x[None, :]
        tl.store(at, grad_column_term, mask=real[:, None] & (x < 4 * quads)[None, :])
    _store(grad_q + head * pixels * D_K, sums, pixel, real, D_K, PAD_K)


@_kernel
def backward_keys(
    grad,
    lse,
    delta,
    q,
    k,
    v,
    row_terms,
    column_terms,
    valid_size,
    grad_k,
    grad_v,
    heads,
    height,
    width,
    quads,
    scale,
    content_scale,
    D_K: tl.constexpr,
    D_V: tl.constexpr,
    ROW_K: tl.constexpr,
    ROW_V: tl.constexpr,
    PAD_K: tl.constexpr,
    PAD_V: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write ``grad_k`` and ``grad_v`` of a piece of one key row.

    ``content_scale`` is the operator's scale, without the factor log2(e).
    """
    pixels = height * width
    head, block = _head_and_block(height * tl.cdiv(width, BLOCK_X))
    rows, columns = _real_size(valid_size, head // heads, height, width)
    y = block % height
    first = block // height * BLOCK_X
    if y >= rows or first >= columns:
        return
    x = first + tl.arange(0, BLOCK_X)
    key = y * width + x
    q += head * pixels * ROW_K
    grad += head * pixels * ROW_V
    lse += head * pixels
    delta += head * pixels
    row_terms += (head * height + y) * pixels
    column_terms += head * pixels * (4 * quads)

    # here logits are (keys, queries)
    k_tile = _load(k + head * pixels * ROW_K, key, x < columns, ROW_K, PAD_K)
    v_tile = _load(v + head * pixels * ROW_V, key, x < columns, ROW_V, PAD_V)
    k_sums = tl.zeros([BLOCK_X, PAD_K], tl.float32)
    v_sums = tl.zeros([BLOCK_X, PAD_V], tl.float32)
    for start in range(0, rows * columns, BLOCK_Q):
        pixel, real = _pixels(start, BLOCK_Q, rows, columns, width)
        q_tile = _load(q, pixel, real, ROW_K, PAD_K)
        grad_tile = _load(grad, pixel, real, ROW_V, PAD_V)
        column_term = tl.trans(_column_term(column_terms, pixel, x, columns, quads))
        # zero weight for queries that are not real
        shift = tl.load(lse + pixel, mask=real, other=float("inf"))
        shift -= tl.load(row_terms + pixel) * scale
        grad_out = tl.load(delta + pixel)
        logits = tl.dot(k_tile, tl.trans(q_tile), column_term, input_precision=PRECISION)
        weights = tl.exp2(logits * scale - shift[None, :])
        v_sums = tl.dot(weights.to(grad_tile.dtype), grad_tile, v_sums, input_precision=PRECISION)
        grad_weights = tl.dot(v_tile, tl.trans(grad_tile), input_precision=PRECISION)
        grad_logits = weights * (grad_weights - grad_out[None, :])
        k_sums = tl.dot(grad_logits.to(q_tile.dtype), q_tile, k_sums, input_precision=PRECISION)
    k_sums *= content_scale
    _store(grad_k + head * pixels * D_K, k_sums, key, x < columns, D_K, PAD_K)
    _store(grad_v + head * pixels * D_V, v_sums, key, x < columns, D_V, PAD_V)


@triton.jit
def _head_and_block(blocks):
    """Return this program's head and block. The head is 64-bit: its offset may exceed 32 bits."""
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks


@triton.jit
def _real_size(valid_size, image, height, width):
    if valid_size is not None:
        rows = tl.load(valid_size + 2 * image).to(tl.int32)
        columns = tl.load(valid_size + 2 * image + 1).to(tl.int32)
        height = tl.minimum(tl.maximum(rows, 0), height)
        width = tl.minimum(tl.maximum(columns, 0), width)
    return height, width


@triton.jit
def _pixels(start, BLOCK: tl.constexpr, rows, columns, width):
    """Return the real pixels numbered from `start`, and a mask of those that exist.

    Missing pixels are replaced by the last real pixel, which is safe to read.
    """
    number = start + tl.arange(0, BLOCK)
    real = number < rows * columns
    number = tl.minimum(number, rows * columns - 1)
    return number // columns * width + number % columns, real


@triton.jit
def _load(array, pixel, real, ROW: tl.constexpr, PAD: tl.constexpr):
    """Return ``(pixels of the tile, PAD)``, zero past a row's end and where a pixel is not real."""
    channel = tl.arange(0, PAD)
    at = array + pixel[:, None] * ROW + channel[None, :]
    return tl.load(at, mask=real[:, None] & (channel < ROW)[None, :], other=0.0)


@triton.jit
def _store(array, tile, pixel, real, ROW: tl.constexpr, PAD: tl.constexpr):
    """The inverse of `_load`, in the array's dtype."""
    channel = tl.arange(0, PAD)
    at = array + pixel[:, None] * ROW + channel[None, :]
    mask = real[:, None] & (channel < ROW)[None, :]
    tl.store(at, tile.to(array.dtype.element_ty), mask=mask)


@triton.jit
def _column_term(column_terms, pixel, x, columns, quads):
    """Return ``(queries, key columns)``; a key column that is not real gets no weight."""
    at = column_terms + pixel[:, None] * (4 * quads) + x[None, :]
    # the mask covers the padded row: otherwise the load is not vectorised by four
    term = tl.load(at, mask=(x < 4 * quads)[None, :], other=0.0)
    return tl.where((x < columns)[None, :], term, float("-inf"))

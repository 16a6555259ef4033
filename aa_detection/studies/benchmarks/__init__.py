"""Benchmarks of the operator, of detectors with it and of attention maps; one module each.

Each module has default ``SIZES``; ``measure``, which yields rows of figures size by size; and
``table``, which formats them as text. Every case runs in its own process.
"""

"""What the operator, detectors with it and looking into them cost; each module measures one.

Each has its default ``SIZES``; ``measure``, which yields rows of figures size by size; and
``table``, which makes text of them. Every case runs in a process of its own.
"""

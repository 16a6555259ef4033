"""The GPU check: correctness, speed and memory on a machine with a GPU.

Each module is a section of ``tools/check_cuda.py``: a function of a ``Plan``, the device and a
``Clock`` that returns a ``Section``.
"""

"""What a machine with a GPU is asked once: is all of it right, how fast is it, what does it hold.

Each module is a section of ``tools/check_cuda.py``: a function of a ``Plan``, the device and a
``Clock`` that returns a ``Section``.
"""

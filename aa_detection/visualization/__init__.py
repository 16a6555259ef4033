"""Pictures of datasets, detections and attention.

Some modules are commands as well, so this package imports none of them.
"""

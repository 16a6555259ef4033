"""Pictures of datasets, detections and attention.

Some modules are commands as well, and therefore none is imported here.
"""

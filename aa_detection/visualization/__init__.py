"""Pictures of datasets and detections. Nothing below imports torch.

Each module is a command as well, and therefore none is imported here.
"""

"""Datasets drawn from a seed, with COCO annotations."""

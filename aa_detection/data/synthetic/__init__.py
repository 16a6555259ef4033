"""Datasets generated from a seed, with COCO annotations."""

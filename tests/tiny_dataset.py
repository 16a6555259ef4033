"""A dataset of cats and dogs in COCO's format, and the settings of a detector that fits it."""

SETTINGS = """\
MODEL:
  FPN: {OUT_CHANNELS: 32}
  RETINANET: {NUM_CLASSES: 2, NUM_CONVS: 1}
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 2, STEPS: [], WARMUP_ITERS: 0}
"""


def content(images: int) -> dict[str, list[dict]]:
    """Return annotations: one object in each of the images 1 to `images`, 64 pixels by 48."""
    ids = range(1, images + 1)
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in ids],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": 10 + i,
                "image_id": i,
                "category_id": (3, 7)[i % 2],
                "bbox": [4 * i, 5, 20, 30],
                "area": 600,
                "iscrowd": 0,
                "segmentation": [[4 * i, 5, 4 * i + 20, 5, 4 * i + 20, 35]],
            }
            for i in ids
        ],
    }

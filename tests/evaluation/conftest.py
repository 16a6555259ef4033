import contextlib
import io

import pytest
from pycocotools.coco import COCO


@pytest.fixture(scope="session")
def to_coco():
    """pycocotools' view of annotations, built in silence."""

    def _to_coco(content):
        coco = COCO()
        coco.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    return _to_coco

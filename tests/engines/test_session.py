"""What both engines check before a run and say at its end."""

import pytest
from fvcore.common.config import CfgNode

from aa_detection.engines import RunOptions
from aa_detection.engines.session import _what_takes_memory


def config(jitter=False):
    return CfgNode(
        {
            "SOLVER": {"IMS_PER_BATCH": 16, "GRAD_ACCUM_STEPS": 2},
            "INPUT": {
                "MIN_SIZE_TRAIN": (640, 800),
                "MIN_SIZE_TEST": 800,
                "MAX_SIZE_TEST": 1333,
                "SCALE_JITTER": {"ENABLED": jitter, "SIZE": 640},
            },
        }
    )


RAISE = ", or raise SOLVER.GRAD_ACCUM_STEPS (2)"


@pytest.mark.parametrize(
    ("options", "jitter", "keys"),
    [
        ({}, False, f"SOLVER.IMS_PER_BATCH (16) or INPUT.MIN_SIZE_TRAIN ((640, 800)){RAISE}"),
        ({}, True, f"SOLVER.IMS_PER_BATCH (16) or INPUT.SCALE_JITTER.SIZE (640){RAISE}"),
        ({"eval_only": True}, False, "INPUT.MIN_SIZE_TEST (800) or INPUT.MAX_SIZE_TEST (1333)"),
    ],
)
def test_memory_advice_names_the_keys(options, jitter, keys):
    assert _what_takes_memory(config(jitter), RunOptions(**options)).endswith(f"lower {keys}")


def test_evaluating_a_run_without_a_checkpoint_is_refused(engine, run, tmp_path):
    """Not its random weights, with --resume as without."""
    for resume in (False, True):
        with pytest.raises(ValueError, match="^MODEL.WEIGHTS is empty, and there is no .*final"):
            run(engine, tmp_path, eval_only=True, resume=resume)
    assert not list(tmp_path.iterdir())

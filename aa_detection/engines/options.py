"""Options of a run that are not in its config."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """The options that ``tools/train_net.py`` takes beside the config.

    Attributes:
        resume: continue from the last checkpoint in ``OUTPUT_DIR``; with `eval_only`, evaluate it.
        eval_only: evaluate ``MODEL.WEIGHTS``, or if empty ``OUTPUT_DIR/model_final.pth``.
        allow_pickle, allow_partial: how to load ``MODEL.WEIGHTS``, see
            :func:`aa_detection.checkpoints.read_configured`.
        num_gpus: processes on this machine. Under torchrun, the environment sets this instead.
        num_machines, machine_rank, dist_url: the number of machines, the rank of this one, and the
            rendezvous address; see :func:`.processes.plan_processes`.
        open_images: read every image file's header before anything starts.
    """

    resume: bool = False
    eval_only: bool = False
    allow_pickle: bool = False
    allow_partial: bool = False
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    open_images: bool = True

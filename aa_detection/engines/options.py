"""How a run is made, beside its config."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """What ``tools/train_net.py`` is told beside the config.

    Attributes:
        resume: go on from the last checkpoint in ``OUTPUT_DIR``; with `eval_only`, evaluate it.
        eval_only: evaluate ``MODEL.WEIGHTS``, or if empty ``OUTPUT_DIR/model_final.pth``.
        allow_pickle, allow_partial: how ``MODEL.WEIGHTS`` is loaded, see
            :func:`aa_detection.checkpoints.read_configured`.
        num_gpus: processes on this machine. Under torchrun its environment decides.
        num_machines, machine_rank, dist_url: how many machines, which one this is, and where they
            meet; see :func:`.processes.plan_processes`.
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

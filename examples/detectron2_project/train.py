#!/usr/bin/env python
"""A detectron2 project with an attentive backbone, trained on a dataset of its own."""

import os

from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator

from aa_detection import add_aa_config
from aa_detection.engines.detectron2 import AACheckpointer


def register_datasets() -> None:
    """Your own data goes here: a name, COCO annotations, and the folder of the images."""
    root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "aa_sample")
    for split in ("train", "val"):
        register_coco_instances(
            f"shapes_{split}", {}, f"{root}/annotations/{split}.json", f"{root}/{split}"
        )


class Trainer(DefaultTrainer):
    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        # detectron2's own would leave out every weight whose convolution attention made narrower
        self.checkpointer = AACheckpointer(self.model, cfg.OUTPUT_DIR, trainer=self)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def setup(args) -> CfgNode:
    cfg = get_cfg()
    add_aa_config(cfg)  # before the file is merged, which has keys of ours
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def train(args) -> dict:
    cfg = setup(args)
    register_datasets()
    if args.eval_only:
        model = Trainer.build_model(cfg)
        AACheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def main(argv: list[str] | None = None) -> None:
    args = default_argument_parser().parse_args(argv)
    launch(
        train,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    main()

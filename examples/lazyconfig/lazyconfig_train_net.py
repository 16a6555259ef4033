#!/usr/bin/env python
"""detectron2's training script for LazyConfigs, with this project's checkpointer."""

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from aa_detection.engines.detectron2 import AACheckpointer


def evaluate(cfg: DictConfig, model: nn.Module) -> dict:
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    print_csv_format(results)
    return results


def build_checkpointer(cfg: DictConfig, model: nn.Module, **checkpointables) -> AACheckpointer:
    # detectron2's own would leave out every weight whose convolution attention made narrower;
    # ImageNet weights of its zoo are pickles, of which this reads arrays only
    return AACheckpointer(model, cfg.train.output_dir, allow_pickle=True, **checkpointables)


def train(args, cfg: DictConfig) -> None:
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    checkpointer = build_checkpointer(cfg, model, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
        ]
    )
    if comm.is_main_process():
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        trainer.register_hooks(
            [
                hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
                hooks.PeriodicWriter(writers, period=cfg.train.log_period),
            ]
        )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def run(args) -> None:
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    default_setup(cfg, args)
    if args.eval_only:
        model = create_ddp_model(instantiate(cfg.model).to(cfg.train.device))
        build_checkpointer(cfg, model).load(cfg.train.init_checkpoint)
        evaluate(cfg, model)
    else:
        train(args, cfg)


def main(argv: list[str] | None = None) -> None:
    args = default_argument_parser().parse_args(argv)
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    main()

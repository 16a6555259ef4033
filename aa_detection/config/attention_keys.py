"""``MODEL.ATTENTION``: the keys that both engines add to detectron2's."""

import dataclasses
import logging

from fvcore.common.config import CfgNode

from ..attention import BACKENDS
from ..layers import GATES
from ..layers.aa_conv import MERGES
from ..models import CONVS, MASKS, STAGE_NAMES, AttentionSpec
from .constraints import Choice, Flag, ListOf, Number, get, require, whole
from .errors import ConfigError
from .keys import Key, add_keys

_STAGES = ListOf(Choice(*STAGE_NAMES))
_REDUCTION = whole(1, 10**6)

# keyed by the field of AttentionSpec that takes the value
ATTENTION_KEYS = {
    "conv": Key(
        "MODEL.ATTENTION.CONV",
        "",
        Choice("", registry=CONVS),
        "Replacement for a bottleneck's 3×3 or a basic block's first 3×3 convolution: none, an "
        "attention-augmented convolution, or one with attention on its kernel",
    ),
    "gate": Key(
        "MODEL.ATTENTION.GATE",
        "",
        Choice("", registry=GATES),
        "Gate on a block's output before the shortcut is added: none, squeeze-and-excitation, or "
        "CBAM",
    ),
    "stages": Key(
        "MODEL.ATTENTION.STAGES",
        ["res3", "res4", "res5"],
        _STAGES,
        "Stages whose blocks get CONV and GATE",
    ),
    "num_heads": Key(
        "MODEL.ATTENTION.AA.NUM_HEADS",
        8,
        whole(1, 65536),
        "Number of attention heads, at most the convolution's output channels",
    ),
    "key_ratio": Key(
        "MODEL.ATTENTION.AA.KEY_RATIO",
        0.2,
        Number(0, 1, above=True),
        "κ: total depth of the keys over the convolution's output channels, rounded up to a "
        "multiple of the heads",
    ),
    "value_ratio": Key(
        "MODEL.ATTENTION.AA.VALUE_RATIO",
        0.1,
        Number(0, 1),
        "υ: attention maps over the convolution's output channels, rounded down to a multiple of "
        "the heads but at least one per head; 0 is the plain convolution, 1 with "
        '`MERGE: "concat"` is attention alone',
    ),
    "min_key_depth_per_head": Key(
        "MODEL.ATTENTION.AA.MIN_KEY_DEPTH_PER_HEAD",
        0,
        whole(0, 1024),
        "Minimum depth of a head's keys; the paper uses 20 for ImageNet and none for detectors",
    ),
    "pool_stages": Key(
        "MODEL.ATTENTION.AA.POOL_STAGES",
        ["res3"],
        _STAGES,
        "Stages whose attention runs at half the resolution",
    ),
    "merge": Key(
        "MODEL.ATTENTION.AA.MERGE",
        "concat",
        Choice(*MERGES),
        "How attention joins the convolution: its maps replace those of the last filters (the "
        "paper, for training from random weights), or are added to all of them through a "
        "projection that starts at zero, so that a pretrained network starts unchanged",
    ),
    "relative": Key(
        "MODEL.ATTENTION.AA.RELATIVE",
        True,
        Flag(),
        "Learn relative positions",
    ),
    "absolute": Key(
        "MODEL.ATTENTION.AA.ABSOLUTE",
        False,
        Flag(),
        "Add sinusoidal absolute positions to the attention's input; with neither RELATIVE "
        "nor ABSOLUTE, attention ignores position",
    ),
    "max_image_size": Key(
        "MODEL.ATTENTION.AA.MAX_IMAGE_SIZE",
        1344,
        whole(1, 10**6, "pixels"),
        "Longest image side for which all distances are distinguished: a map of stride s has "
        "tables for ceil(size / s) pixels, and larger distances are clamped",
    ),
    "mask_padding": Key(
        "MODEL.ATTENTION.AA.MASK_PADDING",
        "auto",
        Choice("auto", *MASKS),
        'What ignores the zero padding of a batch, whatever CONV and GATE are. "none": nothing; '
        '"attention": attention and gates; "batch": also convolutions, except for the padding '
        'that a single image has; "all": also for that. "auto" is "batch" with attention or a '
        'gate, "none" without',
    ),
    "backend": Key(
        "MODEL.ATTENTION.AA.BACKEND",
        "auto",
        Choice("auto", registry=BACKENDS),
        "Implementation of the attention operator",
    ),
    "aw_reduction": Key(
        "MODEL.ATTENTION.AW.REDUCTION",
        16,
        _REDUCTION,
        'For `CONV: "aw"`: input channels over the channels in which its attention is computed',
    ),
    "gate_reduction": Key(
        "MODEL.ATTENTION.SE.REDUCTION",
        16,
        _REDUCTION,
        "The same for the gate, including CBAM",
    ),
}


def add_attention_keys(cfg: CfgNode) -> None:
    """Add ``MODEL.ATTENTION`` with its defaults (no attention) to a config; idempotent."""
    add_keys(cfg, ATTENTION_KEYS.values())


def attention_spec(cfg: CfgNode) -> AttentionSpec:
    """Return the specification that ``cfg.MODEL.ATTENTION`` describes.

    Raises:
        ConfigError: the keys are missing, or a value is out of range; names the key.
    """
    if "ATTENTION" not in cfg.MODEL:
        raise ConfigError(
            "the config has no MODEL.ATTENTION: call aa_detection.add_aa_config(cfg) before "
            "building the model or merging a file"
        )
    values = {}
    for field, key in ATTENTION_KEYS.items():
        require(cfg, key.name, key.allowed)
        values[field] = get(cfg, key.name)
    spec = AttentionSpec(**values)
    if not any(mean % 1 for mean in cfg.MODEL.PIXEL_MEAN):
        # a real pixel may be zero in all channels
        idle = ("auto", "none", "attention") if not (spec.conv or spec.gate) else ("none",)
        if spec.mask_padding not in idle:
            logging.getLogger(__name__).warning(
                "MODEL.PIXEL_MEAN %s: a real pixel of exactly this colour would look like padding, "
                "so MODEL.ATTENTION.AA.MASK_PADDING is off; move one channel by 0.5 to have it",
                list(cfg.MODEL.PIXEL_MEAN),
            )
        spec = dataclasses.replace(spec, mask_padding="none")
    return spec


def name_key(error: Exception) -> ConfigError:
    """Replace the field name that begins an :class:`AttentionSpec` error with the config key."""
    field, _, rest = str(error).partition(" ")
    colon = ":" if field.endswith(":") else ""
    key = ATTENTION_KEYS.get(field.rstrip(":"))
    return ConfigError(f"{key.name}{colon} {rest}" if key else str(error))

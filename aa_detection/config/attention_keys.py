"""``MODEL.ATTENTION``: the keys that both engines add to detectron2's."""

import logging

from fvcore.common.config import CfgNode

from ..models import AttentionSpec
from .errors import ConfigError

# field of AttentionSpec -> key below MODEL.ATTENTION
_KEYS = {
    "conv": "CONV",
    "gate": "GATE",
    "stages": "STAGES",
    "num_heads": "AA.NUM_HEADS",
    "key_ratio": "AA.KEY_RATIO",
    "value_ratio": "AA.VALUE_RATIO",
    "min_key_depth_per_head": "AA.MIN_KEY_DEPTH_PER_HEAD",
    "pool_stages": "AA.POOL_STAGES",
    "relative": "AA.RELATIVE",
    "absolute": "AA.ABSOLUTE",
    "max_image_size": "AA.MAX_IMAGE_SIZE",
    "mask_padding": "AA.MASK_PADDING",
    "backend": "AA.BACKEND",
    "aw_reduction": "AW.REDUCTION",
    "gate_reduction": "SE.REDUCTION",
}


def add_attention_keys(cfg: CfgNode) -> None:
    """Add ``MODEL.ATTENTION`` with its defaults (no attention) to a config; once is enough."""
    if "ATTENTION" in cfg.MODEL:
        return
    frozen = cfg.is_frozen()
    cfg.defrost()
    node = type(cfg)  # detectron2 has a type of its own
    attention = node()
    # What replaces the 3x3 convolution of a block: "" nothing, "aa" AAConv2d, "aw" AWConv2d
    attention.CONV = ""
    # What weighs a block's output before the shortcut is added: "" nothing, "se" or "cbam"
    attention.GATE = ""
    # Stages whose blocks are changed
    attention.STAGES = ["res3", "res4", "res5"]

    attention.AA = node()
    attention.AA.NUM_HEADS = 8
    # Depth of the keys, and number of attention maps, over the output channels of the convolution
    attention.AA.KEY_RATIO = 0.2
    attention.AA.VALUE_RATIO = 0.1
    # The paper's ImageNet networks use 20, its detectors no minimum
    attention.AA.MIN_KEY_DEPTH_PER_HEAD = 0
    # Stages whose attention runs at half the resolution
    attention.AA.POOL_STAGES = ["res3"]
    # Learned relative positions, sinusoidal absolute ones; with neither, attention has no notion
    # of position
    attention.AA.RELATIVE = True
    attention.AA.ABSOLUTE = False
    # Longest image side, in pixels, that distances are told on; beyond it they are clamped
    attention.AA.MAX_IMAGE_SIZE = 1344
    # Keep the zero padding of a batch out of every image's features
    attention.AA.MASK_PADDING = True
    # Backend of the attention operator
    attention.AA.BACKEND = "auto"

    attention.AW = node()
    # Channels of an AWConv2d's input over those its attention is computed in
    attention.AW.REDUCTION = 16

    attention.SE = node()
    # The same of the gate, "cbam" included
    attention.SE.REDUCTION = 16

    cfg.MODEL.ATTENTION = attention
    if frozen:
        cfg.freeze()


def attention_spec(cfg: CfgNode) -> AttentionSpec:
    """The specification that ``cfg.MODEL.ATTENTION`` describes.

    Raises:
        ConfigError: the keys are not there, or a value is out of range; names the key.
    """
    if "ATTENTION" not in cfg.MODEL:
        raise ConfigError(
            "the config has no MODEL.ATTENTION: call aa_detection.add_aa_config(cfg) before "
            "building the model or merging a file"
        )
    values = {}
    for field, key in _KEYS.items():
        node = cfg.MODEL.ATTENTION
        for part in key.split("."):
            node = node[part]
        values[field] = node
    values["mask_padding"] = values["mask_padding"] and _zero_is_padding(
        cfg, bool(values["conv"] or values["gate"])
    )
    try:
        return AttentionSpec(**values)
    except ValueError as error:
        raise name_key(error) from None


def name_key(error: Exception) -> ConfigError:
    """An :class:`AttentionSpec` error with the config key for its first word, the field."""
    field, _, rest = str(error).partition(" ")
    colon = ":" if field.endswith(":") else ""
    key = _KEYS.get(field.rstrip(":"))
    return ConfigError(f"MODEL.ATTENTION.{key}{colon} {rest}" if key else str(error))


def _zero_is_padding(cfg: CfgNode, attention: bool) -> bool:
    """Whether a pixel that is zero in all channels can only be padding."""
    if any(mean % 1 for mean in cfg.MODEL.PIXEL_MEAN):
        return True
    if attention:
        logging.getLogger(__name__).warning(
            "MODEL.PIXEL_MEAN %s: a real pixel of exactly this colour would look like padding, so "
            "MODEL.ATTENTION.AA.MASK_PADDING is off; move one channel by 0.5 to have it",
            list(cfg.MODEL.PIXEL_MEAN),
        )
    return False

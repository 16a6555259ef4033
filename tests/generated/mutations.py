"""Damage to files, a function of a seed: to their bytes, and to the values of a JSON's tree."""

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    None, True, False, -1, 0, 1, 10**6, 2**31, 2**63, 2**70, -(2**70), 1e-300, 1e308, -0.5,
    float("nan"), float("inf"), -float("inf"), "", " ", "1", "a\nb", "a\0b", "\x1b[2J", "\ud800",
    r"$\frac{$", "../../etc/passwd", "/dev/zero", "x" * 5000, [], [[]], {}, {"id": 1}, [1, 2, 3],
    [None] * 4, [float("nan")] * 4, ["1"] * 4, [0, 0, 1e200, 1e200], [-5, -5, 3, 3],
]  # fmt: skip


def damaged(data: bytes, seed: int) -> bytes:
    """A file's bytes, cut, turned, doubled, or with others in between."""
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 1, 3, 10))):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice((1, 4, 50, 1000)))
        piece = rng.randbytes(rng.choice((1, 4, 50)))
        match rng.randrange(6):
            case 0:
                data = data[:place]
            case 1:
                data = data[:place] + piece + data[place:]
            case 2:
                data = data[:place] + data[end:]
            case 3:
                data = data[:end] + data[place:]
            case _:
                data = data[:place] + piece + data[place + len(piece) :]
    return data


def odd_json(content: Any, seed: int) -> bytes:
    """The text of a JSON with odd values at one place or some; at times nested too deeply."""
    rng = random.Random(seed)
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = _changed(content, rng)
    text = json.dumps(content)
    if rng.random() < 0.05:
        depth = rng.choice((100, 900, 5000, 200_000))
        text = text.replace("1", "[" * depth + "]" * depth, 1)
    return text.encode()


def _changed(content: Any, rng: random.Random) -> Any:
    """With one value put in, taken out, or put twice."""
    node = content
    while True:
        children = list(node) if isinstance(node, dict) else range(len(node))
        if not children:
            return content
        key = rng.choice(children)
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        match rng.randrange(8):
            case 0:
                del node[key]
            case 1 if isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            case 1:
                node[f"{key} "] = node.pop(key)
            case _:
                node[key] = copy.deepcopy(rng.choice(ODD))
        return content

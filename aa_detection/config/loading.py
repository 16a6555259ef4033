"""Merge YAML files and command-line overrides into a config, as data, with one-line errors.

fvcore's ``CfgNode`` (detectron2's is a subclass) does the merging and the type checks. This module
does the loading, because detectron2's loader evaluates Python tags by default.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TextIO

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from .constraints import shown
from .errors import ConfigError, UnknownKeyError
from .files import config_file, configs_folder, packaged_configs

_MOST_CHARACTERS = 1_000_000  # in a file: PyYAML takes a kilobyte and 10 µs for each
_MOST_VALUES = 100_000
# raised by fvcore's merging, and by Python for numbers and nesting that it cannot hold
_REFUSALS = (
    *(ValueError, TypeError, KeyError, AssertionError, SyntaxError),
    *(RecursionError, MemoryError),
)
# fvcore's wording
_TYPE_MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs. <class '(\w+)'>\) with values \((.*) vs. (.*)\) "
    r"for config key: (\S+)"
)


class _Loader(yaml.SafeLoader):
    """Loader that refuses duplicate keys, of which only the last would count.

    It also limits aliases: with aliases of aliases, a dozen lines stand for more values than a
    machine has memory for.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES} values, aliases written out")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value} is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Count the nodes with aliases expanded; infinite if a node contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # while its parts are counted
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = chain.from_iterable(parts)
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def merge_yaml(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file and the files of its ``_BASE_`` chain into `cfg`.

    A file that does not exist is looked up among the packaged ones: see :func:`.config_file`. A
    base is looked up first beside the file that names it, then among the packaged ones.

    Raises:
        ConfigError: the file is missing, is not YAML or not a mapping, is its own base, or has a
            key that `cfg` does not have or a value of another type.
    """
    for file, tree in _chain(config_file(path), ()):
        _merge(cfg, tree, file)


def merge_text(cfg: CfgNode, text: str, source: str) -> None:
    """Merge a whole config, as ``CfgNode.dump()`` writes it, into `cfg`.

    Args:
        source: where the text comes from, for errors.

    Raises:
        ConfigError: as :func:`merge_yaml`; or the text names a base, which would be a file.
    """
    tree = parse_yaml(text, source)
    if BASE_KEY in tree:
        raise ConfigError(f"{source}: expected a whole config, got one with {BASE_KEY}")
    _merge(cfg, tree, source)


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merge ``KEY VALUE KEY VALUE …`` from a command line into `cfg`.

    Raises:
        ConfigError: an odd number of words, a key that `cfg` does not have, or a value of another
            type.
    """
    if len(overrides) % 2:
        raise ConfigError(
            f"the command line must end in KEY VALUE pairs, got {len(overrides)} words: "
            f"{' '.join(overrides)}"
        )
    for key, value in zip(overrides[::2], overrides[1::2]):
        tree: Any = value
        for part in reversed(key.split(".")):
            tree = {part: tree}
        _merge(cfg, tree, "the command line")


def read_settings(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what a YAML file, its bases and overrides set, by dotted key, sorted.

    Unlike a loaded config this has no defaults, so it does not change when keys are added.

    Raises:
        ConfigError: the file cannot be read, as in :func:`merge_yaml`.
    """
    settings: dict[str, Any] = {}
    for _, tree in _chain(config_file(path), ()):
        settings.update(_flat(tree))
    settings.update(
        (key, CfgNode._decode_cfg_value(value))
        for key, value in zip(overrides[::2], overrides[1::2])
    )
    return dict(sorted(settings.items()))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, CfgNode._decode_cfg_value(value)


def _chain(path: str, above: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files to merge, bases first, each with its mapping."""
    real = os.path.realpath(path)
    if real in above:
        raise ConfigError(f"{path}: its {BASE_KEY} chain leads back to itself")
    try:
        with open(path, encoding="utf-8") as file:
            tree = parse_yaml(file, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config file: {error.strerror}") from None

    bases = tree.pop(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: {BASE_KEY} must be the path of a file, got {base!r}")
        beside = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        packaged = base in packaged_configs() and not os.path.exists(beside)
        base = str(configs_folder() / base) if packaged else beside
        # a base must not lead to other files: a key file, an endless device, a pipe
        if not base.endswith((".yaml", ".yml")) or os.path.exists(base) != os.path.isfile(base):
            raise ConfigError(f"{path}: {BASE_KEY} must be a .yaml file, got {base}")
        yield from _chain(base, (*above, real))
    yield path, tree


def parse_yaml(text: str | TextIO, path: str) -> dict[str, Any]:
    """Parse a YAML text into a mapping; `path` is its source, for errors.

    Raises:
        ConfigError: it is not YAML, not a mapping with text keys, or larger than any config.
    """
    try:
        text = text if isinstance(text, str) else text.read(_MOST_CHARACTERS + 1)
        if len(text) > _MOST_CHARACTERS:
            raise ConfigError(f"{path}: more than {_MOST_CHARACTERS:,} characters, no config file")
        tree = yaml.load(text, _Loader)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a YAML file: it is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}:{where} not a YAML file: {' '.join(problem.split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a config file") from None
    except (ValueError, KeyError, AttributeError) as error:  # for example the date 2020-13-01
        raise ConfigError(f"{path}: a value that YAML cannot hold: {error}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected config keys and values, got {type(tree).__name__}")
    for key in tree:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: expected a config key, got {key!r}")
    return tree


def _merge(cfg: CfgNode, tree: dict[str, Any], source: str) -> None:
    _check_keys(cfg, tree, "", list(leaf_keys(cfg)), source)
    try:
        _whole_numbers_to_floats(cfg, tree)
        cfg.merge_from_other_cfg(type(cfg)(tree))  # detectron2 has its own type
    except _REFUSALS as error:
        problem = " ".join(str(error).split())
        if mismatch := _TYPE_MISMATCH.fullmatch(problem):
            expected, got, old, new, key = mismatch.groups()
            problem = f"{key}: got {new:.80} of type {got}, expected {expected}, such as {old}"
        raise ConfigError(f"{source}: {problem}") from None


def leaf_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield the full dotted names of all values in `cfg`."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaf_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _check_keys(
    cfg: CfgNode, tree: dict[str, Any], prefix: str, known: list[str], source: str
) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in cfg:
            if cfg.is_new_allowed():
                continue
            raise UnknownKeyError(source, _first_leaf(name, value), known)
        if isinstance(cfg[key], CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {name}: got {shown(value)}, expected keys of its own")
            _check_keys(cfg[key], value, f"{name}.", known, source)
        elif isinstance(value, dict) and cfg[key] is not None:
            raise ConfigError(
                f"{source}: {name}: got {shown(value)}, expected a value without keys"
            )


def _first_leaf(name: str, value: Any) -> str:
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    return name


def _whole_numbers_to_floats(cfg: CfgNode, tree: dict[str, Any]) -> None:
    """Turn ``VALUE_RATIO: 1`` into 1.0, which fvcore would refuse as another type."""
    for key, value in tree.items():
        default = cfg.get(key)
        if isinstance(default, CfgNode):
            _whole_numbers_to_floats(default, value)
        elif isinstance(default, float):
            decoded = CfgNode._decode_cfg_value(value)
            if isinstance(decoded, int) and not isinstance(decoded, bool):
                with contextlib.suppress(OverflowError):
                    tree[key] = float(decoded)

"""Find config files on disk and among those that come with the package."""

import difflib
import os
from pathlib import Path

from .errors import ConfigError


def configs_folder() -> Path:
    """Return the folder of packaged configs: inside an installed package, beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_file(name: str | os.PathLike[str]) -> str:
    """Return the path of a config: `name` itself if it exists, else the packaged config `name`.

    Args:
        name: a path, or a name such as ``aa_retinanet_R50.yaml``, ``sample/aa_retinanet_R18.yaml``
            or ``lazy/aa_retinanet_R50.py``.

    Raises:
        ConfigError: neither exists; names the most similar packaged configs.
    """
    name = os.fspath(name)
    if os.path.exists(name):
        return name
    known = packaged_configs()
    if name in known:
        return str(configs_folder() / name)
    namesakes = [each for each in known if os.path.basename(each) == os.path.basename(name)]
    nearest = namesakes or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"they are in {configs_folder()}"
    raise ConfigError(f"{name}: no such file, nor a config that comes with the package; {hint}")


def packaged_configs() -> list[str]:
    """Return the names of the packaged configs, with / after folders."""
    folder = configs_folder()
    files = (path for ending in ("yaml", "py") for path in folder.rglob(f"*.{ending}"))
    return sorted(path.relative_to(folder).as_posix() for path in files)

"""A config by its path or by its name, and what is said where there is neither."""

import os

import pytest

from aa_detection.config import ConfigError, config_file, read_settings
from aa_detection.config.files import configs_folder, packaged_configs

NAME = "sample/aa_retinanet_R18.yaml"


def test_every_config_has_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = packaged_configs()
    assert {NAME, "aa_retinanet_R50.yaml", "lazy/aa_retinanet_R50.py"} <= set(names)
    for name in names:
        assert os.path.samefile(config_file(name), configs_folder() / name)


def test_a_file_that_is_there_wins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    (tmp_path / NAME).write_text("SEED: 7\n")
    assert config_file(NAME) == NAME
    assert config_file(tmp_path / NAME) == str(tmp_path / NAME)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("aa_retinanet_R18.yaml", f"did you mean {NAME}?"),
        ("configs/aa_retinanet_R50.yaml", "did you mean aa_retinanet_R50.yaml?"),
        ("aa_retinanet_R50", "did you mean aa_retinanet_R50.yaml or "),
        ("zzzz", f"they are in {configs_folder()}"),
    ],
)
def test_neither(name, hint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        config_file(name)
    line = f"{name}: no such file, nor a config that comes with the package; {hint}"
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../setup.py", "sample/../aa_retinanet_R50.yaml", "sample", ""])
def test_only_the_configs_have_names(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        config_file(name)


def test_a_name_of_lazy_config(monkeypatch, tmp_path):
    config = pytest.importorskip("detectron2.config", reason="detectron2 is not installed")
    monkeypatch.chdir(tmp_path)
    lazy = config.LazyConfig.load(config_file("lazy/aa_retinanet_R50.py"))
    assert lazy.model.backbone.bottom_up.spec.conv == "aa"


@pytest.mark.parametrize("own", [False, True])
def test_a_packaged_config_as_the_base_of_ones_own(own, tmp_path):
    if own:
        (tmp_path / "aa_retinanet_R50.yaml").write_text("OUTPUT_DIR: mine\n")
    (tmp_path / "my.yaml").write_text("_BASE_: aa_retinanet_R50.yaml\nSEED: 7\n")
    settings = read_settings(str(tmp_path / "my.yaml"), [])
    assert settings["SEED"] == 7
    assert settings["OUTPUT_DIR"] == ("mine" if own else "output/aa_retinanet_R50")
    assert settings.get("MODEL.ATTENTION.CONV") == (None if own else "aa")

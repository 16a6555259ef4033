"""YAML files and overrides into a config; every mistake is one line that says where."""

import copy
import os

import pytest
from fvcore.common.config import CfgNode

from aa_detection.config import (
    ConfigError,
    UnknownKeyError,
    merge_overrides,
    merge_yaml,
    read_settings,
)


@pytest.fixture
def write(tmp_path):
    """``write(name, text)``: a file below a folder with spaces in its name; returns its path."""

    def write(name, text):
        path = tmp_path / "my configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refusal(call, *args):
    """The one line with which `call` refuses `args`, the config being as before."""
    cfg, *rest = args
    before = copy.deepcopy(cfg)
    with pytest.raises(ConfigError) as error:
        call(cfg, *rest)
    assert cfg == before
    message = str(error.value)
    assert message and "\n" not in message
    # nothing of what the libraries below had to say is shown with it
    assert error.value.__context__ is None or error.value.__suppress_context__
    return message


def test_values_go_into_the_config(cfg, write):
    path = write(
        "a.yaml",
        "MODEL:\n  ATTENTION:\n    CONV: aa\n    AA: {VALUE_RATIO: 0.25, POOL_STAGES: [res4]}\n"
        "SOLVER:\n  STEPS: [10, 20]\nOUTPUT_DIR: élan\n",
    )
    expected = copy.deepcopy(cfg)
    expected.MODEL.ATTENTION.CONV = "aa"
    expected.MODEL.ATTENTION.AA.VALUE_RATIO = 0.25
    expected.MODEL.ATTENTION.AA.POOL_STAGES = ["res4"]
    expected.SOLVER.STEPS = (10, 20)  # a list where the default is a tuple
    expected.OUTPUT_DIR = "élan"
    merge_yaml(cfg, path)
    assert cfg == expected
    assert isinstance(cfg.SOLVER.STEPS, tuple)


def test_bases_lie_below_and_later_ones_above_earlier(cfg, write):
    write("deep/grand base.yaml", "OUTPUT_DIR: grand\nSOLVER: {MAX_ITER: 1, STEPS: [1]}\n")
    write("base.yaml", "_BASE_: deep/grand base.yaml\nSOLVER: {MAX_ITER: 2}\n")
    write("other.yaml", "_BASE_: deep/grand base.yaml\nMODEL: {RESNETS: {DEPTH: 101}}\n")
    path = write("top.yaml", "_BASE_: [base.yaml, other.yaml]\nMODEL: {RESNETS: {NORM: BN}}\n")
    merge_yaml(cfg, path)
    assert cfg.OUTPUT_DIR == "grand"
    assert cfg.SOLVER.STEPS == (1,)
    assert cfg.MODEL.RESNETS == CfgNode({"DEPTH": 101, "NORM": "BN"})
    assert cfg.SOLVER.MAX_ITER == 1  # other.yaml brings its base along, above base.yaml
    assert "_BASE_" not in cfg


def test_base_may_be_absolute_or_in_the_home_folder(cfg, write, monkeypatch, tmp_path):
    absolute = write("absolute.yaml", "OUTPUT_DIR: absolute\n")
    write("home/at home.yaml", "SOLVER: {MAX_ITER: 3}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "my configs" / "home"))
    merge_yaml(cfg, write("top.yaml", f"_BASE_: ['{absolute}', '~/at home.yaml']\n"))
    assert (cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER) == ("absolute", 3)


def test_relative_path_of_the_file_itself(cfg, write, monkeypatch, tmp_path):
    write("base.yaml", "OUTPUT_DIR: base\n")
    write("top.yaml", "_BASE_: base.yaml\n")
    monkeypatch.chdir(tmp_path / "my configs")
    merge_yaml(cfg, "top.yaml")
    assert cfg.OUTPUT_DIR == "base"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"], ids=repr)
def test_empty_file_changes_nothing(cfg, write, text):
    before = copy.deepcopy(cfg)
    merge_yaml(cfg, write("empty.yaml", text))
    assert cfg == before


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("BASE_LR", "1", 1.0),
        ("BASE_LR", "1e-3", 0.001),  # a text to YAML 1.1
        ("BASE_LR", "-0.5", -0.5),
        ("MAX_ITER", "7", 7),
        ("STEPS", "(7, 8)", (7, 8)),  # a text to YAML
        ("STEPS", "[]", ()),
    ],
)
@pytest.mark.parametrize("way", ["file", "overrides"])
def test_numbers_as_people_write_them(cfg, write, way, key, text, value):
    if way == "file":
        merge_yaml(cfg, write("a.yaml", f"SOLVER:\n  {key}: {text}\n"))
    else:
        merge_overrides(cfg, [f"SOLVER.{key}", text])
    assert cfg.SOLVER[key] == value
    assert type(cfg.SOLVER[key]) is type(value)


# a dozen lines that are 10 ** 11 values
LAUGHS = "A0: &a0 [1]\n" + "".join(
    f"A{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # not YAML, or not a mapping
        ("MODEL:\n  WEIGHTS: [1, 2\nOUTPUT_DIR: x\n", " line 3, column 11: not a YAML file: "),
        ("OUTPUT_DIR: a\n\tx: b\n", " line 2, column 1: not a YAML file: "),
        (b"\x80\x03}q\x00.", " not a YAML file: it is not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", " not a YAML file: unacceptable character "),
        ("- a\n- b\n", " expected config keys and values, got list"),
        ("just text\n", " expected config keys and values, got str"),
        ("3: 4\n", " expected a config key, got 3"),
        ("OUTPUT_DIR: 2020-13-01\n", " a value that YAML cannot hold: month must be in 1..12"),
        ("OUTPUT_DIR: !!int abc\n", " a value that YAML cannot hold: invalid literal"),
        ("OUTPUT_DIR: !!bool abc\n", " a value that YAML cannot hold: 'abc'"),
        ("OUTPUT_DIR: !!timestamp abc\n", " a value that YAML cannot hold: "),
        ("A: [" + "1," * 500_000 + "]\n", " more than 1,000,000 characters, no config file"),
        (LAUGHS, " a value that YAML cannot hold: more than 100000 values, aliases written out"),
        ("A: &a {B: *a}\n", " a value that YAML cannot hold: more than 100000 values"),
        ("A: " + "[" * 5000, " nested too deeply for a config file"),
        # bases
        ("_BASE_: 3\n", " _BASE_ must be the path of a file, got 3"),
        ("_BASE_:\n", " _BASE_ must be the path of a file, got None"),
        ("_BASE_: [[a.yaml]]\n", " _BASE_ must be the path of a file, got ['a.yaml']"),
        ("_BASE_: {a: b}\n", " _BASE_ must be the path of a file, got {'a': 'b'}"),
        # keys
        (
            "MODEL: {ATTENTION: {AA: {NUM_HEAD: 4}}}\n",
            " unknown config key MODEL.ATTENTION.AA.NUM_HEAD; the nearest known key is "
            "MODEL.ATTENTION.AA.NUM_HEADS",
        ),
        (
            "SOLVERS: {BASE_LR: 0.1}\n",
            " unknown config key SOLVERS.BASE_LR; the nearest known key is SOLVER.BASE_LR",
        ),
        ("zzzzzzz: 1\n", " unknown config key zzzzzzz"),
        ("MODEL: {1: 2}\n", " unknown config key MODEL.1"),
        ("MODEL: resnet\n", " MODEL: got 'resnet', expected keys of its own"),
        ("MODEL:\n", " MODEL: got None, expected keys of its own"),
        ("MODEL: {RESNETS: [1]}\n", " MODEL.RESNETS: got [1], expected keys of its own"),
        (
            "OUTPUT_DIR: {A: 1, B: 2}\n",
            " OUTPUT_DIR: got {'A': 1, 'B': 2}, expected a value without keys",
        ),
        (
            "SOLVER: {BASE_LR: {1: 2}}\n",
            " SOLVER.BASE_LR: got {1: 2}, expected a value without keys",
        ),
        # types
        ("SOLVER: {MAX_ITER: 1.5}\n", "SOLVER.MAX_ITER"),
        ("SOLVER: {MAX_ITER: many}\n", "SOLVER.MAX_ITER"),
        ("SOLVER: {BASE_LR: fast}\n", "SOLVER.BASE_LR"),
        ("SOLVER: {BASE_LR: true}\n", "SOLVER.BASE_LR"),
        ("SOLVER: {STEPS: 3}\n", "SOLVER.STEPS"),
        ("SOLVER: {BASE_LR: '{[]: 1}'}\n", " unhashable type"),
        ("MODEL: {ATTENTION: {AA: {RELATIVE: 1}}}\n", "MODEL.ATTENTION.AA.RELATIVE"),
        ("MODEL: {ATTENTION: {STAGES: res3}}\n", "MODEL.ATTENTION.STAGES"),
        ("OUTPUT_DIR: 2020-01-01\n", "OUTPUT_DIR"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_wrong_files_are_refused_in_one_line(cfg, write, text, message):
    path = write("wrong.yaml", text)
    found = refusal(merge_yaml, cfg, path)
    assert found.startswith(f"{path}:")
    assert message in found


@pytest.mark.parametrize(
    "base",
    ["/etc/passwd", "~/.ssh/id_ed25519", "/dev/zero", "device.yaml", "folder.yaml", "pipe.yaml",
     "https://example.org/evil", "base.yaml.txt"],
)  # fmt: skip
def test_bases_outside_the_configs_are_not_opened(cfg, write, tmp_path, base):
    """A device or a pipe never ends, and a key file is nobody's config."""
    path = write("top.yaml", f"_BASE_: {base}\n")
    folder = tmp_path / "my configs"
    write("base.yaml.txt", "OUTPUT_DIR: x\n")
    (folder / "device.yaml").symlink_to("/dev/zero")
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    found = refusal(merge_yaml, cfg, path)
    assert found.startswith(f"{path}: _BASE_ must be a .yaml file, got ")


def test_unknown_key_error_carries_the_key(cfg, write):
    path = write("a.yaml", "MODEL: {RESNET: {DEPTH: 18}}\n")
    with pytest.raises(UnknownKeyError) as error:
        merge_yaml(cfg, path)
    assert (error.value.source, error.value.key) == (path, "MODEL.RESNET.DEPTH")


def test_missing_file_and_directory(cfg, write, tmp_path):
    missing = str(tmp_path / "no such.yaml")
    assert refusal(merge_yaml, cfg, missing).startswith(f"{missing}: no such file, nor a config")
    folder = str(tmp_path)
    assert refusal(merge_yaml, cfg, folder) == (
        f"{folder}: cannot read the config file: Is a directory"
    )
    base = refusal(merge_yaml, cfg, write("a.yaml", "_BASE_: gone.yaml\n"))
    assert base.endswith(
        "my configs/gone.yaml: cannot read the config file: No such file or directory"
    )


@pytest.mark.parametrize(
    "files",
    [
        {"a.yaml": "a.yaml"},
        {"a.yaml": "b.yaml", "b.yaml": "a.yaml"},
        {"a.yaml": "b.yaml", "b.yaml": "deep/c.yaml", "deep/c.yaml": "../deep/../b.yaml"},
    ],
    ids=["itself", "each other", "roundabout"],
)
def test_chain_of_bases_that_leads_back(cfg, write, files):
    paths = [write(name, f"_BASE_: {base}\n") for name, base in files.items()]
    assert refusal(merge_yaml, cfg, paths[0]).endswith(": its _BASE_ chain leads back to itself")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir ['{made}']",
        "!!python/object/new:os.mkdir ['{made}']",
        '!!python/object/apply:eval [\'__import__("os").mkdir("{made}")\']',
        "!!python/name:os.mkdir",
        "!!python/tuple [1, 2]",
        "!unknown 3",
    ],
)
def test_tags_are_refused_and_nothing_runs(cfg, write, tmp_path, tag):
    made = tmp_path / "made"
    path = write("evil.yaml", f"SOLVER:\n  STEPS: {tag.format(made=made)}\n")
    assert refusal(merge_yaml, cfg, path).startswith(
        f"{path}: line 2, column 10: not a YAML file: could not determine a constructor for the tag"
    )
    assert not made.exists()


@pytest.mark.parametrize("value", ["__import__('os').getcwd()", "1 + 1"])
def test_values_are_data_not_code(cfg, value):
    merge_overrides(cfg, ["OUTPUT_DIR", value])
    assert cfg.OUTPUT_DIR == value


def test_overrides(cfg):
    merge_overrides(
        cfg,
        ["MODEL.ATTENTION.AA.NUM_HEADS", "4", "OUTPUT_DIR", "a b", "SOLVER.BASE_LR", "2"]
        + ["MODEL.ATTENTION.STAGES", "['res5']", "MODEL.ATTENTION.AA.RELATIVE", "False"],
    )
    assert cfg.MODEL.ATTENTION.AA.NUM_HEADS == 4
    assert cfg.OUTPUT_DIR == "a b"
    assert cfg.SOLVER.BASE_LR == 2.0
    assert cfg.MODEL.ATTENTION.STAGES == ["res5"]
    assert cfg.MODEL.ATTENTION.AA.RELATIVE is False
    merge_overrides(cfg, [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["OUTPUT_DIR"], "the command line must end in KEY VALUE pairs, got 1 words: OUTPUT_DIR"),
        (
            ["SOLVER.BASELR", "1"],
            "the command line: unknown config key SOLVER.BASELR; "
            "the nearest known key is SOLVER.BASE_LR",
        ),
        (["", "1"], "the command line: unknown config key "),
        (["MODEL.", "1"], "the command line: unknown config key MODEL."),
        (["MODEL", "1"], "the command line: MODEL: got '1', expected keys of its own"),
        (
            ["OUTPUT_DIR.A", "1"],
            "the command line: OUTPUT_DIR: got {'A': '1'}, expected a value without keys",
        ),
        (["SOLVER.MAX_ITER", "0.5"], "the command line: "),
        (["SOLVER.MAX_ITER", "True"], "the command line: "),
        (["SOLVER.BASE_LR", "{[]: 1}"], "the command line: unhashable type"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(cfg, overrides, message):
    found = refusal(merge_overrides, cfg, overrides)
    assert found.startswith(message)
    if message == "the command line: ":
        assert overrides[0] in found


def test_settings_are_what_files_and_overrides_set_and_no_default(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {RESNETS: {DEPTH: 18}, DEVICE: cpu}\nSEED: 1\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nMODEL: {RESNETS: {DEPTH: 50}}\n")
    settings = read_settings(str(tmp_path / "top.yaml"), ["SEED", "7", "SOLVER.STEPS", "(3, 4)"])
    assert settings == {
        "MODEL.DEVICE": "cpu",
        "MODEL.RESNETS.DEPTH": 50,
        "SEED": 7,
        "SOLVER.STEPS": (3, 4),
    }
    assert list(settings) == sorted(settings)
    with pytest.raises(ConfigError):
        read_settings(str(tmp_path / "none.yaml"), [])

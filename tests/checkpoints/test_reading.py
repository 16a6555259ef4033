"""Files of weights: every kind is read, everything else is one line, and nothing is run."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aa_detection.checkpoints import read_checkpoint, write_weights
from aa_detection.checkpoints.paths import PATHS
from aa_detection.checkpoints.pickles import load_arrays
from aa_detection.config import ConfigError


class Touch:
    """Pickled, it writes a file when it is read by whoever reads pickles as Python does."""

    def __init__(self, path, call=os.mkdir):
        self.path, self.call = path, call

    def __reduce__(self):
        return self.call, (str(self.path),)


WEIGHTS = {
    "res2.0.conv1.weight": torch.arange(6.0).view(2, 3),
    "head.cls_score.bias": torch.ones(4),
}


@pytest.mark.parametrize("wrap", [None, "model", "state_dict", "model_state"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_of_any_make(save, wrap, prefix):
    weights = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    content = weights if wrap is None else {wrap: weights, "iteration": 7}
    checkpoint = read_checkpoint(save(content))
    assert checkpoint.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(checkpoint.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert checkpoint.rest == ({} if wrap is None else {"iteration": 7})
    assert (checkpoint.layout, checkpoint.author) == ("detectron2", "")


def test_safetensors(tmp_path):
    path = str(tmp_path / "a.safetensors")
    write_weights(path, WEIGHTS, {"__author__": "torchvision"})
    checkpoint = read_checkpoint(path)
    assert all(torch.equal(checkpoint.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert checkpoint.author == "torchvision"


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_the_zoo(tmp_path, protocol):
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    checkpoint = read_checkpoint(str(path), allow_pickle=True)
    assert all(torch.equal(checkpoint.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert checkpoint.author == "torchvision"
    with pytest.raises(ConfigError, match="R-50.pkl: a pickle, which could run code"):
        read_checkpoint(str(path))


def test_pickle_of_python_2(tmp_path):
    """Texts of Python 2 are bytes, and so are the numbers of its arrays (the zoo's are such)."""
    numbers = np.array([1.5, -2.0], dtype="<f4").tobytes()
    stream = (
        b"(dS'conv1_w'\n"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'"
        + "".join(f"\\x{byte:02x}" for byte in numbers).encode()
        + b"'\ntbs."
    )
    assert load_arrays(io.BytesIO(stream))["conv1_w"].tolist() == [1.5, -2.0]


def evil_pickles(made):
    """What pickles are known to do, each as the bytes of a file; ``made`` is what it would make."""
    name = str(made).encode()

    class Setter:
        """Calls nothing: it would replace what numpy's own reader calls later."""

        def __reduce__(self):
            return (np.dtype, ("f4",), {"__class__": os.mkdir})

    yield pickle.dumps(Touch(made))
    yield pickle.dumps({"model": {"a": Touch(made)}}, protocol=0)
    yield pickle.dumps({"model": {"a": np.ones(2), "b": Touch(made, os.system)}}, protocol=5)
    yield pickle.dumps(Touch(f"__import__('os').mkdir({str(made)!r})", eval))
    yield pickle.dumps(Touch(f"__import__('os').mkdir({str(made)!r})", exec))
    # inside an array of objects
    yield pickle.dumps({"a": np.array([Touch(made)], dtype=object)})
    # as text, which names what it calls
    yield b"cos\nmkdir\n(V" + name + b"\ntR."
    yield b"cbuiltins\ngetattr\n(cnumpy\nndarray\nV__init__\ntR."
    yield b"cnumpy\nndarray.__init__.__globals__\n."
    yield b"cnumpy.core.multiarray\nos.mkdir\n."
    yield b"cnumpy\nload\n(V" + name + b"\ntR."
    yield b"c_codecs\nencode\n(Vx\nVhex\ntR."
    yield b"ctorch.serialization\n_get_restore_location\n."
    yield b"cposixpath\nos\n."
    yield b"(Vx\nios\nmkdir\n."
    yield pickle.dumps(Setter())


def test_no_pickle_touches_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"
    attempts = list(evil_pickles(made))
    assert len(attempts) == 16
    for number, attempt in enumerate(attempts):
        path = tmp_path / "evil.pkl"
        path.write_bytes(attempt)
        with pytest.raises(ConfigError) as error:
            read_checkpoint(str(path), allow_pickle=True)
        assert "\n" not in str(error.value), number
        assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pkl"], number
    # they would have: the first, read as Python reads
    pickle.loads(attempts[0])
    assert made.exists()


def test_refused_pickles_say_what_they_asked_for(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "made")))
    with pytest.raises(ConfigError) as error:
        read_checkpoint(str(path), allow_pickle=True)
    assert str(error.value) == (
        f"{path}: it asks for posix.mkdir, and only arrays, numbers, texts and containers are "
        "read from a pickle"
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt", ""])
def test_no_pth_touches_anything(tmp_path, legacy, ending):
    made = tmp_path / "made"
    path = tmp_path / f"evil{ending}"
    content = {"model": {"a": torch.ones(2), "b": Touch(made)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigError) as error:
        read_checkpoint(str(path))
    assert str(error.value) == (
        f"{path}: it asks for posix.mkdir, and only tensors are read; nothing in it was run"
    )
    assert not made.exists()


def test_a_plain_pickle_named_pth(tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "made")))
    with pytest.raises(ConfigError) as error:
        read_checkpoint(str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def broken(name):
    """Bytes of a file of weights that is none."""
    if name.startswith("pth"):
        buffer = io.BytesIO()
        torch.save(WEIGHTS, buffer)
        data = buffer.getvalue()
        return data[: len(data) // 2] if name == "pth cut" else data
    if name.startswith("zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a.txt", "text")
        return buffer.getvalue()
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    return struct.pack("<Q", len(header)) + header + b"\0\0\0"


DAMAGED = [
    ("empty.pth", b"", "the file is empty"),
    ("text.pth", b"hello, I am a README\n" * 9, "damaged, or not a file of tensors"),
    ("cut.pth", broken("pth cut"), "damaged, or not a file of tensors"),
    ("photos.pth", broken("zip"), "damaged, or not a file of tensors"),
    ("a.pkl", broken("pth"), "damaged, or not a pickle file"),
    ("cut.pkl", pickle.dumps({"a": np.ones(9)})[:60], "damaged, or not a pickle file"),
    ("text.pkl", b"hello", "damaged, or not a pickle file"),
    ("list.pkl", pickle.dumps([1, 2]), "expected tensors by name, got list"),
    ("none.pkl", pickle.dumps({}), "holds no tensors"),
    ("text values.pkl", pickle.dumps({"a": "b"}), "expected a dense tensor for a, got str"),
    (
        "objects.pkl",
        pickle.dumps({"a": np.array([None])}),
        "expected a dense tensor for a, got an array of object",
    ),
    ("numbers.pkl", pickle.dumps({1: np.ones(2)}), "expected tensors by name, got the name 1"),
    ("cut.safetensors", broken("safetensors"), "damaged, or not a safetensors file"),
    ("pth.safetensors", broken("pth"), "damaged, or not a safetensors file"),
    ("empty.safetensors", b"", "the file is empty"),
]


# named by the file: a zip holds the time of day, and every worker has to find the same tests
@pytest.mark.parametrize(("name", "data", "message"), DAMAGED, ids=[row[0] for row in DAMAGED])
def test_damaged_files(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read_checkpoint(str(path), allow_pickle=True)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 200
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "holds no tensors"),
        ([torch.ones(2)], "expected tensors by name, got list"),
        (torch.ones(2), "expected tensors by name, got Tensor"),
        ({"a": 3}, "expected a dense tensor for a, got int"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "expected real numbers for a, got torch.c"),
        ({"a": torch.ones(2).to_sparse()}, "expected a dense tensor for a, got Tensor"),
        (
            {"layer1.0.conv1.weight": torch.ones(1), "res2.0.conv1.weight": torch.ones(1)},
            "two tensors of one name: layer1.0.conv1.weight and res2.0.conv1.weight are both "
            "res2.0.conv1.weight in the other layout",
        ),
        (
            {"head.regression_head.bbox_reg.bias": torch.ones(20),
             "head.classification_head.cls_logits.bias": torch.ones(5)},
            "head.regression_head.bbox_reg.bias has 20 numbers",
        ),
    ],
)  # fmt: skip
def test_files_of_something_else(save, content, message):
    path = save(content)
    with pytest.raises(ConfigError) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_no_such_file_and_folders(tmp_path):
    missing = str(tmp_path / "gone.pth")
    with pytest.raises(ConfigError, match="gone.pth: no such file$"):
        read_checkpoint(missing)
    with pytest.raises(ConfigError, match="expected a file of weights, got a folder$"):
        read_checkpoint(str(tmp_path))


def test_addresses_are_downloaded_once(tmp_path, monkeypatch):
    """Through iopath's own cache and handlers; the network alone is replaced."""
    from iopath.common import file_io

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source.pth"
    torch.save(WEIGHTS, source)
    asked = []

    def download(url, folder, *, filename=None, **how):
        asked.append(url)
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, filename)
        with open(target, "wb") as file:
            file.write(source.read_bytes())
        return target

    monkeypatch.setattr(file_io, "download", download)
    monkeypatch.setattr(PATHS, "_path_handlers", dict(PATHS._path_handlers))
    for address in ("detectron2://some/net.pth", "https://example.org/r50.pth?x=1"):
        for handler in PATHS._path_handlers.values():
            getattr(handler, "cache_map", {}).clear()
        assert read_checkpoint(address).weights.keys() == WEIGHTS.keys()
        assert read_checkpoint(address).weights.keys() == WEIGHTS.keys()
    assert asked == [
        "https://dl.fbaipublicfiles.com/detectron2/some/net.pth",
        "https://example.org/r50.pth",
    ]
    with pytest.raises(ConfigError, match="a pickle"):  # before anything is fetched
        read_checkpoint("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert len(asked) == 2


def test_catalogue_entries_without_an_ending(tmp_path):
    """As detectron2's ``catalog://ImageNetPretrained/FAIR/R-50-GN``."""
    from iopath.common.file_io import PathHandler, PathManager

    class Catalog(PathHandler):
        def _get_supported_prefixes(self):
            return ["catalog://"]

        def _get_local_path(self, path, **how):
            return str(tmp_path / "R-50-GN.pkl")

    (tmp_path / "R-50-GN.pkl").write_bytes(pickle.dumps({"conv1_w": np.ones(2)}))
    paths = PathManager()
    paths.register_handler(Catalog())
    with pytest.raises(ConfigError, match="^catalog://FAIR/R-50-GN: a pickle"):
        read_checkpoint("catalog://FAIR/R-50-GN", paths=paths)
    read_checkpoint("catalog://FAIR/R-50-GN", paths=paths, allow_pickle=True)


def test_an_address_that_cannot_be_fetched(tmp_path, monkeypatch):
    from iopath.common import file_io

    def download(*args, **how):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_io, "download", download)
    with pytest.raises(ConfigError) as error:
        read_checkpoint("https://example.org/gone.pth")
    assert str(error.value) == (
        "https://example.org/gone.pth: cannot be fetched: Network is unreachable"
    )


def test_a_download_that_fails_leaves_it_at_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="^https://localhost:1/w.pth: cannot be fetched: "):
        read_checkpoint("https://localhost:1/w.pth")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_writing_is_whole_or_nothing(tmp_path, monkeypatch, ending):
    path = tmp_path / f"a{ending}"
    write_weights(str(path), WEIGHTS)
    before = path.read_bytes()

    real_fsync = os.fsync

    def full(descriptor):
        real_fsync(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device$"):
        write_weights(str(path), {"a": torch.ones(1000)})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_shared_and_transposed_tensors_are_written(tmp_path):
    tensor = torch.arange(6.0).view(2, 3)
    weights = {"a": tensor, "b": tensor, "c": tensor.t()}
    path = str(tmp_path / "a.safetensors")
    write_weights(path, weights)
    read = read_checkpoint(path).weights
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    with pytest.raises(RuntimeError):
        save_file(weights, path)  # safetensors alone refuses them


@pytest.mark.parametrize("name", ["a.pkl", "a", "a.onnx"])
def test_other_endings_are_not_written(tmp_path, name):
    with pytest.raises(ConfigError, match=r"written are .pth and .safetensors"):
        write_weights(str(tmp_path / name), WEIGHTS)
    assert not any(tmp_path.iterdir())

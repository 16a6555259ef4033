"""What a command line's words stand for, and how their pictures are read."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from aa_detection.data import DatasetError
from aa_detection.inference.sources import Source, find_sources


def write_image(path, size=(30, 20), colour=(200, 10, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return str(path)


def write_video(path, frames=5, size=(64, 48), rate=10, fourcc="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), rate, size)
    for i in range(frames):
        writer.write(np.full((size[1], size[0], 3), 40 * i, np.uint8))
    writer.release()
    return str(path)


def test_a_folder_stands_for_what_is_in_it(tmp_path):
    folder = tmp_path / "my pictures"
    write_image(folder / "b.PNG")
    write_image(folder / "sub folder" / "a.jpeg")
    write_video(folder / "clip.avi")
    (folder / "notes.txt").write_text("no picture")
    sources = find_sources([str(folder)])
    assert [source.kind for source in sources] == ["image", "video", "image"]
    assert [str(source.output) for source in sources] == [
        "b.png", "clip.mp4", "sub folder/a.jpg"
    ]  # fmt: skip
    assert [source.name for source in sources] == [
        str(folder / name) for name in ("b.PNG", "clip.avi", "sub folder/a.jpeg")
    ]


def test_names_do_not_clash(tmp_path):
    words = [write_image(tmp_path / name) for name in ("a/x.png", "b/x.png", "c/x.bmp", "x_2.png")]
    outputs = [str(source.output) for source in find_sources([*words, words[0]])]
    assert outputs == ["x.png", "x_2.png", "x_3.png", "x_2_2.png", "x_4.png"]


def test_a_number_is_a_webcam_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources(["0"])
    assert (source.kind, source.name, str(source.output)) == ("webcam", "0", "webcam0.mp4")
    Image.new("RGB", (4, 4)).save("0", format="PNG")
    (source,) = find_sources(["0"])
    assert source.kind == "image"


def test_what_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"missing\.jpg: no such file or folder$"):
        find_sources([str(tmp_path / "missing.jpg")])
    with pytest.raises(DatasetError, match="no images or videos in this folder"):
        find_sources([str(tmp_path)])


def test_an_image_is_bgr_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    word = write_image(tmp_path / "turned.jpg", (30, 20), (250, 0, 0), exif=exif)
    (source,) = find_sources([word])
    (frame,) = source.frames()
    assert frame.shape == (30, 20, 3) and frame.dtype == np.uint8
    assert frame[..., 2].min() > 200 and frame[..., :2].max() < 50
    assert source.count() == 1


def test_a_video_frame_by_frame(tmp_path):
    (source,) = find_sources([write_video(tmp_path / "a clip.avi")])
    frames = list(source.frames())
    assert len(frames) == source.count() == 5
    assert [round(frame.mean() / 40) for frame in frames] == [0, 1, 2, 3, 4]
    assert source.frames_per_second() == 10


def test_what_cannot_be_read_names_its_file(tmp_path):
    for name in ("no image.png", "no video.mp4"):
        (tmp_path / name).write_bytes(b"neither")
        (source,) = find_sources([str(tmp_path / name)])
        with pytest.raises(DatasetError, match=name):
            list(source.frames())
    with pytest.raises(DatasetError, match="webcam 99 cannot be opened"):
        list(Source("99", "webcam", tmp_path).frames())


def test_neither_opencv_nor_ffmpeg_has_its_own_say(tmp_path):
    """In a process of its own: FFmpeg asks once what it may say."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(bytes.fromhex("00000018") + b"ftypmp42\0\0\0\0mp42isom")
    program = """
import sys
from aa_detection.data import DatasetError
from aa_detection.inference.sources import find_sources
for source in find_sources(sys.argv[1:]):
    try:
        list(source.frames())
    except DatasetError as error:
        print(error)
"""
    words = [sys.executable, "-c", program, str(cut), "99"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == f"video {cut} cannot be opened\nwebcam 99 cannot be opened\n"


def test_a_number_that_no_webcam_has():
    with pytest.raises(DatasetError, match="^999999999999: no such file or folder$"):
        find_sources(["999999999999"])


@pytest.mark.parametrize("name", ["photo.jpg", "film.mp4", "no ending"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DatasetError, match=f"{name}: a pipe or a device, expected images or"):
        find_sources([str(tmp_path / name)])
    with pytest.raises(DatasetError, match="no images or videos in this folder"):
        find_sources([str(tmp_path)])


def test_a_device_is_refused():
    with pytest.raises(DatasetError, match="^/dev/zero: a pipe or a device"):
        find_sources(["/dev/zero"])

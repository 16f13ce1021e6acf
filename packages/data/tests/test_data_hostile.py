"""Files that nobody vouches for: each raises BadClip with its code, soon, and touches nothing else."""

import os
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from kinema_data import BadClip, Limits, probe, read_clip, read_metadata, write_image, write_video


def good(path: Path, num_frames: int = 12, side: int = 64) -> bytes:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 255, (num_frames, side, side, 3), generator=generator, dtype=torch.uint8)
    write_video(path, video, 8)
    return path.read_bytes()


def audio_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for _ in range(4):
            container.mux(stream.encode(frame))


def no_frames(path: Path) -> None:
    content = bytearray(good(path))
    for box in (b"stsz", b"stts", b"stco", b"stsc"):
        at = content.index(box)
        offset = at + (12 if box == b"stsz" else 8)
        content[offset : offset + 4] = bytes(4)
    path.write_bytes(content)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_sample_count(path: Path) -> None:
    content = bytearray(good(path))
    at = content.index(b"stsz") + 12
    content[at : at + 4] = (2**31).to_bytes(4, "big")
    path.write_bytes(content)


def repeated_time(path: Path) -> None:
    content = bytearray(good(path))
    at = content.index(b"stts") + 16
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)


def flipped(path: Path) -> None:
    content = bytearray(good(path))
    choose = random.Random(0)
    start = content.index(b"mdat") + 1000
    for _ in range(300):
        content[choose.randrange(start, len(content))] ^= 1 << choose.randrange(8)
    path.write_bytes(content)


def script(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        good(path.with_name("other.mp4"))
        path.write_text(text)

    return write


def link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def png_as_mp4(path: Path) -> None:
    write_image(path, torch.zeros(32, 32, 3, dtype=torch.uint8))


def gif_as_mp4(path: Path) -> None:
    Image.new("RGB", (32, 32)).save(path, format="GIF")


def mp4_as_png(path: Path) -> None:
    good(path.with_suffix(".mp4"))
    path.with_suffix(".mp4").rename(path)


def half_png(path: Path) -> None:
    write_image(path, torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8))
    path.write_bytes(path.read_bytes()[:4000])


HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("x.mp4", lambda path: None, "missing"),
    "empty": ("x.mp4", Path.touch, "empty"),
    "random bytes": ("x.mp4", lambda path: path.write_bytes(random.Random(0).randbytes(5000)), "wrong_container"),
    "random after ftyp": (
        "x.mp4",
        lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + random.Random(0).randbytes(5000)),
        "unreadable",
    ),
    "zeros": ("x.mp4", lambda path: path.write_bytes(bytes(5000)), "wrong_container"),
    "html": ("x.mp4", lambda path: path.write_text("<html>404</html>"), "wrong_container"),
    "no index": ("x.mp4", lambda path: path.write_bytes(b"\0\0\0\x08free" + bytes(100)), "unreadable"),
    "half": ("x.mp4", lambda path: path.write_bytes(good(path)[: len(good(path)) // 2]), "truncated corrupt"),
    "flipped bits": ("x.mp4", flipped, "corrupt"),
    "audio only": ("x.mp4", audio_only, "no_video"),
    "no frames": ("x.mp4", no_frames, "no_frames unreadable"),
    "sample count": ("x.mp4", bad_sample_count, "unreadable no_frames truncated"),
    "same times": ("x.mp4", repeated_time, "bad_timestamps"),
    "ffconcat": ("x.mp4", script("ffconcat version 1.0\nfile other.mp4\n"), "wrong_container"),
    "m3u8": ("x.mp4", script("#EXTM3U\n#EXTINF:1,\nother.mp4\n"), "wrong_container"),
    "png as mp4": ("x.mp4", png_as_mp4, "wrong_container"),
    "gif as mp4": ("x.mp4", gif_as_mp4, "wrong_container"),
    "fifo": ("x.mp4", os.mkfifo, "not_regular"),
    "fifo png": ("x.png", os.mkfifo, "not_regular"),
    "directory": ("x.mp4", Path.mkdir, "not_regular"),
    "device": ("x.mp4", link_to_zero, "not_regular"),
    "tiny": (
        "x.mp4",
        lambda path: write_video(path, torch.zeros(2, 2, 2, 3, dtype=torch.uint8), 8),
        "too_small",
    ),
    "mp4 as png": ("x.png", mp4_as_png, "unreadable"),
    "half png": ("x.png", half_png, "unreadable"),
    "png bomb": ("x.png", lambda path: path.write_bytes(png_header(60_000, 60_000)), "too_large"),
    "large png": ("x.png", lambda path: path.write_bytes(png_header(8192, 8192)), "too_large"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    name, make, codes = HOSTILE[case]
    make(tmp_path / name)
    start = time.process_time()
    with pytest.raises(BadClip) as error:
        read_clip(tmp_path / name)
    assert error.value.code in codes.split() and error.value.path == str(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert time.process_time() - start < 5
    for reader in (probe, read_metadata):  # may do without what is broken, but raise nothing else
        try:
            reader(tmp_path / name)
        except BadClip:
            pass


def test_scripts_in_file_objects_open_nothing(tmp_path: Path) -> None:
    script("ffconcat version 1.0\nfile other.mp4\n")(tmp_path / "x.mp4")
    with (tmp_path / "x.mp4").open("rb") as file, pytest.raises(BadClip):
        read_clip(file)


def test_limits(tmp_path: Path) -> None:
    good(tmp_path / "x.mp4")
    for limits, code in (
        (Limits(max_bytes=64 * 64 * 3 * 11), "too_large"),
        (Limits(max_pixels=64 * 63), "too_large"),
        (Limits(min_side=65), "too_small"),
        (Limits(seconds=-1), "timeout"),
    ):
        with pytest.raises(BadClip) as error:
            read_clip(tmp_path / "x.mp4", limits=limits)
        assert error.value.code == code
    read_clip(tmp_path / "x.mp4", limits=Limits(max_bytes=64 * 64 * 3 * 12))


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_raises_nothing_but_bad_clip(tmp_path: Path, seed: int) -> None:
    content = bytearray(good(tmp_path / "x.mp4", 6, 32))
    choose = random.Random(seed)
    for _ in range(choose.choice([1, 5, 50])):
        content[choose.randrange(12, len(content))] = choose.randrange(256)
    (tmp_path / "x.mp4").write_bytes(content[: choose.choice([len(content), choose.randrange(13, len(content))])])
    for reader in (probe, read_clip, read_metadata):
        try:
            reader(tmp_path / "x.mp4")
        except BadClip:
            pass


def test_memory_stays_flat(tmp_path: Path) -> None:
    good(tmp_path / "x.mp4", 2, 128)
    for _ in range(20):
        read_clip(tmp_path / "x.mp4")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        read_clip(tmp_path / "x.mp4")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # kB

"""Writing clips and reading them back: quality, sizes, metadata, whole files only."""

import os
import threading
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from kinema_data import (
    BadClip,
    VideoWriter,
    contact_sheet,
    enlarge,
    probe,
    read_clip,
    read_frames,
    read_metadata,
    to_float,
    to_uint8,
    unenlarged,
    write_image,
    write_preview,
    write_video,
)


def disc(num_frames: int = 9, height: int = 32, width: int = 32) -> torch.Tensor:
    """A saturated disc that moves over a gradient: (T, H, W, 3) uint8."""
    t, y, x = torch.meshgrid(*(torch.arange(n).float() for n in (num_frames, height, width)), indexing="ij")
    inside = (6.5 - ((y - height / 2) ** 2 + (x - width / 3 - t) ** 2).sqrt()).clamp(0, 1)[..., None]
    ground = (40 + 60 * x / width)[..., None] * torch.tensor([0.5, 0.8, 1.0])
    return (inside * torch.tensor([230.0, 20.0, 40.0]) + (1 - inside) * ground).round().to(torch.uint8)


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return 10 * (255**2 / (one.double() - other.double()).square().mean()).log10().item()


def test_uint8_and_float_are_inverse() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8, 1).expand(2, -1, -1, -1, 3)
    video = to_float(levels)
    assert video.shape == (2, 3, 4, 8, 8) and video.min() == -1 and video.max() == 1
    assert torch.equal(to_uint8(video), levels)
    assert to_uint8(torch.full((3, 1, 1, 1), 1.7)).eq(255).all()


@pytest.mark.parametrize("size", [(9, 32, 32), (17, 33, 47), (1, 32, 32), (5, 48, 40)])
def test_training_files_keep_colours(tmp_path: Path, size: tuple[int, int, int]) -> None:
    video = disc(*size)
    write_video(tmp_path / "a" / "x.mp4", video, 12.5)
    clip = read_clip(tmp_path / "a" / "x.mp4")
    assert clip.frames.shape == video.shape and clip.frame_rate == 12.5
    assert psnr(clip.frames, video) > 44
    assert clip.pts.tolist() == pytest.approx([k / 12.5 for k in range(size[0])], abs=1e-4)
    assert os.listdir(tmp_path / "a") == ["x.mp4"]


@pytest.mark.parametrize("rate", [8, 23.976, 24000 / 1001, 60])
def test_frame_rates(tmp_path: Path, rate: float) -> None:
    write_video(tmp_path / "x.mp4", disc(30), rate)
    assert read_clip(tmp_path / "x.mp4").frame_rate == pytest.approx(rate, rel=1e-6)
    assert probe(tmp_path / "x.mp4").frames == 30


def test_previews_play_everywhere(tmp_path: Path) -> None:
    write_preview(tmp_path / "p.mp4", disc(9, 33, 47), 12, metadata={"prompt": "a “disc”", "seed": 3})
    content = (tmp_path / "p.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(tmp_path / "p.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert codec.pix_fmt == "yuv420p" and (codec.width, codec.height) == (47 * 8, 33 * 8)
    assert read_metadata(tmp_path / "p.mp4") == {"prompt": "a “disc”", "seed": 3}
    write_preview(tmp_path / "q.mp4", disc(2, 257, 301), 12)
    assert read_clip(tmp_path / "q.mp4").frames.shape == (2, 258, 302, 3)


def test_chunks_equal_the_whole(tmp_path: Path) -> None:
    video = disc(10)
    write_video(tmp_path / "a.mp4", video, 8)
    with VideoWriter(tmp_path / "b.mp4", 8) as writer:
        for chunk in (video[:1], video[1:1], video[1:7], video[7:]):
            writer.write(chunk)
            assert not (tmp_path / "b.mp4").exists()
    assert torch.equal(read_clip(tmp_path / "a.mp4").frames, read_clip(tmp_path / "b.mp4").frames)


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", disc(3), 8)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.write(disc(5))
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(tmp_path / "b.mp4", 8):
        pass
    with pytest.raises(ValueError, match="after frames of"), VideoWriter(tmp_path / "b.mp4", 8) as writer:
        writer.write(disc(1, 32, 32))
        writer.write(disc(1, 32, 34))
    with pytest.raises(ValueError, match="to_uint8"):
        write_video(tmp_path / "b.mp4", torch.zeros(3, 9, 32, 32), 8)
    with pytest.raises(ValueError, match="not positive"):
        write_video(tmp_path / "b.mp4", disc(), 0)
    assert os.listdir(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == before


def test_names_are_no_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:1.mp4", "a b ü.mp4", "%03d.mp4"):
        write_video(name, disc(2), 8)
        assert read_clip(name).frames.shape[0] == 2


def test_images(tmp_path: Path) -> None:
    image = disc(1, 20, 33)[0]
    write_image(tmp_path / "x.png", image, {"seed": 1, "prompt": "é" * 3000})
    assert torch.equal(read_clip(tmp_path / "x.png").frames[0], image)
    assert read_metadata(tmp_path / "x.png") == {"seed": 1, "prompt": "é" * 3000}
    assert probe(tmp_path / "x.png").height == 20
    Image.fromarray(image.numpy()).save(tmp_path / "y.png")
    assert read_metadata(tmp_path / "y.png") == {}
    rotated = Image.Exif()
    rotated[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(image.numpy()).save(tmp_path / "z.webp", lossless=True, exif=rotated)
    assert torch.equal(read_clip(tmp_path / "z.webp").frames[0], image.rot90(-1, (0, 1)))


def variable(path: Path, pts: list[int], rotation: bytes | None = None) -> torch.Tensor:
    """A lossless file with these time stamps in 1/100 s; frame k has brightness 20 + 10 k, darker at the left."""
    frames = torch.stack([torch.full((16, 24, 3), 20 + 10 * k, dtype=torch.uint8) for k in range(len(pts))])
    frames[:, :, :4] = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuv444p"
        for time, picture in zip(pts, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), "rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation:
        content = bytearray(path.read_bytes())
        matrix = content.index(b"tkhd") + 44
        content[matrix : matrix + 36] = rotation
        path.write_bytes(content)
    return frames


def levels(frames: torch.Tensor) -> list[int]:
    return [round((float(frame[8, 12].float().mean()) - 20) / 10) for frame in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_found_by_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    variable(path, [0, 10, 20, 60, 70, 100])
    clip = read_clip(path)
    assert clip.pts.tolist() == pytest.approx([0, 0.1, 0.2, 0.6, 0.7, 1.0])
    assert levels(clip.frames) == list(range(6)) and clip.frame_rate == pytest.approx(5, rel=0.2)
    # At 10 a second: a frame stays until the next begins.
    assert levels(read_frames(path, [k / 10 for k in range(11)])) == [0, 1, 2, 2, 2, 2, 3, 4, 4, 4, 5]
    assert levels(read_frames(path, [0.3, 0.64, 0.75])) == [2, 3, 4]
    with pytest.raises(BadClip) as error:
        read_frames(path, [0.0, 2.0])
    assert error.value.code == "truncated"


def test_seeking_equals_reading_on(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", disc(60), 24)
    whole = read_clip(tmp_path / "x.mp4").frames
    for start in (1, 23, 24, 30, 55):
        times = [(start + k) / 24 for k in range(5)]
        assert torch.equal(read_frames(tmp_path / "x.mp4", times), whole[start : start + 5])
    assert torch.equal(read_frames(tmp_path / "x.mp4", [k / 12 for k in range(30)]), whole[::2])


def test_rotation(tmp_path: Path) -> None:
    # x' = -y + height, y' = x: what was left comes to the top, as after a clockwise quarter turn.
    matrix = [0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 16 << 16, 0, 1 << 30]
    upright = variable(tmp_path / "x.mp4", [0, 10], b"".join(v.to_bytes(4, "big") for v in matrix))
    frames = read_clip(tmp_path / "x.mp4").frames
    assert frames.shape == (2, 24, 16, 3)
    assert (frames.int() - upright.rot90(-1, (1, 2)).int()).abs().max() <= 2
    size = probe(tmp_path / "x.mp4")
    assert (size.height, size.width) == (24, 16)


def test_large_frames_shrink(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", disc(3, 128, 200), 8)
    frames = read_clip(tmp_path / "x.mp4", max_pixels=64 * 100).frames
    assert frames.shape == (3, 64, 96, 3)
    assert abs(frames.float().mean() - disc(3, 128, 200).float().mean()) < 1


def test_file_objects(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", disc(3), 8)
    with (tmp_path / "x.mp4").open("rb") as file:
        assert torch.equal(read_clip(file).frames, read_clip(tmp_path / "x.mp4").frames)


def test_contact_sheet() -> None:
    clips = [disc(9), disc(1, 48, 48), disc(17, 32, 48), disc(3, 200, 300)]
    sheet = contact_sheet(clips, ["a red disc " * 20, "b", "c", ""], columns=5, tile=96)
    assert sheet.dtype == torch.uint8 and sheet.ndim == 3 and sheet.shape[1] == 5 * (96 + 4) + 4
    assert sheet.shape[0] > 96 + 96 + 64 + 64
    plain = contact_sheet([disc(9)], columns=2, tile=64)
    assert torch.equal(plain[4:68, 4:68], enlarge(disc(9)[0], 64))
    assert torch.equal(plain[4:68, 72:136], enlarge(disc(9)[8], 64))
    with pytest.raises(ValueError, match="1 clips with 2 captions"):
        contact_sheet([disc()], ["a", "b"])


def test_reading_from_many_threads(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", disc(9), 8)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(read_clip(tmp_path / "x.mp4").frames)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (257, 257), (101, 95), (300, 256), (17, 400)])
def test_a_preview_comes_back_at_its_own_size(tmp_path, height, width):
    """Columns of two colours show a shift or a blur by one pixel; a preview's coding costs some levels."""
    frames = torch.zeros(3, height, width, 3, dtype=torch.uint8)
    frames[:, :, ::2] = 200
    write_preview(tmp_path / "a.mp4", frames, 8.0)
    found = unenlarged(read_clip(tmp_path / "a.mp4").frames, height, width)
    assert found.shape == frames.shape
    assert (found.float() - frames).abs().mean() < 6
    other = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
    assert unenlarged(other, 32, 32) is other

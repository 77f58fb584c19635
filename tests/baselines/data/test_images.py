"""From an image file to a training or evaluation image."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from baselines.data.images import box_crop, decoded_size, open_rgb, to_square
from baselines.data.source import to_floats
from tests.baselines.data.makers import write_image
from tests.support.bounded import bounded


def numbered(width, height):
    """An image whose red and green are the column and the row."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, rows * 0], axis=2))


def as_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (19, 19), (5, 200)])
def test_evaluation_is_the_centre_of_the_resized_image(width, height):
    image = numbered(width, height)
    scale = 19 / min(width, height)
    resized = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 16) // 2, (resized.height - 16) // 2
    expected = as_tensor(resized.crop((left, top, left + 16, top + 16)))
    result = to_square(image, 16, None)
    assert result.shape == (3, 16, 16) and result.dtype == torch.uint8
    assert torch.equal(result, expected)


def test_training_draws_every_crop_and_flip_and_nothing_else():
    image = numbered(19, 19)
    possible = {}
    for top in range(4):
        for left in range(4):
            crop = image.crop((left, top, left + 16, top + 16))
            possible[as_tensor(crop).numpy().tobytes()] = (top, left, 0)
            flipped = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            possible[as_tensor(flipped).numpy().tobytes()] = (top, left, 1)
    assert len(possible) == 32
    generator = torch.Generator().manual_seed(0)
    seen = {possible[to_square(image, 16, generator).numpy().tobytes()] for _ in range(400)}
    assert seen == set(possible.values())


def test_training_depends_on_the_generator_alone():
    image = numbered(60, 30)
    first, second = (to_square(image, 16, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_floats_are_those_of_the_formula_in_numpy():
    levels = np.arange(256, dtype=np.uint8)
    expected = levels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    result = to_floats(torch.from_numpy(levels))
    assert result.dtype == torch.float32
    assert np.array_equal(result.numpy(), expected)
    assert (result[0], result[-1]) == (-1, 1)


@pytest.mark.parametrize("size", [64, 256, 299])
def test_resize_is_76_64ths_rounded_down(size):
    margin = size * 76 // 64 - size
    result = to_square(numbered(size * 76 // 64, size * 76 // 64), size, None)
    start = (margin // 2) % 256
    assert result[0, 0, 0] == start


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((20.0, 10.0, 20.0, 10.0), (15, 0, 45, 30)),
        ((20.6, 10.6, 20.9, 11.0), (16, 1, 46, 31)),
        ((0.0, 0.0, 8.0, 4.0), (0, 0, 10, 8)),
        ((52.0, 32.0, 8.0, 8.0), (50, 30, 60, 40)),
        ((30.0, 20.0, 1.0, 1.0), (29, 19, 31, 21)),
    ],
)
def test_box_crop(box, corners):
    pixels = np.asarray(box_crop(numbered(60, 40), box))
    left, top, right, bottom = corners
    assert pixels.shape == (bottom - top, right - left, 3)
    assert pixels[0, 0, :2].tolist() == [left, top]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "RGB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    path = write_image(tmp_path / f"x{suffix}", mode=mode)
    assert open_rgb(path).mode == "RGB"


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "x.png"))[..., 0].ravel(), range(256))


def test_orientation_in_exif_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    numbered(40, 20).save(tmp_path / "x.jpg", exif=exif)
    assert open_rgb(tmp_path / "x.jpg").size == (40, 20)


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (13_300, 13_300, "13300 × 13300 pixels, more than the 67,108,864"),
        (8192, 8193, "8192 × 8193 pixels, more than"),
        (20_000, 20_000, "it has more than the 67,108,864 pixels that are read: scale it down"),
        (1, 60_000, "1 × 60000 pixels: one side is more than 200 times"),
        (201, 1, "201 × 1 pixels"),
    ],
)
def test_sizes_that_would_fill_memory_are_refused_before_decoding(tmp_path, width, height, reason):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    for read in (open_rgb, decoded_size):
        kind, message = bounded(read, path, seconds=2)
        assert kind == "ValueError" and reason in message


def test_the_largest_sizes_are_read(tmp_path):
    Image.new("L", (8192, 8192)).save(tmp_path / "large.png")
    Image.new("L", (200, 1)).save(tmp_path / "long.png")
    assert decoded_size(tmp_path / "large.png") == (8192, 8192)
    assert to_square(open_rgb(tmp_path / "long.png"), 16, None).shape == (3, 16, 16)


def test_postscript_never_reaches_ghostscript(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    ghost = tmp_path / "bin" / "gs"
    ghost.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    ghost.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghost.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    path = tmp_path / "bird.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(OSError), Image.open(path) as image:
        image.load()
    assert (tmp_path / "it-ran").exists(), "Pillow by itself starts it"
    (tmp_path / "it-ran").unlink()
    for read in (open_rgb, decoded_size):
        with pytest.raises(OSError, match="cannot identify image file"):
            read(path)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_pipes_devices_and_folders_are_no_images(tmp_path, make):
    make(tmp_path / "bird.jpg")
    for read in (open_rgb, decoded_size):
        kind, message = bounded(read, tmp_path / "bird.jpg", seconds=2)
        assert kind == "OSError" and "no regular file" in message


@pytest.mark.parametrize("name", sorted({"BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "PPM"}))
def test_formats_are_known_by_content_not_by_name(tmp_path, name):
    numbered(40, 30).save(tmp_path / "bird.jpg", format=name)
    assert open_rgb(tmp_path / "bird.jpg").size == (40, 30)


def test_floating_numbers_are_refused_rather_than_read_as_black(tmp_path):
    path = tmp_path / "depth.tiff"
    Image.fromarray(np.random.default_rng(0).random((20, 20), dtype=np.float32)).save(path)
    for read in (open_rgb, decoded_size):
        with pytest.raises(ValueError, match=r"floating numbers.*save it with 8 or 16 bits"):
            read(path)

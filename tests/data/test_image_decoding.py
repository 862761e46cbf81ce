"""Each kind of image file is read as viewers show it, or refused. The kind is found by content."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from tune_interpreg.data.image_decoding import ImageProblem, decode, read_header

RANDOM = np.random.default_rng(0)
RGB_HWC = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY_HW, ALPHA_HW = RANDOM.integers(0, 256, (2, 4, 6), dtype=np.uint8)


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png(color_type: int, bits: int, row: bytes) -> bytes:
    """Return a PNG file of 2×2 pixels with two equal rows, of any depth."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress((b"\0" + row) * 2)) + chunk(b"IEND", b"")


# ------------------------------------------------------------------ formats
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jfif", "a", "a.txt"])
def test_the_format_is_found_by_content(file_format: str, options: dict[str, object], name: str) -> None:
    image = Image.fromarray(RGB_HWC)
    content = encode(image.quantize(24) if file_format == "GIF" else image, file_format, **options)
    header = read_header(name, content)
    assert header is not None
    assert (header.format, header.width, header.height, header.frames) == (file_format, 6, 4, 1)
    assert np.array_equal(decode(content, None), RGB_HWC.transpose(2, 0, 1))


@pytest.mark.parametrize("content", [b"name,label\n", b"{}", b"P3 is a patient", b"BM 12 is a sample", b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["labels.csv", "README"])
def test_other_files_are_no_images(name: str, content: bytes) -> None:
    assert read_header(name, content) is None


def test_an_empty_file_is_no_image_if_its_suffix_says_so() -> None:
    assert read_header("done.txt", b"") is None


@pytest.mark.parametrize("name", ["a.png", "a", "a.HEIC"])
def test_an_empty_file_may_have_been_an_image(name: str) -> None:
    with pytest.raises(ImageProblem, match="0 bytes"):
        read_header(name, b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(20)),
        ("IMG_1", b"\0\0\0\x18ftypheic" + bytes(20)),
        ("a", encode(Image.fromarray(RGB_HWC), "WEBP")[:30]),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1"),
        ("a", encode(Image.fromarray(RGB_HWC))[:20]),
        ("a.txt", encode(Image.fromarray(RGB_HWC), "JPEG")[:20]),
    ],
)
def test_images_that_cannot_be_opened_are_problems(name: str, content: bytes) -> None:
    with pytest.raises(ImageProblem, match=r"begins with|damaged|Error"):
        read_header(name, content)


# --------------------------------------------------------------------- depth
def tiff(kind: type) -> bytes:
    return encode(Image.fromarray(np.full((4, 6), 100, kind)), "TIFF")


def tiff_of_deep_colors() -> bytes:
    """Return an uncompressed TIFF file of one pixel with three channels of 16 bits."""
    return rgb_tiff([16, 16, 16], struct.pack("<3H", 1, 300, 60000))


def rgb_tiff(bits: list[int], pixel: bytes) -> bytes:
    """Return an uncompressed little-endian TIFF file of one RGB pixel. Further channels have no meaning (tag 338)."""
    channels = len(bits)
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, channels, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0)]
    tags += [(277, 3, 1, channels), (278, 3, 1, 1)] + ([(338, 3, channels - 3, 0)] if channels > 3 else [])
    end = 8 + 2 + 12 * len(tags) + 4
    offsets = {258: end, 273: end + 2 * channels}
    entries = b"".join(struct.pack("<HHII", *tag[:3], offsets.get(tag[0], tag[3])) for tag in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return header + struct.pack(f"<{channels}H", *bits) + pixel


DEEP = {
    "grey PNG": png(0, 16, bytes(4)),
    "RGB PNG": png(2, 16, bytes(12)),
    "grey PNG with opacity": png(4, 16, bytes(8)),
    "RGBA PNG": png(6, 16, bytes(16)),
    "grey PGM": b"P5 2 2 65535\n" + bytes(8),
    "grey PGM of 10 bits": b"P5 2 2 1023\n" + bytes(8),
    "RGB PPM": b"P6 2 2 65535\n" + bytes(24),
    "RGB PPM in text": b"P3 1 1 1000 1 2 1000",
    "PFM": b"Pf 2 2 -1.0\n" + bytes(16),
    "TIFF uint16": tiff(np.uint16),
    "TIFF big-endian": encode(Image.frombytes("I;16B", (2, 2), bytes(8)), "TIFF"),
    "TIFF int32": tiff(np.int32),
    "TIFF float32": tiff(np.float32),
    "RGB TIFF": tiff_of_deep_colors(),
}


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_more_than_8_bits_per_channel_are_refused(content: bytes) -> None:
    """Pillow would clip them, or keep the upper 8 bits, which hold a few levels of an image of 10 or 12 bits."""
    with pytest.raises(ImageProblem, match=r"(16-bit|32-bit|floating-point) channels, 8 bits or fewer are read"):
        read_header("a.png", content)


def test_further_channels_are_refused() -> None:
    """Pillow would drop infrared, for example, and show the rest. The same file with three channels is read."""
    assert decode(rgb_tiff([8, 8, 8], bytes([1, 2, 3])), None).tolist() == [[[1]], [[2]], [[3]]]
    assert read_header("a", rgb_tiff([8, 8, 8], bytes([1, 2, 3]))) is not None
    for channels in (4, 5):
        with pytest.raises(ImageProblem, match=f"{channels} channels, those of RGB are read"):
            read_header("a.tif", rgb_tiff([8] * channels, bytes(channels)))


@pytest.mark.parametrize(
    ("content", "expected_HW"),
    [
        (png(0, 1, b"\x40"), [[0, 255]] * 2),
        (png(0, 2, b"\x60"), [[85, 170]] * 2),
        (png(0, 4, b"\x1f"), [[17, 255]] * 2),
        (b"P4 2 2\n\x80\x80", [[0, 255]] * 2),
        (b"P5 2 2 15\n\x01\x0f\x01\x0f", [[17, 255]] * 2),
        (encode(Image.fromarray(np.array([[0, 1]] * 2, bool)), "TIFF"), [[0, 255]] * 2),
    ],
)
def test_fewer_than_8_bits_are_scaled(content: bytes, expected_HW: list[list[int]]) -> None:
    assert read_header("a", content) is not None
    assert decode(content, None).tolist() == [expected_HW] * 3


# -------------------------------------------------------------------- colors
def on_white(color_HWC: np.ndarray) -> np.ndarray:
    """Return α·color + (1 − α)·255, C×H×W."""
    alpha_HW1 = ALPHA_HW[..., None] / 255
    return (alpha_HW1 * color_HWC + (1 - alpha_HW1) * 255).transpose(2, 0, 1)


def test_grey_fills_all_channels() -> None:
    content = encode(Image.fromarray(GREY_HW))
    assert np.array_equal(decode(content, None), np.broadcast_to(GREY_HW, (3, 4, 6)))
    header = read_header("a", content)
    assert header is not None
    assert (header.color, header.is_transparent) == ("grey", False)


@pytest.mark.parametrize("color_HWC", [RGB_HWC, GREY_HW[..., None]], ids=["RGBA", "LA"])
def test_transparent_images_are_laid_on_white(color_HWC: np.ndarray) -> None:
    content = encode(Image.fromarray(np.concatenate([color_HWC, ALPHA_HW[..., None]], axis=2)))
    header = read_header("a", content)
    assert header is not None
    assert header.is_transparent
    assert np.abs(decode(content, None) - np.broadcast_to(on_white(color_HWC), (3, 4, 6))).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_color_of_a_palette_becomes_white(file_format: str) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    content = encode(palette, file_format, transparency=1)
    header = read_header("a", content)
    assert header is not None
    assert header.is_transparent
    assert decode(content, None)[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_a_transparent_color_without_a_palette_becomes_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(encode(image, transparency=(4, 5, 6)), None)[:, 0].T.tolist() == [[1, 2, 3], [255, 255, 255]]


def test_cmyk_becomes_rgb() -> None:
    """Without a color profile, R = (255 − C)·(255 − K)/255."""
    image = Image.new("CMYK", (16, 16), (100, 50, 0, 20))
    content = encode(image, "JPEG", quality=100)
    header = read_header("a", content)
    assert header is not None
    assert header.color == "CMYK"
    expected = (255 - np.array([100, 50, 0])) * (255 - 20) / 255
    assert np.abs(decode(content, None)[:, 8, 8] - expected).max() <= 3


def test_the_first_of_several_frames_is_read() -> None:
    frames = [Image.fromarray(RGB_HWC).quantize(24), Image.new("P", (6, 4))]
    for file_format in ("GIF", "TIFF", "PNG"):
        content = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
        header = read_header("a", content)
        assert header is not None
        assert header.frames == 2
        assert np.array_equal(decode(content, None), RGB_HWC.transpose(2, 0, 1))


# --------------------------------------------------------------- orientation
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(file_format: str, orientation: int) -> None:
    """EXIF's orientation n stores the upright image transposed; ``exif_transpose`` of the raw pixels undoes it."""
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
        7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: x.transpose(1, 0, 2)[::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(Image.fromarray(RGB_HWC), file_format, exif=exif, **options)
    upright_CHW = undo[orientation](RGB_HWC).transpose(2, 0, 1)
    assert np.array_equal(decode(content, None), upright_CHW)
    header = read_header("a", content)
    assert header is not None
    assert (header.height, header.width) == upright_CHW.shape[1:]


# ---------------------------------------------------------------------- size
def test_the_central_square_is_resized() -> None:
    """A wide image with black sides and a white square in the middle becomes white at any size."""
    wide_HW = np.zeros((8, 20), np.uint8)
    wide_HW[:, 6:14] = 255
    for size in (1, 4, 8, 16):
        assert (decode(encode(Image.fromarray(wide_HW)), size) == np.full((3, size, size), 255)).all()
        assert (decode(encode(Image.fromarray(wide_HW.T.copy())), size) == np.full((3, size, size), 255)).all()


def test_pillow_agrees_on_upright_jpegs() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(RGB_HWC), "JPEG", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected_HWC = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(content, None), expected_HWC.transpose(2, 0, 1))
    assert decode(content, None).shape == (3, 6, 4)

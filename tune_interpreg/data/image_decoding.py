"""One image file → pixels: its format by content, upright, RGB, 8 bits per channel, and if asked a square.

Legend: C·H·W one image, C is 3 (RGB).
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from tune_interpreg.data.image_files import suffix_of

Pixels = npt.NDArray[np.uint8]

#: Formats that are read, whatever the file's name is.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")

#: The first bytes of image files. A file that begins so but cannot be opened is a problem, whatever its name is.
SIGNATURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(avif|heic|heix|mif1)", re.DOTALL
)

#: Suffixes of images, also of formats that are not read. A file of such a name that cannot be opened is a problem.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".heic", ".heif", ".svg", ".tga"),
    *(".ico", ".psd", ".exr", ".hdr", ".dds", ".pcx", ".qoi", ".dcm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"),
)

#: Pillow's modes of more than 8 bits per channel → their names. Its conversion to RGB would clip them at 255.
DEEP_MODES = {"I": "32-bit", "F": "floating-point"} | dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), "16-bit")
COLORS = {"1": "black-and-white", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}

#: Chunks of PNG files that may hold an orientation, also behind the pixels. Without them, none has to be decoded.
PNG_METADATA = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")

EXIF_ORIENTATION, TIFF_BITS, TIFF_CHANNELS, TIFF_SAMPLE_FORMAT = 0x0112, 258, 277, 339


class ImageProblem(ValueError):
    """An image that cannot be read as it is meant; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """Properties of an image. width and height in pixels, upright; color: grey, palette, RGB, CMYK, …."""

    format: str
    color: str
    width: int
    height: int
    is_rotated: bool
    is_transparent: bool
    frames: int


def read_header(name: str, content: bytes) -> Header | None:
    """Return the properties of the image in ``content``; None if neither content nor name are those of an image.

    Raises:
        ImageProblem: the file is empty or damaged, of a format that is not read, or deeper than 8 bits per channel.
    """
    if not content and suffix_of(name) in (*SUFFIXES, "without suffix"):
        raise ImageProblem("0 bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            _check_channels(image, content)
            orientation = 1
            if image.format != "PNG" or any(marker in content for marker in PNG_METADATA):
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            width, height = image.size
            if orientation in (5, 6, 7, 8) and image.format != "TIFF":  # Pillow reports TIFF's size upright
                width, height = height, width
            return Header(
                format=image.format or "",
                color=COLORS.get(image.mode, image.mode.removesuffix("A").removesuffix("a").removesuffix("X")),
                width=width,
                height=height,
                is_rotated=orientation in range(2, 9),
                is_transparent=image.has_transparency_data,
                frames=getattr(image, "n_frames", 1),
            )
    except ImageProblem:
        raise
    except Exception as error:  # Pillow raises errors of a dozen types
        begins_as_image = SIGNATURE.match(content) is not None
        if suffix_of(name) not in SUFFIXES and not begins_as_image:
            return None
        if begins_as_image and content[4:8] != b"ftyp":
            raise ImageProblem(_describe(error)) from error
        formats = "no PNG, JPEG, GIF, WebP, BMP, TIFF, PNM or AVIF"
        raise ImageProblem(f"{formats}, begins with {content[:16].decode('latin-1')!a}") from error


def decode(content: bytes, size: int | None) -> Pixels:
    """Return the first frame of the image in ``content`` as RGB, 3×H×W.

    The image is turned upright as its EXIF data say. Grey fills all channels; transparent pixels are laid on white.

    Args:
        size: H and W in pixels. The central square is cut out and resized to it (bilinear, antialiased). None: keep.

    Raises:
        ImageProblem: the image is damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            image.load()
            rgb = _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:
        raise ImageProblem(_describe(error)) from error
    if size is not None:
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        square = rgb.crop((left, top, left + side, top + side))
        rgb = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb).transpose(2, 0, 1)


def _formats() -> tuple[str, ...]:
    """Return FORMATS without those that this build of Pillow lacks."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):  # colors are premultiplied by opacity
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _check_channels(image: ImageFile.ImageFile, content: bytes) -> None:
    """Raise ``ImageProblem`` for channels that Pillow would cut or drop.

    It keeps the upper 8 bits of RGB images of 16 bits, and drops channels of TIFF files behind RGB, such as infrared.
    """
    depth = DEEP_MODES.get(image.mode, "")
    if image.format == "PNG" and content[24] > 8:
        depth = f"{content[24]}-bit"
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if max(tags.get(TIFF_BITS, (1,))) > 8:
            depth = depth or f"{max(tags[TIFF_BITS])}-bit"
        elif set(tags.get(TIFF_SAMPLE_FORMAT, (1,))) - {1, 4}:  # 1: unsigned, 4: undefined
            depth = "signed"
        if tags.get(TIFF_CHANNELS, 1) > len(image.getbands()):
            raise ImageProblem(f"{tags[TIFF_CHANNELS]} channels, those of {image.mode} are read")
    if image.format == "PPM" and not depth:
        arguments = image.tile[0].args  # (mode, largest value), unless the largest value is 255
        if isinstance(arguments, tuple) and len(arguments) == 2 and int(arguments[1]) > 255:
            depth = "16-bit"
    if depth:
        raise ImageProblem(f"{depth} channels, 8 bits or fewer are read")


def _describe(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "damaged at its beginning, or of a variant that Pillow does not read"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

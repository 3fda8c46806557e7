"""Describe images, and make a small copy for a vision model."""

from collections.abc import Iterator
from io import BytesIO

from kinds import Refused
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
"""The most pixels of an image that is decoded."""
JPEG_QUALITY = 90

Image.MAX_IMAGE_PIXELS = None  # the bound is lzero's, with its own message


def facts(data: bytes, part: str) -> Iterator[str]:
    if part:
        raise Refused("an image has no parts")
    with _opened(data) as image:
        yield f"[{image.format} image, {image.width} × {image.height} pixels, mode {image.mode}, {len(data):,} bytes]"


def small(data: bytes, max_side: int) -> tuple[str, bytes]:
    """Return (media type, bytes) of the image with no side longer than `max_side`: as PNG if that is not larger, else as JPEG."""
    with _opened(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Refused(f"it has {image.width} × {image.height} pixels; at most {MAX_PIXELS:,} are decoded")
        image.draft("RGB", (max_side, max_side))
        image.thumbnail((max_side, max_side))
        clear = image.convert("RGBA")
    flat = Image.new("RGB", clear.size, "white")
    flat.paste(clear, mask=clear)
    png, jpeg = BytesIO(), BytesIO()
    flat.save(png, "PNG")
    flat.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    if png.tell() <= jpeg.tell():
        return "image/png", png.getvalue()
    return "image/jpeg", jpeg.getvalue()


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(f"it is not an image in {', '.join(FORMATS)}") from None

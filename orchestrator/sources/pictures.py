"""Encoded images: decoded by Pillow, and scaled to one size. Bytes of strangers: a small file may be a large image."""

import io
import warnings

import numpy as np
from PIL import Image

from cluster.errors import excerpt
from orchestrator.sources.formats import PictureConfig
from orchestrator.sources.unfit import Unfit

MAX_PIXELS = 64 * 1024 * 1024
"""Larger images are refused before they are decoded; three bytes for each are 192 MiB."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def decode_picture(value: object, config: PictureConfig, *, name: str) -> np.ndarray:
    """Return an image of the configured shape, uint8.

    `value` is the bytes of a file, or a mapping with these as `bytes`, as Hugging Face stores images.

    Raises:
        Unfit: it is no image, is damaged, or has more than `MAX_PIXELS`.
    """
    body = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(body, bytes):
        raise Unfit(f"{name} holds no bytes of an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; what cannot be decoded raises
            return _decode(body, config, name)
    except Unfit:
        raise
    except Exception as error:  # decoders of strangers' bytes raise whatever they stumble over
        raise Unfit(f"{name} is no image that can be decoded ({excerpt(str(error))})") from error


def _decode(body: bytes, config: PictureConfig, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(body), formats=_FORMATS) as image:
        if (pixels := image.width * image.height) > MAX_PIXELS:
            raise Unfit(f"{name} has {image.width} x {image.height} = {pixels:,} pixels, more than {MAX_PIXELS:,}")
        picture = image.convert("L" if config.channels == 1 else "RGB")
    if picture.size != (config.width, config.height):
        picture = picture.resize((config.width, config.height), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(picture, dtype=np.uint8).reshape(config.height, config.width, config.channels)
    return np.ascontiguousarray(np.moveaxis(pixels_HWC, -1, 0)).reshape(config.shape)

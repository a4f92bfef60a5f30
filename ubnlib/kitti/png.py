"""PNG files that are whole, or a sentence that names the one that is not."""

from io import BytesIO
from pathlib import Path

from PIL import Image


def read_png(path: Path, what: str, expected: str) -> Image.Image:
    """Read a PNG and check all its checksums: decoding alone takes some damaged files for whole.

    Args:
        path: The file.
        what: What error messages call it, such as "Image".
        expected: What they say should have been there.

    Returns:
        The decoded image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no PNG, or is damaged.
    """
    try:
        content = BytesIO(path.read_bytes())
        with Image.open(content, formats=["PNG"]) as image:
            image.verify()
        image = Image.open(content, formats=["PNG"])
        image.load()
        return image
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {path} is missing: extract it again.") from None
    # What Pillow raises for broken files.
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{what} {path} cannot be read ({error}): expected {expected}; extract it again."
        ) from error

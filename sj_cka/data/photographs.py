"""Patches of the pictures that scikit-image and scikit-learn bring in their wheels: which picture is a patch from?"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Generator

from sj_cka.data.images import stored
from sj_cka.data.samples import DataError, Images
from sj_cka.plugins import check_option

_FOLDERS = {"scikit-image": ("skimage", "data"), "scikit-learn": ("sklearn", "datasets/images")}


class Photograph(NamedTuple):
    """A picture of an installed package.

    Args:
        package: that brings it, as it is installed.
        file: in the package's folder of pictures.
        licence: as the package states it.
        source: author, or where it was published.
        sha256: of the file.
    """

    package: Literal["scikit-image", "scikit-learn"]
    file: str
    licence: str
    source: str
    sha256: str

    def content(self) -> bytes:
        """The file as it was when it was chosen; a decoder may round differently, a file is the same or is not.

        Raises:
            DataError: it is not there, or is another one.
        """
        module, folder = _FOLDERS[self.package]
        found = find_spec(module)
        if found is None or found.origin is None:
            raise DataError(f"expected the package {self.package}, which brings {self.file}; install it")
        path, of = Path(found.origin).parent / folder / self.file, f"{self.package} {version(self.package)}"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"expected the picture {path} of {of}, it cannot be read: {error.strerror}") from error
        if (sha256 := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise DataError(
                f"expected the picture of SHA-256 {self.sha256[:12]} in {path}, {of} has another one, {sha256[:12]}: "
                f"patches of it would be other data; install a release of {self.package} that constraints.txt names"
            )
        return content


# In the order of their classes. Those of scikit-image whose licence it does not state (moon, motorcycle, page) are not
# among them, nor drawings; `cell` is a phase image of a microscope.
PHOTOGRAPHS = {
    "brick": Photograph(
        "scikit-image",
        "brick.png",
        "CC0",
        "CC0Textures, Bricks25",
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    ),
    "gravel": Photograph(
        "scikit-image",
        "gravel.png",
        "CC0",
        "CC0Textures, Gravel04",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
    ),
    "grass": Photograph(
        "scikit-image",
        "grass.png",
        "CC0",
        "DeviantArt, linolafett",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    ),
    "coins": Photograph(
        "scikit-image",
        "coins.png",
        "no known copyright restrictions",
        "Brooklyn Museum Collection",
        "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
    ),
    "camera": Photograph(
        "scikit-image",
        "camera.png",
        "CC0",
        "Lav Varshney",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    ),
    "clock": Photograph(
        "scikit-image",
        "clock_motion.png",
        "public domain",
        "Stefan van der Walt",
        "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955",
    ),
    "cell": Photograph(
        "scikit-image",
        "cell.png",
        "CC0",
        "Paul Müller",
        "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515",
    ),
    "astronaut": Photograph(
        "scikit-image",
        "astronaut.png",
        "public domain",
        "NASA",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "chelsea": Photograph(
        "scikit-image",
        "chelsea.png",
        "CC0",
        "Stefan van der Walt",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "coffee": Photograph(
        "scikit-image",
        "coffee.png",
        "CC0",
        "Rachel Michetti",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    "ihc": Photograph(
        "scikit-image",
        "ihc.png",
        "no known copyright restrictions",
        "Center for Microscopy And Molecular Imaging",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
    ),
    "hubble": Photograph(
        "scikit-image",
        "hubble_deep_field.jpg",
        "public domain",
        "NASA",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
    "retina": Photograph(
        "scikit-image",
        "retina.jpg",
        "CC0",
        "Mikael Häggström",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    ),
    "rocket": Photograph(
        "scikit-image",
        "rocket.jpg",
        "public domain",
        "SpaceX",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
    "china": Photograph(
        "scikit-learn",
        "china.jpg",
        "CC BY 2.0",
        "danielbuechele",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    "flower": Photograph(
        "scikit-learn",
        "flower.jpg",
        "CC BY 2.0",
        "vultilion",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
}
_TRAINED = 0.65  # of the width of a picture, from the left
_FLAT = 2  # grey levels of 255: a patch of a smaller standard deviation shows noise
# a patch without mean and contrast as bytes: 8 deviations to either side
_ZERO, _DEVIATION = 128, 16
CONTRAST = 2.5  # standard deviations of a patch to black and to white, where it is coded as spikes or seen by a camera
_EPS = "A patch of photos has no contrast of its own: an eps of 16/255 is one standard deviation of its pixels."
_REMARK = (
    "Each class of photos is a single picture, whose patches overlap: samples are not independent, and what holds here "
    "holds for these pictures."
)


def photos(size: int = 16, colour: bool = False, samples: int = 320, seed: int = 0) -> Images:
    """Patches of 16 pictures, which are the classes: photographs, and two of microscopes (see `PHOTOGRAPHS`).

    Pictures are halved (means of 2 x 2 pixels). Training patches lie in the left 65 % of a picture and test patches in
    the rest, at random places, so that patches of a split overlap and no pixel is in both. Of each patch mean and
    standard deviation are taken out, x = (p - mean) / std, so that brightness tells nothing; places with a deviation
    below 2 grey levels of 255 are left out. An x is stored as the byte 128 + 16 x, from -8 to 7.94 and clipped there.
    An eps of 16/255 is one standard deviation of a patch. Codings as spikes cut patches off at 2.5 deviations.

    Args:
        size: height and width of a patch in pixels of the halved pictures, 8 to 32.
        colour: three channels of the 9 pictures that have colours, in place of one of all 16; the mean of each channel
            is taken out, and the standard deviation over all three.
        samples: training patches a class, 8 to 1,000; a quarter of it for testing. Fewer are the first of more.
        seed: of the places.

    Returns:
        uint8 images, 5,120 for training and 1,280 for testing; any 16 in a row (9 with colours) are one of each class.

    Raises:
        OptionError: an option out of range.
        DataError: a picture is not there, or another one than it was.

    Example:
        >>> data = photos(samples=20)
        >>> tuple(data.x_train.shape), tuple(data.x_test.shape), data.y_test[:4].tolist()
        ((320, 1, 16, 16), (80, 1, 16, 16), [0, 1, 2, 3])
    """
    check_option(8 <= size <= 32, "size", "a size from 8 to 32, the pixels of a patch", size)
    check_option(8 <= samples <= 1000, "samples", "training samples a class, 8 to 1000", samples)
    check_option(0 <= seed < 2**63, "seed", "a seed from 0 to 2^63 - 1", seed)
    generator = Generator().manual_seed(seed)
    parts: list[list[np.ndarray]] = [[], []]
    for picture in _halved(colour):
        edge = int(_TRAINED * picture.shape[2])
        halves = (picture[:, :, :edge], samples), (picture[:, :, edge:], samples // 4)
        for own, (half, count) in zip(parts, halves, strict=True):
            own.append(_patches(half, size, count, generator))
    # one of each class after the other
    x_train, x_test = (np.stack(own, axis=1).reshape(-1, *own[0].shape[1:]) for own in parts)
    classes, C = len(parts[0]), x_train.shape[1]
    y_train, y_test = (np.arange(len(x)) % classes for x in (x_train, x_test))
    mean, std = (_ZERO / 255,) * C, (_DEVIATION / 255,) * C
    made = stored(x_train, y_train, x_test, y_test, classes, mean, std)
    return replace(made, contrast=(-CONTRAST, CONTRAST), eps_note=_EPS, remarks=(_REMARK,))


def _halved(colour: bool) -> Iterator[np.ndarray]:
    """The pictures as sums of 2 x 2 pixels, whole numbers `[C, H // 2, W // 2]`: all grey, or those with colours."""
    from PIL import Image

    for photograph in PHOTOGRAPHS.values():
        with Image.open(BytesIO(photograph.content())) as opened:
            if colour and opened.mode == "L":
                continue
            pixels = np.asarray(opened.convert("RGB" if colour else "L"), dtype=np.int64)
        x = np.moveaxis(np.atleast_3d(pixels), 2, 0)
        C, H, W = x.shape
        yield x[:, : H // 2 * 2, : W // 2 * 2].reshape(C, H // 2, 2, W // 2, 2).sum((2, 4))


def _patches(x: np.ndarray, size: int, count: int, generator: Generator) -> np.ndarray:
    """Bytes `[count, C, size, size]` of what a part of a picture `[C, H, W]` in sums of 2 x 2 pixels shows.

    Sums are of whole numbers, hence exact, so that every machine gives the same bytes.
    """
    C, n = len(x), size * size
    sums, squares = _sums(x, size), _sums(x * x, size)
    spread = (n * squares - sums * sums).sum(0)  # n^2 C times the variance
    rows, columns = np.nonzero(spread >= n * n * C * (4 * _FLAT) ** 2)
    chosen = torch.randperm(len(rows), generator=generator)[:count].numpy()
    rows, columns = rows[chosen], columns[chosen]
    patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, rows, columns]
    mean, std = sums[:, rows, columns] / n, np.sqrt(spread[rows, columns] / (n * n * C))
    levels = _ZERO + _DEVIATION * (patches - mean[..., None, None]) / std[:, None, None]
    return np.ascontiguousarray(np.moveaxis(levels.round().clip(0, 255).astype(np.uint8), 0, 1))


def _sums(x: np.ndarray, size: int) -> np.ndarray:
    """Sums over all windows of `[C, H, W]`, `[C, H - size + 1, W - size + 1]`."""
    total = np.pad(x.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    return total[:, size:, size:] - total[:, :-size, size:] - total[:, size:, :-size] + total[:, :-size, :-size]

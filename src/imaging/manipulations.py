"""Pictures made wrong on purpose: graded damage, harmless changes (decoys) and damage that is easily missed (traps).

Every function takes a `Specimen` (a picture and what is in it) and gives a new one; the given one is never altered.
What is random comes from `rng`: the same generator state with a larger amount gives the same damage, grown. Lengths are
in pixels. A manipulation for which a picture has no room raises `NotPossible`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from scipy import ndimage
from skimage.draw import line
from skimage.morphology import convex_hull_image
from skimage.segmentation import expand_labels

SMOOTH = 12.0  # sigma of the local background
FEATHER = 0.8  # sigma by which the edge of a change is softened, so that no cut is sharper than the optics
SPECK = 1 / 3  # of the median area: what is smaller is no nucleus that anyone would miss
TRIES = 60  # places tried for a piece of real background of the right shape


class NotPossible(ValueError):
    """This picture has too few nuclei, or too little empty background, for this manipulation."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """A picture float32 Y X in [0, 1] and its instances int32 Y X (0 = background).

    `halo` is how far, in pixels, a nucleus shines beyond its outline. Raises ValueError for shapes that differ or
    values outside [0, 1].
    """

    image: np.ndarray
    labels: np.ndarray
    halo: float = 6.0

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape != self.labels.shape:
            raise ValueError(f"image {self.image.shape} and labels {self.labels.shape} must both be Y X, of one size")
        if not (self.image.min() >= 0 and self.image.max() <= 1):  # NaN fails too
            raise ValueError("the image must lie in [0, 1]: scale camera counts first")

    @cached_property
    def nuclei(self) -> np.ndarray:
        """The numbers of the nuclei, ascending; specks, and slivers that the border left, are not among them."""
        names, areas = np.unique(self.labels[self.labels > 0], return_counts=True)
        return names[areas >= SPECK * np.median(areas)] if len(names) else names

    @cached_property
    def whole(self) -> np.ndarray:
        """The nuclei whose halo does not meet the picture's border; NotPossible where there is none."""
        territory = self.territory
        names = np.setdiff1d(self.nuclei, np.r_[territory[0], territory[-1], territory[:, 0], territory[:, -1]])
        if not len(names):
            raise NotPossible("no nucleus is whole: the border cuts every one")
        return names

    @cached_property
    def territory(self) -> np.ndarray:
        """Each nucleus with its halo, int32 Y X; a pixel between two nuclei belongs to the nearer one."""
        return expand_labels(self.labels, self.halo)

    @cached_property
    def background(self) -> np.ndarray:
        """Local background, float32 Y X: a Gaussian average of the pixels outside every territory."""
        empty = (self.territory == 0).astype(np.float32)
        if empty.mean() < 0.01:
            raise NotPossible("less than 1 % of the picture is empty: there is no background to fill with")
        weight = cv2.GaussianBlur(empty, (0, 0), SMOOTH, borderType=cv2.BORDER_REFLECT)
        level = cv2.GaussianBlur(self.image * empty, (0, 0), SMOOTH, borderType=cv2.BORDER_REFLECT)
        median = np.float32(np.median(self.image[empty > 0]))
        # The median counts as a little background everywhere, so that a place far from any takes it.
        return (level + 1e-3 * median) / (weight + 1e-3)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the empty background about its local level, from the median deviation."""
        rest = (self.image - self.background)[self.territory == 0]
        return float(1.4826 * np.median(np.abs(rest - np.median(rest))))

    def filled(self, region: np.ndarray, rng: np.random.Generator, labels: np.ndarray) -> Specimen:
        """The picture with `region` (bool Y X) made empty background, noise included, and these labels.

        The noise of each piece is copied from a place of the same shape that is empty, so that its grain is right;
        where there is none it is drawn pixel by pixel from the empty pixels.
        """
        empty, rest = self.territory == 0, self.image - self.background
        fill = self.background.copy()
        pieces, _ = ndimage.label(region)
        for number, box in enumerate(ndimage.find_objects(pieces), start=1):
            piece = pieces[box] == number
            fill[box][piece] += _grain(rest, empty, piece, rng)
        soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), FEATHER)
        image = np.where(soft > 0, self.image * (1 - soft) + fill * soft, self.image)
        return replace(self, image=_clipped(np.where(region, fill, image)), labels=labels)


def _grain(rest: np.ndarray, empty: np.ndarray, piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = piece.shape
    corners = rng.integers(0, (rest.shape[0] - height + 1, rest.shape[1] - width + 1), (TRIES, 2))
    for y, x in corners:
        window = np.s_[y : y + height, x : x + width]
        if empty[window][piece].all():
            return rest[window][piece]
    return rng.choice(rest[empty], int(piece.sum()))


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 1).astype(np.float32)


# --- graded damage: `share` is in 0..1 --------------------------------------------------------------------------------


def area_missing(specimen: Specimen, share: float, rng: np.random.Generator) -> Specimen:
    """Cut this share of its pixels off every nucleus, along a straight line of random direction."""
    labels, gone = specimen.labels.copy(), np.zeros(specimen.labels.shape, bool)
    territory = specimen.territory
    yy, xx = np.indices(labels.shape)
    for name in specimen.nuclei:
        angle = rng.uniform(0, 2 * np.pi)
        inside = specimen.labels == name
        along = yy * np.sin(angle) + xx * np.cos(angle)
        values = along[inside]
        cut = round(share * len(values))
        if cut:
            border = np.partition(values, len(values) - cut)[len(values) - cut]
            gone |= (territory == name) & (along >= border)
    labels[gone] = 0
    return specimen.filled(gone, rng, labels)


def region_blanked(specimen: Specimen, share: float, rng: np.random.Generator) -> Specimen:
    """Empty a rectangle that covers this share of the picture, with everything in it."""
    height, width = specimen.image.shape
    place = rng.random(2)
    tall, wide = round(height * np.sqrt(share)), round(width * np.sqrt(share))
    y, x = (int(part * room) for part, room in zip(place, (height - tall, width - wide), strict=True))
    region = np.zeros(specimen.image.shape, bool)
    region[y : y + tall, x : x + wide] = True
    return specimen.filled(region, rng, np.where(region, 0, specimen.labels))


def nuclei_missing(specimen: Specimen, share: float, rng: np.random.Generator) -> Specimen:
    """Remove this share of the nuclei with their halos, at least one."""
    names = specimen.nuclei
    return _without(specimen, rng.permutation(names)[: _number(share, len(names))], rng)


def nuclei_invented(specimen: Specimen, share: float, rng: np.random.Generator) -> Specimen:
    """Paste copies of the picture's own nuclei into its empty background: this share of their number, at least one."""
    wanted = _number(share, len(specimen.nuclei))
    donors = rng.choice(specimen.whole, max(wanted, len(specimen.nuclei)))[:wanted]
    return _pasted(specimen, donors, rng)[0]


def artefact_added(specimen: Specimen, share: float, rng: np.random.Generator) -> Specimen:
    """Add one saturated foreign object, a lump or a fibre, that covers this share of the picture.

    What it hides cannot be seen any more and is taken out of the labels; the object itself is no nucleus.
    """
    height, width = specimen.image.shape
    start, angle, lump = rng.uniform(0.1, 0.9, 2) * (height, width), rng.uniform(0, 2 * np.pi), rng.random() < 0.5
    core = np.ones((height, width), bool)
    bends = np.cumsum(rng.normal(0, 0.25, 8))
    length = 0.02 if lump else 0.12  # of the picture's side, per step
    points = [start]
    for bend in bends:
        step = length * min(height, width) * np.array([np.sin(angle + bend), np.cos(angle + bend)])
        points.append(np.clip(points[-1] + step, 0, (height - 1, width - 1)))
    for (y0, x0), (y1, x1) in pairwise(points):
        core[line(int(y0), int(x0), int(y1), int(x1))] = False
    rough = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 6)
    distance = ndimage.distance_transform_edt(core) + 2 * rough / rough.std()
    # The nearest pixels: the area is exact, and a larger object holds the smaller ones.
    count = max(1, round(share * distance.size))
    covered = np.zeros(distance.size, bool)
    covered[np.argsort(distance, axis=None, kind="stable")[:count]] = True
    covered = covered.reshape(distance.shape)
    glow = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), 1.5)
    image = specimen.image + (1 - specimen.image) * np.where(covered, 1.0, glow)
    return replace(specimen, image=_clipped(image), labels=np.where(covered, 0, specimen.labels))


# --- decoys: the specimen is the same, the microscope is not ----------------------------------------------------------


def gain(specimen: Specimen, factor: float, rng: np.random.Generator) -> Specimen:
    """Multiply the picture; what exceeds 1 saturates."""
    return replace(specimen, image=_clipped(specimen.image * factor))


def illumination(specimen: Specimen, strength: float, rng: np.random.Generator) -> Specimen:
    """Multiply by a plane of random direction from 1 - strength to 1 + strength, edge to edge."""
    angle = rng.uniform(0, 2 * np.pi)
    yy, xx = (np.linspace(-1, 1, side) for side in specimen.image.shape)
    plane = yy[:, None] * np.sin(angle) + xx[None] * np.cos(angle)
    return replace(specimen, image=_clipped(specimen.image * (1 + strength * plane / np.abs(plane).max())))


def camera_noise(specimen: Specimen, times: float, rng: np.random.Generator) -> Specimen:
    """Add Gaussian noise of `times` the standard deviation that the picture's background has already."""
    noise = rng.normal(0, times * specimen.noise, specimen.image.shape)
    return replace(specimen, image=_clipped(specimen.image + noise))


def shifted(specimen: Specimen, pixels: float, rng: np.random.Generator) -> Specimen:
    """Move picture and labels by whole pixels, up, down, left or right; the edge repeats."""
    step = [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)][rng.integers(4)]
    image, labels = (ndimage.shift(part, step, order=0, mode="nearest") for part in (specimen.image, specimen.labels))
    return replace(specimen, image=image, labels=labels)


# --- traps: counts and areas hardly change, the picture is wrong ------------------------------------------------------


def lost_and_invented(specimen: Specimen, number: float, rng: np.random.Generator) -> Specimen:
    """Remove this number of whole nuclei and paste as many copies of others elsewhere."""
    donors = rng.permutation(specimen.whole)
    pasted, copied = _pasted(specimen, donors[int(number) : 2 * int(number)], rng)
    if len(copied) < number:
        raise NotPossible(f"{len(donors)} nuclei are whole, {len(copied)} find an empty place")
    return _without(pasted, donors[: int(number)], rng)


def relocated(specimen: Specimen, share: float, rng: np.random.Generator) -> Specimen:
    """Move this share of the whole nuclei, at least one, to places that were empty, as far as there are such places."""
    donors = rng.permutation(specimen.whole)
    pasted, moved = _pasted(specimen, donors[: _number(share, len(donors))], rng)
    return _without(pasted, moved, rng)


def merged(specimen: Specimen, reach: float, rng: np.random.Generator) -> Specimen:
    """Join the two nearest nuclei whose gap is 2 to `reach` pixels: the space between is filled as bright as they are.

    The joint nucleus keeps the first one's number. Pairs that touch already are left: joining them changes no pixel.
    """
    first, second = _nearest(specimen, reach)
    labels = specimen.labels
    both = (labels == first) | (labels == second)
    bridge = convex_hull_image(both) & ~both & np.isin(specimen.territory, (0, first, second))
    inner = ndimage.binary_erosion(both, iterations=2)
    inner = inner if inner.any() else both
    weight = cv2.GaussianBlur(inner.astype(np.float32), (0, 0), SMOOTH) + 1e-6
    level = cv2.GaussianBlur(specimen.image * inner, (0, 0), SMOOTH) / weight
    soft = cv2.GaussianBlur((both | bridge).astype(np.float32), (0, 0), 1.2)
    grain = rng.normal(0, specimen.noise, labels.shape)
    inside = both | bridge
    # The rims that faced each other shine less than the middle: they are lifted too, but nothing is darkened.
    seam = ndimage.binary_dilation(bridge, iterations=3) & inside
    image = np.where(seam, np.maximum(specimen.image, soft * (level + grain)), specimen.image)
    return replace(specimen, image=_clipped(image), labels=np.where(bridge | (labels == second), first, labels))


# --- parts ------------------------------------------------------------------------------------------------------------


def _number(share: float, available: int) -> int:
    if available < 1:
        raise NotPossible("the picture has no nucleus")
    return max(1, round(share * available))


def _without(specimen: Specimen, names: np.ndarray, rng: np.random.Generator) -> Specimen:
    gone = np.isin(specimen.territory, names)
    return specimen.filled(gone, rng, np.where(np.isin(specimen.labels, names), 0, specimen.labels))


def _pasted(specimen: Specimen, names: np.ndarray, rng: np.random.Generator) -> tuple[Specimen, np.ndarray]:
    """Copy nuclei (their light above the background, and their outlines) to random empty places.

    Gives the picture and the nuclei that found room; raises NotPossible where none did.
    """
    image, labels = specimen.image.copy(), specimen.labels.copy()
    taken = (specimen.territory > 0).astype(np.float32)
    light = specimen.image - specimen.background
    boxes = ndimage.find_objects(specimen.territory)
    copied = []
    for name in names:
        box = boxes[name - 1]
        cut, outline = specimen.territory[box] == name, specimen.labels[box] == name
        height, width = cut.shape
        # How many taken pixels the copy would cover with its upper left corner at each place.
        collisions = cv2.filter2D(taken, -1, cut.astype(np.float32), anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
        inside = collisions[: image.shape[0] - height + 1, : image.shape[1] - width + 1]
        places = np.argwhere(inside < 0.5)
        if not len(places):
            continue
        y, x = places[rng.integers(len(places))]
        window = np.s_[y : y + height, x : x + width]
        image[window][cut] = specimen.background[window][cut] + light[box][cut]
        labels[window][outline] = labels.max() + 1
        taken[window][cut] = 1
        copied.append(name)
    if not copied:
        raise NotPossible(f"none of {len(names)} nuclei finds an empty place")
    return replace(specimen, image=_clipped(image), labels=labels), np.array(copied)


def _nearest(specimen: Specimen, reach: float) -> tuple[int, int]:
    """The two whole nuclei with the smallest gap of 2 to `reach` pixels."""
    best: tuple[float, int, int] | None = None
    boxes, margin = ndimage.find_objects(specimen.labels), int(reach) + 1
    for name in specimen.whole:
        around = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in boxes[name - 1])
        labels = specimen.labels[around]
        distance = ndimage.distance_transform_edt(labels != name)
        others = np.intersect1d(labels, specimen.whole[specimen.whole != name])
        for other, gap in zip(others, ndimage.minimum(distance, labels, others), strict=True):
            if 2 < gap <= reach and (best is None or gap < best[0]):
                best = (float(gap), int(name), int(other))
    if best is None:
        raise NotPossible(f"no two whole nuclei have a gap of 2 to {reach:g} pixels")
    return best[1], best[2]

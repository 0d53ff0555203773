"""Camera counts to [0, 1] and back, by a fixed range per plate fitted on training wells; and the pixel size."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..imaging.tiles import normalise_patch


class Scaling:
    """The range of each channel of each plate, in camera counts, and the pixel size that training saw.

    `kind="plate"` maps the range fitted on training wells to [0, 1] and clips, so that intensities of one plate can be
    compared and inverted. `kind="paper"` stretches every patch from its own minimum to its own maximum in 256 steps
    (Sharma & Yakimovich, section 3.5), `kind="image"` every patch from the minimum to the maximum of its whole field
    (the label-free thesis, equation 24): intensities of two patches, or of two fields, are then not comparable. The
    channels in `stretched` are scaled as by "image", whatever the kind. `pixel_size` is that of the training fields in
    micrometres, before any zoom; None until it is known. `prepared` are the channels that were changed before anything
    was fitted, each with the settings of what changed it (imaging/prepare.py); None where that is not known.
    """

    KINDS = ("plate", "paper", "image")
    PERCENTILES = (0.1, 99.95)

    def __init__(
        self,
        kind: str = "plate",
        ranges: dict[str, dict[str, list[float]]] | None = None,
        pixel_size: float | None = None,
        stretched: Sequence[str] = (),
        prepared: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"data.scaling={kind} is unknown; it is one of {', '.join(self.KINDS)}")
        self.kind = kind
        self.ranges = ranges or {}
        self.pixel_size = pixel_size
        self.stretched = list(stretched)
        self.prepared = prepared
        self._check()

    def _check(self) -> None:
        """Refuses what no fit gives, so that a checkpoint that was tampered with is found here. Raises ValueError."""
        mend = "use another checkpoint"
        size = self.pixel_size
        if size is not None and not (isinstance(size, int | float) and math.isfinite(size) and size > 0):
            raise ValueError(f"the checkpoint's pixel size is {size!r}, no number above 0; {mend}")
        if not isinstance(self.ranges, dict) or not all(isinstance(known, dict) for known in self.ranges.values()):
            raise ValueError(f"the checkpoint's scaling holds no range per plate and channel; {mend}")
        for plate, known in self.ranges.items():
            for channel, limits in known.items():
                numbers = isinstance(limits, list) and all(isinstance(limit, int | float) for limit in limits)
                if not numbers or len(limits) != 2 or not (-math.inf < limits[0] < limits[1] < math.inf):
                    raise ValueError(
                        f"the checkpoint's scaling of plate {plate!r}, channel {channel!r}: range {limits!r} must go "
                        f"from low to high; {mend}"
                    )
        prepared = self.prepared or {}
        if not isinstance(prepared, dict) or not all(isinstance(known, dict) for known in prepared.values()):
            raise ValueError(f"the checkpoint's scaling does not say how stains were prepared: {prepared!r}; {mend}")
        for channel, known in prepared.items():
            if strange := [value for value in known.values() if not isinstance(value, str | int | float | None)]:
                raise ValueError(
                    f"the checkpoint's scaling: {channel!r} was prepared with {strange[0]!r}, no plain value; {mend}"
                )

    def by_image(self, channel: str) -> bool:
        """Whether a channel is scaled from the minimum to the maximum of each whole image."""
        return self.kind == "image" or channel in self.stretched

    def fit(self, plate: str, channel: str, fields: Iterable[np.ndarray]) -> list[float]:
        """Takes the range from every eighth pixel of whole fields (each Y X, camera counts), of integers 1 or more."""
        counts = np.concatenate([field.ravel()[::8] for field in fields])
        low, high = (float(value) for value in np.percentile(counts, self.PERCENTILES))
        if counts.dtype.kind in "ui" or high == low:
            high = max(high, low + 1.0)
        self.ranges.setdefault(plate, {})[channel] = [low, high]
        return self.ranges[plate][channel]

    def apply(self, patch: np.ndarray, plate: str, channel: str, field: np.ndarray | None = None) -> np.ndarray:
        """Counts (Y X) to float32 in [0, 1]; `field` is the whole image of the patch, for channels scaled by that."""
        if self.kind == "paper":
            constant = patch.min() == patch.max()  # an empty corner: nothing to stretch
            return np.zeros(patch.shape, np.float32) if constant else normalise_patch(patch).astype(np.float32) / 255
        if self.by_image(channel):
            if field is None:
                raise ValueError("a patch is scaled by its whole image: give the field it was cut from")
            low, high = float(field.min()), float(field.max())
        else:
            low, high = self.ranges[plate][channel]
        return np.clip((patch.astype(np.float32) - low) / max(high - low, 1e-6), 0.0, 1.0).astype(np.float32)

    def invert(self, values: np.ndarray, plate: str, channel: str) -> np.ndarray:
        """[0, 1] back to camera counts, for a plate's fixed range only."""
        if self.kind != "plate" or channel in self.stretched:
            raise ValueError("data.scaling=paper keeps no range to invert; train with data.scaling=plate")
        low, high = self.ranges[plate][channel]
        return values * (high - low) + low

    def state(self) -> dict[str, Any]:
        """A plain dict for the checkpoint."""
        state: dict[str, Any] = {"kind": self.kind, "ranges": self.ranges, "pixel_size": self.pixel_size}
        state |= {"stretched": self.stretched} if self.stretched else {}
        return state | ({} if self.prepared is None else {"prepared": self.prepared})

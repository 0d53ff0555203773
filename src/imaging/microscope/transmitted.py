"""Transmitted light: bright field, phase contrast and DIC of a thin object under a condenser of finite aperture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft

from .optics import pupil


@dataclass(frozen=True)
class Contrast:
    """One way to look through a specimen; lengths are micrometres and angles degrees.

    `focus` is the height of the specimen above the focal plane, `aperture` the numerical aperture of the condenser's
    disc (for phase contrast: of the middle of its ring), `rings` how many directions of light it is made of, from the
    middle outwards. DIC interferes two copies `shear` apart along `azimuth` (0: to the right, 90: down) with a phase
    of `bias` between them. The phase plate covers `aperture` +- `ring` and passes `plate` of the intensity, a quarter
    wave behind. Raises ValueError for numbers without a meaning.
    """

    kind: Literal["dic", "phase", "brightfield"]
    focus: float = 0.0
    aperture: float = 0.25
    rings: tuple[int, ...] = (1, 8)
    wavelength: float = 0.55
    shear: float = 0.45
    azimuth: float = 45.0
    bias: float = 90.0
    ring: float = 0.03
    plate: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in ("dic", "phase", "brightfield"):
            raise ValueError(f"Contrast.kind is {self.kind!r}; choose dic, phase or brightfield")
        if min((self.aperture, self.wavelength, self.ring, self.plate)) <= 0 or self.plate > 1:
            raise ValueError("Contrast: aperture, wavelength and ring must be above 0, plate above 0 and at most 1")
        if not 0 < sum(self.rings) <= 64 or min(self.rings) < 1:
            raise ValueError(f"Contrast.rings is {self.rings}; give 1 to 64 directions, such as (1, 8) or (1, 6, 12)")
        if not 0 < abs(self.bias) <= 180:
            raise ValueError(f"Contrast.bias is {self.bias}; without a bias an empty field is black: give -180 to 180")

    def source(self) -> np.ndarray:
        """Directions of the condenser's light, n x 2 (y, x) as numerical apertures, each of the same brightness.

        A disc is cut into rings of equal area per direction; the light of phase contrast comes from one ring.
        """
        total, before, points = sum(self.rings), 0, []
        for count in self.rings:
            middle = 0.0 if count == 1 else np.sqrt((2 * before + count) / (2 * total))
            radius = self.aperture * (1.0 if self.kind == "phase" else middle)
            turn = 2 * np.pi * (np.arange(count) + 0.5 * (before > 1)) / count
            points.append(radius * np.stack([np.sin(turn), np.cos(turn)], 1))
            before += count
        return np.concatenate(points)


def partially_coherent(
    transmittance: np.ndarray,
    contrast: Contrast,
    pixel_size: float,
    numerical_aperture: float,
    defocus: float = 0.0,
    refractive_index: float = 1.33,
    spherical: float = 0.0,
) -> np.ndarray:
    """Intensity of a thin object, float32 Y X, 1 in an empty field; `transmittance` is complex64 Y X and periodic.

    Sum over the directions of the condenser of |F^-1[P(f + s) D(f) F[t](f)]|^2: P is the objective's pupil with its
    signed defocus and the phase plate, s a direction rounded to the canvas' frequencies, and
    D(f) = sin(pi shear . f + bias / 2) the interference of DIC. Sources: Abbe's sum as in Goodman, Statistical
    Optics, ch. 7; DIC as in Mehta and Sheppard 2008, Opt. Express 16, 19462.
    """
    shape = transmittance.shape
    spectrum = scipy.fft.fftshift(scipy.fft.fft2(transmittance))
    step = [1.0 / (length * pixel_size) for length in shape]
    source = np.rint(contrast.source() / contrast.wavelength / step).astype(int)
    reach = np.abs(source).max(axis=0)
    ky, kx = (np.arange(-(n // 2) - r, n - n // 2 + r) for n, r in zip(shape, reach, strict=True))
    fy, fx = (np.arange(np.abs(k).max() + 1) * d for k, d in zip((ky, kx), step, strict=True))
    radius2 = (fy[:, None] ** 2 + fx**2).astype(np.float32)  # of one quadrant: the other three mirror it
    lens = _lens(radius2, contrast, numerical_aperture, defocus, refractive_index, spherical)
    empty = np.abs(lens[abs(source[:, 0]), abs(source[:, 1])]) ** 2
    lens = lens[np.abs(ky)][:, np.abs(kx)]
    if contrast.kind == "dic":
        angle, half = np.deg2rad(contrast.azimuth), np.deg2rad(contrast.bias) / 2
        dy = np.pi * contrast.shear * np.sin(angle) * step[0] * ky[reach[0] : reach[0] + shape[0]]
        dx = np.pi * contrast.shear * np.cos(angle) * step[1] * kx[reach[1] : reach[1] + shape[1]]
        spectrum *= np.sin(np.add.outer(dy.astype(np.float32), (dx + half).astype(np.float32)))
        empty *= np.sin(half) ** 2
    wave = np.empty_like(spectrum)
    power = np.zeros((*shape, 2), np.float32)  # of the real and the imaginary part
    for sy, sx in source + reach:
        np.multiply(spectrum, lens[sy : sy + shape[0], sx : sx + shape[1]], out=wave)
        parts = scipy.fft.ifft2(wave, overwrite_x=True).view(np.float32).reshape(power.shape)
        power += np.square(parts, out=parts)
    return (power[..., 0] + power[..., 1]) / np.float32(empty.sum())


def _lens(
    radius2: np.ndarray, contrast: Contrast, na: float, defocus: float, refractive_index: float, spherical: float
) -> np.ndarray:
    """The objective's complex pupil at squared frequencies, complex64."""
    inside, waves = pupil(radius2, na, contrast.wavelength, defocus, refractive_index, spherical)
    waves *= np.float32(2 * np.pi)
    lens = np.empty(radius2.shape, np.complex64)
    lens.real, lens.imag = np.cos(waves), np.sin(waves)
    lens *= inside
    if contrast.kind == "phase":
        na2 = radius2 * np.float32(contrast.wavelength**2)
        inner, outer = max(contrast.aperture - contrast.ring, 0.0) ** 2, (contrast.aperture + contrast.ring) ** 2
        lens[(na2 >= inner) & (na2 <= outer)] *= np.complex64(-1j * np.sqrt(contrast.plate))
    return lens

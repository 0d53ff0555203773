"""Optics: the point-spread function of a pupil, and its transfer function on a canvas."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft


@lru_cache(maxsize=64)
def pupil_psf(
    numerical_aperture: float,
    wavelength: float,
    pixel_size: float,
    defocus: float = 0.0,
    refractive_index: float = 1.33,
    spherical: float = 0.0,
) -> np.ndarray:
    """Intensity point-spread function integrated over pixels, float64 K K with K odd, sum 1; lengths in micrometres.

    `defocus` is the signed height of the emitter above the focal plane, `spherical` the primary spherical aberration in
    waves (it makes the two signs of defocus differ). Scalar pupil with the exact defocus phase. Source: Goodman,
    Introduction to Fourier Optics, ch. 6; Hanser et al. 2004, J. Microsc. 216, eq. 2. Raises ValueError where the
    aperture is not within 0 and the index.
    """
    if not 0.0 < numerical_aperture < refractive_index:
        raise ValueError(f"numerical_aperture is {numerical_aperture}; it must lie between 0 and {refractive_index}")
    cutoff = numerical_aperture / wavelength
    # The intensity carries twice the pupil's frequencies: sample it finely enough, with a pixel centre in the middle.
    over = int(np.ceil(4.0 * cutoff * pixel_size)) | 1
    slope = numerical_aperture / np.sqrt(refractive_index**2 - numerical_aperture**2)
    half = int(np.ceil((abs(defocus) * slope * 1.3 + 8.0 * wavelength / numerical_aperture) / pixel_size))
    size = (2 * half + 1) * over
    axis = np.fft.fftfreq(size, d=pixel_size / over)
    radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
    inside, path = pupil(radius2, numerical_aperture, wavelength, defocus, refractive_index, spherical)
    amplitude = scipy.fft.ifft2(inside * np.exp(2j * np.pi * path))
    fine = np.fft.fftshift(np.abs(amplitude) ** 2)
    psf = fine.reshape(2 * half + 1, over, 2 * half + 1, over).sum(axis=(1, 3))
    psf /= psf.sum()
    psf.flags.writeable = False
    return psf


def pupil(
    radius2: np.ndarray,
    numerical_aperture: float,
    wavelength: float,
    defocus: float,
    refractive_index: float,
    spherical: float,
) -> tuple[np.ndarray, np.ndarray]:
    """What an objective passes (bool) and its phase in waves at squared spatial frequencies `radius2` (per um^2)."""
    cutoff = numerical_aperture / wavelength
    inside = radius2 <= cutoff**2
    rho2 = np.where(inside, radius2, 0.0) / cutoff**2
    path = defocus * np.sqrt(refractive_index**2 - numerical_aperture**2 * rho2) / wavelength
    path += spherical * (6.0 * rho2**2 - 6.0 * rho2 + 1.0)
    return inside, path


def transfer(psf: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Transfer function of a centred kernel on a canvas of `shape` pixels, complex64 (Y, X // 2 + 1)."""
    canvas = np.zeros(shape, np.float32)
    half = psf.shape[0] // 2
    rows, columns = (np.arange(-half, half + 1) % shape[0])[:, None], (np.arange(-half, half + 1) % shape[1])[None, :]
    np.add.at(canvas, (rows, columns), psf)
    return scipy.fft.rfft2(canvas)


def haze_transfer(shape: tuple[int, int], length: float) -> np.ndarray:
    """Transfer function of haze that falls off as (r^2 + length^2)^(-3/2), real (Y, X // 2 + 1); length in pixels."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    return np.exp(-2.0 * np.pi * length * np.sqrt(fy * fy + fx * fx)).astype(np.float32)

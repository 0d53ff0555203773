"""Microscope: how a scene is seen, from the pupil to the counts of the camera."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import scipy.fft

from .optics import haze_transfer, pupil_psf, transfer
from .organelles import INDICES, ORGANELLES
from .scene import Scene
from .soiling import bubble, dust
from .transmitted import Contrast, partially_coherent


@dataclass(frozen=True)
class Channel:
    """One filter set: emission wavelength (micrometres) and what share of each dye's light it passes."""

    wavelength: float
    passes: Mapping[str, float]


def _channels() -> dict[str, Channel]:
    return {
        "nuclei": Channel(0.461, {"dna": 1.0, "junk": 0.12, "broad": 0.8, "medium": 1.0}),
        "artefacts": Channel(0.480, {"dna": 0.02, "junk": 1.0, "broad": 1.0, "medium": 0.4}),
        "er": Channel(0.525, {"er": 1.0, "junk": 0.2, "broad": 0.6, "medium": 0.6}),
        "golgi": Channel(0.603, {"golgi": 1.0, "cytosol": 0.25, "junk": 0.15, "broad": 0.5, "medium": 0.5}),
        "cytosol": Channel(0.509, {"cytosol": 1.0, "junk": 0.15, "broad": 0.4, "medium": 0.4}),
        "control": Channel(0.670, {"control": 1.0, "medium": 0.4}),
    }


def _contrasts() -> dict[str, Contrast]:
    return {
        "dic": Contrast("dic"),
        "phase": Contrast("phase", aperture=0.27, rings=(12,)),
        "brightfield": Contrast("brightfield", focus=-3.0),  # in focus, cells would hardly show
    }


@dataclass(frozen=True)
class Microscope:
    """A microscope with its camera; the defaults are a 20x screening microscope as in BBBC039.

    Lengths are micrometres; `photons` is what the mean pixel of a G1 nucleus gives; a count is `offset` + `gain` x
    (Poisson photons + read noise), rounded and clipped to `bits`. `vignetting` is the loss of light at the corner that
    is farthest from `lit` (the brightest point, as fractions of the height and width); `haze` is the share of the light
    that the long tails of `haze_length` hold.
    """

    numerical_aperture: float = 0.45
    refractive_index: float = 1.33
    spherical: float = 0.1
    focus: float = 2.5
    haze: float = 0.15
    haze_length: float = 1.8
    vignetting: float = 0.3
    lit: tuple[float, float] = (0.53, 0.42)
    photons: float = 1720.0
    offset: float = 95.0
    gain: float = 0.31
    read_noise: float = 5.0
    pixel_gain_sd: float = 0.005
    pixel_offset_sd: float = 0.5
    bits: int = 16
    camera_seed: int = 0
    channels: Mapping[str, Channel] = field(default_factory=_channels)
    contrasts: Mapping[str, Contrast] = field(default_factory=_contrasts)
    indices: Mapping[str, float] = field(default_factory=lambda: dict(INDICES))
    lamp: float = 1000.0
    exposure: float = 30.0
    shading: float = 0.05
    dust: float = 8.0
    bubble: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in (8, 10, 12, 14, 16):
            raise ValueError(f"Microscope.bits is {self.bits}; choose 8, 10, 12, 14 or 16")
        for name in ("photons", "gain", "haze_length", "lamp", "exposure"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Microscope.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("haze", "vignetting", "shading"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Microscope.{name} is {getattr(self, name)}; it must lie between 0 and 1")
        for name in ("dust", "bubble"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"Microscope.{name} is {getattr(self, name)}; it must be 0 or more")
        for name, contrast in self.contrasts.items():
            if contrast.aperture >= self.numerical_aperture:
                raise ValueError(
                    f"Microscope.contrasts: the condenser's aperture of {name!r} is {contrast.aperture}; its light "
                    f"would miss the objective: keep it below numerical_aperture, {self.numerical_aperture}"
                )
        if wrong := sorted(set(self.indices) ^ set(INDICES)):
            raise ValueError(f"Microscope.indices: {wrong[0]!r} is missing or unknown; give {', '.join(INDICES)}")

    def image(
        self, scene: Scene, modality: str = "fluorescence", channel: str = "nuclei", seed: int | None = None
    ) -> np.ndarray:
        """Picture of a scene, uint16 Y X in camera counts, 0..2**bits - 1.

        `modality` is fluorescence, in one of `channels`, or one of `contrasts` (transmitted light), which `channel` may
        name as well. `seed` is that of the noise; without one it follows from the scene's seed and the name, so a
        picture can be drawn again. Raises ValueError for an unknown modality or channel.
        """
        name = channel if modality == "fluorescence" else modality
        light = self.transmitted(scene, name) if name in self.contrasts else self.fluorescence(scene, name)
        noise_seed = (scene.seed, zlib.crc32(name.encode())) if seed is None else (seed,)
        return self.expose(light, np.random.default_rng(noise_seed))

    def fluorescence(self, scene: Scene, channel: str = "nuclei") -> np.ndarray:
        """Expected photons of one channel before the camera, float32 Y X."""
        optics = self._known(channel, self.channels)
        canvas = scene.layers[0].density.shape
        haze = self.haze * haze_transfer(canvas, self.haze_length / scene.pixel_size)
        spectrum = np.zeros((canvas[0], canvas[1] // 2 + 1), np.complex64)
        blurred = np.zeros(canvas, np.float32)
        stained = [scene.organelle(name) for name in ORGANELLES if optics.passes.get(name)]
        for layer in (*scene.layers, *stained):
            share = optics.passes.get(layer.dye, 0.0)
            if share == 0.0:
                continue
            psf = pupil_psf(
                self.numerical_aperture,
                optics.wavelength,
                scene.pixel_size * layer.step,
                layer.height + scene.focus + self.focus,
                self.refractive_index,
                self.spherical,
            )
            density = layer.density
            if layer.dye in ("dna", *ORGANELLES) and scene.transmission is not None:
                density = density * scene.transmission
            light = scipy.fft.rfft2(density)
            light *= np.float32(share)
            if layer.step == 1:
                light *= (1.0 - self.haze) * transfer(psf, canvas) + haze
                spectrum += light
            else:
                rough = scipy.fft.irfft2(light * transfer(psf, density.shape), s=density.shape)
                blurred += cv2.resize(rough, canvas[::-1], interpolation=cv2.INTER_CUBIC)
        blurred += scipy.fft.irfft2(spectrum, s=canvas)
        seen = blurred[scene.window]
        medium = optics.passes.get("medium", 0.0) * scene.phenotype.medium
        return (np.maximum(seen, 0.0) + np.float32(medium)) * (
            self.illumination(scene.shape) * np.float32(self.photons)
        )

    def transmitted(self, scene: Scene, channel: str = "dic") -> np.ndarray:
        """Expected photons of one contrast before the camera, float32 Y X."""
        contrast = self._known(channel, self.contrasts)
        path = scene.optical_path(self.indices)
        amplitude = np.ones_like(path) if scene.transmission is None else np.sqrt(scene.transmission)
        if self.bubble > 0.0:
            rim, lens = bubble(self.camera_seed, path.shape, self.bubble, scene.pixel_size)
            amplitude, path = amplitude * rim, path + lens
        path *= np.float32(2 * np.pi / contrast.wavelength)
        wave = np.empty(path.shape, np.complex64)
        wave.real, wave.imag = amplitude * np.cos(path), amplitude * np.sin(path)
        image = partially_coherent(
            wave,
            contrast,
            scene.pixel_size,
            self.numerical_aperture,
            contrast.focus + scene.focus,
            self.refractive_index,
            self.spherical,
        )[scene.window]
        lamp = self.illumination(scene.shape, self.shading) * dust(self.camera_seed, scene.shape, self.dust)
        return image * (lamp * np.float32(self.lamp * self.exposure))

    def _known(self, channel: str, among: Mapping[str, Any]) -> Any:
        if channel not in among:
            raise ValueError(
                f"Microscope.image: unknown channel or modality {channel!r}; choose from fluorescence "
                f"({', '.join(self.channels)}), {', '.join(self.contrasts)}"
            )
        return among[channel]

    def illumination(self, shape: tuple[int, int], vignetting: float | None = None) -> np.ndarray:
        """Relative illumination of the field, float32 Y X, 1 at the brightest point."""
        vignetting = self.vignetting if vignetting is None else vignetting
        y = (np.arange(shape[0], dtype=np.float32) + 0.5) / shape[0] - self.lit[0]
        x = (np.arange(shape[1], dtype=np.float32) + 0.5) / shape[1] - self.lit[1]
        farthest = max(self.lit[0], 1 - self.lit[0]) ** 2 + max(self.lit[1], 1 - self.lit[1]) ** 2
        return (1.0 - vignetting / farthest * (y[:, None] ** 2 + x[None, :] ** 2)).astype(np.float32)

    def expose(self, photons: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Camera counts for expected photons (Y X): Poisson and read noise, fixed pattern, gain, offset and clipping.

        Over 50 photons the Poisson law is drawn as a normal one of the same mean and variance, four times quicker.
        """
        pixel_gain, pixel_offset = _fixed_pattern(
            self.camera_seed, photons.shape, self.pixel_gain_sd, self.pixel_offset_sd
        )
        mean = np.asarray(photons, np.float32) * pixel_gain
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        electrons = mean + noise * np.sqrt(np.maximum(mean, 0.0) + np.float32(self.read_noise**2))
        dim = mean < 50.0
        if dim.any():
            read = rng.standard_normal(int(dim.sum()), dtype=np.float32) * np.float32(self.read_noise)
            electrons[dim] = rng.poisson(mean[dim]) + read
        counts = np.float32(self.offset) + np.float32(self.gain) * electrons + pixel_offset
        return np.clip(np.rint(counts), 0, 2**self.bits - 1).astype(np.uint16)


@lru_cache(maxsize=4)
def _fixed_pattern(
    seed: int, shape: tuple[int, int], gain_sd: float, offset_sd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Per-pixel gain (about 1) and offset (counts, about 0) of one camera, float32 Y X each."""
    rng = np.random.default_rng(seed)
    gain = 1.0 + np.float32(gain_sd) * rng.standard_normal(shape, dtype=np.float32)
    return gain, np.float32(offset_sd) * rng.standard_normal(shape, dtype=np.float32)

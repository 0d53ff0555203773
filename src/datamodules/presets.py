"""File names of microscopes and data sets: what each part of a path says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_WELL = r"(?P<well>(?:[A-Z]|A[A-F])\d{1,2})"  # up to 1536 wells
_PLATE = r"(?:(?P<plate>[^/]+?)_)??"  # shortest first: in b03_s4_w1 the well is b03
_GUID = r"(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})?"
_WORD = r"(?:[^/]*[^A-Za-z0-9/])?"  # whatever stands before a word of a file's name
_END = r"(?=[^A-Za-z0-9/])"


@dataclass(frozen=True)
class Layout:
    """How one microscope or data set names its files.

    `pattern` is searched in the path relative to the root, with "/" between folders; its groups are well, or row and
    column; and plate, field and channel where the names have them. Files that differ in `exposure` alone are fields of
    their own with one parent. `objects` gives, per channel, the path of the label image from the folder of the image.
    `paired` is a channel that each field has beside another one: files without their partner are no field, unless they
    are all that is wanted. A `phenotype` in the name becomes a column; without a well it stands for one, since a well
    holds one phenotype.
    """

    pattern: str
    pixel_size: float | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    paired: str | None = None


PRESETS: dict[str, Layout] = {
    "bbbc039": Layout(
        rf"(?:^|/)images/IXMtest_{_WELL}_s(?P<field>\d+)_(?P<channel>w\d){_GUID}\.tif$",
        pixel_size=0.65,
        channels={"w1": "nuclei"},
        objects={"nuclei": "../masks/{stem}.png"},
    ),
    # MetaXpress leaves out _s of a single site and _w of a single wavelength; then its TimePoint folder must speak.
    "imagexpress": Layout(
        rf"^(?=.*(?:_[sw]\d[^/]*|TimePoint_\d+/[^/]*)$)(?:.*/)?{_PLATE}{_WELL}"
        rf"(?:_s(?P<field>\d+))?(?:_(?P<channel>w\d{{1,2}}))?{_GUID}\.tiff?$"
    ),
    # Harmony and Columbus add date and measurement to the plate's name: a second measurement is the same plate.
    "opera_phenix": Layout(
        r"(?:^|(?:^|/)(?P<plate>[^/]+?)(?:__\d{4}-\d\d-\d\dT[\d_]+-Measurement ?\d+)?/Images/|/)"
        r"r(?P<row>\d\d)c(?P<column>\d\d)f(?P<field>\d+)p\d+-(?P<channel>ch\d+)sk\d+fk\d+fl\d+\.tiff?$"
    ),
    # Yokogawa CV7000 and CV8000: time, field, time line, action, plane, channel.
    "cellvoyager": Layout(
        rf"(?:^|/)(?P<plate>[^/]+)_{_WELL}_T\d{{4}}F(?P<field>\d{{3}})L\d\dA\d\dZ\d\d(?P<channel>C\d\d)\.(?:tiff?|png)$"
    ),
    # Gen5: read step (negative for processed images), channel number, field, channel, time.
    "cytation": Layout(rf"(?:^|/){_WELL}_-?\d+_\d+_(?P<field>\d+)(?:Z\d+)?_(?P<channel>[^/_]+)_\d+\.tiff?$"),
    # Sharma & Yakimovich, RODARE 2023: each stain in six exposures (w1 to w6) as an acquisition of its own. The names
    # are those that the authors' code reads (casus/PhIRM, scikiImage_generator.py), not seen in the data set itself.
    # Its third acquisition (dapi-gfp-tritc-cy5) has no artefact channel and is left out.
    "phirm_artefacts": Layout(
        rf"(?:^|/)(?P<plate>[^/]+?)-6(?P<channel>dapi|cfp)_{_WELL}_s(?P<field>\d+)_w(?P<exposure>\d){_GUID}\.tiff?$",
        channels={"dapi": "nuclei", "cfp": "artefacts"},
    ),
    # The label-free thesis: plate / DIC and one folder per stain, named by its molecule; a file's name holds an index
    # from 1 to 100 and the phenotype, in either order. Names with a second number of up to 3 digits are not guessed at.
    # Positions are random, so no well is known. What another stain shows is told with --channel.
    "cho_pairs": Layout(
        rf"(?:^|(?:^|/)(?P<plate>[^/]+)/)(?P<channel>[^/]+)/(?={_WORD}(?P<phenotype>CHOZN|PHX|H19){_END})"
        rf"(?!{_WORD}\d{{1,3}}{_END}.{_WORD}\d{{1,3}}{_END})(?={_WORD}0*(?P<field>100|[1-9]\d?){_END})[^/]*\.tiff?$",
        channels={"dic": "dic", "hoechst": "nuclei", "dapi": "nuclei"},
        paired="dic",
    ),
    # Letters from Q on are sites, times, waves and planes here.
    "plain": Layout(
        rf"(?:^|/){_PLATE}(?P<well>(?:[A-P]|A[A-F])\d{{1,2}})_(?P<field>[^/_]+)_(?P<channel>[A-Za-z][^/]*)\.(?:tiff?|png)$"
    ),
}

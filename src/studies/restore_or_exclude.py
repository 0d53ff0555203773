"""A part of a field is damaged: keep it, exclude it, restore it, or drop the field? Judged by the well's readouts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from ..imaging import fills as fill_methods
from ..models.fills import METHODS, NEEDS
from . import policy_errors as errors
from .damage import Damage
from .judged import ALPHA, FEW_WELLS
from .policies import READOUTS, Tally, cut_labels, field_threshold, readouts, segment_visible, tally
from .policy_errors import AREA
from .policy_figures import PolicyPicture, error_against_area, policy_pictures
from .result import StudyResult
from .subject import FieldOfView, Study, Subject

TOLERANCE = 0.05  # an area of 20 % is a hole of 19 to 21 % of the field
Treated = tuple[str, str, np.ndarray, np.ndarray]  # policy, its kind, the picture, what of it is measured (bool Y X)


class RestoreOrExclude(Study):
    """Compares what a lab can do with a damaged part of a field, by bias and RMSE of each well's readouts.

    In every test well one field (`damaged_fields="one"`, drawn by seed and well) or every field ("all") gets a hole of
    each share in `areas`, drawn by the data's masks, and its pixels are damaged in each way of `damage`. Policies: keep
    the damaged picture; exclude the hole and divide by the visible area; restore with the model and with each of
    `fills`; drop the field, so that the well's other fields stand for it, or else the mean of the plate's other wells.
    The truth of a well is the same measurement of its intact fields. `threshold="plate"` cuts every picture, the
    truth's too, at the median of Otsu's thresholds of the plate's intact fields, as a lab sets one for a plate: no
    policy moves the ruler. "field" cuts each at its own threshold, of the pixels that are measured: what moves it is an
    error of the policy. Raises ValueError for a choice that does not exist, or too few resamples for Holm's correction.
    """

    needs_model = True

    def __init__(
        self,
        areas: Sequence[float],
        damage: Mapping[str, Damage],
        fills: Sequence[str],
        focus_area: float,
        damaged_fields: str = "one",
        threshold: str = "plate",
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        self.areas = sorted(float(area) for area in areas)
        if not self.areas or not 0 < self.areas[0] <= self.areas[-1] <= 0.9:
            raise ValueError(f"study.areas are {list(areas)}: give shares of the field above 0, at most 0.9")
        if focus_area not in self.areas:
            raise ValueError(f"study.focus_area {focus_area} is not among study.areas {self.areas}: name one of them")
        if damaged_fields not in ("one", "all"):
            raise ValueError(f"study.damaged_fields is {damaged_fields!r}: choose one or all")
        if threshold not in ("plate", "field"):
            raise ValueError(f"study.threshold is {threshold!r}: choose plate or field")
        usable = [name for name in METHODS if name not in NEEDS]
        if wrong := [name for name in fills if name not in usable]:
            raise ValueError(f"study.fills names {wrong[0]!r}: choose among {', '.join(usable)}")
        tests = len(self.areas) * len(READOUTS)
        if 2 * tests / (n_bootstrap + 1) >= ALPHA:
            raise ValueError(
                f"study.n_bootstrap={n_bootstrap} gives no p below {ALPHA} after Holm's correction of {tests} tests: "
                f"use at least {int(2 * tests / ALPHA)}"
            )
        if not damage:
            raise ValueError("study.damage is empty: name at least one way in which the hole is damaged")
        self.damage, self.fills, self.focus = dict(damage), list(fills), float(focus_area)
        self.damaged_fields, self.threshold = damaged_fields, threshold
        self.n_bootstrap, self.seed = n_bootstrap, seed

    def check(self, datamodule: Any) -> None:
        """Refuses data without test fields or a range to invert, or with several channels (nuclei are in the first)."""
        super().check(datamodule)
        if len(datamodule.channels) != 1:
            raise ValueError(
                f"restore_or_exclude measures nuclei in one channel, data.channels are {datamodule.channels}: name one"
            )
        if datamodule.scaling.kind == "paper":
            raise ValueError("restore_or_exclude needs camera counts back, which data.scaling=paper keeps no range for")
        if not (datamodule.index["split"] == "test").any():
            raise ValueError("the data have no test fields: give data.fractions or the index's split column some")

    def run(self, subject: Subject) -> StudyResult:
        """Damage, treat and measure the test fields; return tables, figures and what they say."""
        fields = self.measure(subject)
        wells = errors.errors_by_well(fields)
        policies = errors.policy_table(wells, self.n_bootstrap, self.seed)
        comparisons = errors.comparison_table(wells, policies, self.fills, self.n_bootstrap, self.seed)
        tables = {
            "crossings": errors.crossing_table(comparisons, policies),
            "comparisons": comparisons,
            "policies": policies,
        }
        if errors.ANNOTATED in set(fields["policy"]):
            tables["ruler"] = errors.ruler_table(fields, self.n_bootstrap, self.seed)
        name, example = self._example(subject, fields)
        figures = {
            "rmse_by_hole_area": error_against_area(policies, "RMSE (%)", AREA),
            "bias_by_hole_area": error_against_area(policies, "bias (%)", AREA),
            "example": policy_pictures(example),
        }
        tables |= {"wells": wells, "fields": fields}
        wells_judged = wells["group"].nunique()
        size = f"n = {wells_judged} well{'s' * (wells_judged != 1)}"
        leaky = " Leaky split." if subject.leaky_split else ""
        few = f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if wells_judged < FEW_WELLS else ""
        captions = self._captions(name, size + leaky)
        return StudyResult(
            title="Restore or exclude? What a damaged part of a field costs the well",
            tables=tables,
            figures=figures,
            main="crossings",
            notes=self._notes(fields, wells, subject.leaky_split),
            captions={key: text for key, text in captions.items() if key in tables or key in figures},
            verdict=_verdict(tables["crossings"], policies, self.focus, size) + few + leaky,
        )

    def measure(self, subject: Subject) -> pd.DataFrame:
        """A row per field, policy and hole: the tally; policy "intact" is the truth, "annotated" its true instances.

        The column threshold is NaN where each picture has its own. Raises ValueError for a plate without nuclei, or a
        model that changes known pixels.
        """
        index = subject.datamodule.index
        test = index[index["split"] == "test"]
        chosen, thresholds = self._damaged(test), self._thresholds(subject)
        rows = []
        for field in track(subject.fields("test"), description="damaging fields", total=len(test), transient=True):
            key: dict[str, object] = {
                "id": field.id,
                "group": field.group,
                "plate": field.plate,
                "damaged": field.id in chosen,
            }
            whole, threshold = np.ones(field.image.shape, bool), thresholds[field.plate]
            key["threshold"] = np.nan if threshold is None else threshold
            intact = segment_visible(field.image, whole, field.pixel_size, threshold)
            rows.append(key | _row(errors.INTACT, "truth", 0.0, tally(intact, field.image, whole, field.pixel_size)))
            if field.objects is not None:
                known = tally(field.objects, field.image, whole, field.pixel_size)
                rows.append(key | _row(errors.ANNOTATED, "truth", 0.0, known))
            for area in self.areas if field.id in chosen else []:
                for policy, kind, picture, visible in self._treated(subject, field, area):
                    labels = segment_visible(picture, visible, field.pixel_size, threshold)
                    rows.append(key | _row(policy, kind, area, tally(labels, picture, visible, field.pixel_size)))
        return pd.DataFrame(rows)

    def _thresholds(self, subject: Subject) -> dict[str, float | None]:
        """The threshold of each plate; None where each picture has its own."""
        found: dict[str, list[float]] = {}
        for field in subject.fields("test"):
            found.setdefault(field.plate, []).append(
                field_threshold(field.image, field.pixel_size) if self.threshold == "plate" else np.nan
            )
        if self.threshold == "field":
            return dict.fromkeys(found)
        empty = [plate for plate, values in found.items() if np.isnan(values).all()]
        if empty:
            raise ValueError(f"plate {empty[0]!r} has no nuclei in any test field: there is nothing to compare")
        return {plate: float(np.nanmedian(values)) for plate, values in found.items()}

    def _damaged(self, test: pd.DataFrame) -> set[str]:
        """The ids of the fields that are damaged."""
        if self.damaged_fields == "all":
            return set(test["id"].astype(str))
        return {
            str(np.random.default_rng([self.seed, zlib.crc32(str(group).encode())]).choice(sorted(ids.astype(str))))
            for group, ids in test.groupby("group")["id"]
        }

    def _hole(self, subject: Subject, field: FieldOfView, area: float) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self.seed, zlib.crc32(f"{field.id} {area}".encode())])
        band = (area * (1 - TOLERANCE), area * (1 + TOLERANCE))
        return subject.datamodule.masks.draw(rng, field.image.shape, band), rng

    def _treated(self, subject: Subject, field: FieldOfView, area: float) -> Iterator[Treated]:
        """The damaged field under each policy that measures it."""
        mask, rng = self._hole(subject, field, area)
        hole, whole = mask != 0, np.ones(mask.shape, bool)
        damaged = field.image
        for name, damage in self.damage.items():
            damaged = damage(field.image, mask, rng, field.pixel_size)
            yield errors.KEEP.format(name), "keep", damaged, whole
        # The damaged picture is all a lab has; what lies in the hole must not matter from here on.
        yield errors.EXCLUDE, "exclude", damaged, ~hole
        restored = subject.predictor.predict(damaged, mask, plate=field.plate, pixel_size=field.pixel_size)
        if not np.array_equal(restored[~hole], damaged[~hole]):
            raise ValueError(f"{field.id}: the model changed pixels outside the mask, so it was not judged")
        yield errors.MODEL, "model", restored, whole
        for name in self.fills:
            filled = getattr(fill_methods, name)(damaged, mask)
            if damaged.dtype.kind == "u":
                filled = np.rint(filled).astype(damaged.dtype)
            yield errors.RESTORE.format(name), f"{METHODS[name]} fill", filled, whole

    def _example(self, subject: Subject, fields: pd.DataFrame) -> tuple[str, list[PolicyPicture]]:
        """The damaged field with the median count, as each policy sees it."""
        intact = fields[(fields["policy"] == errors.INTACT) & fields["damaged"]].sort_values(["nuclei", "id"])
        chosen = intact.iloc[len(intact) // 2]
        name, threshold = str(chosen["id"]), None if np.isnan(chosen["threshold"]) else float(chosen["threshold"])
        field = next(field for field in subject.fields("test") if field.id == name)
        mask, _ = self._hole(subject, field, self.focus)
        whole = np.ones(mask.shape, bool)
        treated = [(errors.INTACT, "truth", field.image, whole), *self._treated(subject, field, self.focus)]
        pictures = []
        for policy, _, picture, visible in treated:
            labels = segment_visible(picture, visible, field.pixel_size, threshold)
            count = readouts(pd.DataFrame([tally(labels, picture, visible, field.pixel_size)]))["count"].iloc[0]
            title = f"{policy}\n{count:.0f} nuclei per mm2"
            pictures.append(PolicyPicture(title, picture, labels, cut_labels(labels, visible), visible, mask))
        return name, pictures

    def _captions(self, name: str, size: str) -> dict[str, str]:
        interval = f"Brackets and bars: 95 % bootstrap intervals over wells, {size}."
        errors_are = "Errors are in % of the mean truth over wells."
        return {
            "crossings": "From which share of the field on the model's picture gives a lower RMSE of the well's "
            "readout than excluding the area, at this and every larger share tried, after Holm's correction. Lowest "
            f"RMSE: of all policies, as estimated, tested or not; {size}.",
            "comparisons": "RMSE of the model's restoration less the rival's, over the same resamples: below 0, the "
            "model is better. Best fill: chosen by its RMSE here, which favours it. p Holm: corrected over the rows of "
            f"one question. {errors_are} {interval}",
            "policies": f"{errors_are} Spearman: ranks of the wells, truth against policy. {interval}",
            "ruler": "The ruler itself: the intact fields as segmented here against their annotated nuclei. "
            f"{errors_are} {interval}",
            "wells": "One row per well, readout, policy and area; empty where a readout is not defined. Replaced: the "
            f"mean of the plate's other wells stands for the well; {size}.",
            "fields": "What was summed in each field: nuclei (cut ones half), their area (um2), light (counts above "
            f"background) and the area looked at (mm2); {size}.",
            "rmse_by_hole_area": f"Root mean square error of the well's readout against the damaged share. {interval}",
            "bias_by_hole_area": f"Mean error of the well's readout against the damaged share. {interval}",
            "example": f"{name}, {_percent(self.focus):g} % of it damaged, as each policy sees it. Outlines: nuclei as "
            "measured (green), and those cut by an edge, which count half (pink); hatched: not measured. One grey "
            "scale. Dropping the field has no picture.",
        }

    def _notes(self, fields: pd.DataFrame, wells: pd.DataFrame, leaky_split: bool) -> list[str]:
        intact = fields[fields["policy"] == errors.INTACT]
        spared = set(intact.loc[~intact["damaged"], "group"])
        alone = intact["group"].nunique() - len(spared)
        ruler = (
            "Every picture is cut at one threshold per plate, the median of Otsu's thresholds of its intact fields, so "
            "that no policy moves the ruler; where a lab lets each field find its own, see study.threshold=field."
            if self.threshold == "plate"
            else "Every picture is cut at Otsu's threshold of the pixels that are measured in it (excluding: the "
            "visible ones): what moves it is an error of the policy."
        )
        notes = [
            f"{int(intact['damaged'].sum())} of {len(intact)} fields were damaged. Each well is judged as if it alone "
            "were damaged: the plate's other wells are intact.",
            f"The truth is the same measurement of the intact field; a perfect restoration has no error. {ruler}",
            "A nucleus cut by the hole's edge or the field's border counts half, in the truth as well: on average half "
            "of it lies inside. Means per nucleus are summed area or light over this count.",
            "All damage lies inside the mask, and the mask is known exactly. Both favour excluding and restoring.",
            f"Dropping the field: the well's other fields stand for it. {alone} of {intact['group'].nunique()} wells "
            "have no other; the mean of the plate's other test wells stands for those, which has no bias over a plate "
            "by construction, and ranks nothing.",
            "Errors of wells are pooled and divided by the mean truth, so that nearly empty wells do not rule.",
        ]
        undefined = wells[wells["error"].isna()].groupby("policy", sort=False)["group"].nunique()
        if len(undefined):
            lost = ", ".join(f"{policy} {count}" for policy, count in undefined.items())
            notes.append(f"Wells in which a readout was not defined at some area, and is left out there: {lost}.")
        if leaky_split:
            notes.insert(0, "Leaky split: images of one well are on both sides, so the model's errors are too small.")
        return notes


def _row(policy: str, kind: str, area: float, sums: Tally) -> dict[str, object]:
    return {"policy": policy, "kind": kind, AREA: _percent(area), **sums._asdict()}


def _verdict(crossings: pd.DataFrame, policies: pd.DataFrame, focus: float, size: str) -> str:
    """From where restoring wins, where it loses, and the errors at the focus area."""
    parts = []
    for start, rows in crossings.groupby("restoring wins from", sort=False):
        where = "nowhere" if start == "nowhere" else f"from {start} of the field on"
        parts.append(f"{where} for {_listed(rows['readout'])}")
    told = f"Restoring with the model beats excluding the area {'; '.join(parts)} ({size}). "
    worse = crossings[crossings["loses at"] != "none"]
    if len(worse):
        places = "; ".join(f"{name} at {at}" for name, at in zip(worse["readout"], worse["loses at"], strict=True))
        told += f"Excluding beats restoring for {places}. "
    at = policies[(policies[AREA] == _percent(focus)) & (policies["readout"] == "count")]
    scores = at.set_index("policy")["RMSE (%)"].sort_values()
    listed = ", ".join(f"{name} {value:.1f} %" for name, value in scores.dropna().items())
    return f"{told}RMSE of the well's count with {_percent(focus):g} % damaged: {listed}."


def _listed(names: pd.Series) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else str(last)


def _percent(share: float) -> float:
    return round(100 * share, 6)

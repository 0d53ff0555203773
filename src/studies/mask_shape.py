"""Does the area of a hole decide what is lost, or its shape? Figure 3 of the PhIRM paper, with matched rectangles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from ..datamodules.patches import collate
from ..imaging.masks import PAPER_BANDS
from ..models.fills import METHODS
from . import judged
from . import mask_shape_models as models
from . import mask_shape_words as words
from .figures import example_pictures
from .judged import NETWORK, label_of
from .mask_shape_figures import differences, paired_shapes, score_by_area, score_by_radius
from .mask_shape_masks import ARTEFACT, RECTANGLE, STROKES
from .mask_shape_models import SCORES
from .mask_shape_pairs import Artefacts, Hole, Shaped, draw_pairs, hole_table, patch
from .result import StudyResult
from .subject import Study, Subject

BALANCED = ("area", "covered", "touched", "radius (um)", "dilation (um)")


class MaskShape(Study):
    """Compares holes of strokes and of artefacts' outlines with rectangles of the same area and covered nuclei.

    On `patches` test patches, in every band: an irregular hole of each kind and a rectangle matched to it within
    `area_tolerance` (studies/mask_shape_masks.py). `checkpoints` and `fills` are judged on all of them; with several
    training seeds an image's scores are averaged over them. Differences within `margins` count as none (TOST). Raises
    ValueError for settings, or data, that cannot be used.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str | Sequence[str]] | None,
        fills: Sequence[str],
        margins: Mapping[str, float],
        bands: Sequence[Sequence[float]] = PAPER_BANDS,
        patches: int = 32,
        artefact_channel: str = "artefacts",
        area_tolerance: float = 0.02,
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        self.checkpoints, self.fills = dict(checkpoints or {}), list(fills)
        if wrong := [name for name in self.fills if name not in METHODS]:
            raise ValueError(f"study.fills names {wrong[0]!r}: choose among {', '.join(METHODS)}")
        if clash := sorted(set(self.checkpoints) & set(self.fills)):
            raise ValueError(f"study.checkpoints: {clash[0]!r} is the name of a fill; choose another label")
        if set(margins) != set(SCORES) or not all(value > 0 for value in margins.values()):
            raise ValueError(f"study.margins is {dict(margins)}: give each of {', '.join(SCORES)} a margin above 0")
        if patches < 1 or not 0 <= area_tolerance < 0.5:
            raise ValueError(
                f"study.patches is {patches} and study.area_tolerance {area_tolerance:g}: give 1 patch or more, and a "
                "share below 0.5"
            )
        self.margins, self.patches, self.tolerance = dict(margins), patches, area_tolerance
        self.bands = sorted((float(low), float(high)) for low, high in bands)
        self.channel, self.n_bootstrap, self.seed = artefact_channel, n_bootstrap, seed

    def check(self, datamodule: Any) -> None:
        """Refuses data without test patches."""
        super().check(datamodule)
        datamodule.patches("test")

    def run(self, subject: Subject) -> StudyResult:
        """Draw the pairs, judge every method on them, and return tables, figures, verdict and notes."""
        assert subject.judge is not None
        assert subject.origin is not None
        named = judged.contestants(subject, self.checkpoints)
        family = max(len(named), len(self.fills)) * len(SCORES) * len(models.SHAPES)
        judged.check_resamples(self.n_bootstrap, family)
        data = subject.datamodule
        patches, artefacts = data.patches("test"), Artefacts(data, self.channel, self.seed)
        drawn = draw_pairs(patches, artefacts, self.bands, self.patches, self.tolerance, self.seed)
        pixel_size = float(data.zoom.scale * data.index["pixel_size"].median())
        holes = hole_table(drawn.holes, data.index, pixel_size)
        lacking = [shape for shape in (STROKES, ARTEFACT) if holes.empty or not (holes["of"] == shape).any()]
        if lacking:
            raise ValueError(
                f"no hole of {lacking[0]} could be matched by a rectangle (left out: {dict(drawn.left_out)}): give "
                "more study.patches, a larger study.area_tolerance or patches with more nuclei"
            )
        images = self._judge_all(subject, named, Shaped(patches, drawn.holes), holes)
        paired = models.paired_differences(images, self.margins, self.n_bootstrap, self.seed)
        mixed = models.mixed_models(images)
        networks = images[images["kind"] == NETWORK]
        figures = {
            "paired": paired_shapes(networks),
            "differences": differences(paired, self.margins),
            "score_by_area": score_by_area(networks, [label_of(band) for band in self.bands]),
            "score_by_radius": score_by_radius(networks),
        }
        first = next(iter(named))
        figures["examples"] = self._examples(
            subject, named[first][0], patches, drawn.holes, images[images["method"] == first]
        )
        leaky = [label for label, names in named.items() if any(subject.origin(name).leaky for name in names)]
        said = " Leaky split." if subject.leaky_split else f" Leaky split: {', '.join(leaky)}." if leaky else ""
        wells = int(holes["group"].nunique())
        few = f" Fewer than {judged.FEW_WELLS} wells: a hint, not yet a finding." if wells < judged.FEW_WELLS else ""
        return StudyResult(
            title="Mask shape: does the hole's area decide, or its shape?",
            tables={
                "paired_differences": paired,
                "mixed_models": mixed,
                "matching": self._matching(holes),
                "per_image": images,
            },
            figures=figures,
            main="paired_differences",
            notes=words.notes(
                holes,
                drawn,
                artefacts,
                named,
                leaky,
                subject.leaky_split,
                judged.unit_notes(wells, self.n_bootstrap, self.seed),
                self.tolerance,
            ),
            captions=words.captions(holes, self.margins, first, said),
            verdict="\n".join(words.verdict(label, paired, mixed) for label in named) + few + said,
        )

    def _judge_all(
        self, subject: Subject, named: Mapping[str, Sequence[str | None]], samples: Shaped, holes: pd.DataFrame
    ) -> pd.DataFrame:
        """Per-image rows of every method on the same holes, with what is known of each hole."""
        assert subject.judge is not None
        everyone = {**named, **{name: [name] for name in self.fills}}
        parts, first = [], None
        for label, names in everyone.items():
            table, _ = judged.judged_label(lambda name: subject.judge(name, samples), label, names)  # type: ignore[misc, arg-type]
            first = table if first is None else first
            judged.check_table(table, label, first)
            whole = holes.merge(table.drop(columns=["group", "mask_area"]), on="id", validate="one_to_one")
            if len(whole) < len(holes):
                raise ValueError(
                    f"{label} was judged on {len(whole)} of {len(holes)} holes: judge the whole test split"
                )
            parts.append(whole.assign(kind=NETWORK if label in named else METHODS[label] + " fill"))
        images = pd.concat(parts, ignore_index=True)
        return images[["method", "kind", *(name for name in images if name not in ("method", "kind"))]]

    def _matching(self, holes: pd.DataFrame) -> pd.DataFrame:
        """How alike the members of the pairs are: means of each, by irregular shape."""
        rows = []
        for (of, shape), table in holes.groupby(["of", "shape"], sort=False):
            rows.append({"pairs of": of, "shape": shape, **table[list(BALANCED)].mean(), "holes": len(table),
                         "wells": table["group"].nunique()})  # fmt: skip
        return pd.DataFrame(rows)

    def _examples(
        self, subject: Subject, name: str | None, patches: Any, holes: Sequence[Hole], images: pd.DataFrame
    ) -> Any:
        """One patch under the holes of both pairs, restored: the one whose PhIRM is the median in a middle band."""
        assert subject.module is not None
        table = images.assign(patch=images["id"].map({hole.id: str(hole.window) for hole in holes}))
        middle = table[table["band"] == label_of(self.bands[len(self.bands) // 2])]
        both = middle.groupby("patch")["of"].nunique()
        middle = middle[middle["patch"].isin(both.index[both == both.max()])] if len(middle) else table
        score = middle.groupby(["patch", "band"])["phirm/phirm"].mean().sort_values()
        median = score.reset_index().iloc[len(score) // 2]
        rows = table[(table["patch"] == median["patch"]) & (table["band"] == median["band"])].set_index("id")
        module = subject.module(name).cpu()
        pictures = []
        for hole in (one for one in holes if one.id in rows.index):
            item = patch(patches, hole.window, hole.mask)
            batch: dict[str, Any] = collate([item])
            with torch.inference_mode():
                prediction = module.test_step(batch, 0)["prediction"]
            arrays = {key: batch[key][0, 0].float().numpy() for key in ("source", "mask", "target")}
            row = rows.loc[hole.id]
            label = f"{hole.shape}{'' if hole.shape != RECTANGLE else f' for {hole.of}'}\n{row['area']:.1%} hidden\n"
            label += f"covered: {hole.covered}\nradius {row['radius (um)']:.1f} um\nPhIRM {row['phirm/phirm']:.2f}"
            pictures.append((label, arrays | {"prediction": prediction[0, 0].float().numpy()}))
        return example_pictures(pictures)

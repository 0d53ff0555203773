"""Which network keeps the nuclei best as the hole grows? Figure 2 of the PhIRM paper, beside nulls and fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..imaging.masks import PAPER_BANDS
from . import judged
from . import mask_area_words as words
from .figures import method_pictures, score_against_bands
from .judged import NETWORK, SCORES, label_of
from .result import StudyResult
from .statistics import Difference, Ratio, mean_of, paired_bootstrap
from .subject import Study, Subject

PAPER = {"PhIRM paper": mean_of("phirm_paper/phirm")}  # judged where the metrics hold the preset


class MaskArea(Study):
    """Compares networks with each other, with nulls and with classical fills, by band of mask area.

    `checkpoints` maps a label to a checkpoint, or to one per training seed: then the scores of an image are averaged
    over seeds before wells are resampled, and the spread over seeds stands beside. The networks are compared in the
    bands from `above` on, pooled; `order` names classes as the paper ranks them there, best first. `nulls` and
    `classical` name fills; `pictures` is how many images are shown, from the best to the worst. Raises ValueError for
    a label that is a fill's name, and for fewer than no pictures.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str | Sequence[str]] | None,
        nulls: Sequence[str],
        classical: Sequence[str],
        above: float = 0.3,
        order: Sequence[str] = (),
        bands: Sequence[Sequence[float]] = PAPER_BANDS,
        n_bootstrap: int = 2000,
        seed: int = 0,
        pictures: int = 3,
    ) -> None:
        self.kinds = {**dict.fromkeys(nulls, "null fill"), **dict.fromkeys(classical, "classical fill")}
        self.checkpoints = dict(checkpoints or {})
        if clash := sorted(set(self.checkpoints) & set(self.kinds)):
            raise ValueError(f"study.checkpoints: {clash[0]!r} is the name of a fill; choose another label")
        if pictures < 0:
            raise ValueError(f"study.pictures is {pictures}: give 0 or more")
        self.above, self.order = float(above), list(order)
        self.bands = sorted((float(low), float(high)) for low, high in bands)
        self.n_bootstrap, self.seed, self.pictures = n_bootstrap, seed, pictures

    def check(self, datamodule: Any) -> None:
        """Takes the bands of the data's masks; ValueError where none begins at `above`."""
        super().check(datamodule)
        self.bands = sorted(datamodule.masks.bands or self.bands)
        if self.above not in [low for low, _ in self.bands]:
            raise ValueError(
                f"study.above is {self.above:g}, but the masks' bands are {self.bands}: choose where one of them "
                "begins, or give data.masks such a band"
            )

    def run(self, subject: Subject) -> StudyResult:
        """Judge every checkpoint and fill, and return tables, figures, verdict and notes."""
        assert subject.judge is not None
        assert subject.origin is not None
        named = judged.contestants(subject, self.checkpoints)
        networks = len(named)
        judged.check_resamples(self.n_bootstrap, (networks * (networks - 1) // 2 + 2 * networks) * len(SCORES | PAPER))
        judgements, seeds = {}, []
        for label, names in named.items():
            judgements[label], each = judged.judged_label(subject.judge, label, names)
            seeds += [(label, name, table) for name, table in zip(names, each, strict=True)]
        judgements |= {name: subject.judge(name) for name in self.kinds}
        kinds = {**dict.fromkeys(named, NETWORK), **self.kinds}
        images = judged.on_identical_images(judgements, kinds, self.bands)
        scores = SCORES | (PAPER if all(column in images for s in PAPER.values() for column in s.columns()) else {})
        large = images[images["band"].isin([label_of(band) for band in self.bands if band[0] >= self.above])]
        if large.empty:
            raise ValueError(
                f"no mask covers {100 * self.above:g} % of its image or more (they cover up to "
                f"{100 * images['mask_area'].max():.0f} %): lower study.above"
            )
        bands = judged.by_band(images, self.bands, scores, self.n_bootstrap, self.seed)
        by_seed = self._by_seed(subject, seeds, scores)
        methods = self._methods(large, scores, by_seed)
        comparisons = self._compare(large, methods, scores)
        figures = {
            f"{name}_by_mask_area": score_against_bands(
                bands, score, f"{score} ({'pooled' if 'F1' in score else 'mean'})", "hidden share of the image", by_seed
            )
            for name, score in (("phirm", "PhIRM"), ("rim_f1", "rim F1"), ("phirm_paper", "PhIRM paper"))
            if score in scores
        }
        leaky = [label for label, names in named.items() if any(subject.origin(name).leaky for name in names)]
        said = " Leaky split." if subject.leaky_split else f" Leaky split: {', '.join(leaky)}." if leaky else ""
        captions = words.captions(images, large, self._pooled(), said)
        tables = {"methods": methods, "comparisons": comparisons, "bands": bands, "seeds": by_seed, "per_image": images}
        if self.pictures:
            figures["examples"], captions["examples"] = self._examples(subject, large, named)
        wells = int(large["group"].nunique())
        few = f" Fewer than {judged.FEW_WELLS} wells: a hint, not yet a finding." if wells < judged.FEW_WELLS else ""
        classes = {label: subject.origin(names[0]).network for label, names in named.items()}
        return StudyResult(
            title="Mask area: which network keeps the nuclei as the hole grows?",
            tables=tables,
            figures=figures,
            main="methods",
            notes=words.notes(
                images,
                named,
                leaky,
                subject.leaky_split,
                len(scores) > len(SCORES),
                judged.unit_notes(wells, self.n_bootstrap, self.seed),
                type(subject.datamodule.masks).__name__,
            ),
            captions={name: text for name, text in captions.items() if name in figures or name in tables},
            verdict=words.verdict(comparisons, classes, self.order, self._pooled(), wells) + few + said,
        )

    def _by_seed(
        self, subject: Subject, seeds: Sequence[tuple[str, str | None, pd.DataFrame]], scores: Mapping[str, Ratio]
    ) -> pd.DataFrame:
        """Each training seed's own score in each band and in the pooled ones, with the effort of its training."""
        assert subject.origin is not None
        rows = []
        for label, name, table in seeds:
            origin = subject.origin(name)
            band = table["mask_area"].round(6).map(lambda area: judged.band_of(area, self.bands))
            parts = {label_of(one): [label_of(one)] for one in self.bands}
            parts[self._pooled()] = [label_of(one) for one in self.bands if one[0] >= self.above]
            for part, held in parts.items():
                inside = table[band.isin(held)]
                ones = np.ones((1, len(inside)))
                row: dict[str, object] = {"method": label, "training seed": origin.seed}
                row |= {"checkpoint": str(name or origin.path or "this run"), "band": part}
                row |= {score: float(statistic(inside, ones)[0]) for score, statistic in scores.items()}
                row |= {"images": len(inside), "samples": origin.samples, "training (s)": round(origin.seconds)}
                leaky = origin.leaky or subject.leaky_split
                rows.append(row | {"split": "leaky" if leaky else subject.datamodule.split_origin})
        return pd.DataFrame(rows).astype({"training seed": "Int64"})

    def _methods(self, large: pd.DataFrame, scores: Mapping[str, Ratio], by_seed: pd.DataFrame) -> pd.DataFrame:
        """A row per method over the pooled bands, with the spread of its training seeds and what they cost."""
        rows = [
            {"method": method, "kind": kind, **judged.with_intervals(table, scores, self.n_bootstrap, self.seed)}
            for (method, kind), table in large.groupby(["method", "kind"], sort=False)
        ]
        table = pd.DataFrame(rows).merge(judged.beside(large), on="method")
        own = by_seed[by_seed["band"] == self._pooled()]
        for score in scores:
            table[f"{score} over seeds"] = [_spread(own.loc[own["method"] == name, score]) for name in table["method"]]
        effort = own.groupby("method")[["samples", "training (s)"]].sum()
        table = table.join(effort, on="method")
        splits = own.groupby("method")["split"].agg(lambda each: "leaky" if "leaky" in set(each) else each.iloc[0])
        table["split"] = table["method"].map(splits).fillna("")
        last = ["samples", "training (s)", "split", "images", "wells"]
        return table[[column for column in table if column not in last] + last]

    def _compare(self, large: pd.DataFrame, methods: pd.DataFrame, scores: Mapping[str, Ratio]) -> pd.DataFrame:
        """Every pair of networks, and each network against the best null and classical fill; Holm over all rows."""
        rows: list[dict[str, object]] = []
        differences: list[Difference] = []
        tables = dict(iter(large.groupby("method", sort=False)))
        networks = methods.loc[methods["kind"] == NETWORK, "method"].tolist()
        for score, statistic in scores.items():
            known = methods.set_index("method")[score]
            pairs = [(first, second, NETWORK) for first, second in combinations(networks, 2)]
            for kind in dict.fromkeys(self.kinds.values()):
                rivals = known[[name for name, own in self.kinds.items() if own == kind]].dropna()
                pairs += [(name, str(rivals.idxmax()), f"best {kind}") for name in networks if len(rivals)]
            for first, second, kind in pairs:
                differences.append(
                    paired_bootstrap(tables[first], tables[second], statistic, n=self.n_bootstrap, seed=self.seed)
                )
                rows.append({"score": score, "method": first, "against": second, "kind of rival": kind})
        return judged.comparison_table(rows, differences, ["score", "method", "against", "kind of rival"])

    def _pooled(self) -> str:
        return f"above {100 * self.above:g} %"

    def _examples(
        self, subject: Subject, large: pd.DataFrame, named: Mapping[str, Sequence[str | None]]
    ) -> tuple[Any, str]:
        """Images at even ranks of the networks' mean rim F1, restored by the first seed of each and the best fill."""
        assert subject.module is not None
        ids = _even_ranks(large[large["kind"] == NETWORK], self.pictures)
        fills = large[large["kind"] == "classical fill"].groupby("method")["phirm/phirm"].mean()
        names = {label: own[0] for label, own in named.items()}
        names |= {str(fills.idxmax()): str(fills.idxmax())} if len(fills) else {}
        batch = subject.datamodule.samples("test", ids)
        restored = {}
        for label, name in names.items():
            with torch.inference_mode():
                restored[label] = subject.module(name).cpu().test_step(batch, 0)["prediction"][:, 0].float().numpy()
        score = large.set_index(["method", "id"])["phirm/phirm"]
        rows = []
        for number, id_ in enumerate(ids):
            pictures = {label: (arrays[number], f"PhIRM {score[label, id_]:.2f}") for label, arrays in restored.items()}
            rows.append((id_, batch["target"][number, 0].numpy(), batch["mask"][number, 0].numpy(), pictures))
        seeds = " (first training seed; its PhIRM is the mean over seeds)" if max(map(len, named.values())) > 1 else ""
        return method_pictures(rows), (
            f"Holes {self._pooled()} of the image as each network{seeds} and the best classical fill by PhIRM restored "
            "them, from the best to the worst image by the networks' mean rim F1. One grey scale per row."
        )


def _even_ranks(images: pd.DataFrame, number: int) -> list[str]:
    """Ids from the best to the worst mean rim F1, then PhIRM; those without rim nuclei only where none has any."""
    means = images.groupby("id")[["nuclei/rim_f1", "phirm/phirm"]].mean()
    known = means[means["nuclei/rim_f1"].notna()]
    ranked = (means if known.empty else known).sort_values(["nuclei/rim_f1", "phirm/phirm"], ascending=False).index
    return [str(ranked[k]) for k in np.unique(np.linspace(0, len(ranked) - 1, number).astype(int))]


def _spread(values: pd.Series) -> str:
    """Smallest to largest score of the training seeds, and their standard deviation."""
    if values.empty:
        return ""
    if len(values) == 1:
        return "one training seed"
    return f"{values.min():.3f} to {values.max():.3f}, SD {values.std(ddof=1):.3f} ({len(values)} seeds)"

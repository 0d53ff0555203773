"""Some telling cases of the corpus of bad input; benchmarks/bad_input.py takes all of them, each under limits."""

import logging
import signal

import numpy as np
import pytest
from corpus import CASES, meet

from phenokeep.imaging.microscope import Microscope, Phenotype, Plate
from phenokeep.imaging.polarity import looks_inverted

TELLING = (
    "TIFF cut by its last byte",
    "PNG cut by its last byte",
    "TIFF 2^32-1 square",
    "TIFF bomb: one strip named 64 times",
    "TIFF bomb: 1 GB that its header admits",
    "PNG bomb: 1 GB in zTXt",
    "TIFF: CMYK with black alone",
    "TIFF: z-stack in one page",
    "TIFF: float64 with NaN",
    "named pipe",
    "labels: negative",
    "index: UTF-16",
    "index: duplicate ids",
    "index: a leaky parent",
    "checkpoint: a zip of something else",
    "pickle bomb: beside good weights",
    "checkpoint's config with a foreign _target_",
    "eval.py: a _target_ in the scaling",
    "train.py data.batch_size=abc",
    "train.py data.channels=nuclei",
    "own YAML: a Python tag",
    "pairs: target of another size",
    "pairs: more sources than the model takes",
    "pairs: a metric of a target that the model does not draw",
)
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture
def bounded():
    """Turns a hang into a failure, and puts back the log handlers that a command sets."""

    def late(*_):
        raise AssertionError("still running after 20 s")

    handlers, before = logging.root.handlers[:], signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    logging.root.handlers[:] = handlers


def test_the_corpus_is_large_and_every_case_has_a_name_of_its_own():
    assert len(CASES) >= 100
    assert len(BY_NAME) == len(CASES)
    assert len(TELLING) == 24


@pytest.mark.parametrize("name", TELLING)
def test_bad_input_ends_in_one_clear_error(name, tmp_path, bounded):
    case = BY_NAME[name]
    outcome = meet(case, case.build(tmp_path), tmp_path)
    assert not outcome.fault, f"{outcome.fault}: {outcome.message}"


def test_a_good_input_is_no_refusal(tmp_path):
    """The corpus can fail: the same doors let good input through, and that counts as a fault."""
    from corpus.case import Case, image, index
    from corpus.files import tiff
    from corpus.tables import good

    (tmp_path / "a.tif").write_bytes(tiff())
    good(tmp_path).to_csv(tmp_path / "index.csv", index=False)
    for door, path in ((image, tmp_path / "a.tif"), (index, tmp_path)):
        outcome = meet(Case("good", door, lambda folder: folder, [], ""), path, tmp_path)
        assert outcome.fault == "passed silently", outcome


@pytest.mark.parametrize("density", [0.0, 300.0, 680.0, 6000.0])
def test_fluorescence_is_not_taken_for_dark_objects(density):
    plate = Plate(seed=1, wells=2, shape=(256, 384), phenotype=Phenotype(density=density, mitotic_fraction=0.0))
    for field in plate.fields():
        assert not looks_inverted(Microscope().image(field.scene, channel="nuclei"))


def test_dark_objects_on_a_bright_ground_are_seen():
    plate = Plate(seed=1, wells=2, shape=(256, 384), phenotype=Phenotype(density=680.0, mitotic_fraction=0.0))
    for field in plate.fields():
        image = Microscope().image(field.scene, channel="nuclei")
        assert looks_inverted(image.max() - image)
        assert looks_inverted((image.max() - image).astype(np.float32))
    assert not looks_inverted(np.full((20, 20), 7, np.uint16))

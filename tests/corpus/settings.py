"""Settings on the command line and in a user's own YAML that cannot be meant."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .case import CANARY, Case, train

KEYS = "--cfg job|did you mean|there are"


def plate(folder: Path, side: int = 96) -> Path:
    """A readable plate of six wells of `side` px."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2, 8):
        field = rng.normal(200, 5, (side, side))
        for y, x in rng.integers(20, side - 20, (4, 2)):
            field[y - 8 : y + 8, x - 8 : x + 8] = 900
        tifffile.imwrite(folder / f"B{number:02d}_1_nuclei.tif", field.clip(0).astype(np.uint16))
    return folder


def command(*overrides: str, spoil: Callable[[Path], Any] = lambda folder: None) -> Callable[[Path], list[str]]:
    """A builder of the arguments of a tiny training on a good plate, with these overrides; {folder} is put in."""

    def build(folder: Path) -> list[str]:
        own = ["debug=tiny", "data=hcs_nuclei", "data.pixel_size=0.65", f"data.root={plate(folder / 'plate')}",
               f"hydra.run.dir={folder}/run", "model.widths=[4,4]"]  # fmt: skip
        spoil(folder)
        given = [text.replace("{folder}", str(folder)) for text in overrides]
        return sorted([*own, *given], key=lambda text: not text.startswith("--"))  # Hydra wants options first

    return build


def cases() -> Iterator[Case]:
    for override, names, mend in [*_types(), *_ranges(), *_keys(), *_grammar()]:
        yield Case(f"train.py {override[:60]}", train, command(*override.split("  ")), names, mend)
    yield from _files()

    def invert(folder: Path) -> None:
        for path in (folder / "plate").iterdir():
            tifffile.imwrite(path, 4000 - tifffile.imread(path))

    yield Case(
        "train.py a plate of dark objects on a bright ground", train, command(spoil=invert), ["B02_1_nuclei.tif"],
        "invert",
    )  # fmt: skip


Row = tuple[str, list[str], str]


def _types() -> list[Row]:
    """Each key named, with what it holds and what is meant."""
    return [
        ("data.batch_size=abc", ["data.batch_size", "'abc'"], "integer"),
        ("data.batch_size=2.5", ["data.batch_size", "2.5"], "integer"),
        ("data.batch_size=null", ["data.batch_size"], "integer"),
        ("data.batch_size=[2]", ["data.batch_size"], "integer"),
        ("data.batch_size={a:1}", ["data.batch_size"], "integer"),
        ("data.batch_size=true", ["data.batch_size"], "integer"),
        ("data.num_workers=two", ["data.num_workers", "'two'"], "integer"),
        ("data.channels=nuclei", ["data.channels", "'nuclei'"], "list"),
        ("data.channels=null", ["data.channels"], "list"),
        ("data.channels=[1]", ["data.channels", "1"], "string"),
        ("data.pixel_size=small", ["data.pixel_size", "'small'"], "number"),
        ("data.keep_blank=perhaps", ["data.keep_blank", "'perhaps'"], "true or false|boolean"),
        ("data.root=[a,b]", ["data.root"], "string"),
        ("data.root=2024", ["data.root", "2024"], "quote|string"),
        ("data.fractions=[0.7,0.1,0.2]", ["data.fractions"], "keys and values|ListConfig|dict"),
        ("data.fractions={train:most}", ["data.fractions", "'most'"], "number"),
        ("data.masks=null", ["data.masks"], "_target_"),
        ("data.masks=5", ["data.masks"], "_target_|no data/masks named"),
        ("data.masks.bands=wide", ["data.masks.bands", "'wide'"], "list"),
        ("data.masks.bands=[[0.1,a]]", ["data.masks.bands", "'a'"], "number"),
        ("data.masks.bands=[[0.1]]", ["band", "0.1"], "two"),
        ("data.zoom.crop=half", ["data.zoom.crop", "'half'"], "integer"),
        ("data.augment=flip", ["data.augment", "'flip'"], "_target_"),
        ("model.widths=7", ["model.widths", "7"], "list"),
        ("model.widths=[a]", ["model.widths", "'a'"], "integer"),
        ("model.lr=fast", ["model.lr", "'fast'"], "number"),
        ("model=null", ["model=null"], "choice"),
        ("data=null", ["data=null"], "choice"),
        ("~model", ["model"], "choose|there are|model="),
        ("trainer.max_epochs=many", ["trainer.max_epochs", "'many'"], "integer"),
        ("trainer.max_epochs=1.5", ["trainer.max_epochs", "1.5"], "integer"),
        ("trainer.limit_train_batches=all", ["trainer.limit_train_batches", "'all'"], "integer|number"),
        ("seed=1.5", ["seed", "1.5"], "integer"),
        ("seed=abc", ["seed", "'abc'"], "integer"),
        ("seed=null", ["seed"], "integer"),
        ("fit=maybe", ["fit", "'maybe'"], "true or false"),
        ("ckpt_path=5", ["ckpt_path", "5"], "string"),
        ("model.init_from=5", ["model.init_from"], "string"),
        ("model.init_from={net: 5}", ["model.init_from"], "string"),
        ("metrics.phirm.metric.reference_pixel_size=big", ["reference_pixel_size", "'big'"], "number"),
        ("metrics.nuclei.fields=prediction", ["metrics.nuclei.fields", "'prediction'"], "list"),
        ("metrics.phirm=5", ["metrics.phirm"], "_target_"),
        ("callbacks.reproducible.seed=abc", ["callbacks.reproducible.seed", "'abc'"], "integer"),
        ("logger.save_dir=[1]", ["logger.save_dir"], "string"),
    ]


def _ranges() -> list[Row]:
    return [
        ("data.batch_size=0", ["batch_size"], "positive|at least 1"),
        ("data.batch_size=-3", ["batch_size"], "positive|at least 1"),
        ("data.batch_size=100000", ["data.batch_size"], "lower"),
        ("data.num_workers=-1", ["num_workers"], "non-negative|at least 0"),
        ("data.zoom={crop:128,stride:128,size:128}", ["128", "96"], "at most 96"),
        ("data.zoom.crop=-64", ["data.zoom.crop", "-64"], "from 1"),
        ("data.zoom.stride=0", ["data.zoom.stride"], "from 1"),
        ("data.zoom.stride=65", ["stride=65"], "at most crop"),
        ("data.zoom.size=2147483648", ["data.zoom.size", "2147483648"], "to 16384"),
        ("data.fractions={train:0.9,val:0.9,test:0.2}", ["fractions"], "summing to 1"),
        ("data.fractions={train:2,val:-0.5,test:-0.5}", ["fractions"], "at least 0"),
        ("data.split_by=tile", ["tile"], "choose well"),
        ("data.scaling=log", ["data.scaling=log"], "one of plate"),
        ("data.pixel_size=0", ["data.pixel_size"], "from 0.001"),
        ("data.pixel_size=-1", ["data.pixel_size"], "from 0.001"),
        ("data.pixel_size=inf", ["data.pixel_size"], "to 100"),
        ("data.pixel_size=650", ["data.pixel_size", "650"], "to 100"),
        ("data.pixel_size=nan", ["data.pixel_size"], "from 0.001"),
        ("data.channels=[]", ["data.channels"], "at least 1|name|agree"),
        ("data.channels=[er]", ["'er'"], "can name: nuclei"),
        ("data.channels=[nuclei,nuclei]", ["channels"], "agree|twice"),
        ("data.masks.bands=[[0.5,0.2]]", ["0.5"], "smallest|0 <|lo"),
        ("data.masks.bands=[[0.2,1.7]]", ["1.7"], "1"),
        ("data.masks.aspect=[0,2]", ["aspect"], "0 <"),
        ("data.masks.dilation=-1", ["dilation=-1"], ">= 0"),
        ("data.val_bands=[[0.9,0.8]]", ["0.9"], "band"),
        ("model.widths=[]", ["model.widths"], "at least one"),
        ("model.widths=[0,4]", ["model.widths", "[0, 4]"], "from 1"),
        ("model.widths=[-4,4]", ["model.widths", "-4"], "from 1"),
        ("model.widths=[1000000,1000000]", ["model.widths", "1000000"], "to 16384"),
        ("model.widths=[16000,16000]", ["model"], "memory.*lower"),
        ("model.in_channels=3", ["model.in_channels"], "agree"),
        ("model.lr=-1", ["model.lr", "-1"], "number from"),
        ("model.lr=nan", ["model.lr", "nan"], "number from"),
        ("trainer.max_epochs=-3", ["max_epochs"], "non-negative|-1|at least"),
        ("trainer.accelerator=quantum", ["accelerator", "quantum"], "available|names"),
        ("trainer.devices=0", ["devices"], "devices"),
        ("trainer.precision=7", ["precision", "7"], "one of|valid|allowed|in"),
        ("trainer.limit_val_batches=-1", ["limit_val_batches"], "range|at least|0"),
        ("seed=-1", ["seed is -1"], "greater than or equal to 0"),
        ("seed=99999999999999999999", ["seed is 99999"], "less than"),
        ("test=true  study.n_bootstrap=-5", ["study.n_bootstrap", "-5"], "number from 1"),
        ("test=true  study.nulls=[nothing]", ["nothing"], "background_median"),
        ("metrics.phirm.metric.preset=best", ["best"], "original"),
        ("callbacks.last={_target_: phenokeep.callbacks.Last, folder: /proc/x}", ["/proc/x"], "mend this"),
        ("hydra.run.dir=/proc/x", ["/proc/x"], "check that path"),
        ("hydra.run.dir=/dev/null/x", ["/dev/null/x"], "check that path"),
    ]


def _keys() -> list[Row]:
    return [
        ("data.bach_size=3", ["data.bach_size"], KEYS),
        ("+data.bach_size=3", ["bach_size"], KEYS),
        ("++data.bach_size=3", ["bach_size"], KEYS),
        ("+data.zoom.cropp=3", ["cropp"], KEYS),
        ("+model.net.depth=3", ["net"], KEYS),
        ("+trainer.max_epoch=3", ["max_epoch"], KEYS),
        ("+metrics.phirm.metric.presett=x", ["presett"], KEYS),
        ("sead=3", ["sead"], KEYS),
        ("+sead=3", ["sead"], "did you mean 'seed'"),
        ("+a.b.c.d.e=3", ["'a'"], "config key|did you mean"),
        ("seed.x=3", ["seed"], KEYS),
        ("data.channels.0.x=3", ["channels"], KEYS),
        ("~data.nothing", ["data.nothing"], "key|there"),
        ("data=hcs_nuclie", ["hcs_nuclie"], "did you mean 'hcs_nuclei'"),
        ("model=unnet", ["unnet"], "did you mean 'unet'"),
        ("data/zoom=none", ["none"], "there are|did you mean"),
        ("data/masks=circles", ["circles"], "there are|did you mean"),
        ("experiment=nothing", ["nothing"], "there are|did you mean"),
        ("experiment=../../../etc/passwd", ["passwd"], "there are|did you mean"),
        ("modle=unet", ["modle"], "did you mean|there is no|there are"),
        ("study=none_such", ["none_such"], "there are|did you mean"),
        ("trainer=gpu", ["gpu"], "there are|did you mean"),
        ("logger=wanb", ["wanb"], "there are|did you mean"),
        ("debug=big", ["big"], "there are|did you mean"),
        ("+data.scaling_state=abc", ["scaling_state", "'abc'"], "key|dict"),
        ("data._target_=os.system", ["os.system"], "DataModule|class|phenokeep"),
        ("data._target_=phenokeep.nothing", ["phenokeep.nothing"], "class|correct|find|locat"),
        ("data._target_=null", ["data"], "_target_|choose|data="),
        ("model._target_=phenokeep.imaging.tiles.Zoom", ["model"], "LightningModule"),
        ("data.masks._target_=phenokeep.imaging.tiles.Zoom", ["data.masks"], "there are"),
    ]


def _grammar() -> list[Row]:
    return [
        ("data.batch_size", ["data.batch_size"], "write KEY=VALUE"),
        ("=3", ["=3"], "choice"),
        ("data.batch_size=[1,", ["data.batch_size=[1,"], "write KEY=VALUE"),
        ("data.batch_size={a", ["data.batch_size={a"], "write KEY=VALUE"),
        ("data..batch_size=3", ["data..batch_size"], "write KEY=VALUE"),
        ("data.root='a", ["data.root='a"], "write KEY=VALUE"),
        ("seed=${nothing}", ["nothing", "seed"], "write a value"),
        ("seed=${seed}", ["seed"], "itself|interpolation|recursi"),
        ("seed=${oc.env:PHENOKEEP_NO_SUCH}", ["PHENOKEEP_NO_SUCH", "seed"], "write a value"),
        ("name=${no_resolver:3}", ["no_resolver", "name"], "write a value"),
        ("data.batch_size=???", ["data.batch_size"], "missing|mandatory|integer|set"),
        ("--config-dir=/no/such/folder", ["/no/such/folder"], "correct the path"),
        ("--config-name=nothing", ["nothing"], "leave out"),
        ("--no-such-flag", ["--no-such-flag"], "unrecognized"),
        ("seed=" + "9" * 4000, ["seed is 999"], "less than"),
        ("+x=" + "[" * 500 + "]" * 500, [], "nested"),
    ]


def _files() -> Iterator[Case]:
    """A data set of the user's own, named by --config-dir."""
    yamls: dict[str, tuple[str, list[str], str]] = {
        "tabs": ("_target_: a\n\tb: 1\n", ["mine.yaml"], "line|tab"),
        "a bracket that never ends": ("channels: [nuclei\nroot: x\n", ["mine.yaml"], "line"),
        "a list": ("- 1\n- 2\n", ["is a list"], "keys and values"),
        "a text": ("just words", ["data.pixel_size"], KEYS),
        "a key twice": ("root: a\nroot: b\n", ["mine.yaml", "root"], "duplicate|twice"),
        "a Python tag": (f"x: !!python/object/apply:os.mkdir [{CANARY}]\n", ["mine.yaml"], "python|constructor"),
        "defaults that do not exist": ("defaults: [hcs_nuclie]\n", ["hcs_nuclie"], "did you mean|there are"),
        "defaults that are itself": ("defaults: [mine]\n", ["itself"], "flatter"),
        "no text at all": ("", ["data.pixel_size"], KEYS),
        "bytes that are no text": ("\0\1\2", ["mine.yaml"], "correct the YAML"),
        "types all wrong": ("defaults: [hcs_nuclei]\nsplit_by: [well]\n", ["data.split_by"], "string"),
    }
    for what, (text, names, mend) in yamls.items():

        def spoil(folder: Path, text: str = text) -> None:
            (folder / "own" / "data").mkdir(parents=True)
            (folder / "own" / "data" / "mine.yaml").write_text(text)

        build = command("--config-dir={folder}/own", "data=mine", spoil=spoil)
        yield Case(f"own YAML: {what}", train, build, names, mend)

"""Warm starts: from runs, part by part, from published files and folders, and what is said where they do not fit."""

import logging

import pytest
import torch
from torch import nn

from phenokeep.checkpoint import CheckpointError, checked, read_checkpoint, weights_of
from phenokeep.imaging.edges import Canny
from phenokeep.inference.provenance import sha256_of
from phenokeep.models import ContextEncoder, DeepFill, EdgeConnect, Restorer
from phenokeep.models.nets import context_encoder_published as ce
from phenokeep.models.nets import deepfill, edge_connect
from phenokeep.models.published import WeightsError, export
from phenokeep.run import train
from phenokeep.warmstart import warm_start

BOYUAN = ("experiment=phirm/context_encoder", "model.variant=boyuan", "model.bottleneck=8", "data/masks=centre")
NET = ("model.widths=[4,4]",)
JUDGE = ("fit=false", "test=true", "study.n_bootstrap=50", "study.nulls=[background_median]", "study.classical=[]")
STILL = ("model.generator_lr=1e-12", "model.discriminator_lr=1e-12")  # so that the first weights are the last
KEEP = "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}"


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="phenokeep")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "phenokeep.warmstart"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Published files of small Context Encoders and of DeepFill, three channels each."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    torch.save({"epoch": 3, "state_dict": export(ce.BoyuanGenerator(3, 8))}, folder / "netG_streetview.pth")
    torch.save({"epoch": 3, "state_dict": export(ce.BoyuanDiscriminator(3))}, folder / "netlocalD.pth")
    both = {"G": export(deepfill.Generator(3)), "D": export(deepfill.Discriminator(4)), "n_iter": 4}
    torch.save(both, folder / "states_both.pth")
    torch.save({"G": both["G"]}, folder / "states_tf_places2.pth")
    torch.save({"G": export(deepfill.Generator(3, "pytorch_port"))}, folder / "states_pt_places2.pth")
    return folder


def _weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def _close(first, second):
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], atol=1e-6, rtol=0, msg=key)


def _learnt(state):
    return {key: value for key, value in state.items() if "running" not in key and "tracked" not in key}


def _published_first(net, first, last):
    """What a published network's weights must be in a run on one channel."""
    state = dict(net)
    state[first] = state[first].sum(1, keepdim=True)
    if last:
        state[last] = state[last].mean(1, keepdim=True)
    return _learnt(state)


def test_published_weights_start_a_run_on_one_channel(config, files, said):
    paths = {"generator": files / "netG_streetview.pth", "discriminator": files / "netlocalD.pth"}
    named = ", ".join(f"{part}: {path}" for part, path in paths.items())
    cfg = config(*BOYUAN, *STILL, KEEP, f"model.init_from={{{named}}}")
    train(cfg)
    saved = _weights(f"{cfg.output_dir}/last.ckpt")
    for part, last in (("generator", "main.29.weight"), ("discriminator", None)):
        expected = _published_first(torch.load(paths[part], weights_only=True)["state_dict"], "main.0.weight", last)
        _close(expected, {key.removeprefix(f"{part}."): v for key, v in saved.items() if key.startswith(part)})
        line = f"{part}: published weights of context_encoder/boyuan_{part} from {paths[part]}"
        assert f"{line}, its three channels made one" in said()


def test_one_run_starts_another_whole_or_part_by_part(config, said, tmp_path):
    cfg = config(*BOYUAN, KEEP)
    train(cfg)
    first = f"{cfg.output_dir}/last.ckpt"
    before = _learnt(_weights(first))
    train(config(*BOYUAN, *STILL, KEEP, f"model.init_from={first}", f"output_dir={tmp_path}/whole"))
    _close(before, _weights(tmp_path / "whole/last.ckpt"))
    assert said()[-2:] == [f"generator: from {first}", f"discriminator: from {first}"]
    model = ContextEncoder(1, "boyuan", 8, init_from={"generator": first})
    fresh = {key: value.clone() for key, value in model.discriminator.state_dict().items()}
    warm_start(model)
    _close({k: v for k, v in before.items() if k.startswith("generator.")}, model.state_dict())
    _close(fresh, model.discriminator.state_dict())
    assert said()[-2:] == [f"generator: from {first}", "discriminator: starts fresh, model.init_from does not name it"]

    for init_from, message in (
        ({"decoder": first}, r"names 'decoder'.*its parts are: generator, discriminator"),
        (first, "too many"),
    ):
        other = _One() if isinstance(init_from, str) else model
        other.init_from = init_from
        with pytest.raises(CheckpointError, match=message):
            warm_start(other)
    other.init_from = {"net": first}
    with pytest.raises(CheckpointError, match=r"holds no net; its parts are: discriminator, generator"):
        warm_start(other)


def test_what_came_before_is_kept_and_its_wells_are_no_test_wells(config, files, said, tmp_path):
    first, second = tmp_path / "first.ckpt", tmp_path / "second/last.ckpt"
    cfg = config(*NET, KEEP)
    train(cfg)
    saved = read_checkpoint(f"{cfg.output_dir}/last.ckpt")
    own = saved["trained_on"]
    plate = own[0].split(":")[0]
    tested = sorted({f"{plate}:B0{number}" for number in range(2, 8)} - set(own))
    assert tested
    assert saved["started_from"] == []
    elsewhere = "another plate:B02"  # of the same name as a well of this plate, and no leak
    published = {"path": "/netG.pth", "sha256": "b" * 64}
    torch.save(saved | {"trained_on": [elsewhere, *tested], "started_from": [published]}, first)

    train(config(*NET, KEEP, f"model.init_from={first}", f"output_dir={second.parent}"))
    then = read_checkpoint(second)
    assert then["trained_on"] == sorted({*own, elsewhere, *tested})
    assert then["effort"]["samples"] == saved["effort"]["samples"]
    entry = {"path": str(first), "sha256": sha256_of(first), "trained_on": [elsewhere, *tested], **saved["effort"]}
    assert then["started_from"] == [entry, published]
    third = warm_start(Restorer(widths=(4, 4), init_from={"net": str(second)}))
    assert [known["path"] for known in third] == [str(second), str(first), "/netG.pth"]
    generator = f"{files}/netG_streetview.pth"
    known = warm_start(ContextEncoder(1, "boyuan", 8, init_from={"generator": generator}))
    assert known == [{"path": generator, "sha256": sha256_of(generator)}]

    train(config(*NET, *JUDGE, f"model.init_from={second}", f"output_dir={tmp_path}/judged"))
    page = (tmp_path / "judged/report.html").read_text()
    assert "none: weights of model.init_from, not trained in this run" in page
    assert f"none; started from {second} (" in page
    assert f"{first} (" in page
    assert "/netG.pth (published weights)" in page
    assert "Leaky split" in page
    for now, words in (
        (saved, "trained in this run"),
        (None, "none: a question about metrics or data"),
        ({"effort": {"samples": 0}, "started_from": []}, "none: random weights, not trained in this run"),
    ):
        assert weights_of(now) == words

    del saved["started_from"]
    saved["config"]["model"]["init_from"] = "/before.ckpt"
    torch.save(saved, first)
    warm_start(Restorer(widths=(4, 4), init_from={"net": str(first)}))
    assert "first.ckpt started from /before.ckpt and, written by an earlier version, does not say which" in " ".join(
        said()
    )
    for wrong in ({"started_from": [{"path": "a"}]}, {"started_from": {}}, {"trained_on": [[1]]},
                  {"started_from": [published | {"samples": 1}]}):  # fmt: skip
        with pytest.raises(CheckpointError, match="what it was trained on is unreadable"):
            checked(saved | wrong, first)


@pytest.mark.parametrize(("stage", "part"), [("finetune", "edge_generator"), ("joint", "inpaint_generator")])
def test_edge_maps_of_other_settings_are_refused_by_a_frozen_network_and_told_to_others(stage, part, said, tmp_path):
    model = EdgeConnect(stage, blocks=1, edges=Canny(2.0, 0.05, 0.1), perceptual=None, style=None)
    parts = {
        "state_dict": model.state_dict(),
        "scaling": {},
        "trained_on": [],
        "effort": {"samples": 1, "seconds": 1.0},
    }
    for name, edges in (("same", {"sigma": 2, "low": 0.05, "high": 0.1}), ("not_said", None), ("other", {"low": 0.07})):
        torch.save(parts | {"config": {"model": {"edges": edges}}}, tmp_path / f"{name}.ckpt")
        model.init_from = {part: f"{tmp_path}/{name}.ckpt"}
        if name == "other" and stage == "finetune":
            with pytest.raises(
                CheckpointError, match=r"other.ckpt .* edge_generator is frozen .*model.edges.low=0.07$"
            ):
                warm_start(model)
        else:
            warm_start(model)
            assert any("learnt from edge maps of model.edges.low=0.07" in line for line in said()) == (name == "other")
    model.init_from = {"inpaint_generator": f"{tmp_path}/same.ckpt", "inpaint_discriminator": f"{tmp_path}/same.ckpt"}
    assert [entry["path"] for entry in warm_start(model)] == [f"{tmp_path}/same.ckpt"]


class _One(nn.Module):
    """A model of one part."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)


def test_a_checkpoint_with_more_parts_gives_the_one_that_is_named(config):
    cfg = config(*BOYUAN, KEEP)
    train(cfg)

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.init_from = ce.BoyuanGenerator(1, 8), {"generator": f"{cfg.output_dir}/last.ckpt"}

    half = Half()
    warm_start(half)
    _close(half.state_dict(), _weights(f"{cfg.output_dir}/last.ckpt"))
    half.init_from = half.init_from["generator"]
    with pytest.raises(CheckpointError, match=r"holds discriminator, generator, and Half has generator: .*from=\{gen"):
        warm_start(half)


@pytest.mark.parametrize(("path", "said_so"), [
    ("runs/phirm/context_encoder_pretrain/seed_3/last.ckpt",
     "with your own settings of data and model .*: python train.py experiment=phirm/context_encoder_pretrain seed=3$"),
    ("/far/away/quickstart/seed_0/best.ckpt", "python train.py experiment=quickstart seed=0 runs=/far/away$"),
    ("runs/phirm/no_such_thing/seed_3/last.ckpt", "correct the path$"),
    ("weights/netG.pth", "no checkpoint at weights/netG.pth; correct the path$"),
])  # fmt: skip
def test_a_missing_predecessor_says_which_command_makes_it(path, said_so):
    model = ContextEncoder(1, bottleneck=8, init_from=path)
    with pytest.raises(CheckpointError, match=said_so):
        warm_start(model)
    model.init_from = {"generator": path}
    with pytest.raises(CheckpointError, match=said_so):
        warm_start(model)


@pytest.mark.parametrize("init_from", ["", {}])
def test_an_empty_name_is_no_fresh_start(init_from):
    with pytest.raises(CheckpointError, match=r"model.init_from names nothing.*null"):
        warm_start(ContextEncoder(1, bottleneck=8, init_from=init_from))


def test_a_checkpoint_of_another_variant_is_refused_as_published_weights_are(tmp_path):
    torch.manual_seed(0)
    model = DeepFill(1, "pytorch_port")
    parts = {"scaling": {}, "trained_on": [], "effort": {"samples": 1, "seconds": 1.0}}
    for variant in ("official", "pytorch_port"):
        saved = {"state_dict": model.state_dict(), "config": {"model": {"variant": variant}}, **parts}
        torch.save(saved, tmp_path / f"{variant}.ckpt")
    for part in (None, "generator", "discriminator"):
        first, other = (tmp_path / f"{variant}.ckpt" for variant in ("pytorch_port", "official"))
        model.init_from = {part: str(other)} if part else str(other)
        with pytest.raises(CheckpointError, match=r"official.ckpt .*set model.variant=official"):
            warm_start(model)
        model.init_from = {part: str(first)} if part else str(first)
        warm_start(model)


def test_the_finetune_experiment_says_what_comes_before_it(config, runs):
    cfg = config("experiment=phirm/context_encoder_finetune", "data=virtual", "model.bottleneck=8")
    with pytest.raises(CheckpointError, match=rf"experiment=phirm/context_encoder_pretrain seed=0 runs={runs}"):
        train(cfg)


def test_weights_for_another_variant_say_what_is_missing_and_which_variant(files):
    for init_from in ({"generator": f"{files}/netG_streetview.pth"}, f"{files}/netG_streetview.pth"):
        with pytest.raises(WeightsError, match=r"lacks \d+ .*encoder.0.weight.*and \d+ more.* model.variant=boyuan"):
            warm_start(ContextEncoder(1, bottleneck=8, init_from=init_from))
    with pytest.raises(WeightsError, match=r"missing .*extra .*model.variant=boyuan"):
        warm_start(ContextEncoder(1, "erik", 8, init_from={"generator": f"{files}/netG_streetview.pth"}))


def test_deepfill_from_one_file_with_both_networks_or_the_generator_alone(files, said):
    model = DeepFill(1, init_from=f"{files}/states_both.pth")
    warm_start(model)
    saved = torch.load(files / "states_both.pth", weights_only=True)
    _close({"a": saved["G"]["conv5.conv.weight"]}, {"a": export(model.generator)["conv5.conv.weight"]})
    _close({"a": saved["D"]["conv3.conv_sn.weight"]}, {"a": export(model.discriminator)["conv3.conv_sn.weight"]})
    assert len(said()) == 2

    model.init_from = f"{files}/states_tf_places2.pth"
    fresh = {key: value.clone() for key, value in model.discriminator.state_dict().items()}
    warm_start(model)
    _close(fresh, model.discriminator.state_dict())
    assert said()[-1] == f"discriminator: starts fresh, {files}/states_tf_places2.pth holds none"
    model.init_from = f"{files}/states_pt_places2.pth"
    with pytest.raises(WeightsError, match=r"model\.variant=pytorch_port"):
        warm_start(model)
    model.init_from = {"discriminator": f"{files}/states_tf_places2.pth"}
    with pytest.raises(WeightsError, match="holds a generator, no discriminator"):
        warm_start(model)


@pytest.mark.parametrize(("part", "change", "message"), [
    ("G", {"new.a": torch.zeros(1)}, r"deepfill_v2/generator: 1 extra \(new.a\)"),
    ("G", {"conv1.conv.bias": None, "new.a": torch.zeros(1)}, r"generator: 1 missing \(conv1.conv.bias\); 1 extra"),
    ("G", {"conv6.conv.bias": torch.zeros(3)}, r"generator: 1 of another shape \(conv6.conv.bias is \(3,\), here"),
    ("D", {"conv2.conv_sn.bias": None}, r"deepfill_v2/discriminator: 1 missing \(conv2.conv_sn.bias\)"),
])  # fmt: skip
def test_a_file_that_nearly_fits_is_an_error_that_lists_the_keys(files, tmp_path, said, part, change, message):
    saved = torch.load(files / "states_both.pth", weights_only=True)
    saved[part] = {key: value for key, value in (saved[part] | change).items() if value is not None}
    torch.save(saved, tmp_path / "states.pth")
    with pytest.raises(WeightsError, match=rf"states.pth does not fit .*{message}"):
        warm_start(DeepFill(1, init_from=f"{tmp_path}/states.pth"))
    assert not any("starts fresh" in line for line in said())


def test_a_folder_of_published_files_under_their_names(tmp_path, said):
    torch.manual_seed(0)
    net = edge_connect.EdgeGenerator()
    torch.save({"iteration": 1, "generator": export(net)}, tmp_path / "EdgeModel_gen.pth")
    model = EdgeConnect("edge", init_from=str(tmp_path))
    warm_start(model)
    _close(net.state_dict(), model.edge_generator.state_dict())
    assert said() == [
        f"edge_generator: published weights of edge_connect/edge_generator from {tmp_path}/EdgeModel_gen.pth",
        f"edge_discriminator: starts fresh, {tmp_path} has no EdgeModel_dis.pth",
    ]
    (tmp_path / "EdgeModel_gen.pth").unlink()
    with pytest.raises(WeightsError, match=r"has no EdgeModel_gen.pth"):
        warm_start(model)
    for init_from in (str(tmp_path), {"generator": str(tmp_path)}):
        with pytest.raises(CheckpointError, match="is a folder"):
            warm_start(ContextEncoder(1, "boyuan", 8, init_from=init_from))


def test_a_file_of_one_network_does_not_start_two(files, tmp_path):
    path = tmp_path / "EdgeModel_dis.pth"
    torch.save({"discriminator": export(edge_connect.Discriminator(2))}, path)
    with pytest.raises(WeightsError, match=r"holds no edge_generator .*init_from=\{edge_generator: FILE"):
        warm_start(EdgeConnect("edge", init_from=str(path)))
    with pytest.raises(WeightsError, match=r"edge_generator: .*missing.*extra.*context_encoder/boyuan_generator"):
        warm_start(EdgeConnect("edge", init_from=f"{files}/netG_streetview.pth"))


class _Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def test_files_that_could_run_code_or_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "netG.pth"
    for saved, message in ((_Runs(), "could run code"), ({"state_dict": {"a": 3}}, "a is of type int, no tensor"),
                           ({"state_dict": {"a": torch.zeros(1)}}, "does not fit ContextEncoder")):  # fmt: skip
        torch.save(saved, path)
        for init_from in (str(path), {"generator": str(path)}):
            with pytest.raises(WeightsError, match=message):
                warm_start(ContextEncoder(1, bottleneck=8, init_from=init_from))


def test_a_damaged_checkpoint_of_ours_is_said_to_be_damaged(tmp_path):
    path = tmp_path / "last.ckpt"
    parts = {"config": {}, "scaling": {}, "trained_on": [], "effort": {"samples": 1, "seconds": 1.0}}
    torch.save({"state_dict": {"a": torch.zeros(4000)}, "pytorch-lightning_version": "2", **parts}, path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises((CheckpointError, WeightsError), match=r"last.ckpt is damaged"):
        warm_start(ContextEncoder(1, bottleneck=8, init_from=str(path)))

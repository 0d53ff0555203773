"""Warm starts: from runs, part by part, from published files and folders, and what is said where they do not fit."""

import logging

import pytest
import torch
from torch import nn

from phenokeep.checkpoint import CheckpointError
from phenokeep.models import ContextEncoder, DeepFill, EdgeConnect
from phenokeep.models.nets import context_encoder_published as ce
from phenokeep.models.nets import deepfill, edge_connect
from phenokeep.models.published import WeightsError, export
from phenokeep.run import train
from phenokeep.warmstart import warm_start

BOYUAN = ("experiment=phirm/context_encoder", "model.variant=boyuan", "model.bottleneck=8", "data/masks=centre")
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


@pytest.mark.parametrize(("path", "said_so"), [
    ("runs/phirm/context_encoder_pretrain/seed_3/last.ckpt",
     "python train.py experiment=phirm/context_encoder_pretrain seed=3$"),
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
    with pytest.raises(CheckpointError, match="is a folder"):
        warm_start(ContextEncoder(1, "boyuan", 8, init_from=str(tmp_path)))


def test_a_file_of_one_network_does_not_start_two(files, tmp_path):
    path = tmp_path / "EdgeModel_dis.pth"
    torch.save({"discriminator": export(edge_connect.Discriminator(2))}, path)
    with pytest.raises(WeightsError, match=r"holds no edge_generator .*init_from=\{edge_generator: FILE"):
        warm_start(EdgeConnect("edge", init_from=str(path)))
    with pytest.raises(WeightsError, match=r"does not fit EdgeConnect.*context_encoder/boyuan_generator"):
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

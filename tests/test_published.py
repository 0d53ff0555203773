"""Published weights: keys and values come back, whatever a file looks like; what does not fit is refused and listed."""

import re
from functools import cache

import parity
import pytest
import torch
from torch import nn

from phenokeep.models import published
from phenokeep.models.nets import context_encoder_published as ce
from phenokeep.models.nets import deepfill, edge_connect
from phenokeep.models.nets.context_encoder import Generator as OwnGenerator
from phenokeep.models.published import WeightsError, export, load

FIXTURES = {
    "ec_edge_gen": "edge_connect/edge_generator",
    "ec_edge_dis": "edge_connect/edge_discriminator",
    "ec_inpaint_gen": "edge_connect/inpaint_generator",
    "ec_inpaint_dis": "edge_connect/inpaint_discriminator",
    "dfv2_gen": "deepfill_v2/generator",
    "dfv2tf_gen": "deepfill_v2/generator",
    "dfv2_dis": "deepfill_v2/discriminator",
    "dfv2tf_dis": "deepfill_v2/discriminator",
    "ce_boyuan_gen": "context_encoder/boyuan_generator",
    "ce_boyuan_dis": "context_encoder/boyuan_discriminator",
    "ce_erik_gen": "context_encoder/erik_generator",
    "ce_erik_dis": "context_encoder/erik_discriminator",
}
# Small networks of the same keys, where the width does not matter.
SMALL = {
    "edge_connect/edge_generator": lambda: edge_connect.EdgeGenerator(3),
    "edge_connect/edge_discriminator": lambda: edge_connect.Discriminator(2),
    "edge_connect/inpaint_generator": lambda: edge_connect.InpaintGenerator(3),
    "edge_connect/inpaint_discriminator": lambda: edge_connect.Discriminator(3),
    "deepfill_v2/generator": lambda: deepfill.Generator(3, "pytorch_port"),
    "deepfill_v2/discriminator": lambda: deepfill.Discriminator(4),
    "context_encoder/boyuan_generator": lambda: ce.BoyuanGenerator(3, 8),
    "context_encoder/boyuan_discriminator": lambda: ce.BoyuanDiscriminator(3),
    "context_encoder/erik_generator": lambda: ce.ErikGenerator(3, 8),
    "context_encoder/erik_discriminator": lambda: ce.ErikDiscriminator(3),
}


@cache
def _small(name):
    torch.manual_seed(0)
    net = SMALL[name]()
    for module in net.modules():  # not those of a new network; with its small weights the output ignores the input
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.02)
            module.num_batches_tracked += 7
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, (2.2 if "deepfill" in name else 1.4) / module.weight[0].numel() ** 0.5)
    return export(net)


def _options(name):
    return {"bottleneck": 8} if "context_encoder" in name and name.endswith("generator") else {}


def _same(first, second):
    assert set(first) == set(second)
    for key, value in first.items():
        assert value.dtype == second[key].dtype, key
        assert torch.equal(value, second[key]), key


def test_names_are_sorted_and_all_there():
    assert published.names() == sorted(set(FIXTURES.values())) == sorted(SMALL)


@parity.needed
@pytest.mark.parametrize("fixture", FIXTURES)
def test_export_gives_back_every_published_key_and_value(fixture):
    state = parity.filled(fixture)
    net = load(FIXTURES[fixture], state)
    _same(export(net), state)
    assert published.recognise(state) == [FIXTURES[fixture]]


@parity.needed
@pytest.mark.parametrize(("fixture", "variant", "fuse"), [("dfv2_gen", "pytorch_port", True),
                                                         ("dfv2tf_gen", "official", False)])  # fmt: skip
def test_deepfill_is_built_as_its_keys_say(fixture, variant, fuse):
    expected = parity.fixture(fixture)
    x, mask = torch.from_numpy(expected["x"]), torch.from_numpy(expected["mask"])
    state = parity.filled(fixture)
    net = load("deepfill_v2/generator", {"G": state}).eval()
    assert net.variant == variant
    with torch.no_grad():
        stages = net(x, mask)
        other = load("deepfill_v2/generator", state, fuse=not fuse).eval()(x, mask)
    for stage, name in zip(stages, ("stage1", "stage2"), strict=True):
        torch.testing.assert_close(stage, torch.from_numpy(expected[name]), atol=5e-5, rtol=0)
    assert (other[1] - stages[1]).abs().max() > 1e-3
    wrong = {"official": "pytorch_port", "pytorch_port": "official"}[variant]
    with pytest.raises(WeightsError, match=rf"keys of variant={variant}, not of {wrong}"):
        load("deepfill_v2/generator", state, variant=wrong)
    with pytest.raises(WeightsError, match=rf"set model.variant={variant}"):
        published.fill(deepfill.Generator(3, wrong), "deepfill_v2/generator", state)


@parity.needed
@pytest.mark.parametrize(("fixture", "options"), [("dfv2_dis", {"variant": "pytorch_port"}), ("dfv2tf_dis", {}),
                                                  ("ec_edge_dis", {}), ("ec_inpaint_gen", {})])  # fmt: skip
def test_loaded_networks_give_the_published_numbers(fixture, options):
    expected = parity.fixture(fixture)
    with torch.no_grad():
        out = load(FIXTURES[fixture], parity.filled(fixture), **options).eval()(torch.from_numpy(expected["x"]))
    out = out[0] if isinstance(out, tuple) else out
    torch.testing.assert_close(out, torch.from_numpy(expected["out"]), atol=5e-5 if "gen" in fixture else 1e-6, rtol=0)


def test_the_variant_of_a_discriminator_is_that_of_the_generator_beside_it():
    state = _small("deepfill_v2/discriminator")
    both = {"G": _small("deepfill_v2/generator"), "D": state, "G_optim": {"state": {0: {"step": 3}}}, "n_iter": 5}
    assert load("deepfill_v2/discriminator", both).variant == "pytorch_port"
    assert load("deepfill_v2/discriminator", state).variant == "official"
    assert load("deepfill_v2/discriminator", state, variant="pytorch_port").variant == "pytorch_port"
    with pytest.raises(WeightsError, match="pytorch_port"):
        load("deepfill_v2/discriminator", both, variant="official")
    with pytest.raises(WeightsError, match=r"set model.variant=pytorch_port"):
        published.fill(deepfill.Discriminator(4), "deepfill_v2/discriminator", both)


@pytest.mark.parametrize("name", SMALL)
def test_every_form_of_file_is_read(name):
    state = _small(name)
    part = published.side(name)
    spread = {f"module.{key}": value for key, value in state.items()}
    forms = {
        "plain": state,
        "module": spread,
        "part": {"iteration": 3, part: state},
        "letter": {part[0].upper(): spread, "n_iter": 2},
        "state_dict": {"state_dict": state},
        "epoch": {"epoch": 7, "state_dict": spread},
        "within a part": {part: {"state_dict": spread}, "iteration": 3},
        "around a part": {"epoch": 7, "state_dict": {part[0].upper(): state}},
    }
    for form, saved in forms.items():
        _same(export(load(name, saved, **_options(name))), state)
        assert [published.recognise(found) for found in published.parts(saved, "x").values()] == [[name]], form


@pytest.mark.parametrize("name", ["edge_connect/inpaint_generator", "deepfill_v2/discriminator"])
def test_half_precision_is_made_single_before_anything_is_computed(name):
    half = {key: value.half() for key, value in _small(name).items()}
    single = {key: value.float() for key, value in half.items()}
    for channels in (1, 3):
        _same(export(load(name, half, channels)), export(load(name, single, channels)))


def test_what_does_not_fit_is_listed():
    name = "edge_connect/inpaint_generator"
    state = _small(name)
    without = {
        key: value for key, value in state.items() if key not in ("encoder.4.bias", "middle.3.conv_block.5.bias")
    }
    with pytest.raises(WeightsError, match=r"2 missing \(encoder.4.bias, middle.3.conv_block.5.bias\)"):
        load(name, without)
    with pytest.raises(WeightsError, match=r"2 extra \(new.a, new.b\)"):
        load(name, {**state, "new.a": torch.zeros(1), "new.b": torch.zeros(1)})
    with pytest.raises(WeightsError, match=re.escape("1 of another shape (decoder.7.bias is (5,), here (3,))")):
        load(name, {**state, "decoder.7.bias": torch.zeros(5)})
    with pytest.raises(WeightsError, match=r"44 missing \(.* and 24 more\)"):
        load(name, {"x": torch.zeros(1)})
    both = {**without, "new.a": torch.zeros(1), "decoder.7.bias": torch.zeros(5)}
    with pytest.raises(WeightsError, match=r"2 missing .*; 1 extra .*; 1 of another shape"):
        load(name, both)


@pytest.mark.parametrize(("name", "key", "shape"), [
    ("edge_connect/inpaint_generator", "decoder.7.bias", (5,)),
    ("edge_connect/inpaint_generator", "decoder.7.bias", (1,)),
    ("edge_connect/inpaint_generator", "decoder.7.weight", (7, 64, 7, 7)),
    ("edge_connect/inpaint_discriminator", "conv1.0.weight_v", (16,)),
    ("deepfill_v2/generator", "stage2.conv_conv1.conv.weight", (48, 2, 5, 5)),
    ("deepfill_v2/generator", "stage2.conv_conv1.conv.weight", (48,)),
    ("deepfill_v2/discriminator", "conv1.conv_sn.weight_u", (3, 1)),
])  # fmt: skip
def test_layers_that_are_made_one_channel_are_held_against_three(name, key, shape):
    state = {k: v for k, v in _small(name).items() if not k.startswith("features")}
    with pytest.raises(WeightsError, match=rf"1 of another shape \({key} is .*in_channels, .* RGB .* serve 3 or 1"):
        load(name, {**state, key: torch.zeros(shape)}, in_channels=1)


def test_weights_of_another_network_say_whose_they_are():
    with pytest.raises(WeightsError, match=r"missing .*extra .*holds the weights of edge_connect/inpaint_generator"):
        load("edge_connect/edge_generator", _small("edge_connect/inpaint_generator"))
    with pytest.raises(WeightsError, match=r"2 of another shape .*edge_connect/edge_discriminator"):
        load("edge_connect/inpaint_discriminator", {"discriminator": _small("edge_connect/edge_discriminator")})
    with pytest.raises(WeightsError, match=r"model.variant=boyuan"):
        load("context_encoder/erik_generator", _small("context_encoder/boyuan_generator"))
    with pytest.raises(WeightsError, match=r"84 missing \(stage1.*extra .*holds the weights of context_encoder/boyuan"):
        load("deepfill_v2/generator", _small("context_encoder/boyuan_generator"), variant="pytorch_port")
    with pytest.raises(WeightsError, match=r"holds a generator, no discriminator"):
        load("deepfill_v2/discriminator", {"G": _small("deepfill_v2/generator")})
    with pytest.raises(WeightsError, match=r"no published weights of 'edge_conect/edge_generator'; there are"):
        load("edge_conect/edge_generator", {})


def test_aliases_and_constants_are_neither_missing_nor_extra_but_must_be_right():
    for name, key in (("edge_connect/edge_discriminator", "features.0.weight_orig"),
                      ("deepfill_v2/generator", "stage2.contextual_attention.fuse_weight")):  # fmt: skip
        state = _small(name)
        without = {k: v for k, v in state.items() if k != key}
        _same(export(load(name, without)), state)
        with pytest.raises(WeightsError, match=f"{re.escape(key)} is not what"):
            load(name, {**state, key: state[key] + 1})


def test_files_older_than_batch_counters_are_read_but_one_lost_counter_is_missing():
    name = "context_encoder/boyuan_discriminator"
    state = _small(name)
    older = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    back = export(load(name, older))
    _same({key: back[key] for key in older}, older)
    assert all(int(back[key]) == 0 for key in set(back) - set(older))
    with pytest.raises(WeightsError, match=r"1 missing \(main.6.num_batches_tracked\)"):
        load(name, {key: value for key, value in state.items() if key != "main.6.num_batches_tracked"})


def _before_tanh(image):
    return torch.atanh(image.double())


@pytest.mark.parametrize("name", ["context_encoder/boyuan_generator", "context_encoder/erik_generator",
                                  "edge_connect/inpaint_generator", "context_encoder/boyuan_discriminator",
                                  "context_encoder/erik_discriminator"])  # fmt: skip
def test_one_channel_gives_what_grey_gave(name):
    torch.manual_seed(1)
    rgb = load(name, _small(name), **_options(name)).eval()
    one = load(name, _small(name), in_channels=1, **_options(name)).eval()
    size = 128 if name == "context_encoder/boyuan_generator" else 64
    grey, edges = torch.rand(2, 1, size, size), torch.rand(2, 1, size, size).round()
    others = [edges] if "inpaint" in name else []
    with torch.no_grad():
        wide, narrow = rgb(torch.cat([grey.expand(-1, 3, -1, -1), *others], 1)), one(torch.cat([grey, *others], 1))
    if name.endswith("discriminator"):
        torch.testing.assert_close(narrow, wide, atol=1e-6, rtol=1e-5)
        return
    if "inpaint" in name:  # (tanh + 1) / 2
        wide, narrow = 2 * wide - 1, 2 * narrow - 1
    assert narrow.std() > 1e-3
    torch.testing.assert_close(_before_tanh(narrow), _before_tanh(wide).mean(1, keepdim=True), atol=2e-5, rtol=1e-4)


def test_one_channel_deepfill_follows_a_network_whose_first_stage_draws_grey():
    name, state = "deepfill_v2/generator", dict(_small("deepfill_v2/generator"))
    torch.manual_seed(2)
    image, mask = torch.rand(1, 1, 64, 64) * 2 - 1, torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 24:48] = 1
    hidden, ones = image * (1 - mask), torch.ones_like(mask)

    def stages(weights):
        rgb, one = load(name, weights).eval(), load(name, weights, in_channels=1).eval()
        with torch.no_grad():
            wide = rgb(torch.cat([hidden.expand(-1, 3, -1, -1), ones, ones * mask], 1), mask)
            narrow = one(torch.cat([hidden, ones, ones * mask], 1), mask)
        pairs = zip(narrow, wide, strict=True)
        return [(_before_tanh(n) - _before_tanh(w).mean(1, keepdim=True)).abs().max() for n, w in pairs]

    first, second = stages(state)
    assert first < 1e-5
    assert second > 1e-5  # its first stage draws in colour
    for kind in ("weight", "bias"):
        key = f"stage1.conv_to_rgb.conv.{kind}"
        state[key] = state[key].mean(0, keepdim=True).expand_as(state[key]).contiguous()
    assert max(stages(state)) < 1e-5


def test_one_channel_scales_the_logits_of_edge_connects_discriminator():
    name = "edge_connect/inpaint_discriminator"
    state = {key: value for key, value in _small(name).items() if not key.startswith("features")}
    left, _, right = torch.linalg.svd(state["conv1.0.weight_orig"].flatten(1), full_matrices=False)
    state |= {"conv1.0.weight_u": left[:, 0], "conv1.0.weight_v": right[0]}  # as after training
    grey = torch.rand(1, 1, 48, 48)
    with torch.no_grad():
        wide = load(name, state).eval()(grey.expand(-1, 3, -1, -1))[1][-1]
        narrow = load(name, state, in_channels=1).eval()(grey)[1][-1]
    scale = narrow.norm() / wide.norm()
    assert not 0.99 < scale < 1.01
    torch.testing.assert_close(narrow, scale * wide, atol=1e-6 * float(narrow.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ["edge_connect/inpaint_discriminator", "deepfill_v2/discriminator"])
def test_an_adapted_spectral_layer_is_normalised_anew(name):
    rgb, one = load(name, _small(name)), load(name, _small(name), in_channels=1)
    before, after = (net.conv1[0] if "edge" in name else net.conv1 for net in (rgb, one))
    summed = before.weight_orig[:, :3].sum(1, keepdim=True)
    torch.testing.assert_close(after.weight_orig, torch.cat([summed, before.weight_orig[:, 3:]], 1))
    after.eval()
    assert torch.linalg.matrix_norm(after.weight().detach().flatten(1).double(), 2).item() == pytest.approx(1, abs=1e-5)
    again = load(name, export(one), in_channels=1)  # a file of one channel is taken as it is
    _same(export(again), export(one))


def test_edge_networks_are_the_same_for_one_channel():
    for name in ("edge_connect/edge_generator", "edge_connect/edge_discriminator"):
        _same(export(load(name, _small(name), in_channels=1)), _small(name))
    with pytest.raises(WeightsError, match="in_channels is 2"):
        load("edge_connect/inpaint_generator", _small("edge_connect/inpaint_generator"), in_channels=2)


def test_networks_of_our_own_have_nothing_to_export():
    with pytest.raises(TypeError, match="has no published weights"):
        export(OwnGenerator(1, 8))

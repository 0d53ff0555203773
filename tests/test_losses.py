"""Losses against the published values and plain formulas, VGG19 and the reading of its weights."""

import math

import numpy as np
import parity
import pytest
import torch

from phenokeep.models import losses
from phenokeep.models.holes import hide
from phenokeep.models.nets.edge_connect import Discriminator, EdgeGenerator, InpaintGenerator
from phenokeep.models.nets.vgg import VGG19
from phenokeep.models.vgg import PUBLISHED, load_vgg19, shown

# Where each map ends in torchvision's vgg19().features (exclusive).
ENDS = {"relu1_1": 2, "relu1_2": 4, "relu2_1": 7, "relu2_2": 9, "relu3_1": 12, "relu3_2": 14, "relu3_3": 16,
        "relu3_4": 18, "relu4_1": 21, "relu4_2": 23, "relu4_3": 25, "relu4_4": 27, "relu5_1": 30, "relu5_2": 32,
        "relu5_3": 34, "relu5_4": 36}  # fmt: skip


def published(net, name, keys=None):
    net.load_state_dict(
        parity.without_aliases(parity.filled(name, keys)) if keys is None else parity.filled(name, keys)
    )
    return net.eval().requires_grad_(False)


def inputs():
    with np.load(parity.FOLDER / "inpaint_losses_inputs.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def turns(real, fake, kind):
    """The discriminator's loss and the generator's, from the maps of both images."""
    judged = [losses.adversarial(maps[-1], truth, kind, True) for maps, truth in ((real, True), (fake, False))]
    return sum(judged) / 2, losses.adversarial(fake[-1], True, kind, False)


@pytest.fixture(scope="module")
def edge_maps():
    data = inputs()
    hidden = [hide(data["gray"], data["mask"], 1.0), data["edge"] * (1 - data["mask"]), data["mask"]]
    drawn = published(EdgeGenerator(), "ec_edge_gen")(torch.cat(hidden, 1))
    judge = published(Discriminator(2), "ec_edge_dis")
    return [judge(torch.cat([data["gray"], edges], 1))[1] for edges in (data["edge"], drawn)]


@pytest.fixture(scope="module")
def painted():
    data = inputs()
    generator = published(InpaintGenerator(3), "ec_inpaint_gen")
    return generator(torch.cat([hide(data["img"], data["mask"], 1.0), data["edge"]], 1))


@parity.needed
@pytest.mark.parametrize("kind", losses.KINDS)
def test_published_edge_losses(kind, edge_maps):
    expected = parity.contents("inpaint_losses_expected")[f"edge_{kind}"]
    discriminator, generator = turns(*edge_maps, kind)
    matching = losses.feature_matching(edge_maps[1], edge_maps[0])
    assert discriminator.item() == pytest.approx(expected["dis"], rel=1e-4)
    assert generator.item() == pytest.approx(expected["gen_adv"], rel=1e-4)
    assert matching.item() == pytest.approx(expected["fm_unweighted"], rel=1e-4)


@parity.needed
@pytest.mark.parametrize("kind", losses.KINDS)
def test_published_inpaint_adversarial_losses(kind, painted):
    expected = parity.contents("inpaint_losses_expected")[f"inpaint_{kind}"]
    judge = published(Discriminator(3), "ec_inpaint_dis")
    discriminator, generator = turns(judge(inputs()["img"])[1], judge(painted)[1], kind)
    assert discriminator.item() == pytest.approx(expected["dis"], rel=1e-4)
    assert generator.item() == pytest.approx(expected["gen_adv_unweighted"], rel=1e-4)


@parity.needed
def test_published_image_losses(painted):
    expected, data = parity.contents("inpaint_losses_expected")["inpaint_nsgan"], inputs()
    vgg = published(VGG19(), "vgg19", "inpaint_vgg19_keys")
    image, mask = data["img"], data["mask"]
    content = losses.perceptual(*(vgg(shown(x), losses.PERCEPTUAL) for x in (painted, image)))
    style = losses.style(*(vgg(shown(x), losses.STYLE) for x in (painted * mask, image * mask)))
    assert losses.hole_l1(painted, image, mask).item() == pytest.approx(expected["l1_over_mask_mean"], rel=1e-4)
    assert content.item() == pytest.approx(expected["perceptual_unweighted"], rel=1e-4)
    assert style.item() == pytest.approx(expected["style_unweighted"], rel=1e-4)


@pytest.mark.parametrize("discriminator", [True, False])
@pytest.mark.parametrize("real", [True, False])
def test_adversarial_losses_by_hand(real, discriminator):
    values = [-2.5, -0.3, 0.0, 0.4, 1.7]
    sigmoid = [1 / (1 + math.exp(-v)) for v in values]
    margin = [max(0.0, 1 - v if real else 1 + v) for v in values]
    towards = [-v if real else v for v in values]
    by_hand = {
        "nsgan": [-math.log(s if real else 1 - s) for s in sigmoid],
        "lsgan": [(s - real) ** 2 for s in sigmoid],
        "hinge": margin if discriminator else towards,
    }
    for kind, terms in by_hand.items():
        loss = losses.adversarial(torch.tensor(values).reshape(1, 1, 5, 1), real, kind, discriminator)
        assert loss.item() == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_unknown_adversarial_loss_is_refused():
    with pytest.raises(ValueError, match=r"'wgan'.*nsgan, lsgan, hinge"):
        losses.adversarial(torch.zeros(1), True, "wgan", True)


def test_gram_is_a_plain_loop():
    features = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    matrices = losses.gram(features)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                total = sum(
                    features[b, i, y, x].item() * features[b, j, y, x].item() for y in range(4) for x in range(5)
                )
                assert matrices[b, i, j].item() == pytest.approx(total / 60, rel=1e-5)


def test_hole_l1_by_hand():
    raw, target = torch.full((2, 3, 4, 4), 0.75), torch.full((2, 3, 4, 4), 0.5)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1  # 8 of 32 pixels
    assert losses.hole_l1(raw, target, mask).item() == 1.0


def test_feature_matching_aims_at_the_real_maps_only():
    fake, real = (
        [torch.full((1, 2, 3, 3), v, requires_grad=True) for v in values] for values in ((1.0, 4.0), (3.0, 3.5))
    )
    loss = losses.feature_matching(fake, real)
    loss.backward()
    assert loss.item() == 2.5
    assert all(f.grad.any() for f in fake)
    assert all(r.grad is None for r in real)
    with pytest.raises(ValueError, match="argument 2"):
        losses.feature_matching(fake, real[:1])


def test_losses_are_float32_under_autocast():
    """A loss of bfloat16 maps is that of the same values in float32, to the last bit."""
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.randn(2, 16, 12, 12, generator=generator).bfloat16() for _ in range(2))
    mask = (torch.rand(2, 1, 12, 12, generator=generator) > 0.5).bfloat16()

    def all_losses(fake, real, mask):
        maps = [dict.fromkeys(losses.PERCEPTUAL + losses.STYLE, x) for x in (fake, real)]
        return [
            *(losses.adversarial(fake, r, k, d) for k in losses.KINDS for r in (True, False) for d in (True, False)),
            losses.feature_matching([fake], [real]),
            losses.perceptual(*maps),
            losses.style(*maps),
            losses.hole_l1(fake, real, mask),
        ]

    with torch.autocast("cpu", torch.bfloat16):
        fast = all_losses(fake, real, mask)
    for a, b in zip(fast, all_losses(fake.float(), real.float(), mask.float()), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return VGG19().requires_grad_(False)


def test_vgg_maps_are_torchvisions_slices(vgg):
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    assert sum(p.numel() for p in vgg.parameters()) == 20_024_384
    maps = vgg(image, ENDS)
    assert set(maps) == set(ENDS)
    for name, end in ENDS.items():
        assert torch.equal(maps[name], vgg.features[:end](image))
        assert torch.equal(maps[name], vgg(image, [name])[name])


@parity.needed
def test_vgg_keys(vgg):
    listed = {key: tuple(shape) for key, shape, *_ in parity.contents("inpaint_vgg19_keys")["keys"]}
    assert {key: tuple(value.shape) for key, value in vgg.state_dict().items()} == listed


def test_vgg_computes_no_further_than_asked(vgg):
    calls = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in vgg.features]
    vgg(torch.zeros(1, 3, 32, 32), losses.PERCEPTUAL)
    for hook in hooks:
        hook.remove()
    assert len(calls) == ENDS["relu5_1"]


def test_vgg_refuses_what_it_cannot_give(vgg):
    with pytest.raises(ValueError, match=r"relu6_1.*no map.*relu1_1"):
        vgg(torch.zeros(1, 3, 32, 32), ["relu1_1", "relu6_1"])
    with pytest.raises(ValueError, match=r"15x40.*relu5_1.*16 px"):
        vgg(torch.zeros(1, 3, 15, 40), losses.PERCEPTUAL)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_channel_is_shown_in_grey(channels, vgg):
    fake, real = torch.rand(2, 2, channels, 16, 16, generator=torch.Generator().manual_seed(2))
    loss = losses.perceptual(*(vgg(shown(x), losses.PERCEPTUAL) for x in (fake, real)))
    if channels == 3:
        assert shown(fake) is fake
    else:
        one = [
            losses.perceptual(*(vgg(x[:, [c, c, c]], losses.PERCEPTUAL) for x in (fake, real))) for c in range(channels)
        ]
        assert loss.item() == pytest.approx(torch.stack(one).mean().item(), rel=1e-5)


def test_losses_reach_the_image_through_vgg(vgg):
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()
    maps = losses.PERCEPTUAL + losses.STYLE
    real = vgg(shown(torch.zeros(1, 1, 32, 32)), maps)
    for loss in (losses.perceptual, losses.style):
        image.grad = None
        loss(vgg(shown(image), maps), real).backward()
        assert image.grad.isfinite().all()
        assert image.grad.any()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A torch hub cache of the test's own; returns the file in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / PUBLISHED


def small(state):
    """The same keys and shapes, all zero, in a file of few bytes."""
    return {key: torch.zeros(1).expand(value.shape) for key, value in state.items()}


def test_published_file_is_read_from_the_hub_cache_or_a_path(vgg, hub, tmp_path):
    whole = {**vgg.state_dict(), "classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}
    torch.save(whole, hub, _use_new_zipfile_serialization=False)  # as torchvision's file is written
    hub_net = load_vgg19()
    moved = hub.rename(tmp_path / "other.pth")
    for net in (hub_net, load_vgg19(moved), load_vgg19(str(moved))):
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
        assert all(torch.equal(value, vgg.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("named", [True, False])
def test_missing_file_names_both_mends(named, hub, tmp_path):
    path = tmp_path / "absent.pth" if named else hub
    with pytest.raises(FileNotFoundError) as caught:
        load_vgg19(path if named else None)
    for part in (str(path), PUBLISHED, "model.vgg=", "model.perceptual=null model.style=null"):
        assert part in str(caught.value)


def test_wrong_files_are_refused(vgg, tmp_path):
    right, file = small(vgg.state_dict()), tmp_path / "vgg.pth"
    shape = {**right, "features.5.weight": torch.zeros(1).expand(128, 3, 3, 3)}
    batch_norm = {**right, "features.1.running_mean": torch.zeros(64)}
    fewer = {key: value for key, value in right.items() if not key.startswith("features.34")}
    infinite = {**right, "features.0.bias": torch.full((64,), torch.inf)}
    cases = [
        (shape, r"features\.5\.weight is \(128, 3, 3, 3\), in VGG19 \(128, 64, 3, 3\)"),
        (batch_norm, r"features\.1\.running_mean is not of it"),
        (fewer, r"features\.34\.weight is missing"),
        (infinite, r"features\.0\.bias holds NaN or infinite"),
        ({**right, "features.0.bias": 1.0}, r"features\.0\.bias is \(\)"),
        ([torch.zeros(1)], "holds a list"),
        ({**right, "features.0.bias": math.sqrt}, "could run code"),
    ]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(ValueError, match=message) as caught:
            load_vgg19(file)
        assert str(file) in str(caught.value)
        assert "model.perceptual=null model.style=null" in str(caught.value)
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"file of weights.*model\.perceptual=null model\.style=null"):
        load_vgg19(file)

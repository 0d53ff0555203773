"""The Context Encoder against its published layer table, its published variants against their numbers."""

from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from phenokeep.imaging.squares import Square
from phenokeep.models import ContextEncoder
from phenokeep.models.nets.context_encoder import Discriminator, Generator
from phenokeep.models.nets.context_encoder_published import ErikGenerator
from phenokeep.run import train

CONFIGS = Path(__file__).parents[1] / "configs"
BOTTLENECK = 4000
# inputs, outputs, kernel, stride, padding, batch normalisation, activation; from the published network definition.
ENCODER = [
    (1, 64, 4, 2, 1, False, "LeakyReLU"),
    (64, 64, 4, 2, 1, True, "LeakyReLU"),
    (64, 128, 4, 2, 1, True, "LeakyReLU"),
    (128, 256, 4, 2, 1, True, "LeakyReLU"),
    (256, 512, 4, 2, 1, True, "LeakyReLU"),
    (512, BOTTLENECK, 4, 1, 0, True, "LeakyReLU"),
]
DECODER = [
    (BOTTLENECK, 512, 4, 1, 0, True, "ReLU"),
    (512, 256, 4, 2, 1, True, "ReLU"),
    (256, 128, 4, 2, 1, True, "ReLU"),
    (128, 64, 4, 2, 1, True, "ReLU"),
    (64, 64, 4, 2, 1, True, "ReLU"),
    (64, 1, 4, 2, 1, False, "Tanh"),
]
DISCRIMINATOR = [
    (1, 64, 4, 2, 1, False, "LeakyReLU"),
    (64, 64, 4, 2, 1, True, "LeakyReLU"),
    (64, 128, 4, 2, 1, True, "LeakyReLU"),
    (128, 256, 4, 2, 1, True, "LeakyReLU"),
    (256, 512, 4, 2, 1, True, "LeakyReLU"),
    (512, 1, 4, 1, 0, False, None),
]


def _table(net):
    """The rows of a network, read off its modules in order."""
    rows = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None
            row = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], module.padding[0])
            rows.append([*row, False, None])
        elif isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-5
            rows[-1][5] = True
        elif isinstance(module, nn.LeakyReLU | nn.ReLU | nn.Tanh):
            assert getattr(module, "negative_slope", 0.2) == 0.2
            rows[-1][6] = type(module).__name__
    return [tuple(row) for row in rows]


def _parameters(table):
    return sum(i * o * k * k + 2 * o * norm for i, o, k, _, _, norm, _ in table)


def test_layer_tables_and_parameter_counts():
    generator, discriminator = Generator(1, BOTTLENECK), Discriminator(1)
    assert _table(generator.encoder) == ENCODER
    assert _table(generator.decoder) == DECODER
    assert _table(discriminator) == DISCRIMINATOR
    count = sum(p.numel() for p in generator.parameters())
    # The published centre variant with three channels has 71,124,544; this one adds a 64->64 block and drops two
    # channels on either side.
    assert count == _parameters(ENCODER + DECODER) == 71_124_544 + (64 * 64 * 16 + 2 * 64) - 2 * (2 * 64 * 16)
    assert sum(p.numel() for p in discriminator.parameters()) == _parameters(DISCRIMINATOR)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 128, 128), (3, 128, 160)])
def test_any_channels_and_sizes(channels, height, width):
    x = torch.zeros(2, channels, height, width)
    net = Generator(channels, 8)
    assert net(x).shape == x.shape
    assert Discriminator(channels)(x).shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="divisible by 32"):
        net(x[..., :100])


def _batch(square, size=128, channels=1, number=3):
    """Random images with the holes of a mask maker, the hole's content in the source too."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    masks = [torch.from_numpy(square.draw(rng, (size, size))).float()[None] for _ in range(number)]
    image = torch.rand(number, channels, size, size)
    return {"source": image, "target": image, "mask": torch.stack(masks), "id": list("abc")[:number]}


class _Rectangle:
    def draw(self, rng, shape):
        mask = np.zeros(shape, np.uint8)
        mask[30:90, 40:100] = 1
        return mask


@pytest.mark.parametrize(("variant", "square", "size"), [
    ("random_region", _Rectangle(), 128), ("random_region", _Rectangle(), 150), ("boyuan", Square(), 128),
    ("boyuan", Square(inset=4), 128), ("erik", Square("random"), 64), ("erik", Square("random"), 160),
])  # fmt: skip
def test_prediction_cannot_see_the_hole(variant, square, size):
    model, batch = ContextEncoder(2, variant, bottleneck=8).eval(), _batch(square, size, channels=2)
    changed = {**batch, "source": batch["source"] + 0.5 * batch["mask"]}
    first, second = (model.test_step(b, 0)["prediction"] for b in (batch, changed))
    assert torch.equal(first, second)
    known = batch["mask"] == 0
    assert torch.equal(first.where(known, 0), batch["source"].where(known, 0))
    assert not torch.equal(first, batch["source"])


def test_random_region_of_any_size_is_that_of_the_mirrored_image():
    model, batch = ContextEncoder(1, bottleneck=8).eval(), _batch(_Rectangle(), 150)
    out = model.test_step(batch, 0)["prediction"]
    mirrored = {k: torch.from_numpy(np.pad(v, ((0, 0), (0, 0), (0, 10), (0, 10)), "reflect")) for k, v in batch.items()
                if k != "id"}  # fmt: skip
    torch.testing.assert_close(out, model.test_step(mirrored, 0)["prediction"][..., :150, :150])
    assert ContextEncoder(1, bottleneck=8).eval()(torch.zeros(1, 1, 60, 90), torch.ones(1, 1, 60, 90)).shape[-2:] == (
        60,
        90,
    )


@pytest.mark.parametrize(("variant", "size", "rows", "columns"), [
    ("boyuan", 128, (31, 95), (32, 96)),  # not in the centre
    ("boyuan", 128, (34, 94), (34, 94)),  # neither the whole nor less the overlap
    ("boyuan", 256, (64, 192), (64, 192)),
    ("boyuan", 128, (0, 0), (0, 0)),
    ("erik", 128, (10, 74), (0, 63)),
    ("erik", 96, (0, 64), (0, 64)),
    ("erik", 100, (0, 50), (0, 50)),
    ("erik", 128, (0, 0), (0, 0)),
])  # fmt: skip
def test_published_variants_say_which_holes_they_fill(variant, size, rows, columns):
    model, mask = ContextEncoder(1, variant, bottleneck=8), torch.zeros(2, 1, size, size)
    mask[..., rows[0] : rows[1], columns[0] : columns[1]] = 1
    said = rf"image is {size}x{size}.*variant={variant} fills .*data/masks=centre.*model.variant=random_region"
    with pytest.raises(ValueError, match=said):
        model(torch.rand(2, 1, size, size), mask)


def test_two_holes_are_not_one_square():
    model, mask = ContextEncoder(1, "erik", bottleneck=8), torch.zeros(1, 1, 64, 64)
    mask[..., 0:16, 0:32] = mask[..., 40:56, 0:32] = 1  # as many rows and columns as the square has
    with pytest.raises(ValueError, match="fills one square"):
        model(torch.rand(1, 1, 64, 64), mask)


def test_erik_draws_the_hole_and_only_the_hole():
    model, batch = ContextEncoder(1, "erik", bottleneck=8).eval(), _batch(Square("random"), 64)
    with torch.no_grad():
        drawn, placed = model(batch["source"], batch["mask"]), model.test_step(batch, 0)["prediction"]
    assert drawn.shape == (3, 1, 32, 32)
    for number in range(3):
        inside = placed[number][batch["mask"][number] == 1].view(32, 32)
        torch.testing.assert_close(inside, (drawn[number, 0] + 1) / 2)
    white = batch["source"] * (1 - batch["mask"]) + batch["mask"]
    torch.testing.assert_close(drawn, model.generator(2 * white - 1))


def test_losses_of_erik():
    model, batch = ContextEncoder(1, "erik", bottleneck=8).eval(), _batch(Square("random"), 64)
    with torch.no_grad():
        raw = model(batch["source"], batch["mask"])
        generator, discriminator = model.generator_loss(batch, raw), model.discriminator_loss(batch, raw)
        content = [image[mask.expand_as(image) == 1].view(1, 32, 32) for image, mask in
                   zip(batch["target"], batch["mask"], strict=True)]  # fmt: skip
        real = 2 * torch.stack(content) - 1
        fake_scores, real_scores = model.discriminator(raw), model.discriminator(real)
    expected = {"adversarial": ((fake_scores - 1) ** 2).mean(), "reconstruction": (raw - real).abs().mean()}
    assert {k: v.item() for k, v in generator.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
    assert discriminator["real"].item() == pytest.approx(0.5 * ((real_scores - 1) ** 2).mean().item())
    assert discriminator["fake"].item() == pytest.approx(0.5 * (fake_scores**2).mean().item())


@pytest.fixture(scope="module")
def boyuan():
    """The published centre variant with the fixture's weights."""
    model = ContextEncoder(3, "boyuan").eval()
    model.generator.load_state_dict(parity.filled("ce_boyuan_gen"))
    model.discriminator.load_state_dict(parity.filled("ce_boyuan_dis"))
    return model


def _difference(net, name):
    expected = parity.fixture(name)
    with torch.no_grad():
        return np.abs(net(torch.from_numpy(expected["x"])).numpy() - expected["out"]).max()


@parity.needed
def test_boyuan_gives_the_published_numbers(boyuan):
    assert _difference(boyuan.generator, "ce_boyuan_gen") < 5e-5
    assert _difference(boyuan.discriminator, "ce_boyuan_dis") < 1e-6


@parity.needed
def test_erik_gives_the_published_numbers_and_only_with_its_norm_eps():
    model = ContextEncoder(3, "erik").eval()
    model.generator.load_state_dict(parity.filled("ce_erik_gen"))
    model.discriminator.load_state_dict(parity.filled("ce_erik_dis"))
    assert _difference(model.generator, "ce_erik_gen") < 5e-5
    assert _difference(model.discriminator, "ce_erik_dis") < 1e-6
    usual = ErikGenerator(norm_eps=1e-5).eval()
    usual.load_state_dict(parity.filled("ce_erik_gen"))
    assert _difference(usual, "ce_erik_gen") == pytest.approx(0.96, abs=0.01)


@parity.needed
def test_losses_of_boyuan_are_the_published_numbers(boyuan):
    expected = parity.contents("inpaint_losses_expected")["context_encoder"]
    image = torch.from_numpy(np.random.RandomState(8).uniform(-1, 1, (2, 3, 128, 128)).astype(np.float32))
    source = (image + 1) / 2
    mask = torch.from_numpy(Square(inset=4).draw(np.random.default_rng(0), (128, 128))).float().expand(2, 1, -1, -1)
    batch = {"source": source, "target": source, "mask": mask}
    with torch.no_grad():
        raw = boyuan(source, mask)
        generator = {key: value.item() for key, value in boyuan.generator_loss(batch, raw).items()}
        discriminator = boyuan.discriminator_loss(batch, raw)
    adversarial, overlap, w = generator["adversarial"], generator["reconstruction"], 0.999
    found = {
        "errD": (discriminator["real"] + discriminator["fake"]).item(),
        "errG_D": adversarial,
        "l2_overlap10_unscaled": overlap,
        "errG_l2_boyuan": w * overlap,
        "errG_lua": (1 - w) * adversarial + w * overlap,
        "errG_boyuan": (1 - w) * adversarial + w * w * overlap,  # the port applies the weight twice
    }
    assert found == pytest.approx(expected, rel=1e-4)


def test_settings_are_the_published_ones():
    config = OmegaConf.load(CONFIGS / "model/context_encoder.yaml")
    assert (config.generator_lr, config.discriminator_lr, config.betas) == (2e-3, 2e-4, [0.5, 0.999])
    assert config.weights == {"generator": {"adversarial": 0.001, "reconstruction": 0.999}}
    assert (config.bottleneck, config.overlap, config.known_weight, config.norm_eps) == (4000, 4, 10, 0.8)
    stages = [OmegaConf.load(CONFIGS / f"experiment/phirm/{name}.yaml") for name in
              ("context_encoder", "context_encoder_finetune")]  # fmt: skip
    assert stages[0].trainer.max_epochs == 200
    assert stages[1].model.generator_lr == stages[1].model.discriminator_lr == 2e-4


@pytest.mark.parametrize(("options", "message"), [
    ({"variant": "pathak"}, "'pathak': choose random_region, boyuan, erik"),
    ({"hole_value": 117}, "hole_value is 117: values from 0 to 1"),
    ({"bottleneck": 0}, "bottleneck is 0"),
    ({"known_weight": -1.0}, "known_weight -1"),
    ({"norm_eps": -0.1}, "norm_eps -0.1"),
])  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ContextEncoder(1, **{"bottleneck": 8, **options})


@pytest.mark.parametrize("variant", ["random_region", "boyuan"])
def test_training_on_one_patch_says_which_batch_size(variant):
    model, batch = ContextEncoder(1, variant, bottleneck=8), _batch(Square(), number=1)
    with pytest.raises(ValueError, match=r"data\.batch_size=2"):
        model.draw(batch)
    assert model.eval().draw(batch).isfinite().all()


def test_published_holes_serve_one_channel_by_their_mean():
    assert ContextEncoder(1, "boyuan", 8).hole.flatten().tolist() == pytest.approx([(117 + 104 + 123) / 3 / 255])
    three = ContextEncoder(3, "boyuan", 8).hole.flatten() * 255
    assert three.tolist() == pytest.approx([117, 104, 123])
    with pytest.raises(ValueError, match="hole_value"):
        ContextEncoder(3, "boyuan", 8, hole_value=[0.1, 0.2])
    with pytest.raises(ValueError, match="overlap is 32"):
        ContextEncoder(1, "boyuan", 8, overlap=32)


@pytest.mark.parametrize(("variant", "masks"), [("boyuan", []), ("erik", ["data.masks.position=random"])])
def test_published_variants_train(variant, masks, config):
    results = train(config("experiment=phirm/context_encoder", "model.bottleneck=8", f"model.variant={variant}",
                           "data/masks=centre", *masks))  # fmt: skip
    assert np.isfinite(results["train/generator/loss"])
    assert np.isfinite(results["val/phirm/phirm"])


def test_published_variants_refuse_other_masks_in_training(config):
    with pytest.raises(ValueError, match="data/masks=centre"):
        train(config("experiment=phirm/context_encoder", "model.bottleneck=8", "model.variant=boyuan"))


@pytest.mark.parametrize("shape", [(128, 128), (96, 64)])
def test_squares_are_half_the_side(shape):
    rng, corners = np.random.default_rng(0), set()
    centre = Square().draw(rng, shape)
    assert centre.sum() * 4 == centre.size
    np.testing.assert_array_equal(centre, centre[::-1, ::-1])
    for _ in range(200):
        mask = Square("random").draw(rng, shape)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (len(rows), len(columns)) == (shape[0] // 2, shape[1] // 2)
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        corners.add((int(rows[0]), int(columns[0])))
    assert max(row for row, _ in corners) > shape[0] * 0.4
    assert len(corners) > 100
    inner = Square(inset=4).draw(rng, shape)
    assert inner.sum() == (shape[0] // 2 - 8) * (shape[1] // 2 - 8)
    assert not (inner > centre).any()


def test_squares_refuse_what_they_are_not():
    with pytest.raises(ValueError, match=r"data\.val_bands=null"):
        Square().draw(np.random.default_rng(0), (128, 128), (0.3, 0.4))
    with pytest.raises(ValueError, match="is empty"):
        Square(inset=32).draw(np.random.default_rng(0), (128, 128))
    with pytest.raises(ValueError, match="centre or random"):
        Square("center")


def test_global_step_counts_batches_and_both_networks_learn(config):
    cfg = config("experiment=phirm/context_encoder", "model.bottleneck=8", "trainer.limit_train_batches=3",
                 "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}")  # fmt: skip
    train(cfg)
    saved = torch.load(f"{cfg.output_dir}/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert [state["state"][0]["step"] for state in saved["optimizer_states"]] == [3, 3]


def test_unknown_loss_weight_is_refused(config):
    cfg = config("experiment=phirm/context_encoder", "model.bottleneck=8", "+model.weights.generator.adversarail=1")
    with pytest.raises(ValueError, match=r"adversarail.*terms are"):
        train(cfg)
    with pytest.raises(ValueError, match="two parts"):
        ContextEncoder(bottleneck=8, weights={"genrator": {}})

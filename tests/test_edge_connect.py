"""EdgeConnect: what each stage learns, sees and refuses, and the recipe through the stages."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import parity
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

import phenokeep.configs
from phenokeep.imaging.edges import LUMINANCE, Canny, canny
from phenokeep.models import EdgeConnect
from phenokeep.models.edge_connect import PARTS
from phenokeep.models.nets.vgg import VGG19
from phenokeep.models.perception import Perception
from phenokeep.models.vgg import WITHOUT
from phenokeep.run import train

OFF = {"perceptual": None, "style": None}


def nuclei(channels=1, height=32, width=32, seed=0):
    """Two images with a bright disk half in the hole, and the edges of their first channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    images = []
    for centre in (9, 20):
        disk = 0.8 / (1 + np.exp(np.hypot(y - 14, x - centre) - 7))
        images.append([disk * (1 - 0.1 * c) + 0.05 * rng.random(disk.shape) for c in range(channels)])
    source = torch.tensor(np.array(images), dtype=torch.float32)
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, 8:20, 4:14] = mask[1, :, 10:24, 12:30] = 1
    edges = torch.from_numpy(np.stack([canny(image[0])[None] for image in source.numpy()]))
    names = {"id": ["a", "b"], "group": ["p:A1", "p:A2"]}
    return {"source": source, "target": source.clone(), "mask": mask, "edges": edges, **names}


def model(stage, **options):
    torch.manual_seed(0)
    return EdgeConnect(stage, **{"blocks": 1, **OFF, **options})


def fit(net, batch, steps=1):
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(net, DataLoader([batch] * steps, batch_size=None))
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


TERMS = {
    "edge": {"generator": {"edge_adversarial": 1, "feature_matching": 10}, "discriminator": {"edge_real", "edge_fake"}},
    "inpaint": {"generator": {"adversarial": 0.1, "l1": 1}, "discriminator": {"real", "fake"}},
}
TERMS["finetune"] = TERMS["inpaint"]
TERMS["joint"] = {
    "generator": TERMS["edge"]["generator"] | TERMS["inpaint"]["generator"],
    "discriminator": TERMS["edge"]["discriminator"] | TERMS["inpaint"]["discriminator"],
}


@pytest.mark.filterwarnings("ignore:.*in eval mode")
@pytest.mark.parametrize("gan_loss", ["nsgan", "hinge"])
@pytest.mark.parametrize("stage", PARTS)
def test_a_step_moves_the_right_networks(stage, gan_loss):
    net = model(stage, gan_loss=gan_loss)
    before = copy.deepcopy(net.state_dict())
    logged = fit(net, nuclei())
    assert all(math.isfinite(value) for value in logged.values())
    after = net.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    learning = set(PARTS[stage]) - ({"edge_generator"} if stage == "finetune" else set())
    assert {key.split(".")[0] for key in before} == set(PARTS[stage])
    assert {key.split(".")[0] for key in changed} == learning
    # A bias before an instance norm has no effect and so no gradient; the one vector of one output cannot turn.
    free = {key for key, value in before.items() if not key.endswith("bias") and value.numel() > 1}
    assert not {key for key in free if key.split(".")[0] in learning} - changed
    terms = TERMS[stage]
    expected = sum(weight * logged[f"train/generator/{term}"] for term, weight in terms["generator"].items())
    assert logged["train/generator/loss"] == pytest.approx(expected, rel=1e-5)
    expected = sum(logged[f"train/discriminator/{term}"] for term in terms["discriminator"]) / 2
    assert logged["train/discriminator/loss"] == pytest.approx(expected, rel=1e-5)
    assert len(logged) == len(terms["generator"]) + len(terms["discriminator"]) + 2


def test_optimizers_are_the_published_ones():
    generator, discriminator = model("joint").configure_optimizers()
    assert [group["lr"] for group in (*generator.param_groups, *discriminator.param_groups)] == [1e-4, 1e-5]
    assert generator.defaults["betas"] == discriminator.defaults["betas"] == (0.0, 0.9)


def gradients(net, loss):
    net.zero_grad()
    loss.backward(retain_graph=True)
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def test_joint_is_the_sum_of_both_and_the_image_teaches_the_edges():
    """Terms and gradients against the stages alone, which hold the same weights."""
    batch, joint = nuclei(), model("joint")
    with torch.no_grad():
        for _ in range(5):  # the power iteration converges
            joint.discriminator_loss(batch, joint.draw(batch))
    joint.eval()
    edge, paint = model("edge").eval(), model("finetune").eval()
    for other in (edge, paint):
        other.load_state_dict({k: v for k, v in joint.state_dict().items() if k.split(".")[0] in PARTS[other.stage]})
    raw = joint.draw(batch)
    terms = joint.generator_loss(batch, raw)
    apart = edge.generator_loss(batch, edge.draw(batch)) | paint.generator_loss(batch, paint.draw(batch))
    assert terms.keys() == apart.keys()
    for name, value in terms.items():
        assert torch.equal(value, apart[name]), name
    judged = joint.discriminator_loss(batch, raw)
    alone = edge.discriminator_loss(batch, edge.draw(batch)) | paint.discriminator_loss(batch, paint.draw(batch))
    assert all(torch.equal(judged[name], alone[name]) for name in judged.keys() | alone.keys())
    of_edges = gradients(joint, terms["edge_adversarial"] + 10 * terms["feature_matching"])
    of_image = gradients(joint, 0.1 * terms["adversarial"] + terms["l1"])
    total = sum(joint.weights["generator"][name] * value for name, value in terms.items())
    both = gradients(joint, total)
    for name in both:
        if name.startswith("edge_generator") and name.endswith(("weight", "weight_orig")):
            assert of_image[name].abs().sum() > 0, name
            expected = of_edges[name] + of_image[name]
            torch.testing.assert_close(both[name], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        elif name.startswith("inpaint_generator"):
            assert of_edges[name] is None


@pytest.mark.parametrize("edge", ["composite", "raw"])
@pytest.mark.parametrize("stage", ["finetune", "joint"])
def test_prediction_cannot_see_the_hole(stage, edge):
    net, batch = model(stage, edge=edge).eval(), nuclei()
    changed = {**batch, "source": batch["source"] + (0.2 - batch["source"]) * batch["mask"]}
    changed["source"][0, :, 12:16, 6:12] = 1
    del changed["edges"], changed["target"]
    with torch.inference_mode():
        first, second = (net.test_step(b, 0) for b in (batch, changed))
    for name in ("prediction", "raw", "edges_predicted"):
        outside = 1 if name != "prediction" else batch["mask"]
        assert torch.equal(first[name] * outside, second[name] * outside), name
    outside = 1 - batch["mask"]
    assert torch.equal(first["prediction"] * outside, batch["source"] * outside)
    assert not torch.equal(first["prediction"], batch["source"])


def inputs_of(net, part):
    """What a network is shown from now on."""
    seen = []
    getattr(net, part).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    return seen


@pytest.mark.parametrize("edge", ["composite", "raw"])
def test_the_image_is_drawn_from_edges_composited_or_raw(edge):
    batch = nuclei()
    source, mask = batch["source"], batch["mask"]
    net = model("joint", edge=edge, edges=Canny(sigma=1.5)).eval()
    to_edges, to_image = inputs_of(net, "edge_generator"), inputs_of(net, "inpaint_generator")
    out = net.predict_step(batch, 0)
    known = torch.stack([torch.from_numpy(canny(i[0].numpy(), 1.5, mask=1 - m[0].numpy()))[None]
                         for i, m in zip(source, mask, strict=True)])  # fmt: skip
    assert known.sum() > 20
    white = source * (1 - mask) + mask
    assert torch.equal(to_edges[0], torch.cat([white, known, mask], 1))
    drawn = net.edge_generator(to_edges[0])
    expected = drawn if edge == "raw" else torch.where(mask == 1, drawn, known)
    torch.testing.assert_close(to_image[0], torch.cat([white, expected], 1))
    assert torch.equal(out["edges_predicted"], to_image[0][:, 1:])
    torch.testing.assert_close(out["raw"], net.inpaint_generator(to_image[0]))


def test_training_shows_true_edges_and_the_discriminator_raw_ones():
    batch, net = nuclei(channels=3), model("joint", in_channels=3).eval()
    source, mask, edges = batch["source"], batch["mask"], batch["edges"]
    shown = {part: inputs_of(net, part) for part in PARTS["joint"]}
    raw = net.draw(batch)
    net.discriminator_loss(batch, raw)
    grey = sum(weight * source[:, c : c + 1] for c, weight in enumerate(LUMINANCE))
    torch.testing.assert_close(
        shown["edge_generator"][0], torch.cat([grey * (1 - mask) + mask, edges * (1 - mask), mask], 1)
    )
    composite = raw["edges"] * mask + edges * (1 - mask)
    assert torch.equal(shown["inpaint_generator"][0], torch.cat([source * (1 - mask) + mask, composite], 1))
    real, fake = shown["edge_discriminator"]
    torch.testing.assert_close(real, torch.cat([grey, edges], 1))
    torch.testing.assert_close(fake, torch.cat([grey, raw["edges"]], 1))
    assert (fake[:, 1:] != edges)[mask == 0].float().mean() > 0.9
    assert torch.equal(shown["inpaint_discriminator"][0], batch["target"])
    assert torch.equal(shown["inpaint_discriminator"][1], raw["image"])


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 37, 50), (2, 30, 33), (3, 32, 36)])
def test_any_channels_and_sizes(channels, height, width):
    batch, net = nuclei(channels, height, width), model("joint", in_channels=channels)
    logged = fit(net, batch)
    assert all(math.isfinite(value) for value in logged.values())
    out = net.eval().test_step(batch, 0)
    assert out["prediction"].shape == batch["source"].shape
    assert out["edges_predicted"].shape == batch["mask"].shape
    known = batch["mask"].expand_as(batch["source"]) == 0
    assert torch.equal(out["prediction"][known], batch["source"][known])


def test_losses_and_pictures_are_float32_under_autocast():
    batch, net = nuclei(), model("joint")
    with torch.autocast("cpu", torch.bfloat16):
        raw = net.draw(batch)
        terms = net.discriminator_loss(batch, raw) | net.generator_loss(batch, raw)
        out = net.eval().test_step(batch, 0)
    assert {value.dtype for value in (*raw.values(), *terms.values(), *out.values())} == {torch.float32}
    with torch.no_grad():
        precise = net.draw(batch)
    assert 0 < (precise["image"] - raw["image"]).abs().max() < 0.1


def test_a_frozen_generator_stays_in_evaluation():
    net = model("finetune")
    assert not net.edge_generator.training
    assert not any(p.requires_grad for p in net.edge_generator.parameters())
    net.eval().train()
    assert net.inpaint_generator.training
    assert not net.edge_generator.training
    assert all(module.training for module in model("joint").modules())


def test_early_stages_are_validated_and_refuse_to_restore():
    batch = nuclei()
    edge, paint = model("edge").eval(), model("inpaint").eval()
    out = edge.validation_step(batch, 0)
    assert torch.equal(out["prediction"], out["edges_predicted"])
    assert torch.equal(out["target"], batch["edges"])  # what pictures show beside it
    shown = inputs_of(paint, "inpaint_generator")
    assert "edges_predicted" not in paint.validation_step(batch, 0)
    assert torch.equal(shown[0][:, 1:], batch["edges"])
    for net in (edge, paint):
        for step in (net.test_step, net.predict_step):
            with pytest.raises(ValueError, match=rf"stage {net.stage} .*experiment=phirm/edge_connect/finetune"):
                step(batch, 0)


def test_data_without_edges_are_refused():
    batch = nuclei()
    del batch["edges"]
    for stage in ("edge", "joint"):
        with pytest.raises(ValueError, match=r"data\.edges=\$\{model\.edges\}"):
            model(stage).draw(batch)


def begin(net, edges):
    """What Lightning does before training on data whose edge maps `edges` makes."""
    net._trainer = SimpleNamespace(datamodule=SimpleNamespace(edges=edges), precision="32-true")
    net.setup("fit")


@pytest.mark.parametrize(
    ("own", "of_data", "says"),
    [(Canny(), None, r"data\.edges=\$\{model\.edges\}"), (Canny(), Canny(sigma=1.0), r"sigma=1\.0.*data\.edges=\$\{"),
     (Canny(sigma=None), Canny(sigma=None), r"model\.edges\.sigma=null.*stage edge")],
)  # fmt: skip
def test_edges_that_cannot_be_meant_are_refused_before_training(own, of_data, says):
    with pytest.raises(ValueError, match=says):
        begin(model("edge", edges=own), of_data)
    begin(model("inpaint", edges=Canny(sigma=None)), Canny(sigma=None))  # an image without edges
    begin(model("edge"), np.zeros)  # maps from elsewhere


@pytest.mark.parametrize(
    ("init_from", "random"),
    [(None, True), ({"inpaint_generator": "a"}, True), ({"edge_generator": "a"}, False), ("a", False)],
)
def test_a_generator_frozen_at_random_is_told(init_from, random, caplog):
    begin(model("finetune", init_from=init_from), Canny())
    assert ("frozen as it was drawn at random" in caplog.text) == random


@pytest.mark.parametrize("images", [1, 2])
def test_images_without_edges_are_told(images, caplog):
    batch = nuclei()
    batch["edges"][:images] = 0
    fit(model("edge"), batch, steps=2)
    told = "no edge in 4 of the first epoch's 4 images" in caplog.text and "model.edges.low=0.05" in caplog.text
    assert told == (images == 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"stage": "third"}, "model.stage=third"), ({"edge": "both"}, "model.edge=both"),
     ({"gan_loss": "wgan"}, "model.gan_loss=wgan.*hinge"), ({"weights": {"generatr": {}}}, "two parts"),
     ({"stage": "inpaint", "weights": {"generator": {"style": 3.0}}}, r"names style: .*model\.style")],
)  # fmt: skip
def test_unknown_settings_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        EdgeConnect(**{"stage": "edge", "blocks": 1, **options})


def test_weights_change_terms_and_unknown_ones_are_refused():
    given = {"generator": {"l1": 3.0, "feature_matching": 5.0}, "discriminator": {"real": 1.0}}
    paint = model("inpaint", weights=given, style=7.0)
    assert paint.weights == {
        "generator": {"l1": 3.0, "adversarial": 0.1, "style": 7.0},
        "discriminator": {"real": 1.0, "fake": 0.5},
    }
    assert model("edge", weights=given, style=7.0).weights["generator"] == {
        "edge_adversarial": 1.0,
        "feature_matching": 5.0,
    }
    with pytest.raises(ValueError, match=r"'l2'.*not a term of this loss"):
        fit(model("inpaint", weights={"generator": {"l2": 1.0}}), nuclei())


@pytest.fixture(scope="module")
def vgg():
    """A VGG19 with random weights that keep the size of its maps."""
    torch.manual_seed(0)
    return VGG19().requires_grad_(False).eval()


def test_vgg_teaches_and_stays_out_of_the_checkpoint(vgg, monkeypatch):
    monkeypatch.setattr("phenokeep.models.perception.load_vgg19", lambda path: vgg)
    net = model("inpaint", perceptual=0.1, style=250.0)
    keys = set(net.state_dict())
    before = {key: value.clone() for key, value in vgg.state_dict().items()}
    logged = fit(net, nuclei())
    terms = {"adversarial": 0.1, "l1": 1, "perceptual": 0.1, "style": 250}
    expected = sum(weight * logged[f"train/generator/{term}"] for term, weight in terms.items())
    assert logged["train/generator/loss"] == pytest.approx(expected, rel=1e-5)
    assert logged["train/generator/perceptual"] > 0
    assert set(net.state_dict()) == keys
    assert not any(module is vgg for module in net.modules())
    assert all(torch.equal(value, vgg.state_dict()[key]) for key, value in before.items())
    batch, net = nuclei(), net.eval()
    image = batch["target"].clone().requires_grad_()
    seen = net.perception.terms(image, batch["target"] / 2, batch["mask"])
    of_style, of_content = (torch.autograd.grad(seen[name], image)[0].abs() for name in ("style", "perceptual"))
    assert of_style[batch["mask"] == 0].max() == 0  # style is the hole's, the content the whole image's
    assert of_style.max() > 0
    assert of_content[batch["mask"] == 0].max() > 0


@pytest.mark.parametrize(("precision", "changed"), [("bf16-mixed", True), ("32-true", False)])
def test_a_fast_run_keeps_vgg_in_the_layout_of_its_kernels(vgg, precision, changed, monkeypatch):
    monkeypatch.setattr("phenokeep.models.perception.load_vgg19", lambda path: copy.deepcopy(vgg))
    plain, fast = Perception(0.1, 250.0), Perception(0.1, 250.0)
    plain._vgg = vgg
    fast.load(precision)
    layers = [layer.weight for layer in fast._vgg.modules() if hasattr(layer, "weight")]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) == changed for weight in layers)
    batch = nuclei()
    terms, same = (each.terms(batch["target"] ** 2, batch["target"], batch["mask"]) for each in (plain, fast))
    for name in terms:
        assert float(same[name]) == pytest.approx(float(terms[name]), rel=1e-5)


@pytest.mark.parametrize("options", [{"perceptual": 0.1}, {"style": 250.0}])
def test_missing_vgg_stops_training_alone(options, tmp_path, caplog):
    path = tmp_path / "vgg19.pth"
    net = model("joint", vgg=str(path), **options)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=rf"{path}.*model\.vgg=.*model\.perceptual=null model\.style=null"):
        fit(net, nuclei())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    net.eval().predict_step(nuclei(), 0)
    assert "VGG19" not in caplog.text
    fit(model("edge", vgg=str(path), **options), nuclei())  # draws no image for VGG to look at, the next stage does
    assert f"no VGG19 weights at {path}" in caplog.text


@parity.needed
@pytest.mark.parametrize("gan_loss", ["nsgan", "lsgan", "hinge"])
@pytest.mark.parametrize("stage", ["edge", "inpaint"])
def test_published_losses(stage, gan_loss):
    """The whole assembly, from a batch to its terms, on published weights and values."""
    expected = parity.contents("inpaint_losses_expected")[f"{stage}_{gan_loss}"]
    with np.load(parity.FOLDER / "inpaint_losses_inputs.npz") as arrays:
        image, mask, edges = (torch.from_numpy(arrays[key]) for key in ("img", "mask", "edge"))
        image = image if stage == "inpaint" else torch.from_numpy(arrays["gray"])
    net = model(stage, blocks=8, in_channels=image.shape[1], gan_loss=gan_loss)
    for part, name in zip(PARTS[stage], ("gen", "dis"), strict=True):
        weights = parity.filled(f"ec_{stage}_{name}")
        getattr(net, part).load_state_dict(parity.without_aliases(weights))
    batch = {"source": image, "target": image, "mask": mask, "edges": edges, "id": ["a", "b"]}
    with torch.no_grad():
        raw = net.eval().draw(batch)
        judged, terms = net.discriminator_loss(batch, raw), net.generator_loss(batch, raw)
    assert float(sum(judged.values()) / 2) == pytest.approx(expected["dis"], rel=1e-4)
    if stage == "edge":
        assert float(terms["edge_adversarial"]) == pytest.approx(expected["gen_adv"], rel=1e-4)
        assert float(terms["feature_matching"]) == pytest.approx(expected["fm_unweighted"], rel=1e-4)
    else:
        assert float(terms["adversarial"]) == pytest.approx(expected["gen_adv_unweighted"], rel=1e-4)
        l1 = parity.contents("inpaint_losses_expected")["inpaint_nsgan"]["l1_over_mask_mean"]
        assert float(terms["l1"]) == pytest.approx(l1, rel=1e-4)


@pytest.fixture
def stage_config(config, runs, tmp_path):
    """A stage's experiment on the small drawn plate, in the folder where the other stages look for it."""

    def composed(stage, *overrides):
        name = f"phirm/edge_connect/{stage}"
        return config(f"experiment={name}", f"runs={tmp_path}", f"output_dir={tmp_path}/{name}/seed_0",
                      f"data.root={runs}/data", "least_size=32", "model.blocks=1",
                      "model.perceptual=null", "model.style=null",
                      "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}",
                      *overrides)  # fmt: skip

    return composed


def saved_part(cfg, part):
    state = torch.load(f"{cfg.output_dir}/last.ckpt", weights_only=True)["state_dict"]
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_recipe_goes_from_stage_to_stage(stage_config):
    """Frozen and unmoved weights are the predecessor's; a learning rate of 1e-12 shows what a stage started from."""
    edge, paint = stage_config("edge"), stage_config("inpaint")
    finetune = stage_config("finetune", "model.generator_lr=1e-12", "model.discriminator_lr=1e-12")
    with pytest.raises(ValueError, match="experiment=phirm/edge_connect/edge"):
        train(finetune)
    assert math.isfinite(train(edge)["val/edges/recall"])
    with pytest.raises(ValueError, match="experiment=phirm/edge_connect/inpaint"):
        train(finetune)
    train(paint)
    results = train(finetune)
    assert {"val/edges/f1", "val/nuclei/rim_f1", "val/phirm/phirm"} <= set(results)
    assert same(saved_part(finetune, "edge_generator"), saved_part(edge, "edge_generator"))
    for part in ("inpaint_generator", "inpaint_discriminator"):
        now, then = saved_part(finetune, part), saved_part(paint, part)
        for key in now:
            if not key.endswith(("_u", "_v")):
                torch.testing.assert_close(now[key], then[key], rtol=0, atol=1e-9)
    joint = stage_config("joint", "model.generator_lr=1e-12", "model.discriminator_lr=1e-12")
    train(joint)
    for part, origin in zip(PARTS["joint"], (edge, edge, finetune, finetune), strict=True):
        now, then = saved_part(joint, part), saved_part(origin, part)
        for key in now:
            if not key.endswith(("_u", "_v")):
                torch.testing.assert_close(now[key], then[key], rtol=0, atol=1e-9)


PREDECESSORS = {"edge": [], "inpaint": [], "finetune": ["edge", "inpaint", "inpaint"],
                "joint": ["edge", "edge", "finetune", "finetune"]}  # fmt: skip


@pytest.mark.parametrize("stage", PARTS)
def test_the_recipe_is_the_published_one(stage, config, runs):
    cfg = config(f"experiment=phirm/edge_connect/{stage}", "model.blocks=1", "seed=3")
    origins = [f"{runs}/phirm/edge_connect/{before}/seed_3/last.ckpt" for before in PREDECESSORS[stage]]
    assert dict(cfg.model.init_from or {}) == dict(zip(PARTS[stage] if origins else [], origins, strict=True))
    net = instantiate(cfg.model, _convert_="all")
    terms = TERMS[stage]
    drawing = {"perceptual": 0.1, "style": 250} if stage != "edge" else {}
    halves = dict.fromkeys(terms["discriminator"], 0.5)
    assert net.weights == {"generator": terms["generator"] | drawing, "discriminator": halves}
    assert (net.generator_lr, net.discriminator_lr, net.betas) == (1e-4, 1e-5, (0.0, 0.9))
    assert (net.canny, instantiate(cfg.data.edges)) == (Canny(2.0, 0.1, 0.2), net.canny)
    assert (net.edge, net.gan_loss) == ("composite", "nsgan")


def test_the_sweep_takes_each_stage_after_its_predecessors():
    sweeper = OmegaConf.load(Path(phenokeep.configs.__path__[0]) / "sweep/phirm_edge_connect.yaml").hydra.sweeper
    assert sweeper.params.experiment.split(",") == [f"phirm/edge_connect/{stage}" for stage in PARTS]
    assert sweeper.max_batch_size == 1  # a stage that fails stops the rest


def test_the_mend_for_missing_vgg_is_taken_or_refused_before_anything_trains():
    """The error says which sweep takes it; phirm_networks refuses it at once, not where it comes to DeepFill."""
    mend = ["model.perceptual=null", "model.style=null"]
    assert f"{' '.join(mend)} (sweep=phirm_edge_connect takes these keys, sweep=phirm_networks does not)" in WITHOUT
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        compose("train", ["sweep=phirm_edge_connect", *mend])
        with pytest.raises(ConfigCompositionException, match=r"model\.perceptual"):
            compose("train", ["sweep=phirm_networks", *mend])

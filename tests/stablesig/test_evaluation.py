"""`stablesig evaluate` from end to end, on an autoencoder with random weights and two small images."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

import stablesig
from stablesig.cli import main
from stablesig.evaluation_run import EvaluationStep
from stablesig.suites import NO_ATTACK, ImageAttack, Suite
from stablesig_detector.errors import (
    DecoderError,
    ImageError,
    KeyFileError,
    OutputExistsError,
    UsageError,
)
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION, spectrum
from stablesig_detector.whitening import load_default

from .conftest import textured_image
from .evaluation_attacks import NOISE, ROUND, SMALL, STAMP, Pixels

SETTINGS = stablesig.EvaluationSettings(size=64, seed=3)
SUITES = (SMALL, STAMP, ROUND)


@dataclass(frozen=True)
class Case:
    """A folder as `embed` writes it, and what goes with it."""

    folder: Path
    original: Path
    images: Path
    key: SecretKey


def watermark_json(key: SecretKey | PublicKey, vae: Path) -> dict[str, Any]:
    import hashlib

    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vae.iterdir()}
    return {
        "format": "stablesig-watermark",
        "version": 1,
        "key": {"id": key.id},
        "autoencoder": {
            "kind": "AutoencoderTiny",
            "source": "somewhere-else",
            "revision": None,
            "stride": 4,
            "latent_channels": 4,
            "files": files,
        },
        "images": {"manifest_sha256": "0" * 64, "held_out_sha256": []},
    }


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    from diffusers import AutoencoderTiny

    from stablesig_train.decoders import load_autoencoder

    folder = tmp_path_factory.mktemp("evaluation")
    sizes = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    blocks = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderTiny(**sizes, **blocks).save_pretrained(folder / "original")
        autoencoder = load_autoencoder(folder / "original")
        with torch.no_grad():
            for parameter in autoencoder.decoder_parameters():
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    autoencoder.save(folder / "marked" / "vae")
    images = folder / "photos"
    images.mkdir()
    Image.fromarray(textured_image(3, 72, 96)).save(images / "b <i>.png")
    Image.fromarray(textured_image(4, 64, 64)).save(images / "a.png")
    Image.fromarray(textured_image(5, 48, 96)).save(images / "small.png")
    message = tuple(index % 3 % 2 for index in range(48))
    key = SecretKey(bytes(range(32)), message, FEATURE_VERSION, DIMENSION, load_default().sha256)
    content = watermark_json(key, folder / "marked" / "vae")
    (folder / "marked" / "watermark.json").write_text(json.dumps(content))
    return Case(folder / "marked", folder / "original", images, key)


def run(case: Case, out: Path, **options: Any) -> stablesig.Evaluation:
    given: dict[str, Any] = {"suites": SUITES, "original": case.original, "on_warning": lambda _: None}
    key = options.pop("key", case.key)
    return stablesig.evaluate(case.folder, key, case.images, out, SETTINGS, **given | options)


@dataclass(frozen=True)
class Done:
    """A finished run: what it returned, warned of and reported."""

    result: stablesig.Evaluation
    warnings: list[str]
    steps: list[EvaluationStep]

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.result.out / "report.json").read_bytes())
        return content

    @property
    def page(self) -> str:
        return (self.result.out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def done(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Done:
    warnings: list[str] = []
    steps: list[EvaluationStep] = []
    out = tmp_path_factory.mktemp("done") / "report"
    return Done(run(case, out, on_warning=warnings.append, progress=steps.append), warnings, steps)


def without_run(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "run"}


def test_the_report_has_three_files_and_nothing_else_is_left(done: Done) -> None:
    out = done.result.out
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "results.csv"]
    assert list(out.parent.iterdir()) == [out]


def test_the_json_fits_its_schema(done: Done) -> None:
    schema = json.loads((resources.files("stablesig") / "data" / "evaluation.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(done.report, schema, jsonschema.Draft202012Validator)


def test_every_attack_is_measured_on_every_image_of_both_decoders(done: Done) -> None:
    attacks = {(attack.suite, attack.name): attack for attack in done.result.attacks}
    assert list(attacks) == [
        ("small", NO_ATTACK),
        ("small", "noise <20>"),
        ("stamp", "stamp"),
        ("regeneration", "mirror"),
    ]
    for attack in attacks.values():
        assert attack.total == 2
        assert attack.control is not None
        assert attack.control.total == 2
        assert [rate.fpr for rate in attack.detected] == [1e-3, 1e-6, 1e-9]
    assert done.result.control.false_positives[0].total == 8
    assert sum(done.result.control.histogram.counts) == 6  # type: ignore[union-attr]


def test_the_attack_is_weighed_by_its_psnr(done: Done) -> None:
    plain, noise, stamp, mirror = done.result.attacks
    assert plain.attack_psnr_db == 100.0  # equal pictures
    assert plain.original_psnr_db == pytest.approx(done.result.quality.psnr_db.mean)
    assert 22 < noise.attack_psnr_db < 28  # type: ignore[operator]  # 22.1 dB, more where it clips
    assert (stamp.attack_psnr_db, stamp.attack_psnr_images) == (None, 0)
    assert mirror.attack_psnr_db is not None
    assert mirror.attack_psnr_db < 99


def test_each_attack_is_judged_with_its_own_search_and_pays_for_it(done: Done) -> None:
    assert [attack.search for attack in done.result.attacks] == ["fast", "fast", "none", "fast"]
    for scores in (done.result.scores[0], done.result.scores[3]):
        assert scores.control is not None
        both = (*scores.marked, *scores.control)
        assert {(one.hypotheses, one.hypothesis_factor) for one in both} == {(4, 4)}
    assert SETTINGS.search_for("full") == "full"
    assert replace(SETTINGS, search="full").search_for("none") == "full"


def test_a_level_that_was_not_counted_is_asked_for(done: Done) -> None:
    with pytest.raises(UsageError, match=r"counted at 0\.001, 1e-06, 1e-09; got 0\.0001"):
        done.result.attacks[0].at(1e-4)


def test_the_original_itself_must_not_be_the_watermarked_decoder(case: Case, tmp_path: Path) -> None:
    with pytest.raises(DecoderError, match="the watermarked decoder itself"):
        run(case, tmp_path / "report", original=case.folder / "vae")


def test_what_is_too_small_counts_as_not_detected(done: Done) -> None:
    stamp = done.result.attacks[2]
    assert (stamp.too_small, stamp.total) == (2, 2)
    assert [rate.count for rate in stamp.detected] == [0, 0, 0]
    assert (stamp.median_log10_p, stamp.mean_statistic, stamp.bits) == (0.0, None, None)


def test_a_secret_key_reads_bits(done: Done) -> None:
    plain = done.result.attacks[0]
    assert plain.bits == 2 * 48
    assert plain.matches == sum(score.matches for score in done.result.scores[0].marked)  # type: ignore[misc]
    assert plain.bit_accuracy == plain.matches / 96  # type: ignore[operator]
    assert plain.control is not None
    assert plain.control.bits == 96


def test_images_that_are_too_small_are_skipped_with_a_warning(done: Done) -> None:
    [warning] = done.warnings
    assert "small.png: 96 x 48 px" in warning
    images = done.report["images"]
    assert images["skipped"] == 1
    assert [used["name"] for used in images["used"]] == ["a.png", "b <i>.png"]
    assert {(used["width"], used["height"]) for used in images["used"]} == {(64, 64)}


def test_progress_counts_every_picture(done: Done) -> None:
    assert [step.done for step in done.steps] == list(range(1, 17))
    assert {step.total for step in done.steps} == {16}


def test_the_table_has_a_row_for_each_image_and_attack(done: Done) -> None:
    with (done.result.out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert [row["image"] for row in rows[:2]] == ["a.png", "b <i>.png"]
    first, score = rows[0], done.result.scores[0].marked[0]
    assert float(first["statistic"]) == score.statistic
    assert float(first["log10_p_value"]) == score.log10_p
    assert first["detected_at_0.001"] == "0"
    assert rows[4]["statistic"] == rows[4]["log10_p_value"] == ""


def test_no_secret_and_no_place_is_written(done: Done, case: Case) -> None:
    seed = case.key.seed
    import base64

    message = "".join(map(str, case.key.message))
    secrets = [seed.hex(), base64.b64encode(seed).decode(), message, str(list(case.key.message)), "message"]
    for path in done.result.out.iterdir():
        text = path.read_text(encoding="utf-8")
        for secret in (*secrets, str(case.folder.parent), str(done.result.out.parent)):
            assert secret not in text, f"{secret} in {path.name}"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "img", "br", "path", "use"}:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in self.open[-1:]:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1:] == [tag]:
            self.open.pop()
        elif tag not in {"path", "use"}:
            raise AssertionError(f"</{tag}> within {self.open}")


def test_the_page_needs_nothing_from_elsewhere(done: Done) -> None:
    page = _Page()
    page.feed(done.page)
    fetched = [
        (tag, name, value[:40])
        for tag, name, value in page.attributes
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        and not value.startswith(("data:image/", "#"))
    ]
    assert fetched == []
    assert not {"script", "link", "iframe", "object", "base", "a"} & set(page.tags)
    assert set(re.findall(r"url\((.)", done.page)) <= {"#"}
    assert "@import" not in done.page
    assert page.open == []


def test_the_page_speaks_to_screen_readers_and_keeps_names_apart_from_markup(done: Done) -> None:
    page = _Page()
    page.feed(done.page)
    count = {tag: page.tags.count(tag) for tag in ("img", "th", "svg", "caption", "table")}
    named = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value]
    assert len(named) == count["img"] >= 6 + 4
    assert sum(name == "scope" for _, name, _ in page.attributes) == count["th"]
    assert sum((tag, name) == ("svg", "aria-label") for tag, name, _ in page.attributes) == count["svg"] == 4
    assert count["caption"] == count["table"] == 5
    assert "b &lt;i&gt;.png" in done.page
    assert "<i>" not in done.page
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


class _StoppedError(Exception):
    pass


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(case: Case, done: Done, tmp_path: Path) -> None:
    def stop(step: EvaluationStep) -> None:
        if step.done == 7:  # within the second attack
            raise _StoppedError

    out = tmp_path / "report"
    with pytest.raises(_StoppedError):
        run(case, out, progress=stop)
    assert not out.exists()
    scores = tmp_path / "report.partial" / "scores.jsonl"
    assert scores.read_bytes().count(b"\n") == 1
    with scores.open("ab") as file:
        file.write(b'{"suite":"small","att')  # the write that the power cut short
    with pytest.raises(OutputExistsError, match="--resume"):
        run(case, out)
    with pytest.raises(UsageError, match="other seed"):
        stablesig.evaluate(
            case.folder,
            case.key,
            case.images,
            out,
            replace(SETTINGS, seed=4),
            suites=SUITES,
            original=case.original,
            resume=True,
        )
    result = run(case, out, resume=True)
    assert without_run(json.loads((out / "report.json").read_bytes())) == without_run(done.report)
    assert (out / "results.csv").read_bytes() == (done.result.out / "results.csv").read_bytes()
    assert [asdict(attack) for attack in result.attacks] == [asdict(a) for a in done.result.attacks]
    assert not (tmp_path / "report.partial").exists()


def test_two_processes_find_what_one_finds(case: Case, done: Done, tmp_path: Path) -> None:
    run(case, tmp_path / "report", jobs=2)
    report = json.loads((tmp_path / "report" / "report.json").read_bytes())
    assert report["run"]["jobs"] == 2
    assert without_run(report) == without_run(done.report)


def test_attacks_that_cannot_be_sent_to_a_process_are_refused(case: Case, tmp_path: Path) -> None:
    own = Suite("own", "", "", (ImageAttack("lambda", "", lambda picture, _: picture),))
    with pytest.raises(UsageError, match="own cannot be sent"):
        run(case, tmp_path / "report", suites=[own], jobs=2)
    assert list(tmp_path.iterdir()) == []


def test_another_seed_makes_other_noise_and_nothing_else(case: Case, done: Done, tmp_path: Path) -> None:
    result = stablesig.evaluate(
        case.folder,
        case.key.public(),
        case.images,
        tmp_path / "report",
        replace(SETTINGS, seed=4, limit=1),
        suites=[SMALL],
        original=case.original,
        on_warning=lambda _: None,
    )
    assert result.images == 1
    plain, noise = (scores.marked[0] for scores in result.scores)
    assert plain.statistic == done.result.scores[0].marked[0].statistic
    assert noise.statistic != done.result.scores[1].marked[0].statistic
    assert plain.matches is None  # a public key reads no bits
    assert result.attacks[0].bit_accuracy is None


def fitted_key(case: Case) -> PublicKey:
    """A key along the features of what the watermarked decoder makes, and not of what the original makes."""
    from stablesig_detector.carriers import DIRECTION_SCALE
    from stablesig_train.decoders import load_autoencoder
    from stablesig_train.held_out import decode_pixels, prepare

    photographs = [np.asarray(Image.open(case.images / "a.png"))]
    photographs += [np.asarray(Image.open(case.images / "b <i>.png"))[4:68, 16:80]]
    held_out = prepare(load_autoencoder(case.original), photographs)
    decoder = load_autoencoder(case.folder / "vae")
    whitening = load_default()

    def unit(picture: Pixels) -> np.ndarray:
        phi = whitening.apply(spectrum(picture).values)
        return phi / np.linalg.norm(phi)

    marked = sum(unit(decode_pixels(decoder, latents)) for latents in held_out.latents)
    basis = np.linalg.qr(np.stack([unit(picture) for picture in held_out.originals]).T)[0]
    direction = marked - basis @ (basis.T @ marked)
    quantised = np.rint(direction / np.linalg.norm(direction) * DIRECTION_SCALE).astype(np.int32)
    return PublicKey(quantised, 48, FEATURE_VERSION, whitening.sha256)


@pytest.fixture
def fitted(case: Case, tmp_path: Path) -> Case:
    """The same decoders with a watermark: a public key that they fit."""
    import shutil

    key = fitted_key(case)
    shutil.copytree(case.folder, tmp_path / "marked")
    content = watermark_json(key, tmp_path / "marked" / "vae")
    (tmp_path / "marked" / "watermark.json").write_text(json.dumps(content))
    key.save(tmp_path / "key.pub.json")
    return replace(case, folder=tmp_path / "marked")


def test_the_command_finds_a_watermark_and_none_in_the_control(
    fitted: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stablesig.evaluation_settings.built_in", {"targets": SMALL}.__getitem__)
    out = tmp_path / "out" / "report"
    arguments = ["evaluate", str(fitted.folder), "--key", str(tmp_path / "key.pub.json")]
    arguments += ["--images", str(fitted.images), "--out", str(out), "--size", "64", "--json"]
    arguments += ["--original", str(fitted.original)]
    assert main(arguments) == 0
    printed, err = capsys.readouterr()
    found = json.loads(printed)
    report = json.loads((out / "report.json").read_bytes())
    assert found["attacks"] == report["attacks"]
    plain, _ = found["attacks"]
    assert plain["worst_log10_p"] < -8
    assert [rate["count"] for rate in plain["detected"]][:2] == [2, 2]
    assert plain["detected"][1]["low"] == pytest.approx(0.025**0.5)
    assert [count["count"] for count in found["control"]["false_positives"]] == [0, 0, 0]
    assert err.splitlines()[0].startswith("stablesig: warning: skipped")
    assert "picture 8/8" in err
    assert report["run"]["command"].startswith("stablesig evaluate marked --key KEY.json --images photos ")
    assert main(arguments) == 8  # a second time: the place is taken
    assert "nothing is overwritten" in capsys.readouterr().err


def test_the_python_in_the_documentation_runs(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    [code] = re.findall(r"(?m)^```python\n([\s\S]*?)^```$", text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stablesig.evaluation_settings.built_in", {"targets": SMALL}.__getitem__)
    Path("out").symlink_to(case.folder)
    Path("my-vae").symlink_to(case.original)
    case.key.save("publisher.json")
    Path("photos").mkdir()
    Image.fromarray(textured_image(6, 256, 256)).save("photos/photo.png")
    exec(compile(code, "evaluate.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert printed[0].endswith(" dB")
    assert printed[1] == f"{NO_ATTACK}: 0 of 1, interval 0.00 to 0.98"


@pytest.mark.parametrize(
    ("names", "loaded"),
    [
        (["config.json", "diffusion_pytorch_model.safetensors"], "vae"),
        (["taef2_decoder.pth", "taef2_encoder.pth"], "vae"),
        (["sd-vae.safetensors"], "vae/sd-vae.safetensors"),
        (["config.json", "my-vae.safetensors"], "vae/my-vae.safetensors"),
    ],
)
def test_every_layout_that_embed_writes_is_loaded_from_where_it_is(names: list[str], loaded: str) -> None:
    from stablesig.evaluation_inputs import _loadable

    assert _loadable(Path("vae"), dict.fromkeys(names, "")) == Path(loaded)


def test_another_key_is_refused(case: Case, tmp_path: Path) -> None:
    other = SecretKey.draw()
    with pytest.raises(KeyFileError, match=f"carries the key {case.key.id}, the key given is {other.id}"):
        run(case, tmp_path / "report", key=other)
    assert list(tmp_path.iterdir()) == []


def changed_weight(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")


def added_file(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").touch()


@pytest.mark.parametrize(
    ("damage", "named"),
    [(changed_weight, "changed: diffusion"), (added_file, "not listed: diffusion_pytorch_model.fp16")],
)
def test_weights_that_embed_did_not_write_are_refused(
    damage: Callable[[Path], None], named: str, fitted: Case, tmp_path: Path
) -> None:
    damage(fitted.folder)
    with pytest.raises(DecoderError, match=named):
        run(fitted, tmp_path / "report", key=fitted_key(fitted))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no watermark.json; give the folder that stablesig embed wrote"),
        ("{", "cannot be read"),
        ("[]", "is not of stablesig-watermark version 1"),
        ('{"format": "stablesig-watermark", "version": 2}', "is not of stablesig-watermark version 1"),
        ('{"format": "stablesig-watermark", "version": 1, "key": {}}', "lacks autoencoder.files.*, key.id;"),
    ],
)
def test_a_folder_that_embed_did_not_write_is_refused(
    content: str | None, said: str, case: Case, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "watermark.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        run(replace(case, folder=tmp_path), tmp_path / "report")


def test_an_original_of_another_encoder_is_refused(case: Case, tmp_path: Path) -> None:
    shipped = Path(str(resources.files("stablesig") / "data" / "tiny-vae"))
    with pytest.raises(DecoderError, match="is not the autoencoder that was watermarked"):
        run(case, tmp_path / "report", original=shipped)


def test_an_original_with_another_decoder_than_was_watermarked_is_refused(
    fitted: Case, tmp_path: Path
) -> None:
    facts = json.loads((fitted.folder / "watermark.json").read_text())
    facts["autoencoder"]["original_decoder_sha256"] = "0" * 64
    (fitted.folder / "watermark.json").write_text(json.dumps(facts))
    with pytest.raises(DecoderError, match="another decoder than the one that was watermarked"):
        run(fitted, tmp_path / "report", suites=[STAMP], key=fitted_key(fitted))


def test_an_original_that_is_nowhere_is_asked_for(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"was somewhere-else, .*--original"):
        run(case, tmp_path / "report", original=None)


def test_of_the_training_folder_only_the_images_held_out_are_used(fitted: Case, tmp_path: Path) -> None:
    from stablesig_train.training_images import find_images, manifest_sha256

    files = find_images(fitted.images, print)
    facts = json.loads((fitted.folder / "watermark.json").read_text())
    held_out = next(file for file in files if file.path.name == "a.png")
    facts["images"] = {"manifest_sha256": manifest_sha256(files), "held_out_sha256": [held_out.sha256]}
    (fitted.folder / "watermark.json").write_text(json.dumps(facts))
    warnings: list[str] = []
    quick = {"suites": [STAMP], "on_warning": warnings.append, "key": fitted_key(fitted)}
    result = run(fitted, tmp_path / "report", **quick)
    assert result.images == 1
    assert "only the 1 images held out are used" in warnings[0]
    assert json.loads((result.out / "report.json").read_bytes())["images"]["held_out_of_training_folder"]


def test_a_folder_without_usable_images_leaves_nothing(case: Case, tmp_path: Path) -> None:
    empty = tmp_path / "photos"
    empty.mkdir()
    Image.fromarray(textured_image(5, 40, 96)).save(empty / "small.png")
    with pytest.raises(ImageError, match="none of the 1 images can be used"):
        run(replace(case, images=empty), tmp_path / "report")
    assert list(tmp_path.iterdir()) == [empty]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 16}, "px at least"),
        ({"fpr": 1.0}, "between 0 and 1"),
        ({"search": "deep"}, "a search is one of auto, none, fast, full"),
        ({"limit": 0}, "at least one image"),
        ({"seed": -1}, "whole number"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        stablesig.EvaluationSettings(**given)


@pytest.mark.parametrize(
    ("suites", "said"),
    [
        (["legacy", "nonsense"], "no suite 'nonsense'; choose from targets, legacy"),
        ([], "no suite is named"),
        ("targets", "got a single name"),
        ([SMALL, replace(SMALL, attacks=(NOISE,))], "two suites are called small"),
    ],
)
def test_suites_that_are_not_there_are_refused(suites: Any, said: str, case: Case, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        run(case, tmp_path / "report", suites=suites)


def test_a_size_off_the_stride_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of the autoencoder's stride, 4; got 66"):
        stablesig.evaluate(
            case.folder,
            case.key,
            case.images,
            tmp_path / "report",
            replace(SETTINGS, size=66),
            original=case.original,
        )


def test_all_stands_for_every_suite_once() -> None:
    from stablesig.evaluation_settings import find_suites
    from stablesig.suites import SUITE_NAMES

    assert [suite.name for suite in find_suites(["codecs", "all"])] == [
        "codecs",
        *(name for name in SUITE_NAMES if name != "codecs"),
    ]


def test_the_density_is_that_of_the_p_value() -> None:
    from stablesig.evaluation_summary import null_density
    from stablesig_detector.statistics import spherical_log10_p

    s = np.linspace(-0.9, 0.9, 20001)
    density = null_density(s, 40)
    middle = (s[1:] + s[:-1]) / 2
    p = 10.0 ** spherical_log10_p(s, 40)
    assert null_density(middle, 40) == pytest.approx((p[:-1] - p[1:]) / (s[1] - s[0]), rel=1e-4, abs=1e-9)
    assert density[10000] == pytest.approx(math.sqrt(40 / (2 * math.pi)), rel=0.02)

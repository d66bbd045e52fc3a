"""Folders of masks as tools and systems leave them: formats, palettes, names and what lies beside them."""

from __future__ import annotations

import os
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import TruthError
from ovlabel.evaluation.matching import check_all_matched, match
from ovlabel.evaluation.truth import Truth, TruthClass, open_truth
from ovlabel.evaluation.truth.nouns import Convention

OWN = [TruthClass(f"class {index}") for index in range(32)]
IDS = np.array([[0, 2, 16], [16, 2, 0]], np.uint8)


def save(path: Path, values: np.ndarray = IDS, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def palette(path: Path, values: np.ndarray, colours: list[tuple[int, int, int]]) -> Path:
    picture = Image.fromarray(values.astype(np.uint8)).convert("P")
    picture.putpalette([level for colour in colours for level in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=False)
    return path


def read(place: Path, name: str = "a", convention: str = "raw") -> np.ndarray:
    return open_truth(place, convention, OWN).read(name)


@pytest.mark.parametrize("suffix", ["PNG", "TIF", "TIFF", "tif", "Tiff", "BMP", "bmp"])
def test_suffixes_count_in_any_case(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read(tmp_path), IDS)


def test_a_mask_may_have_as_many_pixels_as_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)  # Pillow refuses above twice its own limit
    np.testing.assert_array_equal(read(tmp_path), IDS)
    assert Image.MAX_IMAGE_PIXELS == 2


def test_a_mask_of_more_pixels_than_a_photograph_is_refused(tmp_path: Path) -> None:
    header = np.zeros((1, 1), np.uint8)
    content = bytearray(save(tmp_path / "a.png", header).read_bytes())
    content[16:24] = (2**14).to_bytes(4, "big") + (2**14 + 1).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(TruthError, match="masks and photographs have at most 268435456 pixels"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4", "<i2", "<f4"])
def test_whole_numbers_of_any_kind_are_ids(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "a.tif", IDS.astype(kind))
    np.testing.assert_array_equal(read(tmp_path), IDS)


def test_fractions_and_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    for values, words in ((IDS + 0.5, "no whole numbers"), (IDS - 1.0, "beyond 0"), (IDS * 1e9, "beyond 0")):
        save(tmp_path / "a.tif", values.astype(np.float32))
        with pytest.raises(TruthError, match=words):
            read(tmp_path)
    save(tmp_path / "a.tif", np.full((1, 1), np.nan, np.float32))
    with pytest.raises(TruthError, match="no whole numbers"):
        read(tmp_path)


def test_one_bit_a_pixel_is_0_and_1(tmp_path: Path) -> None:
    save(tmp_path / "a.png", IDS > 1)
    np.testing.assert_array_equal(read(tmp_path), IDS > 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_of_several_channels_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(IDS).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(TruthError, match=f"it is {mode}, where one channel"):
        read(tmp_path)


def test_a_gif_whose_ids_went_into_its_palette_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.gif")
    with pytest.raises(TruthError, match="a GIF with a palette"):
        read(tmp_path)
    every = np.arange(32, dtype=np.uint8)[None]
    save(tmp_path / "a.gif", every)  # its greys are in order, so nothing was counted anew
    np.testing.assert_array_equal(read(tmp_path), every)


def test_a_palette_of_greys_in_another_order_is_refused(tmp_path: Path) -> None:
    palette(tmp_path / "a.png", np.array([[0, 1, 2]]), [(0, 0, 0), (2, 2, 2), (16, 16, 16)])
    with pytest.raises(TruthError, match="its palette is of greys"):
        read(tmp_path)


def test_a_palette_that_differs_from_file_to_file_is_refused(tmp_path: Path) -> None:
    colours = [(9, 0, 0), (0, 9, 0), (0, 0, 9)]
    palette(tmp_path / "a.png", np.array([[0, 1, 2]]), colours)
    palette(tmp_path / "b.png", np.array([[0, 1]]), [colours[0], colours[2]])  # 2 was counted anew
    palette(tmp_path / "c.png", np.array([[0, 2]]), colours)
    truth = open_truth(tmp_path, "raw", OWN)
    assert truth.read("a").tolist() == [[0, 1, 2]]
    assert truth.read("c").tolist() == [[0, 2]]
    with pytest.raises(TruthError, match=r"shows 1 as #000009, that of .*a\.png as #000900"):
        truth.read("b")


@pytest.mark.parametrize("convention", ["voc", "voc20"])
def test_the_colours_of_voc_stand_for_its_ids(tmp_path: Path, convention: str) -> None:
    person = (192, 128, 128)  # of id 15
    palette(tmp_path / "a.png", np.array([[0, 1]]), [(0, 0, 0), person])
    with pytest.raises(TruthError, match="has the colour of id 15 at place 1"):
        read(tmp_path, convention=convention)
    palette(tmp_path / "a.png", np.array([[0, 15]]), [(0, 0, 0)] * 15 + [person])
    truth = open_truth(tmp_path, convention, [])
    assert truth.classes[int(truth.read("a")[0, 1])].name == "person"


def test_a_jpeg_is_no_mask_whatever_its_suffix(tmp_path: Path) -> None:
    save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(TruthError, match="it is a JPEG, which changes values"):
        read(tmp_path)


def test_a_file_of_several_pictures_is_refused_but_for_smaller_copies(tmp_path: Path) -> None:
    one = Image.fromarray(IDS)
    for name in ("a.tif", "a.png"):
        one.save(tmp_path / name, save_all=True, append_images=[Image.fromarray(IDS + 1)])
        with pytest.raises(TruthError, match="several pictures"):
            read(tmp_path / name)
        (tmp_path / name).unlink()
    copy = one.resize((1, 1))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    one.save(tmp_path / "a.tif", save_all=True, append_images=[copy])
    np.testing.assert_array_equal(read(tmp_path), IDS)


def test_values_that_count_from_white_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", tiffinfo={262: 0})
    with pytest.raises(TruthError, match="WhiteIsZero"):
        read(tmp_path)


def test_what_systems_leave_in_a_folder_is_no_mask(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for name in ("._a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "lost+found/a.png", "__MACOSX/._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert list(open_truth(tmp_path, "raw", OWN).files) == ["a"]


def test_files_that_are_no_masks_are_counted_or_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / "b.npy").touch()
    with pytest.raises(TruthError, match=r"no masks \(\*\.png, .* in .*; it holds \.jpg 1, \.npy 1"):
        open_truth(tmp_path, "raw", OWN)
    save(tmp_path / "a.png")
    open_truth(tmp_path, "raw", OWN)
    assert "2 files of" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(TruthError, match=r"cannot read the folder .*closed"):
        open_truth(tmp_path, "raw", OWN)


def truth_of(*names: str) -> Truth:
    files = {name: Path(f"{name}.png") for name in names}
    table = np.arange(65536, dtype=np.uint16)
    return Truth(Convention("raw", "").name, tuple(OWN), files, lambda *_: IDS, table)


COMPOSED, PARTS = (unicodedata.normalize(form, "été/café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("keys", "masks", "expected"),
    [
        (["a/x.jpg", "b/x.jpg"], ["a/x", "b/x"], {"a/x.jpg": "a/x", "b/x.jpg": "b/x"}),
        (["a/x.jpg", "b/x.jpg"], ["a/x"], {"a/x.jpg": "a/x"}),
        (["x.jpg", "a/x.jpg"], ["a/x"], {"a/x.jpg": "a/x"}),
        (
            ["val/x.jpg", "train/x.jpg"],
            ["gt/val/x", "gt/train/x"],
            {"val/x.jpg": "gt/val/x", "train/x.jpg": "gt/train/x"},
        ),
        (["x.jpg", "x.png"], ["x.jpg", "x.png"], {"x.jpg": "x.jpg", "x.png": "x.png"}),
        (["x.jpg", "y.png"], ["x.jpg", "y.png"], {"x.jpg": "x.jpg", "y.png": "y.png"}),
        (["x.jpg", "y.jpg"], ["x_mask", "y_mask"], {"x.jpg": "x_mask", "y.jpg": "y_mask"}),
        (["x-1.jpg"], ["x-1_bgrem"], {"x-1.jpg": "x-1_bgrem"}),
        (["c/x.jpg"], ["c_masks/x.seg"], {"c/x.jpg": "c_masks/x.seg"}),
        ([f"{PARTS}.jpg"], [COMPOSED], {f"{PARTS}.jpg": COMPOSED}),
        ([f"{COMPOSED}.jpg"], [f"{PARTS}.jpg"], {f"{COMPOSED}.jpg": f"{PARTS}.jpg"}),
        (["a\\x.jpg"], ["a/x"], {"a\\x.jpg": "a/x"}),
        (["c/y_leftImg8bit.png"], ["c/y_gtFine_panoptic"], {"c/y_leftImg8bit.png": "c/y_gtFine_panoptic"}),
        (["frame.jpg"], ["frame-2"], {}),
        (["x.jpg"], ["x_mask", "y"], {}),
    ],
)
def test_images_find_their_masks(keys: list[str], masks: list[str], expected: dict[str, str]) -> None:
    assert match(keys, truth_of(*masks)) == expected


@pytest.mark.parametrize(
    ("keys", "masks", "words"),
    [
        (["x.jpg", "x.png"], ["x"], "fits two images"),
        (["a/x.jpg", "b/x.jpg"], ["x"], "fits two images"),
        (["a/x.jpg", "b/x.jpg"], ["c/x"], "fits two images"),
        (["x.jpg"], ["a/x", "b/x"], "fits two masks"),
        (["x.jpg", "x.png"], ["x_mask"], "fits two images"),
    ],
)
def test_names_that_fit_twice_are_refused(keys: list[str], masks: list[str], words: str) -> None:
    with pytest.raises(TruthError, match=words):
        match(keys, truth_of(*masks))


def test_what_is_paired_loosely_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert match(["a/x.jpg"], truth_of("b/x")) == {"a/x.jpg": "b/x"}
    assert "1 images were paired with masks of another folder by name alone: a/x.jpg with b/x" in caplog.text
    match(["x.jpg"], truth_of("x_mask"))
    assert "the masks' names end in '_mask'" in caplog.text
    caplog.clear()
    match(["a/x.jpg", "y.jpg"], truth_of("x", "b/y"))
    assert not caplog.text


def test_names_that_do_not_fit_are_shown() -> None:
    with pytest.raises(TruthError, match=r"images x\.jpg \(1\), masks mask_x, mask_y \(2\), .*--mask-ending"):
        check_all_matched([], ["x.jpg"], truth_of("mask_x", "mask_y"), partial=True)
    with pytest.raises(TruthError, match="there is no annotated image"):
        check_all_matched([], [], truth_of("x"), partial=False)


def test_an_ending_that_is_given_chooses_the_masks(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "a_mask.png", IDS + 1)
    truth = open_truth(tmp_path, "raw", OWN, "_mask")
    assert list(truth.files) == ["a"]
    np.testing.assert_array_equal(truth.read("a"), IDS + 1)
    with pytest.raises(TruthError, match="for folders of masks"):
        open_truth(tmp_path, "coco-instances", [], "_mask")

"""The mark of promotion: set, replaced in one step, and read without trust."""

import pytest

from nsstream.errors import OutputError, StateError
from nsstream.model.promotion import MARK, promote, read_promoted


@pytest.fixture
def models(tmp_path):
    for name in ("0a1b", "2c3d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    return tmp_path


def test_there_is_no_mark_until_a_model_is_promoted(models):
    assert read_promoted(models) is None


def test_the_mark_names_the_model_promoted_last_and_nothing_else_is_left(models):
    before = set(models.iterdir())
    for name in ("0a1b", "2c3d", "0a1b"):
        promote(models, name)
        assert read_promoted(models) == models / name
        assert (models / MARK).resolve() == models / name
    assert set(models.iterdir()) - before == {models / MARK}


@pytest.mark.parametrize("name", ["", "none", "..", "../0a1b", "0a1b/", "a\nb"])
def test_what_is_no_checkpoint_beside_the_mark_is_not_promoted(models, name):
    with pytest.raises(OutputError, match="cannot be promoted"):
        promote(models, name)


@pytest.mark.parametrize("target", ["../elsewhere", "/etc", ".", "x" * 300, "a/b"])
def test_a_mark_that_leads_elsewhere_is_refused(models, target):
    try:
        (models / MARK).symlink_to(target)
    except OSError:
        pytest.skip("this file system makes no such link")
    with pytest.raises(StateError, match="must name a checkpoint beside it"):
        read_promoted(models)


def test_a_mark_that_is_a_file_is_refused(models):
    (models / MARK).write_text("0a1b")
    with pytest.raises(StateError, match="is not a symbolic link"):
        read_promoted(models)


def test_promoting_into_a_directory_that_has_a_directory_of_that_name_says_so(models):
    (models / MARK).mkdir()
    (models / MARK / "x").touch()
    with pytest.raises(OutputError, match="promoted"):
        promote(models, "0a1b")
    assert not [p for p in models.iterdir() if p.name.startswith(".promoted")]

"""Keys of the address map: made beside the models, or of one's own."""

import stat
from pathlib import Path

import pytest

from nsstream.errors import InputError, OutputError, StateError
from nsstream.pipeline.address_keys import key_beside, make_key, own_key
from nsstream.secret_files import SecretFile

KEY, OTHER = b"k" * 32, b"o" * 32


def test_a_key_is_made_once_beside_the_models(tmp_path: Path):
    assert key_beside(tmp_path / "models", KEY) == KEY
    assert key_beside(tmp_path / "models", OTHER) == KEY
    assert stat.S_IMODE((tmp_path / "address.key").stat().st_mode) == 0o600


def test_a_key_of_ones_own_is_nowhere_written_down(tmp_path: Path):
    make_key(tmp_path / "own", KEY)
    (tmp_path / "state").mkdir()
    assert own_key(SecretFile(tmp_path / "own"), tmp_path / "state" / "models") == KEY
    assert not list((tmp_path / "state").iterdir())
    with pytest.raises(OutputError, match="is not overwritten"):
        make_key(tmp_path / "own", OTHER)
    with pytest.raises(OutputError, match="no such file"):
        make_key(tmp_path / "none" / "own", OTHER)


def test_a_folder_of_models_has_one_key(tmp_path: Path):
    models = tmp_path / "models"
    key_beside(models, KEY)
    make_key(tmp_path / "same", KEY)
    make_key(tmp_path / "other", OTHER)
    assert own_key(SecretFile(tmp_path / "same"), models) == KEY
    with pytest.raises(StateError, match="hosts would change their addresses"):
        own_key(SecretFile(tmp_path / "other"), models)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "16 to 64 octets, not 0"), ("zz", "is no address key"), ("ab" * 65, "16 to 64 octets, not 65")],
)
def test_what_is_no_key_is_one_sentence(text: str, told: str, tmp_path: Path):
    path = tmp_path / "own"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        own_key(SecretFile(path), tmp_path / "models")

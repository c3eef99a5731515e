import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.utils import z85

from nsstream.clock import ManualClock
from nsstream.errors import InputError, OutputError
from nsstream.replay.keys import (
    AllowedClients,
    allow_client,
    load_client_keys,
    load_key_pair,
    load_public_key,
    load_server_keys,
    make_keys,
    make_server_keys,
)
from nsstream.replay.zap import DOMAIN, Door
from nsstream.secret_files import SecretFile


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_key_is_for_its_owner_only(tmp_path):
    before = os.umask(0)
    try:
        public, secret = make_keys(tmp_path / "keys", "lab")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "keys"), mode(public), mode(secret)) == (0o700, 0o644, 0o600)
    pair = load_key_pair(secret)
    assert zmq.curve_public(pair.secret) == pair.public == load_public_key(public)
    assert pair.secret not in public.read_bytes()
    assert pair.secret.decode() not in repr(pair)


def test_a_key_that_exists_is_not_overwritten(tmp_path):
    _, secret = make_keys(tmp_path, "lab")
    octets = secret.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        make_keys(tmp_path, "lab")
    assert secret.read_bytes() == octets
    secret.unlink()
    with pytest.raises(OutputError, match="exists already"):
        make_keys(tmp_path, "lab")
    assert not secret.exists()


def test_zmq_auth_reads_our_keys_and_we_read_its(tmp_path):
    public, secret = make_keys(tmp_path, "ours")
    assert zmq.auth.load_certificate(secret) == (load_key_pair(secret).public, load_key_pair(secret).secret)
    assert zmq.auth.load_certificate(public)[0] == load_public_key(public)
    public, secret = zmq.auth.create_certificates(tmp_path, "theirs")
    Path(secret).chmod(0o600)
    assert (load_key_pair(tmp_path / "theirs.key_secret").public, None) == zmq.auth.load_certificate(public)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a" * 65, "a b", "ä", "a\n"])
def test_a_name_that_could_be_a_path_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="name of a key"):
        make_keys(tmp_path, name)


def test_a_secret_key_that_others_may_read_is_not_used(tmp_path):
    _, secret = make_keys(tmp_path, "lab")
    secret.chmod(0o640)
    with pytest.raises(InputError, match="others may read"):
        load_key_pair(secret)


@pytest.mark.parametrize(
    "text",
    ["", "x", "curve\n    public-key = \"short\"\n", "\0" * 100, "public-key = \"" + "a" * 40 + "\"",
     "    public-key = \"" + "~" * 40 + "\"\n", "x" * 5000],
)  # fmt: skip
def test_a_file_that_is_no_key_is_one_sentence(tmp_path, text):
    path = tmp_path / "x.key"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.key: (is no key file|has more than)"):
        load_public_key(path)


def test_what_is_no_file_stalls_nobody(tmp_path):
    os.mkfifo(tmp_path / "fifo.key")
    for name in ("fifo.key", "none.key", "."):
        with pytest.raises(InputError):
            load_public_key(tmp_path / name)


def test_a_secret_that_is_not_of_its_public_key_is_refused(tmp_path):
    _, first = make_keys(tmp_path, "a")
    public, _ = make_keys(tmp_path, "b")
    text = first.read_text().replace(load_public_key(tmp_path / "a.key").decode(), load_public_key(public).decode())
    first.write_text(text)
    with pytest.raises(InputError, match="not that of its secret key"):
        load_key_pair(first)


def test_a_server_has_its_keys_and_a_list(tmp_path):
    make_server_keys(tmp_path / "server")
    public, secret = make_keys(tmp_path / "client", "lab")
    path = allow_client(tmp_path / "server", public)
    assert path == tmp_path / "server" / "clients" / "lab.key"
    keys = load_server_keys(tmp_path / "server")
    assert load_client_keys(secret, tmp_path / "server" / "server.key").server == keys.own.public
    with pytest.raises(InputError, match="there is no such directory"):
        load_server_keys(tmp_path / "client")
    elsewhere = tmp_path / "credentials" / "replay-key"
    elsewhere.parent.mkdir()
    (tmp_path / "server" / "server.key_secret").rename(elsewhere)
    elsewhere.chmod(0o440)
    moved = load_server_keys(tmp_path / "server", SecretFile(elsewhere, is_credential=True))
    assert moved.own == keys.own
    public.chmod(0o600)
    with pytest.raises(InputError, match="has no secret key"):
        load_key_pair(public)


def test_a_client_is_let_in_once_listed_and_not_any_more_once_removed(tmp_path):
    make_server_keys(tmp_path)
    public, _ = make_keys(tmp_path / "client", "lab")
    clock = ManualClock()
    allowed = AllowedClients(tmp_path / "clients", clock)
    key = load_public_key(public)
    assert allowed.name_of(key) is None
    listed = allow_client(tmp_path, public)
    (tmp_path / "clients" / "bad.key").write_text("nonsense")
    clock.advance(10**9)
    assert allowed.name_of(key) == "lab"
    assert allowed.unreadable_count == 1
    listed.unlink()
    clock.advance(10**9)
    assert allowed.name_of(key) is None


def test_nobody_is_let_in_where_the_list_is_gone(tmp_path):
    assert AllowedClients(tmp_path / "none", ManualClock()).name_of(b"a" * 40) is None


KEY = z85.decode(zmq.curve_keypair()[0])
REQUEST = [b"1.0", b"7", DOMAIN.encode(), b"127.0.0.1", b"", b"CURVE", KEY]


def answer(request, listed=(KEY,)):
    return Door(lambda key: "lab" if z85.decode(key) in listed else None).answer(request)


def test_a_listed_key_is_let_in_under_its_name():
    assert answer(REQUEST) == [b"1.0", b"7", b"200", b"OK", b"lab", b""]


@pytest.mark.parametrize(
    "request_",
    [
        [*REQUEST[:6], b"\0" * 32],
        [*REQUEST[:6], KEY[:31]],
        [*REQUEST[:6], KEY, KEY],
        REQUEST[:6],
        [*REQUEST[:5], b"NULL"],
        [*REQUEST[:5], b"PLAIN", b"lab", b"password"],
        [*REQUEST[:5], b"NULL", KEY],
        [*REQUEST[:2], b"", *REQUEST[3:]],
        [*REQUEST[:2], b"*", *REQUEST[3:]],
    ],
)
def test_anybody_else_is_not(request_):
    assert answer(request_)[2] == b"400"


@pytest.mark.parametrize("request_", [[], [b"1.0"], [b"2.0", *REQUEST[1:]], REQUEST[:5]])
def test_what_is_no_request_gets_no_answer(request_):
    assert answer(request_) is None

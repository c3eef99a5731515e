"""The configuration file: complaints name path, value and what is allowed; the reference does not drift."""

import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from nsstream_daemon.config_page import SECTIONS, page
from nsstream_daemon.service_commands import validate

from nsstream.errors import InputError
from nsstream.pipeline.config_file import load_config
from nsstream.pipeline.service_config import ServiceConfig, SourceSection

ROOT = Path(__file__).parents[3]
LEAST = 'state = "/tmp/state"\n[source]\ninput = "trace.pcap"\n'


def load(tmp_path: Path, text: str) -> ServiceConfig:
    path = tmp_path / "x.toml"
    path.write_text(text)
    return load_config(path)


def complaint(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as raised:
        load(tmp_path, text)
    return str(raised.value).replace(f"{tmp_path / 'x.toml'}: ", "")


def test_what_has_a_default_may_be_left_out(tmp_path: Path):
    loaded = load(tmp_path, LEAST)
    assert loaded == ServiceConfig(state=Path("/tmp/state"), source=SourceSection(input="trace.pcap"))
    assert loaded.socket == Path("/tmp/state/control.sock")


def test_durations_and_sizes_are_numbers_or_texts(tmp_path: Path):
    loaded = load(tmp_path, LEAST + '[chunks]\nlength_s = "5m"\nkeep_for_s = "7d"\nkeep_octets = "50G"\nlateness_s = 2')
    assert (loaded.chunks.length_s, loaded.chunks.keep_for_s) == (300, 7 * 86_400)
    assert (loaded.chunks.keep_octets, loaded.chunks.lateness_s) == (50 << 30, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[chunks]\nlength_s = 0", "chunks.length_s = 0: input should be greater than or equal to 1"),
        ("[chunks]\nlength_s = 1.5", "chunks.length_s = 1.5: must be whole seconds"),
        ('[chunks]\nlength_s = "soon"', "chunks.length_s = 'soon': 'soon' is not a duration; write it as 60s, 5m,"),
        ('[chunks]\nkeep_octets = "much"', "chunks.keep_octets = 'much': 'much' is not a size; write it as 512M,"),
        ('[chunks]\nmax_rows = "9"', "chunks.max_rows = '9': input should be a valid integer"),
        ("[chunks]\nlength = 60", "chunks.length: there is no such key; there are length_s, lateness_s,"),
        ('[training]\nstart_from = "best"', "training.start_from = 'best': input should be 'seed' or 'newest'"),
        ("[training]\nworkers = []", "training.workers = []: "),
        ("[[training.workers]]\ncores = [-1]", "training.workers[0].cores[0] = -1: input should be greater than or"),
        ("[[training.workers]]\ncpu = 1", "training.workers[0].cpu: there is no such key; there are cores, gpu"),
        ("[training]\nipv4_range = '10.0.0.0/24'", "training.ipv4_range = '10.0.0.0/24': "),
        ("[training]\nipv6_range = '10.0.0.0/8'", "training.ipv6_range = '10.0.0.0/8': "),
        ("[gate]\nworst_ratio = inf", "gate.worst_ratio = inf: input should be a finite number"),
        ("[gate]\nworst_ratio = 2026-01-01", "gate.worst_ratio = '2026-01-01': input should be a valid number"),
        ("[ray]\naddress = 'here'", "ray.address = 'here': string should match pattern"),
        ("[training]\nengine = 'ray'\n[[training.workers]]\ncores = [0]", "training.workers are places of the local"),
        ("[nonsense]\na = 1", "nonsense: there is no such key; there are state, source, chunks,"),
        (f'[control]\nsocket = "/{"x" * 120}"', "the path of the control socket has more than 107 octets"),
        ("= 3", "is not TOML: "),
    ],
)
def test_a_complaint_names_path_value_and_what_is_allowed(tmp_path: Path, text: str, told: str):
    assert complaint(tmp_path, LEAST + text).startswith(told)


def test_all_complaints_are_told_at_once(tmp_path: Path):
    lines = complaint(tmp_path, "[chunks]\nlength_s = 0\nmax_rows = 0").splitlines()
    assert [line.split()[0] for line in lines] == ["state:", "source:", "chunks.length_s", "chunks.max_rows"]


def test_a_relative_state_directory_is_refused(tmp_path: Path):
    assert "must be an absolute path" in complaint(tmp_path, LEAST.replace("/tmp/state", "state"))


def test_a_file_that_is_none_or_no_text_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "octets.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not TOML"):
        load_config(tmp_path / "octets.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="which no configuration has"):
        load_config(tmp_path / "long.toml")


def test_every_key_has_a_description():
    for _, section in SECTIONS:
        for key, field in section.model_fields.items():
            if key not in ("source", "chunks", "training", "ray", "gate", "privacy", "control"):
                assert field.description, key
                assert field.description[0].isupper(), key
                assert field.description.endswith("."), key


def test_the_reference_is_what_the_models_say():
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page()


def test_the_reference_names_every_key():
    named = set(re.findall(r"^\| `(\w+)` \|", page(), re.MULTILINE))
    assert named >= {key for _, section in SECTIONS[1:] for key in section.model_fields}


def test_the_example_is_valid():
    loaded = load_config(ROOT / "systemd" / "nsstream.toml")
    assert loaded.state == Path("/var/lib/nsstream")
    assert loaded.training.workers[0].cores == (1,)


def test_validate_tells_a_good_file_from_a_bad_one(tmp_path: Path):
    capture, path = tmp_path / "x.pcap", tmp_path / "x.toml"
    capture.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n')
    command = [sys.executable, "-m", "nsstream_daemon", "validate", "-c", str(path)]
    good = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == f"{path}: is valid; state {tmp_path}/s, source {capture}\n"
    path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "nonsense:0"\n[gate]\nmost_faults = -1\n')
    bad = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "gate.most_faults = -1: input should be greater than or equal to 0" in bad.stderr
    path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "nonsense:0"\n')
    unknown = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert unknown.returncode == 1
    assert "source.input = 'nonsense:0': nonsense:0: there is no source 'nonsense'" in unknown.stderr
    path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n[[training.workers]]\ncores = [4000]\n')
    beyond = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "training.workers[0].cores: 4000 is not there; there are " in beyond.stderr
    path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n[training]\nseed_model = "/nowhere"\n')
    seedless = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "training.seed_model = '/nowhere': is no directory of a checkpoint" in seedless.stderr
    (tmp_path / "manifest.json").write_text('{"format": 2, "schema": "conversations-5"}')
    path.write_text(path.read_text().replace("/nowhere", str(tmp_path)))
    old = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert f"training.seed_model = '{tmp_path}': {tmp_path} is a checkpoint of format 2, schema conversations-5" in (
        old.stderr
    )
    path.write_text(
        f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n'
        f'[training]\nseed_captures = ["{capture}", "/nowhere"]\n'
    )
    lacking = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "training.seed_captures has '/nowhere': there is no such file" in lacking.stderr
    for odd, told in (("/" + "x" * 300, "file name too long"), (str(tmp_path), "is no regular file")):
        path.write_text(
            f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n[training]\nseed_captures = ["{odd}"]\n'
        )
        with pytest.raises(InputError, match=f"training.seed_captures has '{odd}': {told}"):
            validate(path)
    path.write_text(path.read_text() + 'seed_model = "/seed"\n')
    with pytest.raises(InputError, match=r"training\.seed_model is the seed, or training\.seed_captures give it"):
        load_config(path)


@pytest.mark.parametrize(
    ("training", "privacy", "told"),
    [
        ("", "", "goes on from a public model, and there is none: name one in training.seed_model"),
        ("", "unit = 'flow'", "goes on from a public model, and there is none"),
        ("seed_captures = ['CAPTURE']", "", None),
        ("seed_captures = ['CAPTURE']", "unit = 'flow'", None),
        ("seed_captures = ['CAPTURE']", "most_chunks_of_a_unit = 5", None),
        ("enabled = false", "", None),
    ],
)
def test_a_private_mode_that_could_learn_nothing_is_refused(
    tmp_path: Path, training: str, privacy: str, told: str | None
):
    capture, path = tmp_path / "x.pcap", tmp_path / "x.toml"
    capture.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    path.write_text(
        f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n[training]\n{training}\n'
        f'[privacy]\nmode = "private"\n{privacy}\n'.replace("CAPTURE", str(capture))
    )
    refusal = nullcontext() if told is None else pytest.raises(InputError, match=re.escape(told))
    with refusal:
        validate(path)


@pytest.mark.parametrize(("source", "is_told"), [("live:nowhere0", True), ("live:lo", False), ("live:any", False)])
def test_validate_tells_of_an_interface_that_is_not_there_and_takes_the_file(
    tmp_path: Path, capsys, source: str, is_told: bool
):
    path = tmp_path / "x.toml"
    path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "{source}"\n')
    validate(path)
    told = capsys.readouterr().out
    assert ": is valid; " in told
    assert ("there is no interface nowhere0 now" in told) is is_told


def test_validate_tries_a_key_of_ones_own_and_leaves_credentials_to_the_service(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    capture, path = tmp_path / "x.pcap", tmp_path / "x.toml"
    capture.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))

    def check(key: str) -> str:
        path.write_text(f'state = "{tmp_path}/s"\n[source]\ninput = "{capture}"\n[training]\naddress_key = "{key}"\n')
        validate(path)
        return str(capsys.readouterr().out)

    assert ": is valid; " in check("credential:a.key")
    (tmp_path / "a.key").touch(0o600)
    (tmp_path / "a.key").write_text("ab" * 32)
    assert ": is valid; " in check(str(tmp_path / "a.key"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert ": is valid; " in check("credential:a.key")
    with pytest.raises(InputError, match=r"training\.address_key = 'credential:b\.key': .*: was not handed"):
        check("credential:b.key")
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        check(str(tmp_path / "a.key"))

"""What is compiled ahead has every kind of packet that the inner loops know, and a part that fails is an error."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from nsstream_daemon import compile_command

from nsstream.capture import PcapFileSource
from nsstream.errors import OutputError
from nsstream.trace import PacketBatch


def test_the_first_packets_have_both_versions_and_the_common_protocols(tmp_path: Path):
    source = PcapFileSource(compile_command._first_packets(tmp_path / "few.pcap"))
    source.open()
    batches = []
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
    source.close()
    packets = PacketBatch.concatenate(batches)
    assert 0.9 * compile_command.FEW_PACKETS < len(packets) <= compile_command.FEW_PACKETS  # ARP is left out
    assert set(np.unique(packets.ip_version)) == {4, 6}
    assert {1, 6, 17, 58} <= set(np.unique(packets.protocol_identifier).tolist())


def test_no_room_for_a_temporary_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"TMPDIR names another.*No such file"):
        compile_command.compile_ahead()


def test_a_part_that_fails_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_command, "NSSTREAM", ("sh", "-c", "echo no room >&2; exit 3"))
    with pytest.raises(OutputError, match=r"status 3: no room"):
        compile_command._run()

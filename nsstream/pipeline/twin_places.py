"""TwinPlaces: where a run to a twin writes, whatever it learns: the twin, the configuration beside it, its state.

All of it is made in hidden folders, and gets its place when the run is complete; a failed run leaves what was there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.chunk import whole_file
from nsstream.pipeline.address_keys import key_beside
from nsstream.pipeline.drawn import check_drawn, publish_drawn
from nsstream.pipeline.outputs import beside, check_output, check_state, staging
from nsstream.replay.pcap_sink import split_suffixes
from nsstream.wire.pcap import check_pcap_time

CONFIG_SUFFIX: Final = ".config.json"


@dataclass(frozen=True, slots=True)
class StagedTwin:
    """A run's hidden places, in use as long as it goes on."""

    twin: Path  # to be drawn
    state: Path  # with the key of the address map
    models: Path  # in it
    _places: TwinPlaces

    def publish(self, settings: Mapping[str, object]) -> None:
        """Give all their places, `settings` as the configuration among them: all or none; raises OutputError."""
        made = beside(self.twin, CONFIG_SUFFIX)
        with whole_file(made) as file:
            file.write(json.dumps(settings, indent=2).encode() + b"\n")
        others = [(self.state, self._places.state), (made, self._places.config)]
        publish_drawn(self.twin, self._places.output, others=others, trash=self.twin.parent)


@dataclass(frozen=True, slots=True)
class TwinPlaces:
    """Where the outputs of a run from a trace go."""

    trace: Path
    output: Path
    state: Path
    replaces: bool  # whether an earlier twin and its state are replaced

    @property
    def config(self) -> Path:
        """The configuration beside the twin."""
        return beside(self.output, CONFIG_SUFFIX)

    def check(self) -> None:
        """Raise OutputError unless all may be written, InputError if one of them is the trace."""
        check_drawn(self.output, inputs=[self.trace], replaces=self.replaces)
        check_output(self.config, inputs=[self.trace], replaces=self.replaces)
        check_state(self.state, replaces=self.replaces)

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if a capture file of the twin's name has no such time."""
        if split_suffixes(self.output)[0] == ".pcap":
            check_pcap_time(time_ns)

    @contextmanager
    def staged(self, address_key: bytes) -> Iterator[StagedTwin]:
        """Hidden places for a run; whatever was not published is gone at the end of the block."""
        with staging(self.output) as folder, staging(self.state) as state:
            models = state / "models"
            key_beside(models, address_key)
            yield StagedTwin(folder / self.output.name, state, models, self)

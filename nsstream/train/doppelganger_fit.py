"""The fit of `doppelganger` to a chunk: Wasserstein critics with gradient penalty, as published.

A round is `critic_steps` steps of both critics, each on fresh real conversations and on fresh noise, and one step of
the generator against both. What the critics learn from is detached: their steps leave no gradient in the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from nsstream.clock import Clock, SystemClock
from nsstream.encode.address_map import AddressMap
from nsstream.encode.series import Series, encode_series
from nsstream.encode.series_codec import SeriesCodec
from nsstream.errors import TrainError
from nsstream.model.doppelganger import SeriesCritic, SeriesGenerator, SeriesLayout, joined, new_series_networks
from nsstream.model.doppelganger_checkpoint import load_series_checkpoint, save_series_checkpoint
from nsstream.trace import ConversationTable
from nsstream.train.config import Progress
from nsstream.train.device import CPU, new_generator, tensor_of
from nsstream.train.job import TrainJob
from nsstream.train.wasserstein import critic_distance, gradient_penalty

LEAST_CONVERSATIONS: Final = 8
MOST_PACKETS: Final = 160  # of a series; a longer conversation is cut, as NetShare cuts it
PACK: Final = 10
REPORT_EVERY_NS: Final = 500_000_000


@dataclass(frozen=True)
class DoppelgangerConfig:
    """NetShare's settings. Either `rounds` or `budget_s` bounds a fit; with rounds alone it is reproducible."""

    rounds: int | None = None
    budget_s: float | None = None  # wall-clock seconds
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    batch: int = 100  # conversations
    critic_steps: int = 5  # a step of the generator
    penalty: float = 10.0
    attribute_critic_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds is None and self.budget_s is None:
            raise ValueError("a fit needs rounds or budget_s")


def layout_for(series: Series, pack: int = PACK) -> SeriesLayout:
    """A layout that holds the longest conversation of a chunk, or `MOST_PACKETS` of it."""
    longest = min(int(np.diff(series.packet_offset).max(initial=1)), MOST_PACKETS)
    return SeriesLayout(math.ceil(longest / pack) * pack, pack)


def learn_doppelganger(
    job: TrainJob,
    table: ConversationTable,
    interval_ns: tuple[int, int],
    facts: dict[str, Any],
    report: Callable[[Progress], None],
    device: torch.device = CPU,
) -> Path:
    """Train a checkpoint on a chunk's conversations, addresses mapped, as the job says, and save it.

    Raises:
        StateError: a parent that cannot be read, or of another model.
        TrainError: too few conversations, or divergence.
        OutputError: no space.
    """
    parent = load_series_checkpoint(job.parent) if job.parent else None
    settings = job.address_map
    networks_of = AddressMap(bytes.fromhex(settings.key_hex), settings.ipv4_range, settings.ipv6_range).networks
    codec = SeriesCodec.fit(table, *interval_ns, networks_of, parent.codec if parent else None)
    series = encode_series(table, codec)
    networks = parent.networks if parent else new_series_networks(layout_for(series))
    config = DoppelgangerConfig(rounds=job.steps, budget_s=job.budget_s)
    fit = DoppelgangerFit(networks, series, config, job.seed, SystemClock(), report, device)
    fit.run()
    facts = {
        **facts,
        "model": job.model,
        "parent": parent.manifest["id"] if parent else None,
        "fit": {k: v for k, v in asdict(config).items() if k != "budget_s"},
        "torch": torch.__version__.split("+")[0],
        **fit.facts(),
    }
    return save_series_checkpoint(job.out, networks, codec, facts)


class DoppelgangerFit:
    """One fit of the networks to one chunk.

    Args:
        networks: as of `new_series_networks`; trained in place.
        series: the chunk's, at least `LEAST_CONVERSATIONS` of them.
        config: how long, how fast.
        seed: of all chance.
        clock: for the budget.
        report: called now and then; the loss told is the critics' distance of real from generated.
        device: where networks, batches and noise are while it learns; networks are left on the processor.

    Raises:
        TrainError: too few conversations.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        series: Series,
        config: DoppelgangerConfig,
        seed: int,
        clock: Clock,
        report: Callable[[Progress], None],
        device: torch.device = CPU,
    ) -> None:
        if len(series) < LEAST_CONVERSATIONS:
            raise TrainError(f"a chunk of {len(series)} conversations is too small to learn; make chunks longer")
        self._networks, self._series, self._config, self._device = networks.to(device), series, config, device
        self._generator = cast(SeriesGenerator, networks["generator"])
        self._critic = cast(SeriesCritic, networks["critic"])
        self._attribute_critic = cast(SeriesCritic, networks["attribute_critic"])
        self._length = self._generator.layout.length
        self._clock, self._report = clock, report
        self._rng = np.random.default_rng(seed)
        self._chance = new_generator(seed, device)
        self._generator_optimiser, self._critic_optimiser = (
            torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas, eps=1e-8)
            for parameters in (
                list(self._generator.parameters()),
                [*self._critic.parameters(), *self._attribute_critic.parameters()],
            )
        )
        self._start_ns = clock.monotonic_ns()
        self._reported_ns = self._start_ns - REPORT_EVERY_NS
        self._round = 0
        self._distance = math.inf

    def run(self) -> None:
        """Learn until the rounds or the budget are used up, a round at least."""
        self._networks.train()
        while self._round == 0 or self._progress() < 1:
            for _ in range(self._config.critic_steps):
                self._distance = self._critic_step()
            self._generator_step()
            self._tick()
        self._networks.eval().to(CPU)

    def facts(self) -> dict[str, object]:
        """What the fit did, for the manifest."""
        cut = np.maximum(np.diff(self._series.packet_offset) - self._length, 0)
        return {
            "rounds": self._round,
            "distance": round(self._distance, 6),
            "packets_cut": int(cut.sum()),
            "conversations_cut": int((cut > 0).sum()),
        }

    def _critic_step(self) -> float:
        """Both critics learn to tell a fresh batch from fresh noise; gives the distance that they saw."""
        size = min(self._config.batch, len(self._series))
        rows = self._rng.choice(len(self._series), size, replace=False)
        attributes = tensor_of(self._series.attributes[rows], self._device)
        features = tensor_of(self._series.features(rows, self._length), self._device)
        with torch.no_grad():
            fake_attributes, fake_features = self._generator(size, self._chance)
        distance, penalty = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        for critic, real, fake in (
            (self._critic, joined(attributes, features), joined(fake_attributes, fake_features)),
            (self._attribute_critic, attributes, fake_attributes),
        ):
            distance = distance + critic_distance(critic, real, fake)
            penalty = penalty + gradient_penalty(critic, real, fake, self._chance)
        self._step(self._critic_optimiser, self._config.penalty * penalty - distance)
        return float(distance.detach())

    def _generator_step(self) -> None:
        attributes, features = self._generator(min(self._config.batch, len(self._series)), self._chance)
        worth = self._critic(joined(attributes, features)).mean()
        worth = worth + self._config.attribute_critic_weight * self._attribute_critic(attributes).mean()
        self._step(self._generator_optimiser, -worth)

    def _step(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        if not math.isfinite(float(loss.detach())):
            raise TrainError(f"training diverged: the loss is {float(loss.detach())} in round {self._round}")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def _elapsed_s(self) -> float:
        return (self._clock.monotonic_ns() - self._start_ns) / 1e9

    def _progress(self) -> float:
        if self._config.rounds is not None:
            return self._round / self._config.rounds
        return self._elapsed_s() / cast(float, self._config.budget_s)

    def _tick(self) -> None:
        self._round += 1
        now = self._clock.monotonic_ns()
        if now - self._reported_ns >= REPORT_EVERY_NS:
            self._reported_ns = now
            done, elapsed = max(self._progress(), 1e-6), self._elapsed_s()
            left = max(0.0, elapsed / done - elapsed)
            self._report(Progress("adversary", self._round, self._config.rounds, self._distance, elapsed, left))

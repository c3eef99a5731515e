"""How long and how fast a fit learns, and what it reports on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FitConfig:
    """All that a fit can be told. Either `steps` or `budget_s` bounds it; with steps alone it is reproducible."""

    steps: int | None = None  # rounds in all; None: as many as the budget allows
    budget_s: float | None = None  # wall-clock seconds; None: no limit
    learning_rate: float = 3e-3
    weight_decay: float = 0.02  # of the attribute network and the critic
    packet_weight_decay: float = 0.2
    windows_per_step: int = 12  # windows of packets
    packets_per_step: int = 2048  # of them, padded
    epochs: float = 80.0  # of packets, over which the learning rate falls; more is learned by heart
    runs_per_step: int = 8  # runs of consecutive conversations
    run_length: int = 64
    likelihood_share: float = 0.85  # of the time, at most, before the adversary begins
    has_adversary: bool = False  # whether the rest of the time is learned against the recurrent critic
    tail_share: float = 0.12  # kept of a budget for calibration and the critic by which draws are chosen
    critic_rounds: int = 6  # that this critic learns in, as far as the budget goes
    groups_per_step: int = 32  # conversations whose packets are drawn against the critic
    group_size: int = 4  # times each is drawn
    adversary_weight: float = 0.3  # of the critic's gradient beside the likelihood's
    adversary_likelihood: float = 1.0  # weight of the likelihood there; 0: the critic alone

    def __post_init__(self) -> None:
        if self.steps is None and self.budget_s is None:
            raise ValueError("a fit needs steps or budget_s")


@dataclass(frozen=True)
class PrivateConfig:
    """How a private fit learns. All of it is public, and none of it may be chosen by looking at the private chunk."""

    epsilon: float
    delta: float = 1e-5
    unit: Literal["host", "flow"] = "host"  # what is protected: all that a host initiates, or one conversation
    most_conversations: int = 64  # of a host that are learned
    steps: int = 100
    clip: float = 1.0  # l2, of a unit's gradient
    drift: float = 0.05  # nats by which the noise of all steps moves a logit's bias
    rank: int = 8  # of what is learned of each layer
    counts_share: float = 0.5  # of the budget (by variances), spent on counts
    host_sample_rate: float = 0.5
    flow_sample_rate: float = 0.05
    host_packets: int = 256  # of a unit that are learned
    flow_packets: int = 64

    @property
    def sample_rate(self) -> float:
        """The chance of a unit to be in a step."""
        return self.host_sample_rate if self.unit == "host" else self.flow_sample_rate

    @property
    def most(self) -> int:
        """Conversations that a unit has at most."""
        return self.most_conversations if self.unit == "host" else 1

    @property
    def most_packets(self) -> int:
        """Packets that are learned of a unit at most."""
        return self.host_packets if self.unit == "host" else self.flow_packets


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: stage is `likelihood`, `adversary`, `critic` or `private`; loss in nats a packet."""

    stage: str
    step: int
    steps: int | None
    loss: float | None  # of a private fit nobody is told
    elapsed_s: float
    left_s: float | None

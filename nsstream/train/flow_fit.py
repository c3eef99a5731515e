"""FlowFit: a chunk's flow tokens in, a generator out.

1. Likelihood: both networks learn the chunk by maximum likelihood, each until held-out conversations say stop.
2. Calibration: corrections to the logits, so that what is drawn has the chunk's own frequencies (`flow_calibrate`).

There is no adversary here: what critics were worth on flow records stands in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.clock import Clock
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import FlowTokens
from nsstream.errors import TrainError
from nsstream.model.flow_checkpoint import show_chunk
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.train.calibrate import reset_corrections
from nsstream.train.config import FitConfig, Progress
from nsstream.train.device import CPU, tensor_of
from nsstream.train.flow_batches import TensorFlows, choose_record_windows, cut_record_windows, record_windows
from nsstream.train.flow_calibrate import calibrate_conversations, calibrate_records
from nsstream.train.learner import Learner
from nsstream.train.pace import Pace

LEAST_CONVERSATIONS: Final = 16
HELD_OUT_EVERY: Final = 8
RECORDS_PER_STEP: Final = 512
CALIBRATION_SHARE: Final = 0.12  # of the budget, at its end; half of it is left when the last round begins
REPORT_EVERY_NS: Final = 500_000_000


def held_out(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which of so many conversations are not learned: one in eight, sorted."""
    return np.sort(rng.permutation(count)[: count // HELD_OUT_EVERY])


class FlowFit:
    """One fit of the networks to one chunk.

    Args:
        networks: as of `new_flow_networks`; trained in place, and left holding what is to be kept.
        tokens: the chunk's, at least `LEAST_CONVERSATIONS` conversations.
        start_ns: (m,) starts of the records.
        codec: the chunk's.
        config: how long, how fast.
        seed: of all chance.
        clock: for the budget.
        report: called now and then.
        device: where networks and tokens are while it learns; it is calibrated, and left, on the processor.

    Raises:
        TrainError: too few conversations.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        tokens: FlowTokens,
        start_ns: NDArray[np.int64],
        codec: FlowCodec,
        config: FitConfig,
        seed: int,
        clock: Clock,
        report: Callable[[Progress], None],
        device: torch.device = CPU,
    ) -> None:
        if len(tokens) < LEAST_CONVERSATIONS:
            raise TrainError(f"a table of {len(tokens)} conversations is too small to learn")
        self._networks, self._tokens, self._start_ns, self._codec = networks, tokens, start_ns, codec
        self._config, self._clock, self._report = config, clock, report
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._begin_ns = clock.monotonic_ns()
        self._reported_ns = self._begin_ns - REPORT_EVERY_NS
        self._round = 0
        n = len(tokens)
        held = held_out(n, self._rng)
        learned = np.setdiff1d(np.arange(n), held)
        self._device, self._there = device, TensorFlows.of(tokens, device)
        self._is_held = tensor_of(np.isin(np.arange(n), held), device)
        self._run = min(config.run_length, n // HELD_OUT_EVERY)
        self._judged_runs = np.linspace(0, n - self._run, min(n // self._run, 32)).astype(np.int64)
        self._windows = cut_record_windows(tokens, learned)
        judged = cut_record_windows(tokens, held)
        self._judged = judged[np.linspace(0, len(judged) - 1, min(len(judged), 768)).astype(np.int64)]
        show_chunk(networks, codec)
        networks.to(device)
        rate, decay = config.learning_rate, config.weight_decay
        self._conversations = Learner(
            cast(ConversationNetwork, networks["conversations"]), rate, decay, 0.98, self._conversation_loss
        )
        self._records = Learner(cast(RecordNetwork, networks["records"]), rate, decay, 0.99, self._record_loss)
        self._paces = Pace(self._conversations), Pace(self._records)

    def run(self) -> None:
        """Learn until the steps or the budget are used up, or nothing improves; a round at least."""
        reset_corrections(self._networks)
        self._networks.train()
        while self._round == 0 or self._progress() < 1:
            if self._paces[0].is_done and self._paces[1].is_done:
                break
            self._step()
        self._conversations.back_to_best()
        self._records.back_to_best()
        self._networks.eval().to(CPU)
        share = CALIBRATION_SHARE / (1 - CALIBRATION_SHARE)
        calibrate_conversations(
            self._conversations.network,
            self._tokens,
            self._codec,
            self._generator,
            lambda: self._spent() < 1 + share / 4,
        )
        calibrate_records(
            self._records.network,
            self._tokens,
            self._codec,
            self._start_ns,
            self._rng,
            self._generator,
            lambda: self._spent() < 1 + share / 2,
        )

    def facts(self) -> dict[str, object]:
        """What the fit did, for the manifest."""
        learners: dict[str, Learner[Any]] = {"conversation": self._conversations, "record": self._records}
        return {
            "rounds": self._round,
            "steps": {name: learner.step_count for name, learner in learners.items()},
            "held_out_nats": {name: round(learner.best_loss, 6) for name, learner in learners.items()},
        }

    def _step(self) -> None:
        rates = [pace.rate(self._progress()) for pace in self._paces]  # a pace may change weights: before any loss
        loss = self._records.best_loss
        if not self._paces[0].is_done:
            runs = self._rng.integers(0, len(self._tokens) - self._run + 1, self._config.runs_per_step)
            nll, is_held = self._runs_nll(self._conversations.network, runs)
            self._conversations.step((nll * ~is_held).sum() / (~is_held).sum().clamp(min=1), rates[0])
        if not self._paces[1].is_done:
            windows = choose_record_windows(self._windows, RECORDS_PER_STEP, self._rng)
            mean = self._records.network.loss(*record_windows(self._there, windows)).mean()
            loss = self._records.step(mean, rates[1])
        self._round += 1
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._reported_ns >= REPORT_EVERY_NS:
            self._reported_ns = now_ns
            elapsed_s, budget_s = (now_ns - self._begin_ns) * 1e-9, self._config.budget_s
            left_s = None if budget_s is None else max(0.0, budget_s - elapsed_s)
            self._report(Progress("likelihood", self._round, self._config.steps, loss, elapsed_s, left_s))

    def _progress(self) -> float:
        """How much of the steps or of the budget is used up."""
        done = 0.0 if self._config.steps is None else self._round / self._config.steps
        return max(done, self._spent())

    def _spent(self) -> float:
        """The time since the fit began, in budgets less the calibration's share; 0 where there is no budget."""
        if self._config.budget_s is None:
            return 0.0
        budget_s = self._config.budget_s * (1 - CALIBRATION_SHARE)
        return (self._clock.monotonic_ns() - self._begin_ns) * 1e-9 / budget_s

    def _runs_nll(self, network: ConversationNetwork, runs: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        at = tensor_of(runs[:, None] + np.arange(self._run), self._device)
        return network.loss(self._there.attributes[at], self._there.start_features[at]), self._is_held[at]

    def _conversation_loss(self, network: ConversationNetwork) -> float:
        nll, is_held = self._runs_nll(network, self._judged_runs)
        return float((nll * is_held).sum() / is_held.sum().clamp(min=1))

    def _record_loss(self, network: RecordNetwork) -> float:
        total, count = 0.0, 0
        for begin in range(0, len(self._judged), 256):
            nll = network.loss(*record_windows(self._there, self._judged[begin : begin + 256]))
            total, count = total + float(nll.sum()), count + len(nll)
        return total / max(count, 1)

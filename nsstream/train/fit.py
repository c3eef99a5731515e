"""Fit: a chunk's tokens in, a generator and the critic by which its draws are chosen out.

1. Likelihood: both halves of the generator learn the chunk by maximum likelihood: packets over so many passes, at a
   rate that falls meanwhile, attributes until held-out conversations say stop. What suits those best is kept.
2. Adversary: a recurrent critic learns to tell measured conversations from drawn ones, and the generator learns from it
   (`adversary`), with likelihood beside it so that it does not forget.
3. Calibration: corrections to the logits, so that what is drawn has the chunk's own frequencies (`calibrate`).
4. Critic: boosted trees (`tree_critic`) against the generator as it will be kept; drawing weighs its candidates by
   them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.clock import Clock
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_attributes, allowed_kinds
from nsstream.encode.tokens import ChunkTokens
from nsstream.errors import TrainError
from nsstream.model.conversations import draw_conversations
from nsstream.model.critic import Critic
from nsstream.model.heads import heads_of
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import AttributeNetwork, PacketNetwork, PacketTokens
from nsstream.model.noise import noise_of
from nsstream.model.portrait import ELEPHANT, portrait_of_drawn
from nsstream.model.sample_packets import draw_packets
from nsstream.model.trees import Trees
from nsstream.train.adversary import adversary_loss, critic_loss, draw_groups, group_weights
from nsstream.train.batches import TensorTokens, Windows, cut_windows, window_batch
from nsstream.train.calibrate import calibrate_attributes, calibrate_packets, reset_corrections
from nsstream.train.config import FitConfig, Progress
from nsstream.train.device import CPU, new_generator, tensor_of
from nsstream.train.learner import Learner
from nsstream.train.reading import HELD_OUT_EVERY, Reading, held_out, judged
from nsstream.train.tree_critic import fit_in_rounds

LEAST_CONVERSATIONS: Final = 8
CALIBRATED_CONVERSATIONS: Final = 4096  # of which packets are counted
CRITIC_CANDIDATES: Final = 8  # drawings of each conversation that the trees learn to choose among
FEWEST_DRAWN: Final = 2048  # conversations that the trees see
MOST_DRAWS: Final = 8  # of a chunk, for the trees
PACKET_CHECKS: Final = 60  # steps of the packet network from one look at held-out data to the next
ATTRIBUTES_EVERY: Final = 3  # rounds, a step of the attribute network
REPORT_EVERY_NS: Final = 500_000_000


class Fit:
    """One fit of the networks to one chunk.

    Args:
        networks: as of `checkpoint.new_networks`; trained in place, and left holding what is to be kept.
        tokens: the chunk's, at least `LEAST_CONVERSATIONS` of them.
        portraits: of the same conversations.
        codec: the chunk's.
        config: how long, how fast.
        seed: of all chance.
        clock: for the budget.
        report: called now and then.
        threads: with two, both halves learn at once; torch itself is best held to one.
        turn: of several fits of one seed to one chunk: the same conversations are held out, all other chance differs.
        device: where networks, tokens and noise are while it learns; it is finished, and left, on the processor.

    Raises:
        TrainError: too few conversations.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        tokens: ChunkTokens,
        portraits: NDArray[np.float32],
        codec: Codec,
        config: FitConfig,
        seed: int,
        clock: Clock,
        report: Callable[[Progress], None],
        threads: int = 1,
        turn: int = 0,
        device: torch.device = CPU,
    ) -> None:
        if len(tokens) < LEAST_CONVERSATIONS:
            raise TrainError(f"a chunk of {len(tokens)} conversations is too small to learn; make chunks longer")
        self._networks, self._tokens, self._codec, self._config = networks, tokens, codec, config
        self._portraits, self._packets_read = portraits, 0
        self._clock, self._report, self._threads = clock, report, threads
        self._rng = np.random.default_rng(seed)
        self._packet_rng, self._attribute_rng = self._rng.spawn(2 * turn + 2)[-2:]  # each half has chance of its own
        self._packet_noise, self._attribute_noise = (
            new_generator(int(rng.integers(1 << 62)), device) for rng in (self._packet_rng, self._attribute_rng)
        )
        self._device, self._there = device, TensorTokens.of(tokens, device)
        networks.to(device)
        self._start_ns = clock.monotonic_ns()
        self._reported_ns = self._start_ns - REPORT_EVERY_NS  # the first step is told of
        self._round = 0
        self._is_left = Event()
        self._kinds = tensor_of(allowed_kinds(codec), device)  # by stack
        self._masks = [tensor_of(m, device) for m in allowed_attributes(codec)]
        self._run = min(config.run_length, len(tokens) // HELD_OUT_EVERY)
        held = held_out(np.diff(tokens.packet_offset), self._rng)
        learned = np.setdiff1d(np.arange(len(tokens)), held)
        self._is_held = tensor_of(np.isin(np.arange(len(tokens)), held), device)
        self._learned_rows = learned
        runs = len(tokens) // self._run
        self._judged_runs = np.linspace(0, len(tokens) - self._run, min(runs, 24)).astype(np.int64)
        self._windows, self._held_windows = cut_windows(tokens, learned), cut_windows(tokens, held)
        self._reading = Reading(self._windows, self._packet_rng)
        self._judged_windows = judged(self._held_windows, self._windows)
        rate, decay = config.learning_rate, config.weight_decay
        self._attributes = Learner(
            cast(AttributeNetwork, networks["attributes"]), rate, decay, 0.97, self._attribute_loss
        )
        self._packets = Learner(
            cast(PacketNetwork, networks["packets"]),
            rate,
            config.packet_weight_decay,
            0.99,
            self._packet_loss,
            PACKET_CHECKS,
        )
        self.trees = Trees.none()
        self._critic = Learner(cast(Critic, networks["critic"]), rate / 2, decay, 0.97, None)

    def run(self) -> None:
        """Learn until the steps or the budget are used up, a round at least."""
        self.learn()
        self.finish()

    def learn(self) -> None:
        """The first half of `run`: the networks hold the best that was learned, and no corrections."""
        reset_corrections(self._networks)
        self._networks.train()
        self._learn_likelihood()
        self._attributes.back_to_best()
        self._packets.back_to_best()
        while self._config.has_adversary and self._progress() < 1:
            self._adversary_round()

    def finish(self) -> None:
        """The second half of `run`: corrections for the chunk, and the critic of what is drawn; the networks stay."""
        self._attributes.back_to_best()
        self._packets.back_to_best()
        self._critic.back_to_best()
        self._networks.eval().to(CPU)  # what is drawn from now on is drawn by numba
        calibrate_attributes(self._attributes.network, self._tokens, self._codec, self._rng)
        rows = self._learned_rows
        if len(rows) > CALIBRATED_CONVERSATIONS:
            rows = self._rng.choice(rows, CALIBRATED_CONVERSATIONS, replace=False)
        calibrate_packets(self._packets.network, self._tokens, self._codec, rows, self._rng)
        self._tick("critic", self._packets.best_loss)
        self.trees = self._fit_trees()

    def _fit_trees(self) -> Trees:
        """The critic of drawn conversations as they will be drawn; elephants are not judged."""
        is_small = np.diff(self._tokens.packet_offset) <= ELEPHANT
        pool: list[NDArray[np.float32]] = []
        while not pool or (sum(len(p) for p in pool) < FEWEST_DRAWN and len(pool) < MOST_DRAWS):
            pool.append(self._draw_candidates())
        candidates = np.concatenate(pool)
        if not is_small.any() or not len(candidates):
            return Trees.none()
        return fit_in_rounds(
            self._portraits[is_small],
            candidates,
            self._config.critic_rounds,
            self._rng,
            self._threads,
            self._is_over,
        )

    def _draw_candidates(self) -> NDArray[np.float32]:
        """Portraits of a chunk's worth of conversations, each drawn a few times: (n, k, f)."""
        network, codec = self._packets.network, self._codec
        drawn = draw_conversations(self._attributes.network, codec, self._rng)
        drawn = drawn.take(np.flatnonzero(drawn.counts <= ELEPHANT))
        events = np.array(codec.endings.events)
        given = drawn.attributes, drawn.ends.stack, drawn.start_ns, drawn.counts
        seen = [
            portrait_of_drawn(
                draw_packets(network, codec, *given, self._rng, events=events), drawn.attributes, codec
            )
            for _ in range(CRITIC_CANDIDATES)
        ]  # fmt: skip
        return np.stack(seen, axis=1)

    def _is_over(self) -> bool:
        """Whether the budget is used up; without one it never is."""
        return self._config.steps is None and self._elapsed_s() >= cast(float, self._config.budget_s)

    def facts(self) -> dict[str, object]:
        """What the fit did, for the manifest."""
        return {
            "rounds": self._round,
            "steps": {
                "attributes": self._attributes.step_count,
                "packets": self._packets.step_count,
                "critic": self._critic.step_count,
            },
            "held_out_nats": {
                "conversation": round(self._attributes.best_loss, 6),
                "packet": round(self._packets.best_loss, 6),
            },
        }

    def _learn_likelihood(self) -> None:
        """Both halves at once, or in turn where there is one thread; what they learn is the same either way."""
        packets, attributes = self._packet_steps(), self._attribute_steps()
        if self._threads == 1:
            for loss in packets:
                if self._round % ATTRIBUTES_EVERY == 0:
                    next(attributes, None)
                self._tick("likelihood", loss)
            for _ in attributes:
                self._tick("likelihood", self._packets.best_loss)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="attributes") as other:
            side = other.submit(deque[None], attributes, 0)
            try:
                for loss in packets:
                    self._tick("likelihood", loss)
                while not wait([side], REPORT_EVERY_NS / 1e9).done:
                    self._tell("likelihood", self._packets.best_loss)
            finally:
                self._is_left.set()  # where packets fail, attributes are not learned to their end first
            side.result()

    def _packet_steps(self) -> Iterator[float]:
        """Learn packets, a loss a step, until enough passes or time are over.

        Held-out ones choose what is kept, and not the end: most of what is learned late comes of the falling rate.
        """
        while self._packets.step_count == 0 or self._likelihood_progress() < 1:
            rate = 0.51 + 0.49 * math.cos(math.pi * self._likelihood_progress())
            with noise_of(self._packet_noise):
                loss = self._nll_of(self._packets.network, self._windows, self._choose_windows())
                told = self._packets.step(loss, rate)
            yield told

    def _attribute_steps(self) -> Iterator[None]:
        """Learn attributes, until held-out ones say stop, or a share of the steps or the time is over."""
        config, learner = self._config, self._attributes
        most = math.inf if config.steps is None else -(-config.steps * self._likelihood_share // ATTRIBUTES_EVERY)
        while learner.step_count == 0 or not (learner.is_done or learner.step_count >= most or self._is_time_over()):
            runs = self._attribute_rng.integers(0, len(self._tokens) - self._run + 1, config.runs_per_step)
            with noise_of(self._attribute_noise):
                nll, is_held = self._runs_nll(learner.network, runs)
                learner.step((nll * ~is_held).sum() / (~is_held).sum().clamp(min=1), 1.0)
            if self._is_left.is_set():
                return
            yield

    @property
    def _likelihood_share(self) -> float:
        return self._config.likelihood_share if self._config.has_adversary else 1.0

    def _is_time_over(self) -> bool:
        """Whether the budget's time for likelihood is used up; without one it never is."""
        return self._config.steps is None and self._progress() >= self._likelihood_share

    def _adversary_round(self) -> None:
        config, network = self._config, self._packets.network
        rows, drawn = self._critic_round(network)
        loss = self._nll_of(network, self._windows, self._choose_windows())
        told = float(loss.detach())
        if self._critic.step_count > 20:
            self._critic.average.eval()
            weights = group_weights(self._critic.average, drawn, config.group_size)
            allowed = self._kinds_of(np.repeat(rows, config.group_size))
            told_by_critic = adversary_loss(network, drawn, weights, allowed)
            loss = config.adversary_likelihood * loss + config.adversary_weight * told_by_critic
        self._packets.step(loss, 0.25 * (1 + math.cos(math.pi * self._progress())))
        self._tick("adversary", told)

    def _critic_round(self, network: PacketNetwork) -> tuple[NDArray[np.int64], PacketTokens]:
        config = self._config
        size = min(config.groups_per_step, len(self._learned_rows))
        rows = self._rng.choice(self._learned_rows, size, replace=False)
        drawn = draw_groups(network, self._tokens, self._codec, rows, config.group_size, self._rng)
        count = min(size * config.group_size, len(self._learned_rows))
        measured = heads_of(self._tokens, self._rng.choice(self._learned_rows, count, replace=False)).to(self._device)
        loss = self._critic.step(critic_loss(self._critic.network, measured, drawn), 1.0)
        self._tick("critic", loss)
        return rows, drawn

    def _runs_nll(self, network: AttributeNetwork, starts: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each conversation in the runs from these starts, and whether it is held out: (r, w) both."""
        rows = tensor_of(starts[:, None] + np.arange(self._run), self._device)
        nll = network.loss(self._there.attributes[rows], self._there.start_features[rows], self._masks)
        return nll, self._is_held[rows]

    def _choose_windows(self) -> NDArray[np.int64]:
        config = self._config
        progress = self._likelihood_progress()
        chosen = self._reading.choose(config.windows_per_step, config.packets_per_step, progress)
        self._packets_read += int((self._windows.end - self._windows.learn_from)[chosen].sum())
        return chosen

    def _nll_of(self, network: PacketNetwork, windows: Windows, chosen: NDArray[np.int64]) -> torch.Tensor:
        """Nats a packet."""
        batch = window_batch(self._there, windows, chosen, LAYOUT)
        return network.loss(batch, self._kinds_of(windows.owner[chosen])).sum() / batch.counts.sum()

    def _kinds_of(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Which kinds of packets conversations (n,) may have: (n, kinds)."""
        return self._kinds[self._there.stack[tensor_of(rows, self._device)]]

    def _attribute_loss(self, network: AttributeNetwork) -> float:
        nll, is_held = self._runs_nll(network, self._judged_runs)
        return float(nll[is_held].mean()) if is_held.any() else float(nll.mean())

    def _packet_loss(self, network: PacketNetwork) -> float:
        of_classes = ((self._nll_of(network, self._held_windows, rows), share) for rows, share in self._judged_windows)
        return sum(share * float(nats) for nats, share in of_classes)

    def _elapsed_s(self) -> float:
        return (self._clock.monotonic_ns() - self._start_ns) / 1e9

    def _progress(self) -> float:
        """How much of the steps, or else of the budget before its tail, is used up: 0..1."""
        if self._config.steps is not None:
            return self._round / self._config.steps
        budget_s = cast(float, self._config.budget_s)
        return self._elapsed_s() / (budget_s * (1 - self._config.tail_share))

    def _likelihood_progress(self) -> float:
        """How much of the learning by likelihood alone is done: 0..1."""
        learned = (self._windows.end - self._windows.learn_from).sum()
        passes = self._packets_read / max(int(learned), 1)
        of_time = self._progress() / self._likelihood_share
        return min(1.0, max(of_time, passes / self._config.epochs))

    def _tick(self, stage: str, loss: float) -> None:
        self._round += 1
        self._tell(stage, loss)

    def _tell(self, stage: str, loss: float) -> None:
        now = self._clock.monotonic_ns()
        if now - self._reported_ns >= REPORT_EVERY_NS:
            self._reported_ns = now
            done, elapsed = max(self._progress(), 1e-6), self._elapsed_s()
            self._report(
                Progress(stage, self._round, self._config.steps, loss, elapsed, max(0.0, elapsed / done - elapsed))
            )

"""DoppelGANger as NetShare uses it: the baseline beside our own model, selected with ``--model doppelganger``.

Source: Lin et al., IMC 2020, section 4; Yin et al., SIGCOMM 2022, for sizes and fields. Three generators in a row: a
multilayer perceptron says a conversation's metadata, a second one the extremes of its series, an LSTM the series
itself, `pack` packets a step. Two critics: one reads metadata and series as one long vector, the other metadata alone.

Dimension letters: n conversations, t packets, z noise; widths are those of `encode.series`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from nsstream.encode.series import ATTRIBUTE_WIDTH, BITS, EXTREMES, FEATURE_WIDTH, METADATA_WIDTH, VECTORS
from nsstream.encode.series_codec import KIND_RANKS

NOISE: Final = 5
HIDDEN: Final = 512
STATE: Final = 100  # of the LSTM
LONGEST: Final = 4096


@dataclass(frozen=True)
class SeriesLayout:
    """How long a series is.

    Attributes:
        length: most packets; a multiple of `pack`.
        pack: packets that one step of the LSTM says.
    """

    length: int
    pack: int

    def __post_init__(self) -> None:
        if self.pack < 1 or not self.pack <= self.length <= LONGEST or self.length % self.pack:
            raise ValueError(f"length must be a multiple of pack, at most {LONGEST}, got {self.length} and {self.pack}")


class SeriesGenerator(nn.Module):
    """Noise to metadata, extremes and series."""

    def __init__(self, layout: SeriesLayout) -> None:
        super().__init__()
        self.layout = layout
        self.metadata = _perceptron(NOISE, METADATA_WIDTH)
        self.extremes = _perceptron(METADATA_WIDTH + NOISE, EXTREMES)
        self.recur = nn.LSTM(ATTRIBUTE_WIDTH + NOISE, STATE, batch_first=True)
        self.say = nn.Linear(STATE, layout.pack * FEATURE_WIDTH)
        for name, weight in self.recur.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(weight)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(weight)
            else:
                nn.init.zeros_(weight)
            if name.startswith("bias_ih"):
                weight.data[STATE : 2 * STATE] = 1.0  # of the forget gate

    def forward(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Attributes (n, A) and features (n, t, F) of `count` conversations; packets behind an end are zeros.

        The generator is of the device that the weights are on.
        """

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=generator.device)

        metadata = _as_metadata(self.metadata(noise(count, NOISE)))
        said = _discrete(metadata).detach()
        extremes = torch.sigmoid(self.extremes(torch.cat([said, noise(count, NOISE)], dim=1)))
        steps = self.layout.length // self.layout.pack
        known = torch.cat([said, extremes.detach()], dim=1)[:, None].expand(-1, steps, -1)
        state = noise(1, count, STATE), noise(1, count, STATE)
        h, _ = self.recur(torch.cat([known, noise(count, steps, NOISE)], dim=2), state)
        packets = self.say(h).view(count, self.layout.length, FEATURE_WIDTH)
        features = torch.cat(
            [
                packets[..., :KIND_RANKS].softmax(-1),
                torch.sigmoid(packets[..., KIND_RANKS : KIND_RANKS + 2]),
                packets[..., KIND_RANKS + 2 :].softmax(-1),
            ],
            dim=-1,
        )
        return torch.cat([metadata, extremes], dim=1), features * _is_alive(features)[..., None]


class SeriesCritic(nn.Module):
    """How real a vector (n, width) looks: (n,), larger is more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Linear(width, HIDDEN), nn.ReLU()]
            width = HIDDEN
        self.judge = nn.Sequential(*layers, nn.Linear(width, 1))
        for layer in self.judge:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Judge; without a bound, as a Wasserstein critic's must be."""
        out: Tensor = self.judge(x)[:, 0]
        return out


def new_series_networks(layout: SeriesLayout) -> nn.ModuleDict:
    """Fresh networks, initialised from torch's global generator (seed it first)."""
    return nn.ModuleDict(
        {
            "generator": SeriesGenerator(layout),
            "critic": SeriesCritic(ATTRIBUTE_WIDTH + layout.length * FEATURE_WIDTH),
            "attribute_critic": SeriesCritic(ATTRIBUTE_WIDTH),
        }
    )


def joined(attributes: Tensor, features: Tensor) -> Tensor:
    """What the first critic reads: (n, A + t F)."""
    return torch.cat([attributes, features.flatten(1)], dim=1)


@torch.no_grad()
def draw_series(
    network: SeriesGenerator, count: int, generator: torch.Generator, *, rows: int = 1024
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attributes and features of `count` conversations, at most `rows` at a time; the network in evaluation mode."""
    for at in range(0, count, rows):
        yield network(min(rows, count - at), generator)


def _is_alive(features: Tensor) -> Tensor:
    """Which packets (n, t) stand behind none that said it was the last: as measured series have zeros from there on."""
    goes_on = (features[..., -2] > 0.5).float()
    return torch.cat([torch.ones_like(goes_on[:, :1]), goes_on[:, :-1].cumprod(dim=1)], dim=1).detach()


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.BatchNorm1d(HIDDEN)]
        inputs = HIDDEN
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _as_metadata(x: Tensor) -> Tensor:
    bits, vectors, places = x[:, :BITS], x[:, BITS : BITS + VECTORS], x[:, BITS + VECTORS :]
    return torch.cat([torch.sigmoid(bits), torch.tanh(vectors), torch.sigmoid(places)], dim=1)


def _discrete(metadata: Tensor) -> Tensor:
    """Metadata with its bits rounded, as they will be decoded."""
    return torch.cat([metadata[:, :BITS].round(), metadata[:, BITS:]], dim=1)

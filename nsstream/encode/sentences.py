"""Sentences: a conversation as three words, its ports and its protocol stack, for `word_vectors`; and words back.

A frequent port is a word of its own; all others of a block of `BLOCK_PORTS` share one, so that no ephemeral port is
learned by heart and the dictionary stays bounded. A stack word is protocol, IP version and whether these are fragments.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.schema import BLOCK_PORTS
from nsstream.trace.conversations import ConversationTable

MOST_NAMED_PORTS: Final = 1536
_BLOCK: Final = 1 << 16  # the words of ports are the port itself, or this plus its block
_STACK: Final = 1 << 20
_WITH_PORTS: Final = (6, 17, 132)


def sentences_of(table: ConversationTable) -> NDArray[np.int64]:
    """The words (n, 3) of conversations: initiator's port, responder's port, stack."""
    named = _named_ports(table)
    ports = [_port_words(ports, named) for ports in (table.initiator_port, table.responder_port)]
    is_6, is_fragment = table.ip_version == 6, table.is_fragment > 0
    return np.stack([*ports, _STACK + table.protocol_identifier.astype(np.int64) * 4 + is_6 * 2 + is_fragment], axis=1)


def ports_of(words: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The ports (n,) of port words, any one of a block; and whether another would have done as well."""
    is_block = words >= _BLOCK
    inside = (words - _BLOCK) * BLOCK_PORTS + rng.integers(0, BLOCK_PORTS, len(words))
    return np.where(is_block, np.maximum(inside, 1), words), is_block


def stacks_of(words: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Protocol, IP version and is_fragment (n,) of stack words."""
    bits = words - _STACK
    return bits // 4, np.where(bits & 2, 6, 4), bits & 1


def is_stack_word(words: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which words (w,) name a stack, and not a port."""
    return words >= _STACK


def has_ports(protocol: NDArray[np.integer], is_fragment: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether conversations (n,) of this protocol have ports."""
    out: NDArray[np.bool_] = np.isin(protocol, _WITH_PORTS) & (is_fragment == 0)
    return out


def _port_words(ports: NDArray[np.uint16], named: NDArray[np.bool_]) -> NDArray[np.int64]:
    wide = ports.astype(np.int64)
    return np.where(named[wide], wide, _BLOCK + wide // BLOCK_PORTS)


def _named_ports(table: ConversationTable) -> NDArray[np.bool_]:
    """Which ports (65536,) have a word of their own."""
    asked = np.bincount(table.responder_port, minlength=1 << 16)
    used = np.bincount(table.initiator_port, minlength=1 << 16)
    wanted = (asked >= 2) | (used >= max(4, len(table) // 500))
    wanted |= (np.arange(1 << 16) < BLOCK_PORTS) & (asked + used > 0)
    named = np.zeros(1 << 16, bool)
    named[np.argsort(-(asked + used) * wanted, kind="stable")[:MOST_NAMED_PORTS]] = True
    named &= wanted
    return named

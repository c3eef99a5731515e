"""A chunk's codec, tokens and networks that have learned nothing: their drawings are wild, and must be lawful still."""

import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.model.checkpoint import new_networks


@pytest.fixture(scope="session")
def table():
    return made_table(count=72)


@pytest.fixture(scope="session")
def codec(table):
    return Codec.fit(table, START_NS, START_NS + MINUTE_NS)


@pytest.fixture(scope="session")
def tokens(table, codec):
    return encode(table, codec)


@pytest.fixture(scope="session")
def networks():
    torch.set_num_threads(1)
    torch.manual_seed(7)
    return new_networks().eval()

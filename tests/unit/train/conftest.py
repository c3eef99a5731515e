"""A minute's chunk, the codec of the next, and networks that have learned nothing."""

import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.model.checkpoint import new_networks


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def table():
    return made_table(count=72)


@pytest.fixture(scope="session")
def codec(table):
    return Codec.fit(table, START_NS, START_NS + MINUTE_NS)


@pytest.fixture(scope="session")
def later_codec(codec):
    table = made_table(seed=2, count=72, minute=1)
    return Codec.fit(table, START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS, codec)


@pytest.fixture(scope="session")
def tokens(table, codec):
    return encode(table, codec)


@pytest.fixture
def networks():
    torch.manual_seed(7)
    return new_networks().eval()

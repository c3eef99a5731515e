import threading
from collections import Counter

import pytest

from nsstream.counters import Tally
from nsstream.pipeline.channel import Channel, Delivery, WhenFull
from nsstream.trace import PacketBatch


def delivery(count: int, **fates: int) -> Delivery:
    told = Tally(offered=count, kept=count)
    for place, lost in fates.items():
        told.drop(place, lost)
    return Delivery(PacketBatch.empty(count), told)


def test_rows_come_out_in_order_with_their_counts():
    channel = Channel(100, WhenFull.DROP_NEWEST)
    channel.put(delivery(3, nic=1))
    channel.put(delivery(4))
    assert channel.row_count == 7
    first, second = channel.get(0), channel.get(0)
    assert first is not None
    assert second is not None
    assert (first.told.kept, first.told.dropped) == (3, {"nic": 1})
    assert (second.told.kept, channel.row_count) == (4, 0)
    assert channel.get(0) is None


def test_a_full_channel_drops_what_came_last_and_the_next_delivery_tells():
    channel = Channel(10, WhenFull.DROP_NEWEST)
    assert channel.put(delivery(8))
    assert not channel.put(delivery(5, ring=2))
    assert not channel.put(delivery(3))
    first = channel.get(0)
    assert first is not None
    assert first.told == Tally(offered=8, kept=8)
    assert channel.put(delivery(1))
    second = channel.get(0)
    assert second is not None
    second.told.check()
    assert second.told.dropped == Counter(channel=8, ring=2)
    assert second.told.kept == len(second.rows or []) == 1


def test_what_was_dropped_last_of_all_is_told_at_the_end():
    channel = Channel(1, WhenFull.DROP_NEWEST)
    channel.put(delivery(1))
    channel.put(delivery(1))
    channel.finish(Delivery(None))
    assert channel.get(0) is not None
    end = channel.get(0)
    assert end is not None
    assert end.is_end
    assert end.told.dropped == {"channel": 1}


def test_a_batch_larger_than_the_channel_passes_alone():
    channel = Channel(1, WhenFull.DROP_NEWEST)
    assert channel.put(delivery(50))
    assert not channel.put(delivery(1))


def test_a_file_waits_until_there_is_room_or_nobody_takes():
    channel = Channel(10, WhenFull.BLOCK)
    channel.put(delivery(10))
    done: list[bool] = []
    waiting = threading.Thread(target=lambda: done.append(channel.put(delivery(5))))
    waiting.start()
    assert not done
    assert channel.get(0) is not None
    waiting.join(10)
    assert done == [True]
    waiting = threading.Thread(target=lambda: done.append(channel.put(delivery(10))))
    waiting.start()
    channel.abandon()
    waiting.join(10)
    assert done == [True, False]


def test_a_channel_without_room_is_refused():
    with pytest.raises(ValueError, match="capacity_rows"):
        Channel(0, WhenFull.BLOCK)

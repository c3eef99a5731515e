"""Strategies for the messages of the replay protocol: valid ones, and maps that nearly are."""

from hypothesis import strategies as st

from nsstream.replay.messages import (
    COMMANDS,
    Accepted,
    GetStatus,
    Hello,
    ListModels,
    ModelInfo,
    Models,
    Pause,
    Refusal,
    Resume,
    Seek,
    SetLoop,
    SetRate,
    Shutdown,
    Start,
    Status,
    Stop,
    Subscribe,
    SubscriberStatus,
    Subscription,
    Welcome,
)
from nsstream.replay.rate import BitRate, PacketRate
from nsstream.replay.scenario import MAX_TIME_NS, FollowSpec, Limits, ModelSpec, ModelsSpec, RecordedSpec, Scenario


def depth(value):
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


ids = st.integers(0, 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
reals = st.floats(0, allow_nan=False, allow_infinity=False)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200).map(lambda tail: "/" + tail)
states = st.sampled_from(["idle", "running", "paused", "stopping", "done", "failed", "stopped", "closing"])
rates = st.one_of(
    st.just("max"),
    st.floats(0.001, 1e6),
    st.builds(PacketRate, packets_per_s=st.floats(0.001, 1e9)),
    st.builds(BitRate, bits_per_s=st.floats(1, 1e12)),
)
streams = st.one_of(
    st.builds(ModelsSpec, models=st.lists(paths, min_size=1, max_size=20), gaps=st.sampled_from(["kept", "squeezed"])),
    st.builds(ModelSpec, model=paths),
    st.builds(FollowSpec, directory=paths, wait_s=st.floats(0, 86_400)),
    st.builds(RecordedSpec, path=paths),
)
scenarios = st.builds(
    Scenario,
    start_ns=st.none() | st.integers(0, MAX_TIME_NS),
    time_compression=st.floats(0.001, 1e6),
    services=st.none() | st.lists(st.sampled_from(["tcp/443", "udp/1-9", "icmp", "89"]), min_size=1, max_size=3),
    hosts=st.none() | st.lists(st.sampled_from(["10.0.0.0/8", "::1", "2001:db8::/32"]), min_size=1, max_size=3),
    flows=st.floats(0.001, 100),
    candidates=st.none() | st.just("auto") | st.integers(1, 64),
    limits=st.builds(Limits, packets=st.none() | st.integers(1, 1 << 62), twin_s=st.none() | st.floats(0.1, 1e9)),
)
loops = st.none() | st.integers(1, 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | reals | paths,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(paths, inner, max_size=3),
    max_leaves=6,
).filter(lambda value: depth(value) < 6)
sinks = st.dictionaries(st.sampled_from(["kind", "path"]) | st.text(max_size=10), plain, max_size=4)
commands = st.one_of(
    st.builds(Hello, id=ids, min_version=st.integers(1, 0xFFFF), max_version=st.integers(1, 0xFFFF)),
    st.builds(
        Start,
        id=ids,
        stream=streams,
        scenario=scenarios,
        loop=loops,
        sink=sinks,
        seed=ids,
        mtu=st.integers(576, 65_535),
        payload=st.sampled_from(["template", "zero", "random"]),
        oversize=st.sampled_from(["clamp", "segment"]),
        testbed=st.none() | sinks,
        rate=rates,
        controller_timeout_s=st.none() | st.floats(0.1, 3600),
        is_exclusive=st.booleans(),
    ),
    st.builds(Stop, id=ids),
    st.builds(Pause, id=ids),
    st.builds(Resume, id=ids),
    st.builds(SetRate, id=ids, rate=rates),
    st.builds(Seek, id=ids, twin_time_ns=st.integers(0, MAX_TIME_NS)),
    st.builds(SetLoop, id=ids, loop=loops),
    st.builds(GetStatus, id=ids),
    st.builds(ListModels, id=ids, first=counts, count=st.integers(1, 256)),
    st.builds(Subscribe, id=ids, to=st.sampled_from(["packets", "status"]), name=st.text(max_size=100)),
    st.builds(Shutdown, id=ids),
)
replies = st.one_of(
    st.builds(Welcome, id=ids, version=st.integers(1, 0xFFFF), server=st.text(max_size=100)),
    st.builds(Accepted, id=ids, state=states, run=counts),
    st.builds(
        Models,
        id=ids,
        total=counts,
        models=st.lists(st.builds(ModelInfo, id=paths, directory=paths, start_ns=counts, end_ns=counts), max_size=3),
        unreadable=counts,
    ),
    st.builds(
        Subscription,
        id=ids,
        endpoint=paths,
        token=st.none() | st.text(max_size=100),
        next_seq=counts,
        packets_before=counts,
        lease_s=reals,
    ),
    st.builds(Refusal.of, st.none() | ids, st.sampled_from(["malformed", "sink"]), st.text(max_size=2000)),
    st.builds(
        Status,
        id=st.none() | ids,
        sequence=counts,
        state=states,
        run=counts,
        model_id=st.none() | st.text(max_size=50),
        chunk=counts,
        chunk_count=st.none() | counts,
        packets_written=counts,
        octets_written=counts,
        twin_start_ns=st.none() | counts,
        twin_now_ns=st.none() | counts,
        twin_time_s=reals,
        packets_per_s=reals,
        packets_drawn_ahead=counts,
        rate=rates,
        late_s=reals,
        tally=st.dictionaries(st.text(max_size=100), counts, max_size=20),
        counters=st.dictionaries(st.text(max_size=100), counts, max_size=20),
        subscribers=st.lists(
            st.builds(SubscriberStatus, name=st.text(max_size=100), offered=counts, confirmed=counts, missed=counts),
            max_size=3,
        ),
        error=st.none() | st.text(max_size=1000),
    ),
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5)
)
nearly_commands = st.fixed_dictionaries(
    {"v": st.just(2) | anything, "id": ids | anything},
    optional={
        "type": st.sampled_from([command.model_fields["type"].default for command in COMMANDS]) | anything,
        "stream": st.fixed_dictionaries(
            {"kind": st.sampled_from(["models", "model", "follow", "recorded", "mix"]) | anything},
            optional={"models": st.lists(paths, max_size=3) | anything, "path": paths | anything},
        )
        | anything,
        "scenario": anything,
        "loop": loops | anything,
        "controller_timeout_s": reals | anything,
        "is_exclusive": anything,
        "twin_time_ns": counts | anything,
        "first": counts | anything,
        "count": counts | anything,
        "to": st.sampled_from(["packets", "status"]) | anything,
        "name": anything,
        "sink": st.fixed_dictionaries({}, optional={"kind": st.just("pcap") | anything, "path": paths | anything})
        | anything,
        "seed": ids | anything,
        "mtu": st.integers() | anything,
        "payload": st.just("zero") | anything,
        "oversize": st.just("segment") | anything,
        "testbed": sinks | anything,
        "rate": st.floats() | st.fixed_dictionaries({"packets_per_s": st.floats() | anything}) | anything,
        "min_version": anything,
        "max_version": anything,
    },
).filter(lambda fields: fields.get("mtu") is None or not isinstance(fields["mtu"], int) or abs(fields["mtu"]) < 2**63)

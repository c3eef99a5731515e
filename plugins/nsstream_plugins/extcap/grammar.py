"""What an extcap program prints when Wireshark asks what there is: interfaces, link types, options, toolbar.

``tshark -D`` starts us and waits, and so does Wireshark; so nothing is imported that Python has not loaded when it has
started: neither typing nor pathlib, of which each takes longer than what is done here.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's would load it
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

VERSION: Final = "1.0"
LAB: Final = "lab"  # the bundled capture
FOLLOW: Final = "follow:"
DEFAULT_RATE: Final = "1kpps"
DEFAULT_STATE: Final = "/var/lib/nsstream"
MOST_LISTED: Final = 50
MAX_SEED: Final = (1 << 31) - 1

RATE_CONTROL: Final = 0
PAUSE_CONTROL: Final = 1


INTERFACES: Final = {  # how each is shown; the program that shows it has its name
    "nsstream-synth": "nsstream synthetic traffic, live",
    "nsstream-tap": "nsstream tap: what the daemon takes in, headers only",
}


def interfaces(name: str) -> Iterator[str]:
    """The answer to --extcap-interfaces of the program of that interface."""
    yield f"extcap {{version={VERSION}}}{{display={INTERFACES[name]}}}"
    yield f"interface {{value={name}}}{{display={INTERFACES[name]}}}"
    if name == "nsstream-synth":
        yield (
            f"control {{number={RATE_CONTROL}}}{{type=string}}{{display=Rate}}{{default={DEFAULT_RATE}}}"
            "{validation=^(max|[0-9.]+(x|[kMG]?(pps|bps))?)$}{tooltip=1kpps, 10Mbps, 2x its own pace, max}"
        )
    yield (
        f"control {{number={PAUSE_CONTROL}}}{{type=boolean}}{{display=Pause}}{{default=false}}"
        "{tooltip=Hold the packets back}"
    )


def link_types() -> str:
    """The answer to --extcap-dlts."""
    return "dlt {number=1}{name=EN10MB}{display=Ethernet}"


def options(name: str, reload: str | None = None) -> Iterator[str]:
    """The answer to --extcap-config; of one option alone where Wireshark asks to look again."""
    if name == "nsstream-tap":
        yield (
            f"arg {{number=0}}{{call=--state}}{{display=State directory}}{{type=string}}{{default={DEFAULT_STATE}}}"
            "{tooltip=Of the daemon, or of nsstream ingest; it must be readable to you}"
        )
        yield (
            "arg {number=1}{call=--addresses}{display=Addresses}{type=selector}"
            "{tooltip=Those of the twin, by the state's own key, or the real ones}"
        )
        yield "value {arg=1}{value=twin}{display=As in the twin}{default=true}"
        yield "value {arg=1}{value=real}{display=Real}{default=false}"
        yield (
            "arg {number=2}{call=--config}{display=Daemon's configuration}{type=fileselect}{mustexist=true}"
            "{fileext=TOML (*.toml)}{tooltip=It says where state and key are, and which ranges addresses are mapped to}"
        )
        return
    if reload is None:
        yield (
            "arg {number=0}{call=--model}{display=Traffic of}{type=selector}{reload=true}{placeholder=Look again}"
            "{group=Traffic}{tooltip=A model that nsstream trained; NSSTREAM_MODELS names more directories}"
        )
    if reload in (None, "model"):
        yield f"value {{arg=0}}{{value={LAB}}}{{display=the bundled lab capture, again and again}}{{default=true}}"
        for value, display in models():
            yield f"value {{arg=0}}{{value={value}}}{{display={display}}}{{default=false}}"
    if reload is None:
        yield (
            "arg {number=1}{call=--trace}{display=Or a recorded trace}{type=fileselect}{mustexist=true}"
            "{fileext=Captures (*.pcap *.pcapng *.pcap.gz *.pcap.xz *.pcap.zst)}{group=Traffic}"
        )
        yield (
            f"arg {{number=2}}{{call=--rate}}{{display=Rate}}{{type=string}}{{default={DEFAULT_RATE}}}{{group=Traffic}}"
            "{tooltip=1kpps, 10Mbps, 1.0 for its own pace, 2x, max}"
        )
        yield (
            f"arg {{number=3}}{{call=--seed}}{{display=Seed}}{{type=unsigned}}{{range=0,{MAX_SEED}}}{{default=0}}"
            "{group=Traffic}{tooltip=The same seed gives the same traffic}"
        )
        yield (
            "arg {number=4}{call=--services}{display=Services}{type=string}{group=Filter}"
            "{placeholder=all}{tooltip=Only these: tcp/443, udp/53, icmp}"
        )
        yield (
            "arg {number=5}{call=--hosts}{display=Hosts}{type=string}{group=Filter}"
            "{placeholder=all}{tooltip=One end is of these prefixes: 10.0.0.0/8, 10.1.2.3}"
        )


def model_directories() -> list[str]:
    """Where models are looked for: NSSTREAM_MODELS, then the service's."""
    named = os.environ.get("NSSTREAM_MODELS", "").split(":")
    return [path for path in [*named, f"{DEFAULT_STATE}/models"] if path.startswith("/") and _is_sayable(path)]


def models() -> Iterator[tuple[str, str]]:
    """What can be chosen beside the bundled capture, and how it is shown; the newest first, `MOST_LISTED` at most."""
    found: list[tuple[float, str, str]] = []
    for directory in model_directories():
        if os.path.islink(f"{directory}/promoted"):  # noqa: PTH114 - see above
            yield f"{FOLLOW}{directory}", f"the newest promoted model in {directory}"
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if _is_model(entry):
                        changed_s = entry.stat().st_mtime
                        found.append((changed_s, entry.path, f"the model {entry.name[:12]} in {directory}"))
        except OSError:
            continue
    for _, path, display in sorted(found, reverse=True)[:MOST_LISTED]:
        yield path, display


def is_true(text: str) -> bool:
    """What a boolean control says: Wireshark sends an octet, its manual writes a digit."""
    return text[:1] in ("\1", "1", "t")


def _is_model(entry: os.DirEntry[str]) -> bool:
    has_manifest = os.path.isfile(f"{entry.path}/manifest.json")  # noqa: PTH113
    return has_manifest and entry.is_dir(follow_symlinks=False) and _is_sayable(entry.name)


def _is_sayable(text: str) -> bool:
    """Whether a text can stand in a sentence of the grammar."""
    return text.isprintable() and not set(text) & set("{}")

"""``python -m nsstream_plugins.extcap INTERFACE ...``: what the installed programs run."""

from __future__ import annotations

import sys

from nsstream_plugins.extcap import grammar

TYPE_CHECKING = False  # as in `grammar`
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def main(arguments: Sequence[str]) -> int:
    """Answer Wireshark; the exit status. Unknown options are left alone: newer Wiresharks have more of them."""
    name, asked = arguments[0], arguments[1:]
    if "--extcap-interfaces" in asked:
        return _say(grammar.interfaces(name))
    if value_of("--extcap-interface", asked) != name:
        print(f"{name} is started by Wireshark and tshark: tshark -i {name}", file=sys.stderr)
        return 1
    if "--extcap-dlts" in asked:
        return _say([grammar.link_types()])
    if "--extcap-config" in asked:
        return _say(grammar.options(name, value_of("--extcap-reload-option", asked)))
    if "--capture" in asked:
        from nsstream_plugins.extcap.capture import capture

        return capture(name, asked)
    expression = value_of("--extcap-capture-filter", asked)
    if expression is not None:
        from nsstream_plugins.extcap.frame_filter import complaint

        return _say(complaint(expression))
    print(f"{name}: nothing was asked: tshark -i {name}", file=sys.stderr)
    return 1


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """What stands behind an option, as ``--option value`` or ``--option=value``; None where it is not given."""
    for at, argument in enumerate(arguments):
        if argument == option:
            return arguments[at + 1] if at + 1 < len(arguments) else ""
        if argument.startswith(f"{option}="):
            return argument[len(option) + 1 :]
    return None


def _say(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

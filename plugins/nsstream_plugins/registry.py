"""Plugins by name: entry points of the group ``nsstream.plugins``, ours and those of other distributions alike.

    [project.entry-points."nsstream.plugins"]
    napatech = "nsstream_napatech:PLUGIN"          # then: nsstream plugin install napatech

An entry point loads to a `plugin.Plugin` of that name. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from nsstream.errors import InputError
from nsstream_plugins.plugin import Plugin

GROUP: Final = "nsstream.plugins"


def plugin_names() -> list[str]:
    """The names that are registered, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_plugin(name: str) -> Plugin:
    """The plugin of a name; raises InputError where there is none, or it cannot be used."""
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        known = ", ".join(plugin_names()) or "none: install nsstream, or install it again"
        raise InputError(f"there is no plugin {name!r:.80}; plugins: {known}")
    if len({point.value for point in points}) > 1:
        owners = " and ".join(sorted(map(_owner, points)))
        raise InputError(f"the plugin {name!r} is registered by {owners}; uninstall all but one")
    try:
        made = points[0].load()
    except Exception as err:  # a stranger's module: whatever it raises, the others are of use
        raise InputError(f"the plugin {name!r} of {_owner(points[0])} cannot be loaded: {err}") from err
    if not isinstance(made, Plugin) or made.name != name:
        raise InputError(f"the plugin {name!r} of {_owner(points[0])} is no Plugin of that name: {points[0].value}")
    return made


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value

"""plugin: what other tools have of nsstream: listed, installed, removed, looked at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nsstream_plugins.installer import Installer
    from nsstream_plugins.plugin import Scope

plugin_app = typer.Typer(help="nsstream inside other tools.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="As in plugin list.")]
Force = Annotated[bool, typer.Option("--force", help="Give up what was changed in its files since.")]
ScopeOption = Annotated[
    bool | None,
    typer.Option("--system/--user", help="For all users, or for yours alone; of root the former, unless told."),
]


@plugin_app.command("list")
def list_plugins() -> None:
    """List the plugins, and where each is installed."""
    from nsstream_plugins.registry import load_plugin, plugin_names

    from nsstream.errors import InputError

    names = plugin_names()
    where: dict[str, list[str]] = {}
    for installer in _installers():
        for name in installer.installed():
            where.setdefault(name, []).append(installer.scope)
    names += sorted(where.keys() - set(names))
    width = max(map(len, names), default=0)
    for name in names:
        place = ", ".join(where.get(name, [])) or "-"
        try:
            plugin = load_plugin(name)
        except InputError as err:
            print(f"{name:<{width}}  {place:<12}  {err}")
        else:
            print(f"{name:<{width}}  {place:<12}  {plugin.tool}: {plugin.summary}")


@plugin_app.command("install")
def install(name: Name, system: ScopeOption = None, force: Force = False) -> None:
    """Put a plugin's files where its tool looks; again: bring them up to date."""
    from nsstream_plugins.installer import Installer
    from nsstream_plugins.plugin import in_path, ours_alone
    from nsstream_plugins.registry import load_plugin

    plugin, scope = load_plugin(name), _scope(system)
    for line in Installer(scope).install(plugin, is_forced=force) or ["nothing to do"]:
        print(line)
    for finding in (*map(in_path, plugin.programs), ours_alone(scope)):
        if not finding.is_good:
            print(f"note     {finding.text}")
    if plugin.next_step:
        print(f"now      {plugin.next_step}")


@plugin_app.command("remove")
def remove(name: Name, system: ScopeOption = None, force: Force = False) -> None:
    """Take a plugin's files away, and the directories that were made for them."""
    from nsstream_plugins.installer import Installer

    print("\n".join(Installer(_scope(system)).remove(name, is_forced=force)))


@plugin_app.command("doctor")
def doctor(
    name: Annotated[str | None, typer.Argument(help="As in plugin list; none: all that are installed.")] = None,
) -> None:
    """Look whether installed plugins work; exit status 1 if one does not."""
    from nsstream_plugins.registry import load_plugin

    if name is not None:
        load_plugin(name)
    is_good, count = True, 0
    for installer in _installers():
        for installed in installer.installed():
            if name in (None, installed):
                count += 1
                is_good &= _examine(installer, installed)
    if name is not None and not count:
        print(f"{name} is not installed")
        is_good = False
    elif not count:
        print("no plugin is installed")
    raise typer.Exit(0 if is_good else 1)


def _examine(installer: Installer, name: str) -> bool:
    from nsstream_plugins.registry import load_plugin

    from nsstream.errors import NsstreamError

    print(f"{name} ({installer.scope})")
    try:
        findings = installer.findings(load_plugin(name))
    except NsstreamError as err:
        print(f"  bad   {err}")
        return False
    for finding in findings:
        print(f"  {'good' if finding.is_good else 'bad '}  {finding.text}")
    return all(finding.is_good for finding in findings)


def _installers() -> list[Installer]:
    from nsstream_plugins.installer import Installer

    return [Installer("user"), Installer("system")]


def _scope(is_system: bool | None) -> Scope:
    if is_system is None:
        is_system = os.geteuid() == 0
    return "system" if is_system else "user"

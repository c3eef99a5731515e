"""A Score as text tables, for a terminal; figures and HTML are not this file's."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from nsstream.score.privacy.findings import Privacy
from nsstream.score.result import Measure, Score

_MEANS: Final = {
    "mean_jsd": "addresses, ports, protocol (JSD)",
    "mean_emd": "sizes, arrival, flow size (EMD)",
    "structure": "structure within and across flows",
    "volume": "volume and its swings",
}
_COPIED: Final = {
    "five_tuples": "five-tuples copied",
    "addresses": "addresses copied",
    "flow_fingerprints": "flow fingerprints copied",
}


def summary_table(score: Score) -> Table:
    """The score in a dozen rows: how close, how well told apart, how much copied, how consistent."""
    table = _table("twin", "real", "x floor")
    for m in score.summary():
        table.add_row(_MEANS[m.name], _figure(m.value), _figure(m.floor), _times(m.x_floor))
    table.add_row("detector (AUC, 0.5 is best)", _figure(score.detector.auc), _figure(score.detector.floor), "")
    table.add_section()
    for name, share in score.copying.synthetic.items():
        table.add_row(_COPIED[name], _percent(share), _percent(score.copying.real[name]), "")
    table.add_section()
    worst = min(score.consistency.synthetic, key=lambda name: score.consistency.synthetic[name])
    worst_share, real_share = score.consistency.synthetic[worst], score.consistency.real[worst]
    table.add_row(f"consistency, worst of four ({worst})", _percent(worst_share), _percent(real_share), "")
    pairs = (("packets", score.packet_count), ("flows", score.flow_count), ("octets", score.octet_count))
    for name, (real, synthetic) in pairs:
        table.add_row(name, f"{synthetic:,}", f"{real:,}", f"{synthetic / max(real, 1):.0%} of real")
    table.caption = "real: one sample of real traffic against another; lower is better"
    if score.detector.told_by:
        table.caption += f"\nthe detector leans on {', '.join(score.detector.told_by)}"
    return table


def details_table(score: Score) -> Table:
    """Every measure, consistency test and kind of copying, one a row."""
    table = _table("twin", "real", "x floor")
    group = ""
    for m in score.measures:
        if m.group != group:
            table.add_section()
            group = m.group
        _add(table, m)
    for title, shares in (("consistency", score.consistency), ("copying", score.copying)):
        table.add_section()
        for name, share in shares.synthetic.items():
            table.add_row(f"{title}: {name}", _percent(share), _percent(shares.real[name]), "")
    return table


def privacy_table(privacy: Privacy) -> Table:
    """What each attack found, in words."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False, caption_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in privacy.findings:
        verdict = f"[bold]{finding.verdict}[/bold]" if finding in privacy.leaks else str(finding.verdict)
        table.add_row(finding.name, f"{verdict}: {escape(finding.words)}")
    table.add_section()
    table.add_row("looked at", escape(privacy.looked_at))
    for i, what in enumerate(privacy.unseen):
        table.add_row("" if i else "not seen", escape(what))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _add(table: Table, m: Measure) -> None:
    table.add_row(f"{m.group}: {m.name}", _figure(m.value), _figure(m.floor), _times(m.x_floor))


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _times(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"

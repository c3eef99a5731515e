"""The findings in words: one function an attack, figures in and a Finding out."""

from __future__ import annotations

from nsstream.score.copying import FINGERPRINT_PACKETS
from nsstream.score.privacy.copies import LEAST_PACKETS, NEAR, Copies
from nsstream.score.privacy.findings import Finding, Verdict
from nsstream.score.privacy.hosts import Leakage, Reidentified
from nsstream.score.privacy.intervals import Auc, Rate
from nsstream.score.privacy.membership import FEWEST, Membership
from nsstream.score.privacy.timing import GAPS, TOLERANCE

_RIGHT = 0.05  # of hosts re-identified beyond guessing, what is worth a word


def about_copies(found: Copies, base: Copies | None, in_all: Copies, short: tuple[int, int], beside: str) -> Finding:
    """Copies of flows; `base` is what `beside` names repeats of the same reference, `in_all` is against all of it."""
    flows, total = short
    figures: dict[str, object] = {
        "flows_of_one_packet": {"count": flows, "of": total},
        "in_all": {name: getattr(in_all, name).as_dict() for name in ("exact", "near", "one_off")},
    }
    alone = f"{flows:,} of the twin's {total:,} flows are of one packet, where a copy means nothing; they are left out."
    if not in_all.exact.of:
        return Finding("copies", Verdict.OPEN, f"{alone} None is left to look at.", figures)
    told = (
        f"{_of(in_all.exact)} of its flows of {LEAST_PACKETS} packets or more stand in the capture with every size in "
        f"its place, {_of(in_all.near)} with every size within {NEAR:.0%}; of those of {FINGERPRINT_PACKETS} or more, "
        f"{_of(in_all.one_off)} are copies of a flow that the capture has only once."
    )
    if base is None:
        words = f"{told} The capture is too small to say what is usual. {alone}"
        return Finding("copies", Verdict.OPEN, words, figures)
    kinds = ("exact", "near", "one_off")
    figures |= {
        "beside": beside,
        "twin": {name: getattr(found, name).as_dict() for name in kinds},
        "base": {name: getattr(base, name).as_dict() for name in kinds},
    }
    more = [name for name in kinds if getattr(found, name).is_above(getattr(base, name))]
    usual = (
        f"Of the same reference, {beside} repeats {_share(base.exact)}, {_share(base.near)} and "
        f"{_share(base.one_off)}; the twin {_share(found.exact)}, {_share(found.near)} and {_share(found.one_off)}."
    )
    if more:
        meaning = "That is more than real traffic repeats by itself: some flows were learned by heart and given out."
        return Finding("copies", Verdict.LEAK, f"{told} {usual} {meaning} {alone}", figures)
    meaning = "That is no more than real traffic repeats by itself: nothing says that flows were copied."
    return Finding("copies", Verdict.CLEAR, f"{told} {usual} {meaning} {alone}", figures)


def about_timing(found: Rate, base: Rate | None, beside: str) -> Finding:
    """Rhythms that recur."""
    figures: dict[str, object] = {"twin": found.as_dict(), "base": base and base.as_dict(), "beside": beside}
    if base is None or not found.of or not base.of:
        words = f"Too few flows have {GAPS} gaps in a row to say whether rhythms were copied."
        return Finding("timing", Verdict.OPEN, words, figures)
    told = (
        f"{_of(found)} of the twin's rhythms ({GAPS} gaps in a row) stand in the capture within {TOLERANCE:.0%} a gap; "
        f"of {beside} {_of(base)}."
    )
    if found.is_above(base):
        meaning = "Some real rhythms came through: who recorded when a host spoke can find it in the twin."
        return Finding("timing", Verdict.LEAK, f"{told} {meaning}", figures)
    return Finding("timing", Verdict.CLEAR, f"{told} Rhythms recur no more than they do by themselves.", figures)


def about_membership(found: Membership | None, *, has_held_out: bool) -> Finding:
    """Whether members are told from others."""
    if not has_held_out:
        words = (
            "Whether an outsider can tell that a flow was in the capture cannot be judged: that needs real flows which "
            "were not in it. Give other traffic of the same network with --held-out."
        )
        return Finding("membership", Verdict.OPEN, words, {})
    if found is None:
        words = f"Too few flows to judge membership by: each part needs {FEWEST}."
        return Finding("membership", Verdict.OPEN, words, {})
    best, blind = max(((found.nearest, found.nearest_blind), (found.density, found.density_blind)), key=_beyond)
    told = (
        f"Of two flows, one from the capture and one held out, an outsider with the twin names the right one in "
        f"{best.value:.1%} of cases ({best.low:.1%} to {best.high:.1%}; guessing is right in 50 %)."
    )
    without = (
        f"Without the twin, by other flows of the same capture, it is {blind.value:.1%} "
        f"({blind.low:.1%} to {blind.high:.1%})."
    )
    if found.is_told:
        meaning = "The twin gives away who was in the capture."
        return Finding("membership", Verdict.LEAK, f"{told} {without} {meaning}", found.as_dict())
    if blind.low > 0.55:
        meaning = (
            "The held-out traffic differs from the capture by itself, so that this says little; what the twin adds is "
            "within chance. Held-out traffic of the same hours would say more."
        )
        return Finding("membership", Verdict.OPEN, f"{told} {without} {meaning}", found.as_dict())
    meaning = "The twin adds nothing that can be told from chance."
    return Finding("membership", Verdict.CLEAR, f"{told} {without} {meaning}", found.as_dict())


def about_addresses(found: Leakage) -> Finding:
    """Real addresses in the twin."""
    figures: dict[str, object] = {
        "addresses": found.addresses.as_dict(), "by_chance": found.by_chance, "some": list(found.some)
    }  # fmt: skip
    told = (
        f"{_of(found.addresses)} of the twin's unicast addresses are addresses of the capture; were its hosts at "
        f"random places of their networks, about {found.by_chance:.1f} would be."
    )
    if not found.addresses.count:
        return Finding("addresses", Verdict.CLEAR, f"{told} No real host is named.", figures)
    if found.addresses.interval[0] * found.addresses.of > found.by_chance:
        others = " and others" if found.addresses.count > len(found.some) else ""
        meaning = f"Real hosts are named in it: {', '.join(found.some)}{others}."
        return Finding("addresses", Verdict.LEAK, f"{told} {meaning}", figures)
    return Finding("addresses", Verdict.CLEAR, f"{told} So many coincide by chance.", figures)


def about_hosts(found: Reidentified | None, *, is_known: bool) -> Finding:
    """Whether hosts are re-identified."""
    if not is_known:
        words = (
            "Whether hosts can be told by what they do cannot be judged without knowing which twin host stands for "
            "which: the addresses are others, and no address key was given (--address-key)."
        )
        return Finding("hosts", Verdict.OPEN, words, {})
    if found is None:
        words = "Fewer than two real hosts stand in the twin at their mapped address: there is nobody to confuse."
        return Finding("hosts", Verdict.OPEN, words, {})
    figures: dict[str, object] = {
        "by_volume": found.by_volume.as_dict(),
        "by_peers": found.by_peers.as_dict(),
        "by_profile": found.by_profile.as_dict(),
        "by_guessing": found.by_guessing,
    }
    told = (
        f"Who knows what every real host sends finds {_of(found.best)} of the real hosts in the twin at their mapped "
        f"address (by volume {_share(found.by_volume)}, by peers {_share(found.by_peers)}, by profile "
        f"{_share(found.by_profile)}; guessing finds {found.by_guessing:.1%})."
    )
    if found.best.interval[0] > found.by_guessing + _RIGHT:
        meaning = (
            "The address map hides names, not behaviour: a twin that keeps what each host does keeps who it is, for "
            "those who know that already."
        )
        return Finding("hosts", Verdict.LEAK, f"{told} {meaning}", figures)
    return Finding("hosts", Verdict.CLEAR, f"{told} That is near to guessing.", figures)


def _beyond(pair: tuple[Auc, Auc]) -> float:
    found, blind = pair
    return found.value - blind.value


def _of(rate: Rate) -> str:
    """As ``12 of 300 (4.0 %)``."""
    return f"{rate.count:,} of {rate.of:,} ({_share(rate)})"


def _share(rate: Rate) -> str:
    return "none" if rate.share is None else f"{rate.share:.1%}"

"""What the base model's licence says about publishing a fine-tuned copy of it, by the Hub's identifiers.

Identifiers: https://huggingface.co/docs/hub/repositories-licenses. Only what a licence says in plain terms is
here: whether it allows changed copies at all, and whether they must stay under the same licence. Terms that
take a reading (`other`, vendors' own licences) are not guessed at: the publisher says why publishing is
allowed, and that goes on the card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Terms(Enum):
    """What a licence says about changed copies."""

    FREE = "changed copies may be published under another licence, with the notices kept"
    SAME = "changed copies stay under the same licence, or keep its conditions"
    FORBIDDEN = "changed copies may not be published"
    UNREAD = "a program cannot tell from the identifier"


_FREE = (
    "afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 "
    "ecl-2.0 etalab-2.0 isc mit ncsa "
    "odc-by pddl postgresql unlicense wtfpl zlib"
)
# Share-alike and copyleft; RAIL, whose use restrictions must be passed on; and non-commercial ones, which a
# freer licence would undo.
_SAME = (
    "agpl-3.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cdla-sharing-1.0 "
    "creativeml-openrail-m epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 "
    "lgpl-lr lppl-1.3c mpl-2.0 ms-pl odbl ofl-1.1 openrail openrail++ osl-3.0"
)
_FORBIDDEN = "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0"
TERMS = {
    **dict.fromkeys(_FREE.split(), Terms.FREE),
    **dict.fromkeys(_SAME.split(), Terms.SAME),
    **dict.fromkeys(_FORBIDDEN.split(), Terms.FORBIDDEN),
}
OTHER = "other"  # of a licence that the Hub has no identifier for
_NOT_A_LICENCE = ("", "unknown", "none")
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Judgement:
    """problem: why the release may not be published; "" if it may. unread: a reason would settle it."""

    problem: str
    unread: bool = False


def terms(identifier: str) -> Terms:
    """What the licence of this identifier says; UNREAD for those that are not in TERMS."""
    return TERMS.get(identifier, Terms.UNREAD)


def judge(licence: str | None, base_licence: str | None, reason: str | None = None) -> Judgement:
    """Whether a changed copy of a model under `base_licence` may be published under `licence`.

    Both are identifiers of the Hub.  reason: the publisher's, for a base licence that is UNREAD.
    """
    for what, option, identifier in (
        ("the licence of the release", "--license", licence),
        ("the licence of the base model", "--base-license", base_licence),
    ):
        if identifier is None or identifier in _NOT_A_LICENCE:
            return Judgement(f"{what} is missing; give it with {option}, as the Hub spells it")
        if not _IDENTIFIER.fullmatch(identifier):
            return Judgement(
                f"{what} is {identifier!r}; give an identifier of the Hub such as apache-2.0, or other"
            )
    assert licence is not None
    assert base_licence is not None
    found = terms(base_licence)
    if found is Terms.FORBIDDEN:
        return Judgement(
            f"the base model's licence, {base_licence}, forbids publishing changed copies; ask its licensor"
        )
    if found is Terms.SAME and licence != base_licence:
        return Judgement(
            f"the base model's licence, {base_licence}, binds changed copies as well; the release is to be "
            f"under {licence}; publish it with --license {base_licence}"
        )
    if found is Terms.UNREAD and not reason:
        return Judgement(
            f"whether the base model's licence, {base_licence}, allows changed copies cannot be told from "
            "its identifier; read it, and say with --license-reason why it does; that goes on the card",
            unread=True,
        )
    return Judgement("")

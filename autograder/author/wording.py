"""How a message reads: the patterns that no sentence for a student may have, each with what to write instead.

A student reads feedback under stress, and often in a second language. So it is short, direct and in the usual words:
what the code does, then what it should do.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One pattern, as a regular expression, and the advice for whoever wrote it."""

    pattern: re.Pattern
    advice: str


def _rules(table: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(re.compile(pattern), advice) for pattern, advice in table.items())


# In all that we write.
PROSE = _rules(
    {
        r"(?<!there )\b(?:is|are|was|were) no (?!longer\b)": "write 'is not a …'",
        r"\b(?:has|have|gives?|gets?|in) (?:an)?other [\w -]+ than\b": "write 'differs from', or 'has the wrong …'",
        r"\b(?:has|have|of) another (?:number|value|default|name|shape|size|dtype|length)\b": "write 'has the wrong …'",
        r"\b(?:has|have) other \w+": "write 'has the wrong …'",
        r"\bto be had\b": "write 'available'",
        r"\bwhom\b": "write 'who'",
        r"\b(?:lies?|lay)\b": "write 'is' or 'are'",
        r"\blet(?:s|ting)? be\b": "write 'leave'",
        r"\ba bad (?:the|a|an|its)\b": "write 'an invalid …', with the argument's name",
    }
)
# "x is translated otherwise" is meant as "differently".
MESSAGES = PROSE + _rules({r"\b[Oo]therwise\b": "write 'differently', or say when"})
# "the decay is a straight line: it is half a cosine" says two things of the same decay. What follows a colon may tell the
# student what to do ("return loss.item()") or what should be ("it should be …"), but not state the right thing as a fact.
_NOT_STATED = r"(?!(?:should|must|may|might|can|cannot|could|would|will|needs?|was|were|had)\b)"
MISTAKES = MESSAGES + _rules(
    {
        rf": (?:here )?(?:it|they|both|each) {_NOT_STATED}\w": "write '…; it should …', or ', so that it …' of what follows",
        r": [^:;]*(?<!\bit )(?<!\bthey )\b(?:does|do|is|are|has|have|goes|go)$": "write '…; the … should', not '…: the … does'",
    }
)


def faults(sentence: str, rules: tuple[Rule, ...]) -> list[str]:
    """The advice of each of `rules` that a sentence breaks; {…} in it stands for what is filled in."""
    return [rule.advice for rule in rules if rule.pattern.search(sentence)]

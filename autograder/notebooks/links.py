"""Where links of a notebook lead: to the web, a mail or a place in the page; none runs a script or acts in the grader's name.

Nothing is fetched before somebody clicks: a picture is in the notebook, or it is shown as a link.
"""

import re
from html.parser import HTMLParser

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.sanitize import ALLOWED_ATTRIBUTES

_TARGETS = frozenset("href src action formaction data poster cite background longdesc ping srcset xlink:href".split())
_HARMLESS = re.compile(r"https?://|mailto:|#", re.IGNORECASE)
_PICTURE = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=\s]*")
_OPENS_A_TARGET = re.compile(r"\](?=\s*[(:\[])")  # [text](target), [name]: target
_PICTURE_ELSEWHERE = re.compile(r"!(?=\[(?![^]\n]*\]\(attachment:))")  # the mark that makes a picture of a link
_ALIGNED = re.compile(r"text-align: ?(left|right|center);?")  # a column of a table
_MOST = 256 << 10  # characters of a text that is rendered to look at it


def may_stay(tag: str, name: str, value: str) -> bool:
    """Whether an attribute of HTML stays: one that the sanitizer knows, and of links those that lead to a harmless place."""
    known = {*ALLOWED_ATTRIBUTES.get(tag, ()), *ALLOWED_ATTRIBUTES.get("*", ())}
    return name in known and (name not in _TARGETS or (name == "href" and leads_to_a_harmless_place(value)))


def leads_to_a_harmless_place(target: str) -> bool:
    """What a browser would skip in front or inside of a target, such as a line's end in "java script:", is not looked through."""
    return _HARMLESS.match(target) is not None


def without_links_elsewhere(text: str, attachments: dict | None = None) -> str:
    """Markdown of which every link leads to a harmless place: others are shown as they were written, and no links.

    It is rendered to find that out, as whoever shows it does: markdown has many ways to write a link.
    """
    for harmless in (_as_it_is, _without_pictures, _without_targets, _without_brackets):
        tried = harmless(text)
        if len(tried) <= _MOST and _is_harmless(tried, attachments or {}):
            return tried
    return "(This text is not shown: a link in it leads to a place that is not on the web, or it is too long.)"


def _as_it_is(text):
    return text


def _without_pictures(text):
    return _PICTURE_ELSEWHERE.sub("&#33;", text)


def _without_targets(text):
    return _OPENS_A_TARGET.sub("&#93;", text)


def _without_brackets(text):
    return re.sub(r"[][<>`]", lambda found: f"&#{ord(found[0])};", text)


def _is_harmless(text, attachments):
    try:
        page = MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=attachments)).render(text)
    except Exception:  # an attachment that is not there, nesting without end: the page that shows it would fail as well
        return False
    finder = _Targets()
    finder.feed(page)
    finder.close()
    return finder.are_harmless


class _Targets(HTMLParser):
    """Reads a page, and whether all that its tags lead to is harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.are_harmless = True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in _TARGETS:
                is_followed = name == "href" and tag == "a"  # what else has a target is fetched with the page
                harmless = leads_to_a_harmless_place if is_followed else _PICTURE.fullmatch
                self.are_harmless &= bool(harmless(value or ""))
            elif name.startswith("on") or (name == "style" and not _ALIGNED.fullmatch(value or "")):
                self.are_harmless = False

"""Formulas: LaTeX to MathML, which browsers show without a script."""

import xml.etree.ElementTree as ElementTree
from functools import cache
from html import unescape

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ELEMENTS = set(
    "math mrow mi mn mo mtext mspace ms mfrac msqrt mroot mstyle merror mpadded mphantom mfenced menclose msub msup "
    "msubsup munder mover munderover mmultiscripts mtable mtr mtd".split()
)
ATTRIBUTES = set(
    "display mathvariant stretchy fence form lspace rspace width height depth minsize maxsize accent accentunder "
    "linethickness displaystyle scriptlevel movablelimits separator symmetric largeop columnalign rowspacing "
    "columnspacing columnlines rowlines notation open close".split()
)
# Browsers take letters for bold and script from Unicode, not from an attribute: first of A-Z, a-z and 0-9.
LETTERS = {"bold": (0x1D400, 0x1D41A, 0x1D7CE), "script": (0x1D4D0, 0x1D4EA, None)}
ACCENTS = set("¯^~→˙¨‾")
THIN = "0.17em"


@cache
def formula(latex: str) -> str | None:
    """MathML (display style) of a LaTeX formula; None where it cannot be converted, and the LaTeX is to be shown."""
    try:
        from latex2mathml.converter import convert_to_element

        return ElementTree.tostring(_clean(convert_to_element(latex, display="block")), encoding="unicode")
    except Exception:  # the library is missing or the LaTeX is beyond it: a formula never costs the reader the report
        return None


def _clean(element: ElementTree.Element) -> ElementTree.Element:
    """A copy that holds mathematics only, as browsers want it; ValueError for anything else and for unknown macros."""
    name = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    if name not in ELEMENTS:
        raise ValueError(f"<{name}> is not MathML")
    copy = ElementTree.Element(name, {key: value for key, value in element.attrib.items() if key in ATTRIBUTES})
    copy.text, copy.tail = unescape(element.text or ""), unescape(element.tail or "")
    if copy.text.startswith("\\"):
        raise ValueError(f"{copy.text} is unknown")
    copy.extend(_clean(child) for child in element)
    if name == "mtext":
        copy.text = copy.text.replace(" ", "\u00a0")
    elif name == "mspace" and copy.get("width", "").isalpha():
        copy.set("width", ("-" if copy.get("width").startswith("negative") else "") + THIN)
    elif name == "mover" and (copy[1].text or "") in ACCENTS:
        copy.set("accent", "true")
    _style_letters(copy)
    _join_name(copy)
    _space_names(copy)
    return copy


def _style_letters(element: ElementTree.Element) -> None:
    """Bold and script letters as characters of their own."""
    starts, text = LETTERS.get(element.get("mathvariant")), element.text or ""
    if not starts or not text.isascii() or not text.isalnum():
        return
    kinds = {first: start for first, start in zip("Aa0", starts, strict=True) if start}
    letters = []
    for letter in text:
        first = "0" if letter.isdigit() else "A" if letter.isupper() else "a"
        letters.append(chr(kinds[first] + ord(letter) - ord(first)) if first in kinds else letter)
    element.text = "".join(letters)
    del element.attrib["mathvariant"]


def _join_name(element: ElementTree.Element) -> None:
    r"""A row of upright letters, as ``\mathrm{lse}`` gives it, becomes one name."""
    children = list(element)
    upright = all(child.tag == "mi" and child.get("mathvariant") == "normal" for child in children)
    if element.tag == "mrow" and len(children) > 1 and upright:
        word = "".join(child.text or "" for child in children)
        for child in children:
            element.remove(child)
        ElementTree.SubElement(element, "mi").text = word


def _first_text(element: ElementTree.Element) -> str:
    return next((text for part in element.iter() if (text := (part.text or "").strip())), "")


def _space_names(parent: ElementTree.Element) -> None:
    """Names of functions such as softmax or log are set tight before a bracket, with a thin space elsewhere."""
    children = list(parent)
    for place, child in enumerate(children):
        if child.tag in ("mi", "mo") and len(child.text or "") > 1 and child.text.isalpha() and child.text.isascii():
            child.tag = "mo"
            after = next((text for other in children[place + 1 :] if (text := _first_text(other))), "")
            before = children[place - 1].tag if place else "mo"
            inside_row = parent.tag in ("mrow", "math", "mtd", "mstyle")
            child.set("rspace", THIN if inside_row and after and after[0] not in "([{|)]},." else "0")
            child.set("lspace", THIN if inside_row and before not in ("mo", "mspace") else "0")
